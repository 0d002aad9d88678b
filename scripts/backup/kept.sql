-- After the restore: refuses if an object is lost that is neither the workshop's nor in the backup. Parts of a table
-- that the backup has restored are as in the backup.
DO $kept$
DECLARE
    lost CONSTANT text := (
        SELECT pg_catalog.string_agg(b.what, '; ' ORDER BY b.what)
        FROM pg_temp.before_it AS b
        WHERE b.what NOT IN (SELECT p.what FROM pg_temp.parts AS p)
          AND (b.relation IS NULL OR b.relation = b.oid AND b.number = 0
               OR b.relation IN (SELECT c.oid FROM pg_catalog.pg_class AS c)));
BEGIN
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'these objects depend on the dropped tables, and are not in the backup: %', lost
            USING HINT = 'Drop it first, and create it again afterwards.';
    END IF;
END
$kept$;
DROP VIEW pg_temp.parts;
