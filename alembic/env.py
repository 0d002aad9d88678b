"""Alembic environment: finds the database, guards the run, and says how it ended.

One dictionary of ``configure()`` options and one set of SQL texts serve the online run, the
offline script and a rehearsal inside a caller's transaction, so that all three do the same.
``scripts.migration`` has the two operations for revisions, and the SQL of the guards.
"""

import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationStep, RevisionStep
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, PendingRollbackError

import scripts.migration.own_columns  # noqa: F401  # add_column and drop_column lose no value
from models import Base
from scripts.common.connection import (
    ADVISORY_LOCK,
    ConnectionProblem,
    connect,
    explain,
    make_engine,
    qualified,
    refuse_pooler,
    resolve_url,
    version_table,
)
from scripts.common.obstacles import refusal
from scripts.migration import guards
from scripts.migration.operations import ddl, sql_file

log = logging.getLogger("workshop.migration")


# --- options, online and offline alike --------------------------------------------------------------


def _include_name(
    name: str | None,
    kind: Literal[
        "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"
    ],
    _parents: Any,
) -> bool:
    """Compare the four tables only: legacy tables, backups and the bridge are not the models'."""
    return kind != "table" or name in Base.metadata.tables


REACHED: set[str] = set()
"""The revision after the last step; empty: base, or no step yet."""


def _after_step(*, heads: set[str], **_: Any) -> None:
    """Note where the run is."""
    REACHED.clear()
    REACHED.update(heads)


def _name_revision(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """Name a new revision by the next number and its message, unless --rev-id has named it."""
    new = directives[0]
    if re.fullmatch(r"[0-9a-f]{12}", new.rev_id):
        known = [script.revision[:4] for script in context.script.walk_revisions()]
        number = 1 + max((int(known) for known in known if known.isdigit()), default=0)
        slug = re.sub(r"[^a-z0-9]+", "_", (new.message or "").lower()).strip("_") or "revision"
        # alembic_version takes 32 characters
        new.rev_id = f"{number:04d}_{slug[:27].rpartition('_')[0] if len(slug) > 27 else slug}"


VERSION_TABLE, VERSION_SCHEMA = version_table(context.config)
QUALIFIED = qualified(VERSION_TABLE, VERSION_SCHEMA)
OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "transaction_per_migration": True,
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _include_name,
    "on_version_apply": _after_step,
    "process_revision_directives": _name_revision,
    "version_table": VERSION_TABLE,
    "version_table_schema": None if VERSION_SCHEMA == "public" else VERSION_SCHEMA,
}


def _settings() -> str:
    """SQL that begins every run: session.sql, and what ``-x`` asks for."""
    arguments = context.get_x_argument(as_dictionary=True)
    unknown = set(arguments) - {"drop_existing"}
    if unknown or arguments.get("drop_existing", "false") not in ("true", "false"):
        raise CommandError("-x takes drop_existing=true or drop_existing=false, nothing else")
    drop = "on" if arguments.get("drop_existing") == "true" else "off"
    return f"{sql_file('session')};\nSET bridge.drop_existing = {drop}"


def _place() -> str:
    known = sorted(script.revision for script in context.script.walk_revisions())
    return guards.place(QUALIFIED, VERSION_SCHEMA, known)


def _before_first_step(at: Any) -> str:
    """SQL that refuses what could stop a later step, or a stamp that is not true; or none."""
    destination, blocks = context.get_revision_argument(), [refusal(context.get_context())]
    match context.get_context().opts["fn"].__name__:
        case "upgrade" if not at:
            blocks.append(PREFLIGHT)
        case "do_stamp" if destination:
            blocks.append(guards.stamped(str(_full_revision(destination))))
    return ";\n".join(filter(None, blocks))


def _full_revision(revision: Any) -> str | None:
    if revision in (None, "base", ()):
        return None
    found = context.script.get_revision(revision)
    return None if found is None else found.revision


# What could stop a later step, before the version table is created
PREFLIGHT = f"""\
{guards.may_create(VERSION_SCHEMA)};
{sql_file("0001_unified_schema", "00_preflight")};
{sql_file("rights", "preflight")}"""


# --- offline ----------------------------------------------------------------------------------------


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
    context.static_output(guards.NO_POOLER)
    context.static_output(f"SET application_name = 'workshop migration';\n{_settings()};")
    context.static_output(f"{_place()};\n{guards.alone(transaction=False)};")
    context.static_output(guards.starts_at(QUALIFIED, start))
    if first := _before_first_step(start):
        context.static_output(f"{first};")
    with context.begin_transaction():
        context.run_migrations()
    context.static_output(guards.end(", ".join(REACHED) or "base"))
    output = context.config.output_buffer or sys.stdout
    output.write(guards.readable(buffer.getvalue(), _modules()))


def _modules() -> dict[str, Any]:
    """Return the modules of the revisions, by revision."""
    return {script.revision: script.module for script in context.script.walk_revisions()}


