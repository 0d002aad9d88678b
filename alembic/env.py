"""Alembic environment: finds the database, guards the run, and gives revisions two operations.

One dictionary of ``configure()`` options and one set of SQL texts serve the online run, the
offline script and a rehearsal inside a caller's transaction, so that all three do the same.

The operations (both work online and offline):

``op.expect_revision(revision)``
    first statement of every step: refuses unless the database is at that revision.
``op.run_sql(revision, name, commits=False, helper=None)``
    runs ``alembic/sql/<revision>/<name>.sql`` as it stands; ``commits=True`` is for a CALL whose
    procedure commits chunk by chunk, and runs outside the step's transaction. Online, a second session
    then calls the procedure ``helper`` again and again until that has ended.
"""

import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
from alembic import context
from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from models import Base
from scripts.connection import (
    ADVISORY_LOCK,
    PROBE_IS_HELD,
    TAKE_PROBE,
    VARIABLES,
    ConnectionProblem,
    connect,
    explain,
    make_engine,
    refuse_pooler,
    resolve_url,
)
from scripts.obstacles import refusal

SQL_FOLDER = Path(__file__).parent / "sql"
OLDEST_SERVER = 150000

OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "transaction_per_migration": True,
    "compare_type": True,
    "compare_server_default": True,
}
"""What ``context.configure`` gets online and offline alike."""

log = logging.getLogger("workshop.migration")


# --- operations for revisions --------------------------------------------------------------------


def _ddl(text: str) -> sa.DDL:
    """Wrap SQL so that no colon and no percent sign in it means anything to SQLAlchemy."""
    return sa.DDL(text.replace("%", "%%"))


def _sql_file(*parts: str) -> str:
    text = SQL_FOLDER.joinpath(*parts).with_suffix(".sql").read_text(encoding="utf-8")
    if "\t" in text:
        raise CommandError(f"{'/'.join(parts)}.sql contains a tab; offline output would change it")
    return text.rstrip().removesuffix(";")


@Operations.register_operation("expect_revision")
class ExpectRevision(MigrateOperation):
    """Refuse the step, before it changes anything, unless the database is where it starts."""

    def __init__(self, revision: str | None) -> None:
        self.revision = revision

    @classmethod
    def expect_revision(cls, operations: Operations, revision: str | None) -> None:
        """Raise in the database unless ``alembic_version`` holds ``revision`` (None: nothing)."""
        operations.invoke(cls(revision))


@Operations.implementation_for(ExpectRevision)
def _expect_revision(operations: Operations, operation: ExpectRevision) -> None:
    operations.execute(_ddl(_guard(operation.revision)))


def _guard(revision: str | None) -> str:
    # A script is written for one starting point. Applied anywhere else, its DDL would run and its
    # UPDATE of alembic_version would match no row, with exit status 0.
    expected = "NULL" if revision is None else f"'{revision}'"
    return f"""\
DO $guard$
DECLARE
    found text := (SELECT string_agg(version_num, ', ') FROM alembic_version);
    wanted CONSTANT text := {expected};
BEGIN
    IF found IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'this step starts at revision %, but the database is at %',
            coalesce(wanted, '(base)'), coalesce(found, '(base)')
            USING HINT = 'Nothing was changed by it. Run "alembic current", and write the script '
                         'for that revision: alembic upgrade <current>:<target> --sql';
    END IF;
END
$guard$"""


@Operations.register_operation("run_sql")
class RunSql(MigrateOperation):
    """Run one SQL file of a revision, the same text online and offline."""

    def __init__(self, revision: str, name: str, commits: bool, helper: str | None) -> None:
        self.parts = (revision, name)
        self.commits = commits
        self.helper = helper

    @classmethod
    def run_sql(
        cls,
        operations: Operations,
        revision: str,
        name: str,
        commits: bool = False,
        helper: str | None = None,
    ) -> None:
        """Execute ``alembic/sql/<revision>/<name>.sql``; ``commits``: outside the transaction."""
        operations.invoke(cls(revision, name, commits, helper))


@Operations.implementation_for(RunSql)
def _run_sql(operations: Operations, operation: RunSql) -> None:
    migration = operations.get_context()
    with ExitStack() as stack:
        if operation.commits and not migration.opts.get("single_transaction"):
            stack.enter_context(migration.autocommit_block())
            if operation.helper is not None and not migration.as_sql:
                stack.enter_context(_helped(operations.get_bind().engine, operation.helper))
        operations.execute(_ddl(_sql_file(*operation.parts)))


