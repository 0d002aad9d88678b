"""The workshop's tables, under the names of every revision, and their checksums.

The queries need ``bridge.creates`` of session.sql, the list of what the revisions create.
"""

import json
from collections.abc import Sequence
from typing import Any

from psycopg import sql
from sqlalchemy import Connection, Row

from scripts.common.database import VERSION_TABLE, run

# A backup of another tool (workshop_students_backup_1761155999000) is not the workshop's.
RELATIONS = rf"""
SELECT c.oid::bigint AS oid, n.nspname || ' ' || c.relname AS listed,
       format('%I.%I', n.nspname, c.relname) AS quoted, c.relkind::text AS kind,
       n.nspname = 'bridge' AND to_regclass('bridge.source') IS NOT NULL OR (n.nspname = 'public' AND (
           c.relname ~ '^(workshop_students|student_configs)(_backup_\d{{8}}(_\d+)?)?$'
           OR c.relname ~ '^(students|sessions|step_progress|events)(_prior_backup_\d{{8}}(_\d+)?)?$'
           OR c.relname ~ '^(bridge_remainder|own_columns)_backup_\d{{8}}(_\d+)?$'
           OR c.relname IN ('prior_attempt', 'legacy_tables_dropped')
           OR c.relkind = 'v' AND c.relname = ANY(regexp_split_to_array(current_setting('bridge.creates'), '\s+'))))
       OR coalesce(c.oid = to_regclass({sql.Literal(VERSION_TABLE).as_string()}), false) AS ours
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""
# 0002 renames a function of an earlier attempt.
FUNCTIONS = r"""
SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace AND (
    p.proname = 'update_session_progress_prior_backup'
    OR p.oid IN (SELECT to_regprocedure('public.' || f)
                 FROM regexp_split_to_table(current_setting('bridge.creates'), '\s+') AS f WHERE f LIKE '%)'))
"""
# The text of a row has to be the same in any session and on any server.
PINNED = """
SET LOCAL search_path = pg_catalog;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL row_security = off
"""
# The sum of the rows' digests does not depend on their order, and counts equal rows twice.
FINGERPRINT = """
SELECT count(*) AS rows,
       md5(concat_ws(':', count(*), sum(('x' || left(d.digest, 16))::bit(64)::bigint),
                     sum(('x' || right(d.digest, 16))::bit(64)::bigint))) AS checksum
FROM (SELECT md5(ROW(t.*)::text) AS digest FROM ONLY {} AS t) AS d
"""
# Runs in the transaction that restores: a difference from the manifest never becomes visible.
CHECK = """
DO $check$
DECLARE
    told record;
    found record;
BEGIN
    FOR told IN SELECT key AS name, value ->> 'rows' AS rows, value ->> 'checksum' AS checksum FROM json_each({}) LOOP
        EXECUTE replace({}, '{{}}', told.name) INTO found;
        IF found.rows::text IS DISTINCT FROM told.rows THEN
            RAISE EXCEPTION 'differs from the manifest: % has % rows instead of %', told.name, found.rows, told.rows;
        ELSIF found.checksum IS DISTINCT FROM told.checksum THEN
            RAISE EXCEPTION 'differs from the manifest: % has other values', told.name;
        END IF;
    END LOOP;
END
$check$"""


def relations(connection: Connection) -> Sequence[Row[Any]]:
    """Return every relation except those of PostgreSQL and of extensions; ``ours``: of the workshop.

    ``listed`` is its name for pg_restore, ``quoted`` its name as SQL, ``kind`` PostgreSQL's relkind.
    """
    return run(connection, RELATIONS).all()


def fingerprint(connection: Connection, relation: str) -> dict[str, Any]:
    """Return ``rows`` and ``checksum`` of a table, named as SQL; the caller has run ``PINNED``."""
    return dict(run(connection, FINGERPRINT.format(relation)).mappings().one())


def check_sql(tables: dict[str, dict[str, Any]]) -> str:
    """Return SQL that raises, in its transaction, unless these tables match a manifest."""
    texts = (sql.Literal(text).as_string() for text in (json.dumps(tables), FINGERPRINT))
    return f"{PINNED};{CHECK.format(*texts)}"
