"""The command: examine, rehearse if asked, and print."""

import sys
from typing import Annotated

import typer

from scripts.commands.dry_run.plan import examine
from scripts.commands.dry_run.rehearsal import REHEARSAL, left, rehearse
from scripts.commands.dry_run.report import show
from scripts.common.database import Url, database
from scripts.common.terminal import Json, finish, progress


def main(
    url: Url = None,
    as_json: Json = False,
    with_rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Then run the whole migration on the tables, in one transaction that is rolled back, and "
            "verify it. Locks the legacy tables for that time: use a copy, or a quiet moment.",
        ),
    ] = False,
) -> None:
    """Show what the migration would do: numbers of students and sessions, their sources, and problems.

    Changes nothing, and blocks no application: the tables are read in transactions of some 40 ms,
    and merged as temporary copies, which need about three times their space until the end. Exits
    with 0 (go), 1 (no-go) or 2 (unknown).

    Example: workshop dry-run --url postgresql://localhost/workshop

    Example: workshop dry-run --rehearse
    """
    with database(url, "AUTOCOMMIT") as connection:
        with progress("dry run") as say:
            report = examine(connection, say)
        if with_rehearsal and report.go and left(report):
            seconds = report.expected.get("seconds")
            expected = f"some {seconds:,.0f} s" if seconds else "for an unknown time"
            typer.echo(REHEARSAL.format(database=report.database, seconds=expected), err=True)
            if not sys.stdin.isatty() or typer.confirm("Continue?", err=True):
                with progress("rehearsal") as say:
                    rehearse(connection, report, say)
        elif with_rehearsal:
            why = "the last revision is reached" if report.go else "the answer is NO-GO without it"
            typer.echo(f"Nothing was rehearsed: {why}.", err=True)
    finish(report, show, as_json, 0 if report.go else 1)