@contextmanager
def _helped(engine: sa.Engine, procedure: str) -> Iterator[None]:
    """Let a second session do a share of the work meanwhile; where it cannot, one does it all."""
    over = threading.Event()
    sessions: list[psycopg.Connection[Any]] = []

    def help_until_over() -> None:
        try:
            # not through the engine: what the second session says of its progress is half of the truth
            arguments = engine.dialect.create_connect_args(engine.url)[1]
            with psycopg.connect(
                **{"connect_timeout": 10, **arguments}, autocommit=True
            ) as session:
                sessions.append(session)
                session.execute(_sql_file("session").encode())
                while not over.wait(0.02):
                    session.execute(f"CALL {procedure}".encode())
        except psycopg.Error as error:
            if not over.is_set():
                state = error.sqlstate or "no connection"
                log.info("a second session could not help (%s): one goes on alone", state)

    helper = threading.Thread(target=help_until_over, name="helper")
    helper.start()
    try:
        yield
    finally:
        over.set()
        while helper.is_alive():
            for session in sessions:
                session.cancel_safe()
            helper.join(0.2)


# --- what autogenerate compares --------------------------------------------------------------------


def _include_name(
    name: str | None,
    kind: Literal[
        "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"
    ],
    _parents: Any,
) -> bool:
    """Look at the four tables only: legacy tables, backups and the bridge are not the models'."""
    return kind != "table" or name in Base.metadata.tables


OPTIONS["include_name"] = _include_name


def _settings() -> str:
    """SQL that begins every run: session.sql, and what ``-x`` asks for."""
    arguments = context.get_x_argument(as_dictionary=True)
    unknown = set(arguments) - {"drop_existing"}
    if unknown or arguments.get("drop_existing", "false") not in ("true", "false"):
        raise CommandError("-x takes drop_existing=true or drop_existing=false, nothing else")
    drop = "on" if arguments.get("drop_existing") == "true" else "off"
    return f"{_sql_file('session')};\nSET bridge.drop_existing = {drop}"


# --- offline ---------------------------------------------------------------------------------------

HEADER = """\
-- Run with: psql -X -f <this file> "$POSTGRES_URL_NON_POOLING"   (not with -1, not in a GUI: it commits in steps)
\\set ON_ERROR_STOP on"""

# What scripts.connection.refuse_pooler does online. The answer is brought into a DO block by a setting:
# where that is lost at once, so is everything that the script sets.
NO_POOLER = f"""\
{TAKE_PROBE} \\gset
\\connect
SET bridge.probe = :probe;
DO $pooler$
DECLARE
    probe CONSTANT bigint := nullif(current_setting('bridge.probe', true), '');
    pooled boolean := probe IS NULL;
BEGIN
    FOR look IN 1 .. 60 LOOP
        EXIT WHEN probe IS NULL;
        pooled := {PROBE_IS_HELD.format(probe="probe")};
        EXIT WHEN NOT pooled OR probe = pg_backend_pid();
        PERFORM pg_sleep(0.05);
    END LOOP;
    IF pooled THEN
        RAISE EXCEPTION 'this is a transaction pooler, which loses session locks and settings'
            USING HINT = 'Nothing was changed. Run the script at the direct address of the database, '
                         'which belongs into {VARIABLES[0]}.';
    END IF;
END
$pooler$;"""

PREFLIGHT = """\
DO $preflight$
DECLARE
    found text;
BEGIN
    IF current_setting('server_version_num')::integer < {oldest} THEN
        RAISE EXCEPTION 'PostgreSQL 15 or later is needed, this server is %',
            current_setting('server_version');
    END IF;
    IF NOT pg_try_advisory_lock({lock}) THEN
        RAISE EXCEPTION 'another migration is running in this database'
            USING HINT = 'Nothing was changed. Wait for it to end, then run this script again.';
    END IF;
    IF to_regclass('alembic_version') IS NOT NULL THEN
        SELECT string_agg(version_num, ', ') INTO found FROM alembic_version;
    END IF;
    IF found IS DISTINCT FROM {start} THEN
        RAISE EXCEPTION 'this script starts at revision %, but the database is at %',
            coalesce({start}, '(base)'), coalesce(found, '(base)')
            USING HINT = 'Nothing was changed. Run "alembic current", and write the script for '
                         'that revision: alembic upgrade <current>:<target> --sql';
    END IF;
    IF {start} IS NULL THEN
        -- a downgrade to base leaves the table behind, empty; the script creates it anew
        DROP TABLE IF EXISTS alembic_version;
    END IF;
END
$preflight$;"""


def run_offline() -> None:
    """Write the SQL script: nothing on stdout until all of it could be rendered."""
    buffer = io.StringIO()
    context.configure(
        dialect_name="postgresql",
        # psycopg's own paramstyle doubles every percent sign in rendered SQL
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        output_buffer=buffer,
        **OPTIONS,
    )
    start = _full_revision(context.get_starting_revision_argument())
    context.static_output(HEADER)
    context.static_output(NO_POOLER)
    context.static_output(_settings() + ";")
    context.static_output(
        PREFLIGHT.format(
            oldest=OLDEST_SERVER,
            lock=ADVISORY_LOCK,
            start="NULL::text" if start is None else f"'{start}'",
        )
    )
    if refuse := refusal(context.get_context()):
        context.static_output(refuse + ";")
    with context.begin_transaction():
        context.run_migrations()
    output = context.config.output_buffer or sys.stdout
    output.write(buffer.getvalue())


