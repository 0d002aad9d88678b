"""SQL that begins and ends a run: who may migrate, where, and from where. The same online and offline.

All of it is text, without a connection: ``alembic/env.py`` executes it, or writes it into the script.
"""

import inspect
import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from types import ModuleType

from scripts.common.connection import (
    ADVISORY_LOCK,
    PROBE_IS_HELD,
    REFUSED_ENCODING,
    TAKE_PROBE,
    VARIABLES,
    VERSION_TABLE_ADVICE,
)

OLDEST_SERVER = 150000


def literal(text: str | None) -> str:
    """Return a string as SQL takes it."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def place(table: str, schema: str, known: Iterable[str]) -> str:
    """Return the block that refuses a database where this project cannot keep its revision.

    ``table`` is the version table as SQL takes it, ``known`` are the revisions of this project.
    """
    return f"""\
DO $place$
DECLARE
    found text[];
BEGIN
    IF current_setting('server_version_num')::integer < {OLDEST_SERVER} THEN
        RAISE EXCEPTION 'PostgreSQL 15 or later is needed, this server is %',
            current_setting('server_version') USING HINT = 'Nothing was changed.';
    END IF;
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION USING MESSAGE = format({literal(REFUSED_ENCODING.format("%s"))}, getdatabaseencoding());
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {literal(schema)}) THEN
        RAISE EXCEPTION 'there is no schema %, which alembic.ini names as version_table_schema', {literal(schema)}
            USING HINT = 'Nothing was changed. Create it, then run this again.';
    END IF;
    IF NOT has_table_privilege(to_regclass({literal(table)}), 'SELECT') THEN
        RAISE EXCEPTION 'role % may not read %', current_user, {literal(table)}
            USING HINT = {literal(f"Nothing was changed. {VERSION_TABLE_ADVICE}.")};
    END IF;
    IF to_regclass({literal(table)}) IS NOT NULL THEN
        SELECT array_agg(version_num) INTO found FROM {table};
    END IF;
    IF NOT found <@ ARRAY[{", ".join(map(literal, known))}]::text[] THEN
        RAISE EXCEPTION '% holds revision %, which this project does not have',
            {literal(table)}, array_to_string(found, ', ')
            USING HINT = {literal(f"Nothing was changed. {VERSION_TABLE_ADVICE}.")};
    END IF;
END
$place$"""


def may_create(schema: str) -> str:
    """Return the block that refuses a role that cannot create the version table."""
    return f"""\
DO $may$
BEGIN
    IF {literal(schema)} <> 'public' AND NOT has_schema_privilege({literal(schema)}, 'CREATE') THEN
        RAISE EXCEPTION 'role % may not create in schema %', current_user, {literal(schema)}
            USING HINT = 'Nothing was changed. Grant USAGE and CREATE on it, then run this again.';
    END IF;
END
$may$"""


def alone(*, transaction: bool) -> str:
    """Return the block that keeps a second migrator out, until the end of the transaction or the session."""
    function = "pg_try_advisory_xact_lock" if transaction else "pg_try_advisory_lock"
    return f"""\
