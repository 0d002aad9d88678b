-- Only the owner may use schema bridge and what a downgrade keeps of it, whatever default privileges grant. Functions
-- keep the built-in right of PUBLIC: the schema is closed.
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', o.what,
                               CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM (
            SELECT 'SCHEMA bridge', n.nspowner, n.nspacl FROM pg_namespace AS n WHERE n.nspname = 'bridge'
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner, c.relacl FROM pg_class AS c
            WHERE c.relkind NOT IN ('i', 'I', 'c') AND (
                c.relnamespace = to_regnamespace('bridge') OR c.relnamespace = 'public'::regnamespace
                AND c.relname ~ '^((bridge_remainder|own_columns)_backup_\d{8}(_\d+)?|legacy_tables_dropped)$')
            UNION ALL
            SELECT 'ROUTINE ' || p.oid::regprocedure, p.proowner, p.proacl FROM pg_proc AS p
            WHERE p.pronamespace = to_regnamespace('bridge')
        ) AS o(what, owner, acl)
        CROSS JOIN LATERAL aclexplode(o.acl) AS g
        WHERE g.grantee <> o.owner
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
