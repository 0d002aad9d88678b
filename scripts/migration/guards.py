"""SQL that begins a run: checks of role, server, database and revision, the same online and offline.

Returns text only; ``alembic/env.py`` executes it or writes it into the script.
"""

from collections.abc import Iterable, Sequence

from scripts.common.connection import ADVISORY_LOCK, REFUSED_ENCODING, VERSION_TABLE_ADVICE

OLDEST_SERVER = 150000
NEW_SCRIPT = "Write the script for that revision: alembic upgrade <current>:<target> --sql"


def literal(text: str | None) -> str:
    """Return a string as an SQL literal."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def array(texts: Iterable[str]) -> str:
    """Return strings as an SQL array."""
    return f"ARRAY[{', '.join(map(literal, texts))}]::text[]"


def alone(*, transaction: bool) -> str:
    """Return the block that refuses a second migrator, until the end of the transaction or the session."""
    function = "pg_try_advisory_xact_lock" if transaction else "pg_try_advisory_lock"
    return f"""\
DO $alone$ BEGIN
    IF NOT {function}({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'another migration is running in this database' USING ERRCODE = 'lock_not_available',
            HINT = 'Nothing was changed. Wait for it to end, then run this again.';
    END IF;
END $alone$"""


def place(table: str, schema: str, known: Sequence[str], path: Sequence[str] = ()) -> str:
    """Return the block that refuses an unsuitable server, database or revision.

    ``table`` is the version table as SQL text; ``known`` are the revisions of this project.
    ``path`` are the revisions of a script, from its start to its end ('' is base); empty for an
    online run, which begins at any revision. The block sets ``bridge.at`` to the revision of the
    database.
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
    """Return the part of ``place`` that refuses a script at any other revision than its own."""
    start, end = (revision or "(base)" for revision in (path[0], path[-1]))
    span = f"revision {start}" if start == end else f"revisions {start} to {end}"
    drop = f"""
    IF at = '' AND to_regclass({literal(table)}) IS NOT NULL THEN
        DROP TABLE {table};  -- a downgrade to base leaves it, empty; the script creates it
    END IF;"""
    return f"""
    IF at <> ALL ({array(path)}) THEN
        RAISE EXCEPTION 'this script is for %, but the database is at %',
            {literal(span)}, coalesce(nullif(at, ''), '(base)')
            USING HINT = 'Nothing was changed. {NEW_SCRIPT}';
    END IF;{"" if path[0] else drop}"""


def may_create(schema: str) -> str:
    """Return the block that refuses a role that cannot create the version table in its schema; '' for public."""
    if schema == "public":  # the preflight of 0001 checks that
        return ""
    return f"""\
DO $may$ BEGIN
    IF NOT has_schema_privilege({literal(schema)}, 'CREATE') THEN
        RAISE EXCEPTION 'role % may not create in schema %', current_user, {literal(schema)}
            USING HINT = 'Nothing was changed. Grant USAGE and CREATE on it, then run this again.';
    END IF;
END $may$"""


def expect(table: str, revision: str | None) -> str:
    """Return the block that refuses a step, before its first change, at any other revision than its start.

    A truncated script, or a step run alone, would change the schema, update no row of the version
    table, and end with exit status 0.
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
    """Return the block that refuses to stamp a revision if its objects are missing."""
    return f"""\
DO $stamp$
DECLARE
    lacking text;
    dropped CONSTANT boolean := to_regclass('public.sessions') IS NULL;  -- by hand, with its indexes and triggers
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
        RAISE EXCEPTION 'this database cannot be stamped with %: objects of % are missing',
            {literal(revision)}, lacking
            USING HINT = 'Nothing was changed. Run "alembic upgrade head"; "workshop status" shows the '
                         'revision of a database.';
    END IF;
END
$stamp$"""
