-- Row security and policies go over to a table that takes the place of another one: in 0001 to the new table from that
-- of an earlier attempt, and with it the foreign keys that refer to it; in 0003 to a legacy table that it creates.
DO $$
DECLARE
    pair record;
    command text;
    pairs CONSTANT text := CASE WHEN to_regclass('bridge.source') IS NOT NULL THEN
        'SELECT o.relation AS original, s.relation AS stand_in, false AS earlier FROM bridge.source AS s, bridge.source AS o '
        'WHERE s.created_here AND NOT o.created_here'
    ELSE
        'SELECT p.relation AS original, to_regclass(''public.'' || p.original_name) AS stand_in, true AS earlier '
        'FROM public.prior_attempt AS p ORDER BY p.original_name' END;
BEGIN
    IF to_regclass('bridge.source') IS NULL AND to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    FOR pair IN EXECUTE pairs LOOP
        FOR command IN
            SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY', pair.stand_in, w.what)
            FROM pg_class AS c
            CROSS JOIN LATERAL (VALUES ('ENABLE', c.relrowsecurity), ('FORCE', c.relforcerowsecurity)) AS w(what, wanted)
            WHERE c.oid = pair.original AND w.wanted
            UNION ALL
            SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, pair.stand_in,
                          CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                          CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                        WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                          (SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(o)) END, ', ')
                           FROM unnest(p.polroles) AS o),
                          ' USING (' || x.qual || ')', ' WITH CHECK (' || x.check || ')')
            FROM pg_policy AS p
            CROSS JOIN LATERAL (VALUES (pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)))
                AS x(qual, "check")
            WHERE p.polrelid = pair.original AND (pair.earlier OR NOT EXISTS (
                SELECT FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
                  AND d.refobjid = p.polrelid AND a.attnum > 0
                  AND NOT EXISTS (SELECT FROM pg_attribute AS n WHERE n.attrelid = pair.stand_in AND n.attname = a.attname
                                                                 AND n.atttypid = a.atttypid)))
            UNION ALL
            -- in one statement, so that no row slips in between
            SELECT format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %2$I %s', k.conrelid::regclass, k.conname,
                          pg_get_constraintdef(k.oid))
            FROM pg_constraint AS k
            WHERE pair.earlier AND k.contype = 'f' AND k.confrelid = pair.original AND k.conparentid = 0
              AND k.conrelid NOT IN (SELECT c.oid FROM pg_class AS c
                                     WHERE c.relname ~ '^(students|sessions|step_progress|events)_prior_backup_\d{8}(_\d+)?$'
                                       AND c.relnamespace = 'public'::regnamespace)
        LOOP
            -- the catalog names a table of an earlier attempt as it is called now
            EXECUTE regexp_replace(command, '\m(students|sessions|step_progress|events)_prior_backup_\d{8}(_\d+)?\M', '\1', 'g');
        END LOOP;
    END LOOP;
END
$$
