-- Lists objects that can be lost when a table of the workshop is dropped, as they were before. "relation" is the table
-- of a part, or NULL. Excludes the workshop's own objects.
CREATE TEMPORARY VIEW parts AS
SELECT concat_ws(' ', o.type, o.identity) AS what, p.oid, p.number, p.relation
FROM (
    SELECT 'pg_class'::regclass AS class, c.oid, 0 AS number, coalesce(i.indrelid, d.refobjid, c.oid) AS relation
    FROM pg_class AS c
    LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
    LEFT JOIN pg_depend AS d ON c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    UNION ALL
    SELECT 'pg_class'::regclass, attrelid, attnum, attrelid FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'pg_attrdef'::regclass, oid, 0, adrelid FROM pg_attrdef
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, 0, conrelid FROM pg_constraint WHERE conrelid <> 0
    UNION ALL
    SELECT 'pg_trigger'::regclass, oid, 0, tgrelid FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'pg_policy'::regclass, oid, 0, polrelid FROM pg_policy
    UNION ALL
    SELECT 'pg_rewrite'::regclass, oid, 0, ev_class FROM pg_rewrite WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT 'pg_publication_rel'::regclass, oid, 0, NULL FROM pg_publication_rel
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, 0, NULL FROM pg_proc WHERE oid <> ALL ('{{{functions}}}'::oid[])
) AS p
LEFT JOIN pg_class AS c ON c.oid = p.relation
CROSS JOIN LATERAL pg_identify_object(p.class, p.oid, p.number) AS o
WHERE c.relnamespace IS NULL AND coalesce(o.schema, '') NOT IN ('pg_catalog', 'information_schema', 'bridge')
   OR c.relpersistence <> 't' AND c.relkind <> 't' AND c.oid <> ALL ('{{{relations}}}'::oid[])
      AND c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'bridge');

CREATE TEMPORARY TABLE before_it ON COMMIT DROP AS SELECT * FROM pg_temp.parts;
