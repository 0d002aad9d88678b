"""The rehearsal: the revisions on the real tables, in one transaction that is rolled back."""

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
rolls it back. Until then ({seconds}) it holds locks on the legacy tables: the application cannot save and,
towards the end, cannot read. Use a copy of the database, or a quiet moment. Ctrl+C rolls back as well.
Only unused space in the written tables and skipped numbers of events remain."""


def left(report: Report) -> list[str]:
    """Return the revisions of an upgrade to head."""
    revisions = known_revisions()
    done = revisions.index(report.revision) + 1 if report.revision in revisions else 0
    return revisions[done:]


def rehearse(connection: Connection, report: Report, say: Callable[[str], None]) -> None:
    """Upgrade to head in one transaction, verify, and roll it back; ``report`` gets the result.

    Raises ConnectionProblem if a lock was not free or another migration runs.
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
