-- Restricts the objects in bridge.created. If a legacy table has row security, the four tables have it, and the
-- reporting views read with the rights of their reader. Default privileges count only if the role has the right on each
-- legacy table. Under row security its policies must also check columns of the row.
DO $$
DECLARE
    command text;
    created CONSTANT oid[] := ARRAY(
        SELECT to_regclass(format('public.%I', n)) FROM string_to_table(current_setting('bridge.created'), ' ') AS n);
    unified CONSTANT oid[] := ARRAY(
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n);
    legacy CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname IN ('workshop_students', 'student_configs', 'workshop_step_progress'));
    hidden CONSTANT boolean := EXISTS (SELECT FROM pg_class AS c WHERE c.oid = ANY (legacy) AND c.relrowsecurity);
BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY', c.oid::regclass, w.what)
        FROM pg_class AS c
        CROSS JOIN LATERAL (
            SELECT 'ENABLE' WHERE hidden AND NOT c.relrowsecurity
            UNION ALL
            SELECT 'FORCE' WHERE NOT c.relforcerowsecurity AND EXISTS (
                SELECT FROM pg_class AS l WHERE l.oid = ANY (legacy) AND l.relforcerowsecurity)
        ) AS w(what)
        WHERE c.oid = ANY (unified)
        UNION ALL
        SELECT format('ALTER VIEW %s SET (security_invoker = true)', c.oid::regclass)
        FROM pg_class AS c
        WHERE c.oid = ANY (created) AND c.relkind = 'v'
          AND (hidden OR EXISTS (SELECT FROM pg_class AS t WHERE t.oid = ANY (unified) AND t.relrowsecurity))
        UNION ALL
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', c.oid::regclass,
                               CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
        WHERE c.oid = ANY (created) AND g.grantee <> c.relowner
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s', g.privilege_type, c.oid::regclass,
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
        WHERE c.oid = ANY (created) AND (c.relkind = 'v' OR c.oid = ANY (unified) OR c.relkind = 'r' AND NOT hidden) AND g.grantee <> c.relowner
          AND NOT EXISTS (SELECT FROM unnest(legacy) AS l WHERE NOT has_table_privilege(g.grantee, l, g.privilege_type))
          AND NOT (hidden AND EXISTS (
              SELECT FROM pg_policy AS p
              WHERE p.polrelid = c.oid AND p.polpermissive AND (g.grantee = 0 OR EXISTS (
                    SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(g.grantee, r, 'USAGE')))
                AND NOT EXISTS (
                    SELECT FROM pg_depend AS d
                    WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0)))
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
