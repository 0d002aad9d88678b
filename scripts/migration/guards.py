"""SQL that begins a run: who may migrate, where, and from where. One text, online and offline.

Text only, without a connection: ``alembic/env.py`` executes it, or writes it into the script.
"""

from collections.abc import Iterable, Sequence

from scripts.common.connection import ADVISORY_LOCK, REFUSED_ENCODING, VERSION_TABLE_ADVICE

OLDEST_SERVER = 150000
NEW_SCRIPT = "Write the script for that revision: alembic upgrade <current>:<target> --sql"


def literal(text: str | None) -> str:
    """Return a string as SQL takes it."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def array(texts: Iterable[str]) -> str:
    """Return strings as an SQL array."""
    return f"ARRAY[{', '.join(map(literal, texts))}]::text[]"


def alone(*, transaction: bool) -> str:
    """Return the block that keeps a second migrator out, until the end of the transaction or the session."""
    function = "pg_try_advisory_xact_lock" if transaction else "pg_try_advisory_lock"
    return f"""\
DO $alone$ BEGIN
    IF NOT {function}({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'another migration is running in this database' USING ERRCODE = 'lock_not_available',
            HINT = 'Nothing was changed. Wait for it to end, then run this again.';
    END IF;
END $alone$"""


def place(table: str, schema: str, known: Sequence[str], path: Sequence[str] = ()) -> str:
    """Return the block that refuses a server, a database or a revision that this project is not for.

    ``table`` is the version table as SQL takes it, ``known`` are the revisions of this project, ``path`` those that
    a script is for, from its start to its end ('' is base); none: a run that begins wherever the database is. The
    block leaves the revision of the database in the setting ``bridge.at``.
    """
    there = f"to_regclass({literal(table)})"
    return f"""\
DO $place$
DECLARE
    found text[];
    at text;
BEGIN
    IF current_setting('server_version_num')::integer < {OLDEST_SERVER} THEN
        RAISE EXCEPTION 'PostgreSQL 15 or later is needed, this server is %', current_setting('server_version')
            USING HINT = 'Nothing was changed.';
    END IF;
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION USING MESSAGE = format({literal(REFUSED_ENCODING.format("%s"))}, getdatabaseencoding());
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {literal(schema)}) THEN
        RAISE EXCEPTION 'there is no schema %, which alembic.ini names as version_table_schema', {literal(schema)}
            USING HINT = 'Nothing was changed. Create it, then run this again.';
    END IF;
    IF NOT has_table_privilege({there}, 'SELECT') THEN
        RAISE EXCEPTION 'role % may not read %', current_user, {literal(table)}
            USING HINT = {literal(f"Nothing was changed. {VERSION_TABLE_ADVICE}.")};
    END IF;
    IF {there} IS NOT NULL THEN
        SELECT array_agg(version_num) INTO found FROM {table};
    END IF;
    at := coalesce(array_to_string(found, ', '), '');
    IF NOT found <@ {array(known)} THEN
        RAISE EXCEPTION '% holds revision %, which this project does not have', {literal(table)}, at
            USING HINT = {literal(f"Nothing was changed. {VERSION_TABLE_ADVICE}.")};
    END IF;{_on_the_path(table, path) if path else ""}
    PERFORM set_config('bridge.at', at, false);
END
$place$"""


def _on_the_path(table: str, path: Sequence[str]) -> str:
    """Return the part of ``place`` that a script has: it was written for some revisions, and runs nowhere else."""
    start, end = (revision or "(base)" for revision in (path[0], path[-1]))
    span = f"revision {start}" if start == end else f"revisions {start} to {end}"
    drop = f"""
    IF at = '' AND to_regclass({literal(table)}) IS NOT NULL THEN
        DROP TABLE {table};  -- a downgrade to base leaves it behind, empty; the script creates it
    END IF;"""
    return f"""
    IF at <> ALL ({array(path)}) THEN
        RAISE EXCEPTION 'this script is for %, but the database is at %',
            {literal(span)}, coalesce(nullif(at, ''), '(base)')
            USING HINT = 'Nothing was changed. {NEW_SCRIPT}';
    END IF;{"" if path[0] else drop}"""


def may_create(schema: str) -> str:
    """Return the block that refuses a role that cannot create the version table in a schema of its own; or none."""
    if schema == "public":  # the preflight of 0001 asks for that
        return ""
    return f"""\
DO $may$ BEGIN
    IF NOT has_schema_privilege({literal(schema)}, 'CREATE') THEN
        RAISE EXCEPTION 'role % may not create in schema %', current_user, {literal(schema)}
            USING HINT = 'Nothing was changed. Grant USAGE and CREATE on it, then run this again.';
    END IF;
END $may$"""


def expect(table: str, revision: str | None) -> str:
    """Return the block that refuses a step, before it changes anything, unless the database is where it starts.

    A script that was cut, or a step run alone elsewhere, would change the schema and then find no row to update in
    the version table, with exit status 0.
    """
    return f"""\
DO $guard$ DECLARE at text := (SELECT string_agg(version_num, ', ') FROM {table}); BEGIN
    IF at IS DISTINCT FROM {literal(revision)} THEN
        RAISE EXCEPTION 'this step starts at revision %, but the database is at %',
            {literal(revision or "(base)")}, coalesce(at, '(base)')
            USING HINT = 'Nothing was changed by it. {NEW_SCRIPT}';
    END IF;
END $guard$"""


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
