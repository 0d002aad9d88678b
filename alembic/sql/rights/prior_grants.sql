-- Copies rights on a table of an earlier attempt to the unified table. Condition: the role has the right on each legacy
-- table, or row security limits it. The policies must then check columns of the row, because the unified table also has
-- the rows of the legacy tables.
DO $$
DECLARE
    g record;
    kept text := '';
    legacy oid[];
    hidden boolean;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL OR to_regclass('bridge.source') IS NULL THEN
        RETURN;
    END IF;
    EXECUTE 'SELECT array_agg(c.oid), coalesce(bool_or(c.relrowsecurity), false) FROM pg_class AS c '
            'WHERE c.oid IN (SELECT s.relation FROM bridge.source AS s WHERE NOT s.created_here) '
            'OR c.oid = to_regclass(''public.workshop_step_progress'')' INTO legacy, hidden;
    FOR g IN
        SELECT n.oid::regclass AS stand_in, a.privilege_type, a.column_name,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role,
               NOT EXISTS (SELECT FROM unnest(legacy) AS l WHERE NOT has_table_privilege(a.grantee, l, a.privilege_type))
                   AS as_before,
               NOT coalesce(r.rolbypassrls, false) AND n.relrowsecurity AND c.relrowsecurity
                   AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE') AS limited,
               EXISTS (
                   SELECT FROM pg_policy AS p
                   WHERE p.polrelid = n.oid AND p.polpermissive AND (a.grantee = 0 OR EXISTS (
                         SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(a.grantee, r, 'USAGE')))
                     AND NOT EXISTS (
                         SELECT FROM pg_depend AS d
                         WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0))
                   AS every_row
        FROM public.prior_attempt AS b
        JOIN pg_class AS c ON c.oid = b.relation
        JOIN pg_class AS n ON n.oid = to_regclass('public.' || b.original_name)
        CROSS JOIN LATERAL (
            SELECT x.grantee, x.privilege_type, NULL AS column_name
            FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS x
            UNION ALL
            SELECT x.grantee, x.privilege_type, o.attname
            FROM pg_attribute AS o
            CROSS JOIN LATERAL aclexplode(o.attacl) AS x
            JOIN pg_attribute AS m ON m.attrelid = n.oid AND m.attname = o.attname
            WHERE o.attrelid = c.oid AND NOT o.attisdropped
        ) AS a
        LEFT JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE a.grantee <> n.relowner
    LOOP
        IF g.as_before AND NOT (hidden AND g.every_row) OR g.limited AND NOT g.every_row THEN
            EXECUTE format('GRANT %s%s ON %s TO %s', g.privilege_type, ' (' || quote_ident(g.column_name) || ')',
                           g.stand_in, g.role);
        ELSIF strpos(kept || ', ', format('%s on %s, ', g.role, g.stand_in)) = 0 THEN
            kept := kept || format(', %s on %s', g.role, g.stand_in);
        END IF;
    END LOOP;
    IF kept <> '' THEN
        RAISE NOTICE 'rights of an earlier attempt that are not granted on the unified tables, because they would open '
            'rows of the legacy tables: %. If a role needs them, GRANT and CREATE POLICY', substr(kept, 3);
    END IF;
END
$$
