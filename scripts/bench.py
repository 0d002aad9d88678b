"""Benchmark: how long ``alembic upgrade head`` takes, on a throw-away server.

Each revision is timed by itself; the total is what one command takes, Python's start left out.
"""

import time
from typing import Annotated

import psycopg
import typer
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from scripts.report import ROOT, run_app
from scripts.sample_data import fill
from scripts.server import ServerUnavailable, embedded_server

DATABASE = "bench"


def measure(url: str) -> dict[str, float]:
    """Upgrade revision by revision; seconds for each."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    scripts = reversed(list(ScriptDirectory.from_config(config).walk_revisions()))
    seconds: dict[str, float] = {}
    for revision in [script.revision for script in scripts]:
        began = time.perf_counter()
        command.upgrade(config, revision)
        seconds[revision] = time.perf_counter() - began
    return seconds


def main(
    sessions: Annotated[int, typer.Option(min=1, help="How many sessions to migrate.")] = 10_000,
    major: Annotated[int | None, typer.Option(help="PostgreSQL version, for instance 18.")] = None,
) -> None:
    """Fill a throw-away database with sample sessions, migrate it and print the rate."""
    try:
        with embedded_server(major=major) as server:
            with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {DATABASE}")
            with psycopg.connect(server.url(DATABASE)) as connection:
                fill(connection, sessions)
            seconds = measure(server.url(DATABASE))
            version = server.version
    except ServerUnavailable as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for revision, duration in seconds.items():
        typer.echo(f"{revision:<28} {duration:7.2f} s")
    total = sum(seconds.values())
    typer.echo(
        f"PostgreSQL {version}: {sessions:,} sessions in {total:.1f} s, {sessions / total:,.0f} a second"
    )


if __name__ == "__main__":
    run_app(main)
