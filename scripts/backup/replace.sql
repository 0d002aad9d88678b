-- Drops everything of the workshop, so that the names of any revision are free. The clean-up of pg_restore drops only
-- objects of the backup: those of a later revision would stay or collide.
CREATE TEMPORARY TABLE ours ON COMMIT DROP AS
SELECT 'pg_class'::regclass AS class, r.oid FROM ({relations}) AS r WHERE r.ours
UNION ALL
SELECT 'pg_proc'::regclass, f.oid FROM ({functions}) AS f
UNION ALL
SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = 'bridge' AND to_regclass('bridge.source') IS NOT NULL;

-- Lists every other object that CASCADE can drop. "part_of" is the table of a column, an index, a key and so on.
CREATE TEMPORARY VIEW others AS
SELECT concat_ws(' ', o.type, o.identity) AS what, d.part_of
FROM (
    SELECT d.classid, d.objid, d.objsubid,
           CASE WHEN d.objsubid > 0 THEN d.objid
                WHEN c.relkind IS NULL OR c.relkind IN ('i', 'I', 'S') THEN min(d.refobjid) FILTER (
                    WHERE d.deptype = 'a' AND d.refclassid = 'pg_class'::regclass
                      AND d.classid <> 'pg_publication_rel'::regclass) END AS part_of
    FROM pg_depend AS d
    LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    GROUP BY d.classid, d.objid, d.objsubid, c.relkind
    HAVING bool_and(d.deptype NOT IN ('i', 'e'))
) AS d
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) AS o
WHERE (d.classid, d.objid) NOT IN (SELECT u.class, u.oid FROM ours AS u)
  AND coalesce(d.part_of, 0) NOT IN (SELECT u.oid FROM ours AS u WHERE u.class = 'pg_class'::regclass)
  AND o.schema IS DISTINCT FROM 'bridge';

CREATE TEMPORARY TABLE before_it ON COMMIT DROP AS SELECT * FROM others;

-- After the restore: refuses if one of them is lost. Parts of a table that the backup has restored are as in the backup.
CREATE FUNCTION pg_temp.refuse_loss() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lost CONSTANT text := (
        SELECT string_agg(b.what, '; ' ORDER BY b.what) FROM before_it AS b
        WHERE b.what NOT IN (SELECT o.what FROM others AS o)
          AND (b.part_of IS NULL OR b.part_of IN (SELECT c.oid FROM pg_class AS c)));
BEGIN
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'these objects depend on the dropped tables, and are not in the backup: %', lost
            USING HINT = 'Drop it first, and create it again afterwards.';
    END IF;
END
$$;

DO $$
DECLARE
    command text;
BEGIN
    FOREACH command IN ARRAY ARRAY(
        SELECT format('DROP %s IF EXISTS %s CASCADE', o.type, o.identity)
        FROM ours AS u CROSS JOIN LATERAL pg_identify_object(u.class, u.oid, 0) AS o
        WHERE o.schema IS DISTINCT FROM 'bridge')
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
