"""The project's commands, in their own process or in this one."""

import os
import subprocess

from typer.testing import CliRunner

from scripts.cli import app
from scripts.commands import dry_run
from scripts.common.database import database
from support.databases import Database
from support.processes import python_m


def script(name: str, *args: str, url: str | None = None) -> "subprocess.CompletedProcess[str]":
    """``python -m scripts.<name> ...`` from the repository's root."""
    variables = {} if url is None else {"POSTGRES_URL_NON_POOLING": url}
    return python_m(f"scripts.{name}", *args, env={**os.environ, **variables, "COLUMNS": "120"})


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
