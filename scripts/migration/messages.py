"""Messages of a run: the lines of its steps and its result. On stderr, because stdout may be the script."""

import logging
import sys
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationStep, RevisionStep
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from scripts.common.connection import connect, explain

log = logging.getLogger("workshop.migration")


def log_to_stderr() -> None:
    """Configure logging for the command line; an in-process caller keeps its own configuration."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)-7s %(message)s"
    )
    for name in ("workshop", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.migration").addFilter(_only_steps)
    # the FAILED line repeats the message
    logging.getLogger("alembic.util.messaging").setLevel(logging.CRITICAL)


def _only_steps(record: logging.LogRecord) -> bool:
    """Keep the lines of the steps; a downgrade logs its own first line instead of the upgrade's title."""
    step = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(step, RevisionStep) and step.is_downgrade:
        undoes = (step.migration_fn.__doc__ or "").partition("\n")[0]
        record.msg, record.args = "Running %s, %s", (step.short_log, undoes)
    return isinstance(step, MigrationStep)


def say_end(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """Log the revision of the database at the end."""
    at = ", ".join(after) or "base"
    if before == after:
        log.info("nothing to do: the database is at %s already", at)
    else:
        log.info("done: the database is at %s", at)


def cause(error: BaseException) -> BaseException:
    """Return the error that broke the connection, if a later error only reports that it is broken."""
    while isinstance(error, PendingRollbackError) and error.__context__ is not None:
        error = error.__context__
    return error


def reason(error: BaseException) -> str:
    """Return the error in one line."""
    return explain(error) if isinstance(error, DBAPIError) else str(error)


def interrupted(engine: sa.Engine, version_table: str) -> str:
    """Return the state of the database after an interruption; ``version_table`` as SQL text."""

    def read(query: str, table: str) -> Any:
        there = sa.select(sa.func.to_regclass(table).is_not(None))
        return connection.scalar(sa.text(query)) if connection.scalar(there) else None

    with connect(engine) as connection:
        connection.execute(sa.text("SET lock_timeout = '1s'"))
        at = read(f"SELECT max(version_num) FROM {version_table}", version_table)
        rows = read("SELECT count(*) FROM public.sessions", "public.sessions")
    return (
        f"interrupted. The database is at {at or 'base'}, with {rows or 0:,} sessions in the unified tables. "
        "They stay, and nothing is half done. Run the command again: it continues"
    )