DO $alone$
BEGIN
    IF NOT {function}({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'another migration is running in this database'
            USING ERRCODE = 'lock_not_available',
                  HINT = 'Nothing was changed. Wait for it to end, then run this again.';
    END IF;
END
$alone$"""


def stamped(revision: str) -> str:
    """Return the block that refuses a stamp with a revision whose objects are not there."""
    return f"""\
DO $stamp$
DECLARE
    lacking text;
    dropped CONSTANT boolean := to_regclass('public.sessions') IS NULL;  -- by hand, with all that was on it
BEGIN
    SELECT string_agg(revision, ', ') INTO lacking
    FROM (VALUES
        ('0001', to_regprocedure('public.refuse_write()') IS NOT NULL),
        ('0002', to_regprocedure('public.clean_sessions()') IS NOT NULL),
        ('0003', dropped OR to_regclass('public.ix_sessions_student_id') IS NOT NULL),
        ('0004', to_regprocedure('public.follow_step_progress()') IS NOT NULL),
        ('0005', dropped OR to_regclass('public.ix_sessions_last_activity') IS NOT NULL),
        ('0006', dropped OR to_regclass('public.session_overview') IS NOT NULL)
    ) AS made (revision, there)
    WHERE NOT there AND revision <= left({literal(revision)}, 4);
    IF lacking IS NOT NULL THEN
        RAISE EXCEPTION 'this database cannot be stamped with %: what % creates is not there',
            {literal(revision)}, lacking
            USING HINT = 'Nothing was changed. Run "alembic upgrade head"; "workshop status" tells the '
                         'revision that a database is at.';
    END IF;
END
$stamp$"""


# --- what only a script needs -----------------------------------------------------------------------

TESTED = "15, 16 and 18"
"""Versions of PostgreSQL that the tests run on."""

# Interactive psql gets its own settings back at the end.
HEADER = """\
-- Run with: psql -X -f <this file> "$POSTGRES_URL_NON_POOLING"   (not with -1, not in a GUI: it commits in steps)
-- It is whole, and has ended well, when its last line prints "Applied".
-- {project}, tested with PostgreSQL {tested}. How to review it: docs/dba-review.md.
--
{contents}
\\set workshop_stop :ON_ERROR_STOP
\\set workshop_autocommit :AUTOCOMMIT
\\set workshop_rollback :ON_ERROR_ROLLBACK
\\set ON_ERROR_STOP on
\\set AUTOCOMMIT on
\\set ON_ERROR_ROLLBACK off

"""

STEP = re.compile(r"^-- Running (upgrade|downgrade) (\S*) -> (\S*)\n", re.MULTILINE)
"""The line with which Alembic begins a step in a script."""


def readable(script: str, modules: Mapping[str, ModuleType]) -> str:
    """Return a script with its header: contents, the docstring of each step, and its begin and end for psql's log.

    ``modules`` are the revisions' modules. ``legacy_locks`` of a module is what the upgrade and the downgrade hold on
    the legacy tables: the strongest lock and for how long.
    """
    before, *found = STEP.split(script)
    parts, rows = [before], [("Checks, before anything is changed", "reads the catalog", 0)]
    for direction, start, end, text in zip(*(found[i::4] for i in range(4)), strict=True):
        name, upwards = f"{direction} {start or 'base'} -> {end or 'base'}", direction == "upgrade"
        module = modules[end if upwards else start]
        lock = getattr(module, "legacy_locks", ("none", "none"))[not upwards]
        lines = inspect.cleandoc(module.__doc__ or "").splitlines()
        told = "".join(f"-- {line}".rstrip() + "\n" for line in lines)
        work, commit, after = text.rpartition("\nCOMMIT;\n")
        parts.append(
            f"-- Running {direction} {start} -> {end}\n{told}\\echo Begins: {name}\n"
            f"{work}{commit}\\echo Done: {name}\n{after}"
        )
        rows.append((name, lock, 0))
    about = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    project = f"{about['name']} {about['version']}"
    # the line of a section: after the header, whose length does not depend on what stands in it
    header = _header(project, rows)
    lengths = accumulate((part.count("\n") for part in parts), initial=header.count("\n") + 1)
    rows = [(name, lock, line) for (name, lock, _), line in zip(rows, lengths, strict=False)]
    return _header(project, rows) + "".join(parts)


def _header(project: str, rows: list[tuple[str, str, int]]) -> str:
    table = [("line", "section", "legacy tables: strongest lock, and for how long")]
    table += [(str(line), name, lock) for name, lock, line in rows]
    width = max(len(name) for _, name, _ in table)
    contents = [f"--   {line:>5}  {name:<{width}}  {lock}" for line, name, lock in table]
    contents.append('-- Each statement that touches the legacy tables is marked "LEGACY TABLES".')
    return HEADER.format(project=project, tested=TESTED, contents="\n".join(contents))


# What scripts.common.connection.refuse_pooler does online. The answer is brought into a DO block by two settings: where
# the one of the session is lost at once, so is everything that the script sets.
NO_POOLER = f"""\
{TAKE_PROBE} \\gset
\\connect
SET bridge.probe = :probe;
BEGIN;
SET LOCAL bridge.by_psql = :probe;
DO $pooler$
DECLARE
    probe CONSTANT bigint := nullif(current_setting('bridge.by_psql', true), '');
    lost CONSTANT boolean := probe::text IS DISTINCT FROM current_setting('bridge.probe', true);
    held boolean := lost;
BEGIN
    IF probe IS NULL THEN
        RAISE EXCEPTION 'this is a script for psql, and psql does not run it'
            USING HINT = 'Nothing was changed. Run the whole file with psql, as its first line says.';
    END IF;
    FOR look IN 1 .. 60 LOOP
        EXIT WHEN lost;
        held := {PROBE_IS_HELD.format(probe="probe")};
        EXIT WHEN NOT held OR probe = pg_backend_pid();
        PERFORM pg_sleep(0.05);
    END LOOP;
    IF held THEN
        RAISE EXCEPTION 'this is a transaction pooler, which loses session locks and settings'
            USING HINT = 'Nothing was changed. Run the script at the direct address of the database, '
                         'which belongs into {VARIABLES[0]}.';
    END IF;
END
$pooler$;
COMMIT;"""


def starts_at(table: str, start: str | None) -> str:
    """Return the block that refuses a script that was written for another revision."""
    return f"""\
DO $start$
DECLARE
    found text;
    start CONSTANT text := {literal(start)};
BEGIN
    IF to_regclass({literal(table)}) IS NOT NULL THEN
        SELECT string_agg(version_num, ', ') INTO found FROM {table};
    END IF;
    IF found IS DISTINCT FROM start THEN
        RAISE EXCEPTION 'this script starts at revision %, but the database is at %',
            coalesce(start, '(base)'), coalesce(found, '(base)')
            USING HINT = 'Nothing was changed. Run "alembic current", and write the script for '
                         'that revision: alembic upgrade <current>:<target> --sql';
    END IF;
    IF start IS NULL AND to_regclass({literal(table)}) IS NOT NULL THEN
        -- a downgrade to base leaves the table behind, empty; the script creates it anew
        DROP TABLE {table};
    END IF;
END
$start$;"""


def end(revision: str) -> str:
    """Return what gives an interactive session back as it was, and says that all went well."""
    return f"""\
DO $end$
BEGIN
    PERFORM pg_advisory_unlock_all();
END
$end$;
RESET ALL;
\\set ON_ERROR_STOP :workshop_stop
\\set AUTOCOMMIT :workshop_autocommit
\\set ON_ERROR_ROLLBACK :workshop_rollback
\\echo Applied: the database is at {revision}
"""
