-- Tables of an earlier attempt are renamed to <name>_prior_backup_YYYYMMDD and listed in prior_attempt, or dropped with
-- -x drop_existing=true. Any other table with one of the four names is refused, with its columns, before the first
-- change.
DO $$
DECLARE
    reason text;
    earlier record;
    backup text;
    dropping CONSTANT boolean := coalesce(current_setting('bridge.drop_existing', true), '') = 'on';
    taken CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname IN ('students', 'sessions', 'step_progress', 'events'));
BEGIN
    SELECT string_agg(CASE WHEN t.relkind <> 'r' THEN format('"%s" is not an ordinary table.', t.relname)
                           ELSE format('"%s" has the columns %s.', t.relname, array_to_string(t.columns, ', ')) END, ' ')
    INTO reason
    FROM (SELECT c.relname, c.relkind, ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                                             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                                             ORDER BY a.attnum) AS columns
          FROM pg_class AS c WHERE c.oid = ANY (taken)) AS t
    JOIN (VALUES ('students', ARRAY['student_email']), ('sessions', ARRAY['session_token']),
                 ('step_progress', ARRAY['session_token', 'step_number']), ('events', ARRAY['event_type'])) AS k(name, needed)
      ON k.name = t.relname
    WHERE t.relkind <> 'r' OR NOT dropping AND NOT t.columns @> k.needed;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'other objects have the names of the unified tables: %', reason
            USING HINT = 'Nothing was changed. Rename these objects, then run again.';
    END IF;

    IF dropping AND taken <> '{}' THEN
        DROP TABLE IF EXISTS public.events, public.step_progress, public.sessions, public.students CASCADE;
        RAISE NOTICE 'the tables of an earlier attempt were dropped, because of drop_existing=true';
    ELSIF taken <> '{}' THEN
        CREATE TABLE public.prior_attempt (original_name text PRIMARY KEY, relation regclass NOT NULL);
        COMMENT ON TABLE public.prior_attempt IS
            'Tables of an earlier attempt at the unified schema, renamed by the migration.';
        INSERT INTO public.prior_attempt SELECT c.relname, c.oid FROM pg_class AS c WHERE c.oid = ANY (taken);
        FOR earlier IN SELECT * FROM public.prior_attempt ORDER BY original_name LOOP
            backup := public.free_dated_name(earlier.original_name || '_prior');
            EXECUTE format('ALTER TABLE %s RENAME TO %I', earlier.relation, backup);
            RAISE NOTICE 'table % of an earlier attempt is now called %', earlier.original_name, backup;
        END LOOP;
    END IF;
END
$$
