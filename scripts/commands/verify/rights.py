"""Rights: what a role may do with an object of the migration, but not with the legacy tables.

Compares the table rights with those on the legacy tables that existed before the migration. On a
table with row security the policies decide. A role for reports may get SELECT on a view of 0006 by
name.
"""

from sqlalchemy import Connection

from scripts.common.database import run

BEYOND = r"""
WITH legacy AS (
    SELECT c.oid, c.relname, c.relrowsecurity FROM pg_class AS c
    WHERE c.oid IN (SELECT s.relation FROM bridge.source AS s WHERE NOT s.created_here)
       OR c.oid = to_regclass('public.workshop_step_progress')
),
objects AS (
    SELECT c.*, CASE
            WHEN c.relname ~ '_backup_' OR c.relnamespace <> 'public'::regnamespace THEN 'owner'
            WHEN c.relname IN ('students', 'sessions', 'step_progress', 'events') THEN 'table'
            WHEN c.relkind = 'S' THEN 'sequence'
            WHEN s.legacy_name IS NOT NULL THEN 'stand_in'
            ELSE 'report'
        END AS kind, s.relation,
        EXISTS (SELECT FROM pg_options_to_table(c.reloptions) AS p
                WHERE p.option_name = 'security_invoker' AND p.option_value::boolean) AS invoker
    FROM pg_class AS c
    LEFT JOIN bridge.source AS s ON s.legacy_name = c.relname AND c.relkind = 'v'
    WHERE c.relkind NOT IN ('i', 'I', 'c') AND (
        c.relnamespace = 'bridge'::regnamespace OR c.relnamespace = 'public'::regnamespace AND (
            c.relname IN ('students', 'sessions', 'step_progress', 'events', 'events_id_seq', 'session_overview',
                          'student_overview', 'step_funnel', 'progress_by_day', 'stuck_sessions')
            OR c.relname ~ '^(bridge_remainder|own_columns)_backup_\d{8}(_\d+)?$' OR s.legacy_name IS NOT NULL))
),
grants AS (
    SELECT o.*, g.grantee, g.privilege_type AS privilege FROM objects AS o CROSS JOIN LATERAL aclexplode(o.relacl) AS g
    UNION
    SELECT o.*, g.grantee, g.privilege_type
    FROM objects AS o JOIN pg_attribute AS a ON a.attrelid = o.oid CROSS JOIN LATERAL aclexplode(a.attacl) AS g
    WHERE o.kind <> 'stand_in'
),
exceeding AS (
    SELECT g.relname::text AS name, g.grantee, g.privilege
    FROM grants AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT has_table_privilege(
            g.grantee, l.oid, CASE WHEN g.privilege IN ('USAGE', 'UPDATE') AND g.relkind = 'S' THEN 'INSERT'
                                   ELSE g.privilege END)) > 0 AS new
        FROM legacy AS l
    ) AS b
    WHERE g.grantee <> g.relowner AND CASE g.kind
        WHEN 'owner' THEN true
        WHEN 'stand_in' THEN NOT g.invoker AND NOT has_table_privilege(g.grantee, g.relation, g.privilege)
        WHEN 'table' THEN b.new AND (NOT g.relrowsecurity OR coalesce(r.rolbypassrls, false)
                                     OR g.privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE'))
        WHEN 'sequence' THEN b.new
        ELSE b.new AND NOT g.invoker AND (g.grantee = 0 OR g.privilege <> 'SELECT' OR EXISTS (
            SELECT FROM pg_default_acl AS a CROSS JOIN LATERAL aclexplode(a.defaclacl) AS d
            WHERE a.defaclrole = g.relowner AND a.defaclobjtype = 'r' AND d.grantee = g.grantee
              AND a.defaclnamespace IN (0, g.relnamespace)))
    END
    UNION ALL
    SELECT 'schema bridge', g.grantee, g.privilege_type
    FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS g
    WHERE n.nspname = 'bridge' AND g.grantee <> n.nspowner
)
SELECT format('%s: %s on %s', CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee)::text END,
              string_agg(e.privilege, ', ' ORDER BY e.privilege), e.name)
FROM exceeding AS e GROUP BY e.grantee, e.name
UNION ALL
SELECT format('%s has no row security, but %s has', o.relname,
              (SELECT string_agg(l.relname, ' and ') FROM legacy AS l WHERE l.relrowsecurity))
FROM objects AS o
WHERE o.kind = 'table' AND NOT o.relrowsecurity AND EXISTS (SELECT FROM legacy AS l WHERE l.relrowsecurity)
UNION ALL
SELECT format('%s shows rows past the row security of its tables: ALTER VIEW %s SET (security_invoker = true)',
              o.relname, o.oid::regclass)
FROM objects AS o
WHERE NOT o.invoker AND EXISTS (SELECT FROM grants AS g WHERE g.oid = o.oid AND g.grantee <> o.relowner) AND (
    o.kind = 'report' AND EXISTS (SELECT FROM objects AS t WHERE t.kind = 'table' AND t.relrowsecurity)
    OR o.kind = 'stand_in' AND EXISTS (SELECT FROM legacy AS l WHERE l.oid = o.relation AND l.relrowsecurity))
ORDER BY 1
"""


def beyond(connection: Connection) -> list[str]:
    """Return one line for each role and object of the migration with an excess right."""
    return list(run(connection, BEYOND).scalars())
