"""Facts about a database, and their queries."""

from scripts.common.connection import ADVISORY_LOCK

# The existing objects, whatever the version table has. A view with a legacy name stands over its
# backup.
FACTS = """
SELECT
    current_database()::text AS database,
    to_regclass('bridge.state') IS NOT NULL AS bridge,
    ARRAY(SELECT name FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS name
          WHERE to_regclass('public.' || name) IS NULL) AS missing,
    ARRAY(SELECT c.relname::text FROM pg_class AS c
          WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
          ORDER BY c.relname DESC) AS legacy,
    ARRAY(SELECT DISTINCT format('DROP VIEW public.%I; ALTER TABLE %s RENAME TO %I',
                                 v.relname, d.refobjid::regclass, v.relname)
          FROM pg_class AS v
          JOIN pg_rewrite AS r ON r.ev_class = v.oid
          JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                             AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
          WHERE v.relkind = 'v' AND v.oid IN (to_regclass('public.workshop_students'),
                                              to_regclass('public.student_configs'))
          ORDER BY 1) AS names_back,
    ARRAY(SELECT relname::text FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname ~ '^(bridge_remainder|own_columns)_backup_[0-9]{8}(_[0-9]+)?$') AS kept_aside,
    to_regclass('public.legacy_tables_dropped') IS NOT NULL AS dropped,
    to_regprocedure('public.refuse_write()') IS NOT NULL AS of_0001,
    to_regprocedure('public.clean_sessions()') IS NOT NULL AS of_0002,
    to_regclass('public.ix_sessions_student_id') IS NOT NULL AS of_0003,
    to_regprocedure('public.follow_step_progress()') IS NOT NULL AS of_0004,
    to_regclass('public.ix_sessions_last_activity') IS NOT NULL AS of_0005,
    to_regclass('public.session_overview') IS NOT NULL AS of_0006,
    to_regprocedure('bridge.cut_over()') IS NOT NULL AS of_0007
"""
DROPPED = """
SELECT format('the legacy tables were dropped on %s; %s', (dropped_at AT TIME ZONE 'UTC')::date,
              coalesce('they are in the dump ' || dump, 'no dump of them was named'))
FROM public.legacy_tables_dropped ORDER BY dump IS NULL, dropped_at DESC LIMIT 1
"""
MIGRATOR = f"""
SELECT l.pid, a.usename::text AS "user", date_trunc('second', a.backend_start)::text AS since,
       round(extract(epoch FROM clock_timestamp() - a.backend_start))::integer AS seconds,
       pg_blocking_pids(l.pid) AS waits_for
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid::bigint = {ADVISORY_LOCK >> 32} AND l.objid::bigint = {ADVISORY_LOCK & 0xFFFFFFFF}
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
BRIDGE = """
SELECT
    s.sync,
    s.stage IS NOT NULL AS merging,
    s.sessions AS done,
    s.merged_at IS NOT NULL AS merged,
    s.retired_at IS NOT NULL AS handed_back,
    (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p WHERE p.side = 'legacy') AS legacy,
    (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p WHERE p.side <> 'legacy') AS unified,
    (SELECT count(*) FROM bridge.override) AS kept,
    to_regprocedure('bridge.is_read_only()') IS NOT NULL AND bridge.is_read_only() AS read_only
FROM bridge.state AS s
"""
SOURCES = """
SELECT s.legacy_name AS name, s.relation::text AS relation, c.relkind IS NOT NULL AS exists
FROM bridge.source AS s
LEFT JOIN pg_class AS c ON c.oid = s.relation
ORDER BY s.legacy_name DESC
"""
CHANGED = """
SELECT s.relation::text FROM bridge.source AS s JOIN pg_class AS c ON c.oid = s.relation
WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation)
ORDER BY s.legacy_name DESC
"""
# Counting a large table takes long: this is the estimate of the last ANALYZE.
ROWS = """
SELECT n.name, c.oid IS NOT NULL AS is_there,
       CASE WHEN pg_relation_size(c.oid) > 200000000 AND c.reltuples > 0 THEN c.reltuples::bigint END AS estimate
FROM unnest(ARRAY['workshop_students', 'student_configs']) AS n(name)
LEFT JOIN pg_class AS c ON c.oid = to_regclass('public.' || n.name)
WHERE has_table_privilege(c.oid, 'SELECT') IS NOT FALSE
"""
# Ranges of tokens, each read in a transaction of its own.
TOTAL = """
SELECT r.last_token AS last, r.sessions, r.sessions AS total
FROM bridge.next_range(CAST(:after AS text), :size) AS r
WHERE r.last_token IS NOT NULL
"""
# Sessions by their tokens alone: those missing on one side, without logged ones.
DRIFT = """
SELECT r.last_token AS last, r.sessions, d.*
FROM bridge.next_range(CAST(:after AS text), :size) AS r
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE v.session_token IS NULL) AS not_in_unified,
           count(*) FILTER (WHERE t.token IS NULL) AS not_in_legacy
    FROM (SELECT o.token FROM bridge.tokens AS o WHERE o.token >= r.first_token AND o.token <= r.last_token) AS t
    FULL JOIN (SELECT o.session_token FROM public.sessions AS o
               WHERE o.session_token >= r.first_token AND o.session_token <= r.last_token) AS v
        ON v.session_token = t.token
    WHERE NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = coalesce(t.token, v.session_token))
) AS d
WHERE r.last_token IS NOT NULL
"""
OLD_TABLES = "^(workshop_students|student_configs)(_backup_[0-9]{8}(_[0-9]+)?)?$"
LOCKS = """
WITH prepared AS (
    SELECT t.virtualtransaction, x.gid, x.owner, x.prepared
    FROM pg_locks AS t JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
    WHERE t.locktype = 'transactionid' AND t.pid IS NULL
)
SELECT c.relname::text AS "table", l.mode, l.granted, l.pid,
       coalesce('prepared transaction ' || quote_literal(x.gid), nullif(a.application_name, ''), '-') AS application,
       coalesce(x.owner, a.usename)::text AS "user",
       round(extract(epoch FROM clock_timestamp() - coalesce(x.prepared, a.xact_start)))::integer AS seconds,
       CASE WHEN NOT l.granted THEN pg_blocking_pids(l.pid) END AS waits_for,
       'ROLLBACK PREPARED ' || quote_literal(x.gid) AS ended_by
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN prepared AS x ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
WHERE l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ :tables
  AND (NOT l.granted OR l.mode ~ 'Exclusive'
       OR coalesce(x.prepared, a.xact_start) < clock_timestamp() - interval '5 seconds')
ORDER BY l.granted DESC, seconds DESC NULLS LAST
LIMIT 20
"""
STAGES = {
    None: "not migrated",
    "0001": "the unified tables exist, and are empty",
    "0002": "the unified tables exist, and are empty",
    "0003": "writes to the legacy tables are logged; nothing is merged yet",
    "0004": "merged; the next revision applies the writes logged since",
    "0005": "merged; writes are applied at once, in both directions",
    "0006": "merged; writes are applied at once, in both directions",
    "0007": "all done: the legacy names are views over dated backups",
}
LAST_STAGE = "0007"
MERGING = "the merge has begun, and is not finished"
NOT_VERIFIED = "merged; not verified yet"


def stage_of(revision: str | None) -> str | None:
    """Return the stage of the migration; a revision after 0007 does not change it."""
    return revision and min(revision[:4], LAST_STAGE)
