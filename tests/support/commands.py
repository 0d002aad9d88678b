"""The project's commands, in their own process or in this one."""

import os
import subprocess
import sys

from typer.testing import CliRunner

from scripts.cli import app
from scripts.commands import dry_run
from scripts.common.database import database
from support.databases import ROOT, Database


def script(name: str, *args: str, url: str | None = None) -> "subprocess.CompletedProcess[str]":
    """``python -m scripts.<name> ...`` from the repository's root."""
    variables = {} if url is None else {"POSTGRES_URL_NON_POOLING": url}
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{name}", *args],
        cwd=ROOT,
        env={**os.environ, **variables, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_command(name: str, *args: str, url: str) -> "subprocess.CompletedProcess[str]":
    """Run ``workshop <name> ...`` in this process, which is a second faster."""
    environ = {"POSTGRES_URL_NON_POOLING": url, "COLUMNS": "120"}
    done = CliRunner().invoke(app, [name.replace("_", "-"), *args], env=environ)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


def predicted(target: Database) -> dry_run.Report:
    """Run the dry run in this process."""
    with database(target.url, "AUTOCOMMIT") as connection:
        return dry_run.examine(connection)