def _needs_database() -> bool:
    options: Any = context.config.cmd_opts
    match options and options.cmd[0].__name__:
        case "merge":
            return False
        case "revision":
            return bool(options.autogenerate)
        case "history":
            return options.indicate_current or "current" in (options.rev_range or "")
    return True


def run_without_database() -> None:
    """Write a new revision that nothing is compared for, or list those that there are."""
    context.configure(
        dialect_name="postgresql", as_sql=True, output_buffer=io.StringIO(), **OPTIONS
    )
    with context.begin_transaction():
        context.run_migrations()


# --- online -----------------------------------------------------------------------------------------


def run_online() -> None:
    """Run against the caller's connection, else against the database that the settings name."""
    given = context.config.attributes.get("connection")
    if given is not None:
        with _as_left(given):
            _migrate(given, single_transaction=given.in_transaction())
        return
    engine = make_engine(resolve_url(context.config.get_main_option("sqlalchemy.url")))
    try:
        with connect(engine) as connection:
            if _mutates():
                refuse_pooler(engine, connection)
            _migrate(connection, single_transaction=False)
    except (KeyboardInterrupt, PendingRollbackError) as error:
        if not isinstance(_first(error), KeyboardInterrupt):
            raise
        raise CommandError(_interrupted(engine)) from None


def _first(error: BaseException) -> BaseException:
    """Return what broke the connection, where a later error only says that it is broken."""
    while isinstance(error, PendingRollbackError) and error.__context__ is not None:
        error = error.__context__
    return error


def _interrupted(engine: sa.Engine) -> str:
    """Say where a run that was interrupted has got to."""
    at, rows = "base", 0
    with connect(engine) as connection:
        connection.execute(ddl("SET lock_timeout = '1s'"))
        there = sa.text("SELECT to_regclass(:name) IS NOT NULL")
        if connection.scalar(there, {"name": QUALIFIED}):
            query = f"SELECT coalesce(max(version_num), 'base') FROM {QUALIFIED}"
            at = connection.execute(sa.text(query)).scalar_one()
        if connection.scalar(there, {"name": "public.sessions"}):
            rows = connection.execute(sa.text("SELECT count(*) FROM public.sessions")).scalar_one()
    return (
        f"interrupted. The database is at {at}, with {rows:,} sessions in the new tables; they stay, "
        "and nothing is half done. Type the command again: it goes on"
    )


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
    connection.execute(ddl(_settings()))
    connection.execute(ddl(_place()))
    if mutates:
        connection.execute(ddl(guards.alone(transaction=single_transaction)))
    if single_transaction:
        # the procedures that commit chunk by chunk leave that out inside a caller's transaction
        connection.execute(sa.select(sa.func.set_config("bridge.single_transaction", "on", True)))
    else:
        # Alembic takes an open transaction for the caller's, and would leave it to be rolled back
        connection.commit()
    try:
        context.configure(connection=connection, single_transaction=single_transaction, **OPTIONS)
        before = context.get_context().get_current_heads()
        if mutates and (first := _before_first_step(before)):
            connection.execute(ddl(first))
        if not single_transaction:
            connection.commit()
        with context.begin_transaction():
            context.run_migrations()
        if mutates:
            _say_the_end(before, context.get_context().get_current_heads())
    finally:
        if mutates and not single_transaction and not connection.invalidated:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(ADVISORY_LOCK)))
            connection.commit()


def _mutates() -> bool:
    """True for upgrade, downgrade and stamp: the commands that Alembic gives a destination."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


# --- what is said -----------------------------------------------------------------------------------


def _say_the_end(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    at = ", ".join(after) or "base"
    if before == after:
        log.info("nothing to do: the database is at %s already", at)
    else:
        log.info("done: the database is at %s", at)


def _only_steps(record: logging.LogRecord) -> bool:
    """Keep the lines of the steps; a downgrade says its own first line, not the upgrade's title."""
    step = record.args[0] if isinstance(record.args, tuple) and record.args else None
    if isinstance(step, RevisionStep) and step.is_downgrade:
        undoes = (step.migration_fn.__doc__ or "").partition("\n")[0]
        record.msg, record.args = "Running %s, %s", (step.short_log, undoes)
    return isinstance(step, MigrationStep)


def _log_to_stderr() -> None:
    """Configure logging for the command line only; an in-process caller keeps its own."""
    if context.config.cmd_opts is None:
        return
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)-7s %(message)s"
    )
    for name in ("workshop", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.migration").addFilter(_only_steps)
    # the same message follows as the FAILED line
    logging.getLogger("alembic.util.messaging").setLevel(logging.CRITICAL)


_log_to_stderr()
try:
    if context.is_offline_mode():
        run_offline()
    elif _needs_database():
        run_online()
    else:
        run_without_database()
except (CommandError, ConnectionProblem, DBAPIError, PendingRollbackError) as error:
    first = _first(error)
    reason = explain(first) if isinstance(first, DBAPIError) else str(first)
    if context.is_offline_mode() and context.config.cmd_opts is not None:
        # stdout is the script
        print(f"FAILED: {reason}", file=sys.stderr)
        sys.exit(1)
    raise CommandError(reason) from first
