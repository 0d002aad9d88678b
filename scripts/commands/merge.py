"""Merge again: "Run the migration again, it will merge/update existing records".

Calls the procedures of 0004 again, at any revision from 0004 on. They compare every session, log
those that differ, and apply the log. A newer value in the unified tables stays: it is logged, in
the legacy tables already, or an override.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection

from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem, NotApplicable, refuse_pooler
from scripts.common.database import (
    COULD_NOT_DO,
    HAS,
    PENDING,
    Url,
    apply_settings,
    database,
    refuse_damage,
    revision_of,
    run,
)
from scripts.common.terminal import Json, finish, progress, table

STAYS = (
    "Sessions merged before that stay, and are correct. Correct the problem, then run "
    "this again: it merges the others"
)
STATE = """
SELECT
    s.merged_at IS NOT NULL AS merged,
    bridge.is_read_only() AS read_only,
    (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p) AS pending
FROM bridge.state AS s
"""
SESSIONS = "SELECT count(*) FROM public.sessions"
DRAIN = "CALL bridge.drain(strict => false)"


@dataclass
class Report:
    """The result of a run.

    ``sessions`` were compared; ``differing`` of them differed although no trigger had logged them.
    ``carried_over`` counts sessions that were logged before, ``pending`` those that are still
    logged.
    """

    database: str
    revision: str | None
    sessions: int = 0
    differing: int = 0
    carried_over: int = 0
    pending: int = 0
    ok: bool = False
    checks: list[dict[str, Any]] = field(default_factory=list)


def examine(connection: Connection) -> Report:
    """Check that there is something to merge. NotApplicable names the command to run first."""
    run(connection, "SET lock_timeout = '5s'")
    if run(connection, "SELECT pg_is_in_recovery()").scalar_one():
        raise ConnectionProblem("this server is a standby, which is read-only: name the primary")
    has = run(connection, HAS).mappings().one()
    report = Report(has["database"], revision_of(connection))
    if report.revision is None or report.revision < "0004":
        raise NotApplicable(
            f"revision {report.revision or '(base)'} has not merged anything yet; next: "
            "workshop status"
        )
    if not has["bridge"]:
        raise NotApplicable(
            f"at revision {report.revision} there are no legacy tables to merge from"
        )
    refuse_damage(connection)
    state = run(connection, STATE).mappings().one()
    if state["read_only"] or not state["merged"]:
        raise NotApplicable(
            "a downgrade has begun, and the unified tables are read-only. alembic downgrade base continues "
            "it, alembic upgrade head undoes it"
        )
    report.carried_over = state["pending"]
    return report


def merge(connection: Connection, report: Report, say: Callable[[str], None]) -> None:
    """Merge, apply, verify; the connection is in AUTOCOMMIT, each chunk commits.

    Raises ConnectionProblem while a migrator runs, and behind a transaction pooler.
    """
    apply_settings(connection)
    refuse_pooler(connection.engine, connection)
    if not run(connection, f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})").scalar():
        raise ConnectionProblem(
            "another migration is running in this database. Nothing was changed. Wait for it to end, "
            "then run the command again"
        )
    run(connection, DRAIN)
    before = run(connection, PENDING).scalar_one()
    run(connection, "CALL bridge.merge()")
    report.differing = max(run(connection, PENDING).scalar_one() - before, 0)
    run(connection, DRAIN)
    run(connection, DRAIN)  # the writes of the meantime: far fewer
    report.sessions = run(connection, SESSIONS).scalar_one()
    say("verifying")
    report.checks = run(connection, "CALL bridge.run_checks(NULL)").scalar_one()
    run(connection, f"SELECT pg_advisory_unlock({ADVISORY_LOCK})")
    report.pending = run(connection, PENDING).scalar_one()
    report.ok = all(check["ok"] for check in report.checks)


def show(report: Report, out: Console) -> None:
    """Print the result for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    out.print(
        table(
            "Merged again",
            ("What", "Number"),
            (
                ("Sessions compared", report.sessions),
                ("Sessions that differed although they were not logged", report.differing),
                ("Sessions that were logged before, and applied", report.carried_over),
                ("Sessions still logged: an application is writing them", report.pending),
            ),
        )
    )
    out.print()
    for check in report.checks:
        if not check["ok"]:
            out.print(f"[red]DIFFERS:[/] {escape(check['check_name'])}")
    out.print(
        f"[green]All {len(report.checks)} checks hold.[/]"
        if report.ok
        else "[red]NOT OK:[/] 'workshop verify --differences' shows the differences"
    )


def main(url: Url = None, as_json: Json = False) -> None:
    """Merge the legacy tables into the unified tables again, and verify the result.

    For data that is missing after the migration, at any revision from 0004 on. Newer values in the
    unified tables are not overwritten; a run without differences writes nothing. The application
    continues meanwhile: the legacy tables are read in short transactions. Exits with 0 (merged,
    every check holds), 1 (a check does not hold) or 2 (could not merge, or not to the end).

    Example: workshop merge --url postgresql://localhost/workshop
    """
    with database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection:
        report = examine(connection)
    # from here on chunks may be committed before a failure
    with (
        database(url, "AUTOCOMMIT", STAYS, COULD_NOT_DO) as connection,
        progress("merging") as say,
    ):
        merge(connection, report, say)
    finish(report, show, as_json, 0 if report.ok else 1)
