-- Schema bridge, and what a downgrade keeps of it, is its owner's, whatever default privileges say. Functions that only
-- have the built-in right of PUBLIC are left: nobody gets to them without the schema.
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('REVOKE ALL ON %s FROM %s CASCADE', o.what,
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END)
        FROM (
            SELECT 'SCHEMA bridge' AS what, n.nspowner AS owner, n.nspacl AS acl FROM pg_namespace AS n
            WHERE n.nspname = 'bridge'
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner, c.relacl FROM pg_class AS c
            WHERE c.relkind NOT IN ('i', 'I', 'c') AND (
                c.relnamespace = to_regnamespace('bridge') OR c.relnamespace = 'public'::regnamespace
                AND c.relname ~ '^((bridge_remainder|own_columns)_backup_\d{8}(_\d+)?|legacy_tables_dropped)$')
            UNION ALL
            SELECT 'ROUTINE ' || p.oid::regprocedure, p.proowner, p.proacl FROM pg_proc AS p
            WHERE p.pronamespace = to_regnamespace('bridge')
        ) AS o
        CROSS JOIN LATERAL aclexplode(o.acl) AS g
        WHERE g.grantee <> o.owner
        GROUP BY o.what, g.grantee
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
