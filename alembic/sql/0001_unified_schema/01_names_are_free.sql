-- Refuse a database in which one of the four names is taken, naming what stands in the way.
DO $$
DECLARE
    taken text;
BEGIN
    SELECT string_agg(
               format('%I.%I (%s)', n.nspname, c.relname, (
                   SELECT string_agg(a.attname, ', ' ORDER BY a.attnum)
                   FROM pg_attribute AS a
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               )),
               '; ' ORDER BY c.relname)
    INTO taken
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public'
      AND c.relname IN ('students', 'sessions', 'step_progress', 'events');

    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'the unified schema cannot be created: these names are taken: %', taken
            USING HINT = 'Nothing was changed. Rename or drop what stands there, then run again.';
    END IF;
END
$$
