-- One row for each object of a database: kind, name, definition. Names of dated backups lose their
-- date. NOT NULL constraints show as the columns' attribute only: PostgreSQL 18 lists them as
-- constraints, 15 does not.
WITH spaces AS (
    SELECT oid, nspname, nspowner, nspacl
    FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
),
relations AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_class AS c
    JOIN spaces AS s ON s.oid = c.relnamespace
),
-- owner, grants in a fixed order, comment
access AS (
    SELECT 'pg_class'::regclass AS class, oid, relowner AS owner, relacl AS acl FROM relations
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, proowner, proacl FROM pg_proc
    UNION ALL
    SELECT 'pg_namespace'::regclass, oid, nspowner, nspacl FROM spaces
),
described AS (
    SELECT
        class,
        oid,
        concat_ws(
            E'\n',
            'owner ' || pg_get_userbyid(owner),
            'grants ' || (
                SELECT string_agg(concat_ws(' ', g.privilege_type, g.grantee::regrole::text,
                                            g.is_grantable::text),
                                  ', ' ORDER BY g.grantee::regrole::text, g.privilege_type)
                FROM aclexplode(acl) AS g
                WHERE g.grantee <> owner
            ),
            'comment ' || obj_description(oid, class::regclass::name)
        ) AS text
    FROM access
),
objects AS (
    SELECT 'schema' AS kind, s.nspname::text AS name, d.text AS definition
    FROM spaces AS s
    JOIN described AS d ON d.class = 'pg_namespace'::regclass AND d.oid = s.oid
    UNION ALL
    SELECT
        CASE r.relkind
            WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'table'
        END,
        r.name,
        concat_ws(E'\n',
                  CASE WHEN r.relkind IN ('p', 'm', 'f') THEN 'kind ' || r.relkind::text END,
                  CASE WHEN r.relpersistence <> 'p' THEN 'persistence ' || r.relpersistence::text END,
                  CASE WHEN r.relrowsecurity THEN 'row security' END,
                  array_to_string(r.reloptions, ', '),
                  CASE r.relkind
                      WHEN 'v' THEN pg_get_viewdef(r.oid)
                      WHEN 'S' THEN (SELECT concat_ws(' ', q.seqtypid::regtype, q.seqstart,
                                                      q.seqincrement, q.seqcycle)
                                     FROM pg_sequence AS q WHERE q.seqrelid = r.oid)
                  END, d.text)
    FROM relations AS r
    JOIN described AS d ON d.class = 'pg_class'::regclass AND d.oid = r.oid
    WHERE r.relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT
        'column',
        r.name || '.' || a.attname,
        concat_ws(' ',
            row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum),
            format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attnotnull THEN 'not null' END,
            'default ' || pg_get_expr(x.adbin, x.adrelid),
            'identity ' || nullif(a.attidentity::text, ''),
            'generated ' || nullif(a.attgenerated::text, ''),
            'collation ' || nullif(nullif(a.attcollation, 0), '"default"'::regcollation)::regcollation::text,
            'grants ' || array_to_string(a.attacl, ', '),
            'comment ' || col_description(a.attrelid, a.attnum))
    FROM relations AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'c')
    UNION ALL
    SELECT
        'constraint',
        r.name || '.' || k.conname,
        concat_ws(E'\n', pg_get_constraintdef(k.oid),
                  CASE WHEN NOT k.convalidated THEN 'not valid' END,
                  'comment ' || obj_description(k.oid, 'pg_constraint'))
    FROM pg_constraint AS k
    JOIN relations AS r ON r.oid = k.conrelid
    WHERE k.contype NOT IN ('n', 't')
    UNION ALL
    SELECT
        'index',
        i.name,
        concat_ws(E'\n', pg_get_indexdef(i.oid), CASE WHEN NOT n.indisvalid THEN 'invalid' END,
                  'comment ' || obj_description(i.oid, 'pg_class'))
    FROM relations AS i
    JOIN pg_index AS n ON n.indexrelid = i.oid
    UNION ALL
    SELECT
        'function',
        p.oid::regprocedure::text,
        concat_ws(E'\n',
            CASE WHEN p.prokind = 'a' THEN (SELECT g.aggtransfn::text FROM pg_aggregate AS g
                                            WHERE g.aggfnoid = p.oid)
                 ELSE pg_get_functiondef(p.oid) END,
            d.text)
    FROM pg_proc AS p
    JOIN spaces AS s ON s.oid = p.pronamespace
    JOIN described AS d ON d.class = 'pg_proc'::regclass AND d.oid = p.oid
    UNION ALL
    SELECT
        'trigger',
        r.name || '.' || t.tgname,
        concat_ws(E'\n', pg_get_triggerdef(t.oid), 'enabled ' || nullif(t.tgenabled::text, 'O'),
                  'comment ' || obj_description(t.oid, 'pg_trigger'))
    FROM pg_trigger AS t
    JOIN relations AS r ON r.oid = t.tgrelid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT
        'policy',
        r.name || '.' || p.polname,
        concat_ws(' ', p.polcmd::text, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, r.oid),
                  pg_get_expr(p.polwithcheck, r.oid))
    FROM pg_policy AS p
    JOIN relations AS r ON r.oid = p.polrelid
)
SELECT
    kind,
    regexp_replace(name, '_backup_\d{8}', '_backup_YYYYMMDD', 'g'),
    regexp_replace(definition, '_backup_\d{8}', '_backup_YYYYMMDD', 'g')
FROM objects
ORDER BY kind, name
