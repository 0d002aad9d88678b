"""Demo: migrate a made-up workshop database step by step.

Everything happens on a throw-away server in a temporary folder. It uses no other database, whatever
the environment or alembic.ini names.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from alembic import command
from alembic.util import CommandError
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.markup import escape
from sqlalchemy import Connection

from models.steps import FLAGS
from scripts.commands import dry_run, verify
from scripts.common.database import database, run
from scripts.common.project import configuration
from scripts.common.server import EmbeddedServer, ServerUnavailable, start_server
from scripts.common.terminal import console, table
from scripts.development.sample_data import MEASURED, fill

DATABASE = "workshop"
COUNTED = (
    "workshop_students",
    "student_configs",
    "students",
    "sessions",
    "step_progress",
    "events",
)

# Selects a session that shows much: steps done, JSON inside JSON, a conflict, an address and a key.
JOURNEY = """
SELECT
    s.session_token AS token,
    to_jsonb(p) AS workshop_students,
    to_jsonb(c) AS student_configs,
    to_jsonb(st) || to_jsonb(s) AS sessions,
    (SELECT count(*) FROM step_progress AS sp
     WHERE sp.session_token = s.session_token AND sp.validation_passed) AS steps
FROM sessions AS s
JOIN students AS st ON st.student_id = s.student_id
JOIN workshop_students AS p ON p.session_token = s.session_token
JOIN student_configs AS c ON c.session_token = s.session_token
ORDER BY
    (jsonb_typeof(p.exercises) = 'string' AND jsonb_typeof(c.tools) = 'string') IS TRUE DESC,
    s.completion_rate BETWEEN 30 AND 90 DESC,
    s.tools <> '[]' DESC,
    p.student_email <> c.student_email DESC NULLS LAST,
    c.student_email IS NULL DESC,
    s.openai_api_key IS NOT NULL DESC,
    s.session_token
