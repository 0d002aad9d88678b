"""A command's connection, facts of every database, and the one way to end with an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NoReturn

import psycopg
import typer
from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from scripts.common.connection import (
    VARIABLES,
    VERSION_TABLE_ADVICE,
    ConnectionProblem,
    NotApplicable,
    connect,
    explain,
    make_engine,
    qualified,
    resolve_url,
    version_table,
)
from scripts.common.obstacles import misnamed
from scripts.common.project import configuration, known_revisions, sql_text

VERSION_TABLE = qualified(*version_table(configuration()))
"""The version table as SQL text."""

Url = Annotated[
    str | None,
    typer.Option(
        help="URL of the database; default: sqlalchemy.url of alembic.ini, else the first that is "
        f"set of {', '.join(VARIABLES)}."
    ),
]
IsolationLevel = Literal["AUTOCOMMIT", "REPEATABLE READ"]

HAS = """
SELECT
    current_database()::text AS database,
    to_regnamespace('bridge') IS NOT NULL AS bridge,
    to_regclass('public.sessions') IS NOT NULL AS unified,
    ARRAY(
        SELECT name FROM unnest(ARRAY['workshop_students', 'student_configs']) AS name
        WHERE to_regclass('public.' || name) IS NOT NULL
    ) AS legacy
"""
PENDING = "SELECT count(DISTINCT token) FROM bridge.change_log"


def run(connection: Connection, sql: str) -> CursorResult[*tuple[Any, ...]]:
    """Execute SQL unchanged: colons and percent signs are no placeholders."""
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


def apply_settings(connection: Connection) -> None:
    """Give the session the settings of every run of the migration."""
    run(connection, sql_text("session.sql"))


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the database; None if Alembic has not run.

    Raises ConnectionProblem for a revision that this project does not have.
    """
    found = revisions_in(connection)
    if unknown := set(found) - set(known_revisions()):
        raise ConnectionProblem(
            f"{VERSION_TABLE} holds revision {', '.join(sorted(unknown))}, which this project does not "
            f"have. Nothing was changed. {VERSION_TABLE_ADVICE}"
        )
    return found[0] if found else None


def revisions_in(connection: Connection) -> list[str]:
    """Return the revisions in the version table, known or not."""
    query = text("SELECT to_regclass(:name)")
    if connection.execute(query, {"name": VERSION_TABLE}).scalar() is None:
        return []
    return list(run(connection, f"SELECT version_num FROM {VERSION_TABLE} ORDER BY 1").scalars())


BY_HAND = """
SELECT name FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS name
WHERE to_regclass('public.' || name) IS NULL
UNION ALL
SELECT o.legacy_name FROM bridge.source AS o
WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = o.relation)
"""


def refuse_damage(connection: Connection) -> None:
    """Raise NotApplicable if the operator has dropped or renamed a table that the bridge uses."""
    if dropped := run(connection, BY_HAND).scalars().all():
        raise NotApplicable(
            f"{', '.join(dropped)}: the tables were dropped by hand; 'workshop status' shows "
            "the consequences and the way back"
        )
    if renamed := misnamed(connection, revision_of(connection)):
        raise NotApplicable(
            f"a legacy name was changed by hand: {'; '.join(row['what'] for row in renamed)}; "
            "'workshop status' shows the consequences and the way back"
        )


class Refused(Exception):
    """The command was refused; the message has the reason, what was not changed, and the advice."""


UNCHANGED = "Nothing was changed; correct that, then run this again."
COULD_NOT_TELL, COULD_NOT_DO = "error: could not check", "error"


@contextmanager
def database(
    url: str | None,
    isolation_level: IsolationLevel,
    advice: str = UNCHANGED,
    prefix: str = COULD_NOT_TELL,
) -> Iterator[Connection]:
    """Yield a connection; any error of the database in the block ends the command with exit code 2.

    ``Refused`` ends it with exit code 1. ``advice`` follows the reason: what was not changed, and
    what to do. ``prefix`` is ``COULD_NOT_DO`` for commands that change something, else
    ``COULD_NOT_TELL``.

    ``REPEATABLE READ`` sees one moment of the database, and is rolled back at the end.
    ``AUTOCOMMIT`` is for longer commands: the legacy application runs ALTER TABLE on every save,
    and waits for each transaction that has read its tables.
    """
    try:
        named = url or configuration().get_main_option("sqlalchemy.url")
        with connect(make_engine(resolve_url(named))) as connection:
            yield connection.execution_options(isolation_level=isolation_level)
    except Refused as reason:
        typer.echo(f"error: {reason}", err=True)
        raise typer.Exit(1) from None
    except NotApplicable as problem:
        give_up(str(problem), advice, COULD_NOT_DO)
    except ConnectionProblem as problem:
        give_up(str(problem), advice, prefix)
    except (DataError, IntegrityError) as error:
        # the server quotes the refused value, which may be a secret
        kind = type(error.orig).__name__
        give_up(f"the server refused a value ({kind}); the value is in its log", advice, prefix)
    except DBAPIError as error:
        locked = isinstance(error.orig, psycopg.errors.LockNotAvailable)
        held = "another session holds a lock on a table: " if locked else ""
        give_up(held + explain(error), advice, prefix)


def passes(error: DBAPIError) -> bool:
    """Return True for errors that do not concern the data: a lock, a right, a full disk, a lost server."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(("08", "40", "42501", "53", "55", "57", "58"))


def give_up(reason: str, advice: str, prefix: str) -> NoReturn:
    """End the command with one line on stderr and exit code 2."""
    if "nothing was changed" not in reason.lower():
        reason = f"{reason.rstrip('.')}. {advice}"
    typer.echo(f"{prefix}: {reason}", err=True)
    raise typer.Exit(2)
