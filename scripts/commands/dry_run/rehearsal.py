"""The rehearsal: the revisions themselves, in one transaction that is rolled back."""

import time
from collections.abc import Callable
from io import StringIO
from typing import Any

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scripts.commands import verify
from scripts.commands.dry_run.plan import ARRIVED
from scripts.commands.dry_run.report import Report
from scripts.common.connection import ConnectionProblem, connect
from scripts.common.database import passes, run
from scripts.common.project import configuration, known_revisions

REHEARSAL = """
The rehearsal runs the revisions themselves on the tables of database {database}, in one transaction, and
takes all of it back. Until then ({seconds}) it holds locks on the old tables: the application can neither
save nor, towards the end, read. It is meant for a copy of the database, or for a quiet moment.
Ctrl+C takes it back as well. Nothing stays but unused space in tables that it wrote to, and numbers
of events that are skipped."""


def left(report: Report) -> list[str]:
    """The revisions that an upgrade to head would run."""
    revisions = known_revisions()
    done = revisions.index(report.revision) + 1 if report.revision in revisions else 0
    return revisions[done:]


def rehearse(connection: Connection, report: Report, say: Callable[[str], None]) -> None:
    """Upgrade to head in one transaction, verify, and roll it back; ``report`` gets the result.

    Raises ConnectionProblem where it could not be done: a lock was not free, another migration runs.
    """
    config = configuration()
    config.stdout = StringIO()
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {"ok": False, "seconds": seconds, "failed": []}
    report.rehearsal = result
    with connect(connection.engine) as own:
        transaction = own.begin()
        config.attributes["connection"] = own
        try:
            for revision in left(report):
                say(f"rehearsing {revision}")
                began = time.monotonic()
                command.upgrade(config, revision)
                seconds[revision] = round(time.monotonic() - began, 2)
            say("verifying")
            began = time.monotonic()
            verified = verify.examine(own)
            seconds["verification"] = round(time.monotonic() - began, 2)
            result["failed"] = [c["check_name"] for c in verified.checks if not c["ok"]]
            result["failed"] += [name for name, met in verified.criteria.items() if met is False]
            result["ok"] = verified.ok
            result["totals"] = dict(run(own, ARRIVED).mappings().one())
        except CommandError as error:
            cause = error.__cause__
            if not isinstance(cause, DBAPIError) or passes(cause):
                raise ConnectionProblem(f"the rehearsal broke off: {error}") from error
            result["failed"] = [str(error)]
        finally:
            if own.invalidated is False:
                transaction.rollback()
    if not result["ok"]:
        report.go = False
        report.reasons = [f"the rehearsal failed: {'; '.join(result['failed'])}"]