LIMIT 1
"""
SHOWN = """session_token student_email student_name openai_api_key selected_voice tools
    voice_settings exercises current_step completion_rate total_time_spent started_at last_activity
    updated_at"""
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
JSON_COLUMNS = ("tools", "voice_settings", "exercises")

SAVE = """
INSERT INTO student_configs (session_token, selected_voice, updated_at)
VALUES (%(token)s, %(voice)s, now() AT TIME ZONE 'UTC')
ON CONFLICT (session_token) DO UPDATE
SET selected_voice = EXCLUDED.selected_voice, updated_at = EXCLUDED.updated_at
"""
VOICE = "SELECT selected_voice FROM sessions WHERE session_token = %(token)s"


def tour(server: EmbeddedServer, sessions: int, out: Console) -> bool:
    """Build, rehearse, migrate, compare; return True if every check holds."""
    url = server.url(DATABASE)
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")

    out.rule("1. A legacy database", align="left")
    with psycopg.connect(url) as connection:
        fill(connection, sessions)
    with database(url, "REPEATABLE READ") as connection:
        before = _rows(connection)
    out.print(f"PostgreSQL {server.version}, {sessions:,} made-up sessions in two tables\n")

    out.rule("2. workshop dry-run", align="left")
    with database(url, "AUTOCOMMIT") as connection:
        plan = dry_run.examine(connection)
    dry_run.show(plan, out)

    out.print()
    out.rule("3. alembic upgrade head", align="left")
    _migrate(url, out)

    out.print()
    out.rule("4. Before and after", align="left")
    with database(url, "REPEATABLE READ") as connection:
        after = _rows(connection)
    predicted = {name: plan.totals[name] for name in ("students", "sessions")}
    predicted["step_progress"] = plan.totals["steps"]
    out.print(
        table(
            "Rows",
            ("Table", "Before", "Dry run said", "Now"),
            ((name, *(n.get(name, "-") for n in (before, predicted, after))) for name in COUNTED),
        )
    )
    as_predicted = all(after[name] == number for name, number in predicted.items())

    out.print()
    out.rule("5. workshop verify", align="left")
    with database(url, "AUTOCOMMIT") as connection:
        verification = verify.examine(connection)
    verify.show(verification, out)

    out.print()
    out.rule("6. One session: two rows become one", align="left")
    with database(url, "REPEATABLE READ") as connection:
        journey = run(connection, JOURNEY).mappings().first()
    if journey is None:
        out.print("No session is in both tables; use a greater --sessions.")
    else:
        out.print(_journey(dict(journey)))
        out.print(f"and {journey['steps']} completed steps as rows of step_progress\n")
        out.rule("7. The legacy names still work", align="left")
        _old_name(url, journey["token"], out)
    return verification.ok and as_predicted


def _rows(connection: Connection) -> dict[str, int]:
    return {
        name: run(connection, f"SELECT count(*) FROM {name}").scalar_one()
        for name in COUNTED
        if run(connection, f"SELECT to_regclass('public.{name}')").scalar()
    }


def _migrate(url: str, out: Console) -> None:
    """Run ``alembic upgrade head``, with the log lines of the command."""
    handler = RichHandler(console=out, show_time=False, show_level=False, show_path=False)
    for name in ("workshop", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).addHandler(handler)
    command.upgrade(configuration(url), "head")


def _journey(journey: dict[str, Any]) -> RenderableType:
    sources = ("workshop_students", "student_configs", "sessions")
    rows = [
        (column, *(_shown(column, journey[source]) for source in sources))
        for column in SHOWN.split()
    ]
    flags = (
        f"{sum(journey[s][flag] is True for flag in FLAGS)} of {len(FLAGS)}"
        if FLAGS[0] in journey[s]
        else ""
        for s in sources
    )
    return table(
        f"Session ...{journey['token'][-4:]} of {escape(journey['sessions']['student_email'])}",
        ("Column", *sources),
        [*rows, ("flags set", *flags)],
    )


def _shown(column: str, row: dict[str, Any]) -> str:
    """Return a value for people: no secret; JSON as it is stored, with the quotes of a wrapped one."""
    value = row.get(column)
    if value is None:
        return "NULL" if column in row else ""
    if column == "session_token":
        return f"...{value[-4:]}"
    if column == "openai_api_key":
        return "sk-..." if value.startswith("sk-") else "****"
    text = compact(value) if column in JSON_COLUMNS else str(value)
    if column.endswith(("_at", "_activity")):
        return text[:16].replace("T", " ")
    return escape(text if len(text) <= 34 else text[:31] + "...")


def _old_name(url: str, token: str, out: Console) -> None:
    """Save as the legacy application does, and read the unified tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = {"token": token, "voice": "en-US-Journey-F"}
        before = connection.execute(VOICE, names).fetchone()
        connection.execute(SAVE, names)
        after = connection.execute(VOICE, names).fetchone()
    out.print(escape(SAVE.strip() % {"token": f"'...{token[-4:]}'", "voice": "'en-US-Journey-F'"}))
    out.print(f"\nsessions.selected_voice was {before and before[0]}, is {after and after[0]}")


def _go_on(server: EmbeddedServer) -> None:
    url = server.url(DATABASE)
    activate = Path(sys.prefix) / "bin" / "activate"
    typer.echo(f"""
The server keeps running. To try more:
{f"{chr(10)}source {activate}" if activate.exists() else ""}
export POSTGRES_URL_NON_POOLING='{url}'
export POSTGRES_URL='{url}'
workshop status
alembic downgrade base

Then follow docs/guide.md from step 1. To stop and remove the server:

workshop server stop {server.data_dir}""")


def main(
    sessions: Annotated[int, typer.Option(min=1, help="Number of made-up sessions.")] = MEASURED,
    keep: Annotated[
        bool, typer.Option(help="Leave the server running, and show the next commands.")
    ] = False,
) -> None:
    """Migrate a made-up workshop database on a throw-away server, and show every step.

    Uses no other database. Exits with 0 (every check holds), 1 (one does not) or 2 (failed).

    Example: workshop demo --keep
    """
    out = console()
    try:
        server = start_server(stop_at_exit=not keep)
        try:
            ok = tour(server, sessions, out)
        except BaseException:
            server.stop()
            raise
        if keep:
            _go_on(server)
        else:
            server.stop()
    except (ServerUnavailable, OSError, CommandError, psycopg.Error) as error:
        typer.echo(f"error: the demo failed: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if ok else 1)