def _full_revision(revision: Any) -> str | None:
    if revision in (None, "base"):
        return None
    found = context.script.get_revision(revision)
    return None if found is None else found.revision


# A caller's connection outlives a merge that failed.
FREE_BLOCKS = """\
DO $blocks$
BEGIN
    IF to_regclass('bridge.block') IS NOT NULL THEN
        PERFORM pg_advisory_unlock(hashoid('bridge.block'::regclass), l.objid::integer)
        FROM pg_locks AS l
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.objsubid = 2
          AND l.classid = hashoid('bridge.block'::regclass)::bigint::bit(32)::bigint::oid;
    END IF;
END
$blocks$"""


# --- online ----------------------------------------------------------------------------------------


def run_online() -> None:
    """Run against the caller's connection, else against the database that the settings name."""
    given = context.config.attributes.get("connection")
    if given is not None:
        with _as_left(given):
            _migrate(given, single_transaction=given.in_transaction())
        return
    url = resolve_url(context.config.get_main_option("sqlalchemy.url"))
    engine = make_engine(url)
    with connect(engine) as connection:
        if _mutates():
            refuse_pooler(engine, connection)
        _migrate(connection, single_transaction=False)


@contextmanager
def _as_left(connection: sa.Connection) -> Iterator[None]:
    """Give a caller's connection back with the settings that it came with."""
    inside = connection.in_transaction()
    names = re.findall(r"^SET ([\w.]+) =", _settings(), re.MULTILINE)
    query = sa.select(*(sa.func.current_setting(name, True).label(name) for name in names))
    before = connection.execute(query).one()
    if not inside:
        connection.commit()
    try:
        yield
    finally:
        # a failed transaction takes its settings with it when the caller rolls it back
        status = connection.connection.dbapi_connection.info.transaction_status.name  # type: ignore[union-attr]
        if status != "INERROR":
            restore = (
                sa.func.set_config(n, v or "", False) for n, v in zip(names, before, strict=True)
            )
            connection.execute(sa.select(*restore))
            if not inside:
                connection.commit()


def _migrate(connection: sa.Connection, *, single_transaction: bool) -> None:
    mutates = _mutates()
    connection.execute(_ddl(_settings()))
    if mutates:
        _check_server(connection)
        _take_lock(connection, single_transaction)
    if not single_transaction:
        # Alembic takes an open transaction for the caller's, and would leave it to be rolled back
        connection.commit()
    try:
        context.configure(connection=connection, single_transaction=single_transaction, **OPTIONS)
        if mutates and (refuse := refusal(context.get_context())):
            connection.execute(_ddl(refuse))
        if not single_transaction:
            connection.commit()
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if mutates and not single_transaction and not connection.invalidated:
            connection.rollback()
            connection.execute(_ddl(FREE_BLOCKS))
            connection.execute(sa.select(sa.func.pg_advisory_unlock(ADVISORY_LOCK)))
            connection.commit()


def _mutates() -> bool:
    """True for upgrade, downgrade and stamp: the commands that Alembic gives a destination."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def _check_server(connection: sa.Connection) -> None:
    version = connection.execute(
        sa.text(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version')"
        )
    ).one()
    if version[0] < OLDEST_SERVER:
        raise CommandError(f"PostgreSQL 15 or later is needed, this server is {version[1]}")


def _take_lock(connection: sa.Connection, single_transaction: bool) -> None:
    function = (
        sa.func.pg_try_advisory_xact_lock if single_transaction else sa.func.pg_try_advisory_lock
    )
    if not connection.scalar(sa.select(function(ADVISORY_LOCK))):
        raise CommandError(
            "another migration is running in this database; nothing was changed. "
            "Wait for it to end, then run the command again"
        )
    if single_transaction:
        # the procedures that commit chunk by chunk leave that out inside a caller's transaction
        connection.execute(sa.select(sa.func.set_config("bridge.single_transaction", "on", True)))


def _log_to_stderr() -> None:
    """Configure logging for the command line only; an in-process caller keeps its own."""
    if context.config.cmd_opts is None:
        return
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)-7s %(message)s"
    )
    for name in ("workshop", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)
    # the same message follows as the FAILED line
    logging.getLogger("alembic.util.messaging").setLevel(logging.CRITICAL)


_log_to_stderr()
try:
    if context.is_offline_mode():
        run_offline()
    else:
        run_online()
except ConnectionProblem as problem:
    raise CommandError(str(problem)) from problem
except DBAPIError as error:
    raise CommandError(explain(error)) from error
