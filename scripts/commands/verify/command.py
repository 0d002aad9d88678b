"""The command: check, and print the report."""

from typing import Annotated

import typer

from scripts.commands.verify.checks import examine
from scripts.commands.verify.report import show
from scripts.common.database import Url, database
from scripts.common.terminal import Json, finish, progress


def main(
    url: Url = None,
    as_json: Json = False,
    differences: Annotated[
        bool,
        typer.Option(help="Show the differences: student, session, column, and both values."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of differences at most.")] = 50,
) -> None:
    """Check that nothing was lost: students, sessions, every value, orphans, percentages.

    Changes nothing, and blocks no application. A session is shown as its student and the last four
    characters of its token; keys are masked, and other columns of the legacy tables appear by name
    only. Exits with 0 (every check holds), 1 (one does not) or 2 (unknown).

    Example: workshop verify --url postgresql://localhost/workshop

    Example: workshop verify --differences --limit 10
    """
    with database(url, "AUTOCOMMIT") as connection, progress("verifying") as say:
        report = examine(connection, say, limit if differences else 0)
    finish(report, show, as_json, 0 if report.ok else 1)
