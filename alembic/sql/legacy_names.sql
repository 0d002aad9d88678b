-- Lists legacy names that do not lead to the bridge's table, or from 0007 on to a view over it. Adds the statements
-- that restore the name: they rename the present object and copy its own rows.
SELECT s.legacy_name, s.relation::text AS relation, n.relkind::text AS kind,
       CASE WHEN n.oid IS NULL THEN format('there is no %s', s.legacy_name)
            ELSE format('%s is not the table that the bridge knows', s.legacy_name) END
       || CASE WHEN cut.over THEN format(': a view over %s', s.relation)
               ELSE format(': that table is called %s', s.relation) END AS what,
       array_remove(ARRAY[
           CASE WHEN n.oid IS NOT NULL THEN format('ALTER TABLE public.%I RENAME TO %I', n.relname, aside.name) END,
           CASE WHEN c.relnamespace <> 'public'::regnamespace AND NOT cut.over
                THEN format('ALTER TABLE %s SET SCHEMA public', s.relation) END,
           CASE WHEN cut.over
                THEN format('CREATE VIEW public.%I WITH (security_invoker = true) AS SELECT * FROM %s', s.legacy_name, aside.relation)
                WHEN c.relname <> s.legacy_name
                THEN format('ALTER TABLE public.%I RENAME TO %I', c.relname, s.legacy_name) END,
           CASE WHEN cut.over
                THEN format('SELECT bridge.copy_access($$%s$$, $$%s$$)', aside.relation, 'public.' || s.legacy_name) END,
           CASE WHEN n.relkind IN ('r', 'p') AND n.oid <> c.oid
                THEN format('INSERT INTO public.%I (%s) SELECT %s FROM public.%I ON CONFLICT DO NOTHING', s.legacy_name,
                            same.columns, same.casts, aside.name) END
       ], NULL) AS way_back
FROM bridge.source AS s
JOIN pg_class AS c ON c.oid = s.relation
LEFT JOIN pg_class AS n ON n.oid = to_regclass(format('public.%I', s.legacy_name))
CROSS JOIN (SELECT coalesce(current_setting('bridge.at', true), '') >= '0007' AS over) AS cut
-- after the cut-over the operator may have given the name back to the bridge's own table
CROSS JOIN LATERAL (
    SELECT s.legacy_name || CASE WHEN n.oid = c.oid THEN to_char(now(), '_backup_YYYYMMDD_') ELSE '_stray_' END || n.oid AS name
) AS other
CROSS JOIN LATERAL (
    SELECT other.name, CASE WHEN n.oid = c.oid THEN format('public.%I', other.name) ELSE s.relation::text END AS relation
) AS aside
CROSS JOIN LATERAL (
    SELECT string_agg(quote_ident(o.attname), ', ' ORDER BY o.attnum) AS columns,
           string_agg(CASE WHEN o.atttypid = a.atttypid THEN quote_ident(o.attname)
                           ELSE format('%I::text::%s', o.attname, format_type(a.atttypid, a.atttypmod)) END,
                      ', ' ORDER BY o.attnum) AS casts
    FROM pg_attribute AS o
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = o.attname AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE o.attrelid = n.oid AND o.attnum > 0 AND NOT o.attisdropped
) AS same
WHERE CASE
    WHEN cut.over THEN n.relkind IS DISTINCT FROM 'v' OR NOT EXISTS (
        SELECT FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE r.ev_class = n.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.relation)
    ELSE n.oid IS DISTINCT FROM c.oid
END
ORDER BY s.legacy_name DESC
