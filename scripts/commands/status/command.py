"""The command: drain if asked, read, and print."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import typer
from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from scripts.commands.status.advice import DRAIN
from scripts.commands.status.facts import OLD_TABLES
from scripts.commands.status.look import examine
from scripts.commands.status.report import show
from scripts.common.connection import explain
from scripts.common.database import PENDING, Url, database, run
from scripts.common.terminal import Json, finish, progress

# Sessions that have written and not committed: no catalog shows a row lock itself.
WRITERS = """
SELECT public.lock_holders(ARRAY(
    SELECT c.oid::regclass FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ :tables), readers => false)
"""


def carry_over(connection: Connection, say: Callable[[str], None]) -> tuple[str, bool]:
    """Drain; return the reason if sessions are still logged, and whether the operator has to act."""
    with ThreadPoolExecutor(1) as worker, connection.engine.connect() as observer:
        observer = observer.execution_options(isolation_level="AUTOCOMMIT")
        draining = worker.submit(run, connection, "CALL bridge.drain()")
        while not draining.done():
            try:
                time.sleep(0.2)
                say(f"{run(observer, PENDING).scalar():,} sessions are still logged")
            except KeyboardInterrupt:
                connection.connection.driver_connection.cancel()  # type: ignore[union-attr]
                raise
        error = draining.exception()
        if error is None:
            return "", False
        if not isinstance(error, DBAPIError):
            raise error
        left = run(observer, PENDING).scalar()
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            tables = {"tables": f"{OLD_TABLES}|^(students|sessions|step_progress)$"}
            who = observer.execute(text(WRITERS), tables).scalar_one()
            return f"{left:,} sessions were locked for too long. Held by: {who}", False
        if isinstance(error, (DataError, IntegrityError)):
            # the server quotes the refused value, which may be a secret
            reason = f"the server refused a value ({type(error.orig).__name__}); its log says which"
        else:
            reason = explain(error)
        return f"{left:,} sessions could not be applied: {reason}", True


def main(
    url: Url = None,
    as_json: Json = False,
    drain: bool = typer.Option(False, help="Apply the logged sessions first."),
) -> None:
    """Show the state of the migration, and the next command.

    Changes nothing without --drain. Exits with 0 (done, nothing waits), 1 (more to do) or 2 (the
    operator has to act, or unknown).

    Example: workshop status --drain
    """
    with database(url, "AUTOCOMMIT") as connection, progress("looking") as say:
        status = examine(connection, say)
        if drain and any(status.pending.values()) and not status.problems:
            reason, needs_a_person = carry_over(connection, say)
            status = examine(connection, say)
            if needs_a_person:
                status.problems.append(reason)
                status.next, status.commands = reason, []
            elif reason:
                status.next = f"{reason}. All others are applied. When that has ended: {DRAIN}"
    finish(status, show, as_json, status.exit_code)
