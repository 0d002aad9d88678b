-- Lists objects that do not belong to the project and depend on objects that a downgrade to bridge.target drops.
-- Indexes, triggers and policies belong to the revision that created their table.
WITH RECURSIVE creates AS (
    SELECT m[1] AS revision, m[2] AS kind, string_to_table(m[3], ' ') AS name
    FROM regexp_matches(current_setting('bridge.creates'), '^(\d{4}) (\w+) (.*)$', 'gn') AS m
),
made(revision, class, object) AS (
    SELECT k.revision, 'pg_class'::regclass, c.oid
    FROM creates AS k JOIN pg_class AS c ON c.oid = to_regclass('public.' || k.name)
    -- a legacy name belongs to the project only as a view
    WHERE k.kind IN ('table', 'relation') AND (k.revision < '0007' OR c.relkind = 'v')
    UNION ALL
    SELECT k.revision, 'pg_proc'::regclass, to_regprocedure('public.' || k.name)::oid
    FROM creates AS k WHERE k.kind = 'function' AND to_regprocedure('public.' || k.name) IS NOT NULL
    UNION ALL
    SELECT '0003', 'pg_class'::regclass, c.oid FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('bridge')
    UNION ALL
    SELECT '0003', 'pg_proc'::regclass, p.oid FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('bridge')
    UNION ALL
    SELECT '0003', 'pg_type'::regclass, t.oid FROM pg_type AS t WHERE t.typnamespace = to_regnamespace('bridge')
    UNION ALL
    SELECT '0003', 'pg_trigger'::regclass, t.oid
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.pronamespace = to_regnamespace('bridge')
    UNION ALL
    SELECT k.revision, 'pg_trigger'::regclass, t.oid
    FROM creates AS k JOIN pg_trigger AS t ON t.tgfoid = to_regprocedure('public.' || k.name)
    WHERE k.kind = 'function' AND k.name IN (replace(t.tgname, '_first', '') || '()', 'refuse_write()')
      AND t.tgrelid IN (SELECT to_regclass('public.' || n.name) FROM creates AS n WHERE n.kind = 'table')
),
parts AS (
    SELECT * FROM made
    UNION
    SELECT p.revision, d.classid, d.objid
    FROM parts AS p JOIN pg_depend AS d ON d.refclassid = p.class AND d.refobjid = p.object
    WHERE d.deptype IN ('a', 'i', 'P', 'S')
),
goes AS (
    SELECT max(revision) AS revision, class, object FROM parts GROUP BY class, object
)
SELECT coalesce((SELECT CASE c.relkind WHEN 'm' THEN 'materialized view ' WHEN 'v' THEN 'view ' ELSE 'rule of ' END
                        || c.oid::regclass
                 FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
                 WHERE d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid),
                pg_describe_object(d.classid, d.objid, d.objsubid))
       || ', built on ' || string_agg(DISTINCT pg_describe_object(g.class, g.object, 0), ' and ') AS what
FROM goes AS g
JOIN pg_depend AS d ON d.refclassid = g.class AND d.refobjid = g.object AND d.deptype = 'n'
LEFT JOIN goes AS own ON own.class = d.classid AND own.object = d.objid
WHERE g.revision > current_setting('bridge.target') AND (own.revision IS NULL OR own.revision < g.revision)
  -- functions of a session, those of the hand-back among them, end with it
  AND NOT (d.classid = 'pg_proc'::regclass AND EXISTS (
      SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
      WHERE p.oid = d.objid AND starts_with(n.nspname, 'pg_temp_')))
  -- a foreign key depends on the table as well
  AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_index AS i WHERE i.indexrelid = g.object))
  -- the downgrade of 0001 points foreign keys to the tables of an earlier attempt again
  AND NOT (d.classid = 'pg_constraint'::regclass AND to_regclass('public.prior_attempt') IS NOT NULL AND EXISTS (
      SELECT FROM pg_constraint AS k
      JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = k.confkey[1]
      JOIN pg_class AS t ON t.oid = k.confrelid
      JOIN pg_class AS b ON b.relname ~ format('^%s_prior_backup_\d{8}(_\d+)?$', t.relname)
      JOIN pg_attribute AS e ON e.attrelid = b.oid AND e.attname = a.attname AND e.atttypid = a.atttypid
      JOIN pg_index AS i ON i.indrelid = b.oid AND i.indisunique AND i.indkey::text = e.attnum::text
      WHERE k.oid = d.objid AND k.contype = 'f' AND cardinality(k.confkey) = 1))
GROUP BY d.classid, d.objid, d.objsubid
UNION ALL
SELECT format('table %s, with its rows', c.oid::regclass)
FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('bridge') AND c.relkind IN ('r', 'p', 'm') AND current_setting('bridge.target') < '0003'
  AND c.relname NOT IN ('source', 'state', 'change_log', 'student_source', 'override', 'legacy_column')
ORDER BY what
