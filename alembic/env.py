"""Alembic environment, in the order of a run: SQL before the first step, offline script, online run, choice.

The online run, the script of ``--sql`` and a run inside a caller's transaction share one dictionary of options and one
set of SQL texts.
"""

import io
import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, PendingRollbackError

import scripts.migration.own_columns  # noqa: F401  # makes add_column and drop_column keep values
from scripts.common.connection import (
    ADVISORY_LOCK,
    ConnectionProblem,
    connect,
    make_engine,
    qualified,
    refuse_pooler,
    resolve_url,
    version_table,
)
from scripts.common.obstacles import planned_steps, refusal
from scripts.migration import guards, script
from scripts.migration.messages import cause, interrupted, log_to_stderr, reason, say_end
from scripts.migration.operations import ddl, sql_file
from scripts.migration.options import needs_database, options
from scripts.migration.session import given_back_as_it_was, settings

VERSION_SCHEMA = version_table(context.config)[1]
VERSION_TABLE = qualified(*version_table(context.config))
OPTIONS = options(context.config, context.script)


# --- SQL before the first step, online and offline alike ----------------------------------------------


def session_settings() -> str:
    """Return the SQL that begins every run: session.sql, and the setting of ``-x``."""
    return settings(context.get_x_argument(as_dictionary=True))


def place(path: Sequence[str] = ()) -> str:
    """Return the SQL that refuses the wrong server, database or revision."""
    known = sorted(revision.revision for revision in context.script.walk_revisions())
    return guards.place(VERSION_TABLE, VERSION_SCHEMA, known, path)


def preflight() -> str:
    """Return the SQL that checks, before the version table is created, what could stop a later step."""
    texts = (
        guards.may_create(VERSION_SCHEMA),
        sql_file("0001_unified_schema", "00_preflight"),
        sql_file("rights", "preflight"),
    )
    return ";\n".join(filter(None, texts))


def obstacles() -> str:
    """Return the SQL that refuses the run if objects block its steps or a stamp is not true; '' if nothing to check."""
    if command() != "do_stamp":
        return refusal(planned_steps(context.get_context()))
    destination = full_revision(context.get_revision_argument())
    return guards.stamped(destination) if destination else ""


def command() -> str:
    """Return the name of Alembic's command function: upgrade, downgrade, do_stamp and so on."""
    return str(context.get_context().opts["fn"].__name__)


def full_revision(revision: Any) -> str | None:
    """Return the full id of the given revision; None for base."""
    if revision in (None, "base", ()):
        return None
    found = context.script.get_revision(revision)
    return None if found is None else found.revision


# --- offline ------------------------------------------------------------------------------------------


def write_script() -> None:
    """Write the SQL script. Nothing goes to stdout until all of it is rendered."""
    buffer = io.StringIO()
    context.configure(
        dialect_name="postgresql",
        # psycopg's own paramstyle doubles every percent sign in rendered SQL
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        output_buffer=buffer,
        **OPTIONS,
    )
    start = full_revision(context.get_starting_revision_argument())
    ends = [step.to_revisions for step in planned_steps(context.get_context())]
    path = [start or "", *("".join(revisions) for revisions in ends)]
    checks = (
        script.NO_POOLER
        + f"{session_settings()};\n{guards.alone(transaction=False)};\n{place(path)};\n"
        + script.steps_done(path)
        + script.unless_done(len(ends), obstacles())
    )
    if command() == "upgrade" and start is None:
        checks += script.unless_done(1, preflight())
    with context.begin_transaction():
        context.run_migrations()
    # a stamp has no steps
    end = path[-1] if ends else full_revision(context.get_revision_argument())
    modules = {revision.revision: revision.module for revision in context.script.walk_revisions()}
    output = context.config.output_buffer or sys.stdout
    output.write(script.readable(checks, buffer.getvalue(), end or "base", modules))


def run_without_database() -> None:
    """Write a new revision without comparing a database, or list the revisions."""
    context.configure(
        dialect_name="postgresql", as_sql=True, output_buffer=io.StringIO(), **OPTIONS
    )
    with context.begin_transaction():
        context.run_migrations()


# --- online -------------------------------------------------------------------------------------------


def run_online() -> None:
    """Run on the caller's connection, else on the configured database."""
    given = context.config.attributes.get("connection")
    if given is not None:
        with given_back_as_it_was(given, session_settings()):
            migrate(given, in_transaction=given.in_transaction())
        return
    engine = make_engine(resolve_url(context.config.get_main_option("sqlalchemy.url")))
    try:
        with connect(engine) as connection:
            if changes_database():
                refuse_pooler(engine, connection)
            migrate(connection, in_transaction=False)
    except (KeyboardInterrupt, PendingRollbackError) as error:
        if not isinstance(cause(error), KeyboardInterrupt):
            raise
        raise CommandError(interrupted(engine, VERSION_TABLE)) from None


def migrate(connection: sa.Connection, *, in_transaction: bool) -> None:
    """Run the command: settings, lock, checks, steps, unlock. ``in_transaction``: the caller commits."""
    changes = changes_database()
    connection.execute(ddl(session_settings()))
    if in_transaction:
        # the procedures then do not commit chunk by chunk
        connection.execute(sa.select(sa.func.set_config("bridge.single_transaction", "on", True)))
    if changes:
        connection.execute(ddl(guards.alone(transaction=in_transaction)))
    try:
        connection.execute(ddl(place()))
        if not in_transaction:
            # Alembic would leave an open transaction to its caller, and it would be rolled back
            connection.commit()
        context.configure(connection=connection, single_transaction=in_transaction, **OPTIONS)
        before = context.get_context().get_current_heads()
        if changes and (refused := obstacles()):
            connection.execute(ddl(refused))
        if changes and command() == "upgrade" and not before:
            connection.execute(ddl(preflight()))
        if not in_transaction:
            connection.commit()
        with context.begin_transaction():
            context.run_migrations()
        if changes:
            say_end(before, context.get_context().get_current_heads())
    finally:
        # PostgreSQL frees the lock of a transaction at its end
        if changes and not in_transaction and not connection.invalidated:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(ADVISORY_LOCK)))
            connection.commit()


def changes_database() -> bool:
    """Return true for upgrade, downgrade and stamp: Alembic gives them a destination."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


# --- choice -------------------------------------------------------------------------------------------

if context.config.cmd_opts is not None:
    log_to_stderr()
try:
    if context.is_offline_mode():
        write_script()
    elif needs_database(context.config.cmd_opts):
        run_online()
    else:
        run_without_database()
except (CommandError, ConnectionProblem, DBAPIError, PendingRollbackError) as error:
    first = cause(error)
    if context.is_offline_mode() and context.config.cmd_opts is not None:
        # stdout is the script
        print(f"FAILED: {reason(first)}", file=sys.stderr)
        sys.exit(1)
    raise CommandError(reason(first)) from first
