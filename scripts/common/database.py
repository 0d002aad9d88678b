"""A command's connection, what is read of every database, and the one way to give up."""

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
"""The table that holds the revision, as SQL takes it."""

Url = Annotated[
    str | None,
    typer.Option(
        help="Database to look at; without it sqlalchemy.url of alembic.ini, else the first that is "
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


def run(connection: Connection, sql: str) -> CursorResult[*tuple[Any, ...]]:
    """Execute SQL as it stands: no colon and no percent sign in it is a placeholder."""
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


def apply_settings(connection: Connection) -> None:
    """Give the session the settings that every run of the migration has."""
    run(connection, sql_text("session.sql"))


def revision_of(connection: Connection) -> str | None:
    """The revision that the database is at; None where Alembic has not been.

    Raises ConnectionProblem for a revision that this project does not have.
    """
    found = revisions_in(connection)
    if unknown := set(found) - set(known_revisions()):
        raise ConnectionProblem(
            f"{VERSION_TABLE} holds revision {', '.join(sorted(unknown))}, which this project does not "
            f"have; nothing was changed. {VERSION_TABLE_ADVICE}"
        )
    return found[0] if found else None


def revisions_in(connection: Connection) -> list[str]:
    """What the version table holds, known or not."""
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
    """Raise NotApplicable where a table that the bridge joins was dropped or renamed by hand."""
    if dropped := run(connection, BY_HAND).scalars().all():
        raise NotApplicable(
            f"{', '.join(dropped)}: the tables were dropped by hand; 'workshop status' says "
            "what that means, and the way back"
        )
    if renamed := misnamed(connection, revision_of(connection)):
        raise NotApplicable(
            f"a legacy name was changed by hand: {'; '.join(row['what'] for row in renamed)}; "
            "'workshop status' says what that means, and the way back"
        )


UNCHANGED = "Nothing was changed; put that right, then run this again."
COULD_NOT_TELL, COULD_NOT_DO = "error: could not tell", "error"


@contextmanager
def database(
    url: str | None,
    isolation_level: IsolationLevel,
    advice: str = UNCHANGED,
    prefix: str = COULD_NOT_TELL,
) -> Iterator[Connection]:
    """Yield a connection; whatever goes wrong with the database in the block ends the command.

    ``advice`` follows the reason: what was not changed, and what to do. ``prefix`` is
    ``COULD_NOT_DO`` for commands that do something instead of telling something.

    ``REPEATABLE READ`` sees one moment of the database, and is rolled back at the end.
    ``AUTOCOMMIT`` is for what takes longer: the old application runs ALTER TABLE on every save, and
    would wait for a transaction that has read its tables. The exit code of a failure is 2.
    """
    try:
        named = url or configuration().get_main_option("sqlalchemy.url")
        with connect(make_engine(resolve_url(named))) as connection:
            yield connection.execution_options(isolation_level=isolation_level)
    except NotApplicable as problem:
        give_up(str(problem), advice, COULD_NOT_DO)
    except ConnectionProblem as problem:
        give_up(str(problem), advice, prefix)
    except (DataError, IntegrityError) as error:
        # the server quotes the value that it objects to, which may be a secret
        kind = type(error.orig).__name__
        give_up(f"the server refused a value ({kind}); its log says which", advice, prefix)
    except DBAPIError as error:
        locked = isinstance(error.orig, psycopg.errors.LockNotAvailable)
        held = "somebody else holds a lock on a table: " if locked else ""
        give_up(held + explain(error), advice, prefix)


def passes(error: DBAPIError) -> bool:
    """True for trouble that says nothing about the data: a lock, a right, a full disk, a lost server."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(("08", "40", "42501", "53", "55", "57", "58"))


def give_up(reason: str, advice: str, prefix: str) -> NoReturn:
    """End the command: one line on stderr, exit code 2."""
    if "nothing was changed" not in reason.lower():
        reason = f"{reason.rstrip('.')}. {advice}"
    typer.echo(f"{prefix}: {reason}", err=True)
    raise typer.Exit(2)
