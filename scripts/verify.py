"""Verification: whether the unified schema holds what the legacy tables say.

The checks are the bridge's own, ``bridge.verify()``: every mapped value of every row, and counts
taken from the raw tables. Beside them the migration guide's counts and its success criteria, as far
as a database can tell them. Reads only, in short transactions.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection

from scripts.connection import ConnectionProblem
from scripts.report import HAS, Json, Url, console, database, revision_of, run, table

CHECKS = "CALL bridge.run_checks(NULL)"
MERGE = """
SELECT merged_at IS NOT NULL AS done, (SELECT count(DISTINCT token) FROM bridge.pending) AS pending
FROM bridge.state
"""
COUNTS = {
    "students": "SELECT COUNT(*) FROM students",
    "sessions": "SELECT COUNT(*) FROM sessions",
    "orphaned_sessions": """
SELECT COUNT(*)
FROM sessions s
LEFT JOIN students st ON s.student_id = st.student_id
WHERE st.student_id IS NULL
""",
}
FOREIGN_KEY = """
SELECT count(*) FROM pg_constraint
WHERE conrelid = to_regclass('public.sessions') AND confrelid = to_regclass('public.students')
  AND contype = 'f' AND convalidated
"""
WRONG_RATES = """
SELECT count(*)
FROM sessions AS s
WHERE s.completion_rate <> session_completion_rate(session_steps_done(
    s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
    s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
    s.step8_deployed, s.project_deployed,
    ARRAY(SELECT sp.step_number FROM step_progress AS sp
          WHERE sp.session_token = s.session_token AND sp.validation_passed)))
"""


@dataclass
class Report:
    """``criteria`` says yes, no, or (None) that the database cannot tell."""

    database: str
    revision: str | None
    ok: bool
    checks: list[dict[str, Any]]
    counts: dict[str, int]
    pending: int
    criteria: dict[str, bool | None]


def examine(connection: Connection) -> Report:
    """Run every check. ConnectionProblem says what comes first where there is nothing to check."""
    run(connection, "SET search_path = public")
    has = run(connection, HAS).mappings().one()
    revision = revision_of(connection)
    checks, pending = [], 0
    if has["bridge"]:
        merge = run(connection, MERGE).mappings().one()
        if not merge["done"]:
            raise ConnectionProblem(
                f"revision {revision} has not merged anything yet; next: alembic upgrade head"
            )
        pending = merge["pending"]
        checks = run(connection, CHECKS).scalar_one()
    elif revision is None or not has["unified"]:
        raise ConnectionProblem(
            "the database is not migrated; next: python -m scripts.dry_run, then alembic upgrade head"
        )
    elif has["legacy"]:
        raise ConnectionProblem(
            f"at revision {revision} nothing connects {' and '.join(has['legacy'])} with the "
            "unified schema; next: python -m scripts.dry_run"
        )

    counts = {name: run(connection, sql).scalar_one() for name, sql in COUNTS.items()}
    # the revision after the merge adds the foreign keys
    constrained = revision == "0004_merge_legacy_data" or run(connection, FOREIGN_KEY).scalar()

    def hold(*subjects: str) -> bool:
        return all(c["ok"] for c in checks if c["check_name"].startswith(subjects))

    criteria = {
        "All students migrated": hold("students", "cells: students"),
        "All sessions migrated": hold("sessions", "cells"),
        "No orphaned sessions: foreign keys intact": not counts["orphaned_sessions"]
        and bool(constrained),
        "Instructor dashboard loads and shows correct data": None,
        "Progress percentages calculated correctly": run(connection, WRONG_RATES).scalar() == 0,
        "No API errors in production logs": None,
    }
    ok = all(c["ok"] for c in checks) and False not in criteria.values()
    return Report(has["database"], revision, ok, checks, counts, pending, criteria)


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    marks = {True: "[green]yes[/]", False: "[red]NO[/]", None: "look for yourself"}
    if report.checks:
        out.print(
            table(
                "Checks",
                ("Check", "Expected", "Found", ""),
                (
                    (escape(c["check_name"]), c["expected"], c["actual"], marks[c["ok"]])
                    for c in report.checks
                ),
            )
        )
        out.print(f"\n{report.pending:,} sessions written meanwhile, left out until carried over")
    else:
        out.print("No legacy table to compare with: a fresh install, or they were dropped for good")
    out.print()
    counts = ((name.replace("_", " "), number) for name, number in report.counts.items())
    out.print(table("Counts", ("Of", "Rows"), counts))
    out.print()
    criteria = ((name, marks[met]) for name, met in report.criteria.items())
    out.print(table("Success criteria", ("Criterion", ""), criteria))
    out.print("\n[green]Every check holds.[/]" if report.ok else "\n[red]NOT OK: see above.[/]")


def main(url: Url = None, as_json: Json = False) -> None:
    """Check that nothing was lost: students, sessions, every value, orphans, percentages.

    Changes nothing. Exits with 0 (every check holds), 1 (one does not) or 2 (could not tell).

    Example: python -m scripts.verify --url postgresql://localhost/workshop
    """
    with database(url, "AUTOCOMMIT") as connection:
        report = examine(connection)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(0 if report.ok else 1)


if __name__ == "__main__":
    typer.run(main)
