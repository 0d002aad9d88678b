-- Real databases have students/sessions/step_progress/events of an older shape, from earlier attempts. They are moved
-- aside as <name>_prior_backup_YYYYMMDD and recorded in prior_attempt, or dropped with -x drop_existing=true. A table that
-- is none of them is refused, columns named, before anything changes.
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
        RAISE EXCEPTION 'names of the unified schema are taken by what is no earlier attempt at it: %', reason
            USING HINT = 'Nothing was changed. Rename what stands there, then run again.';
    END IF;

    IF dropping AND taken <> '{}' THEN
        DROP TABLE IF EXISTS public.events, public.step_progress, public.sessions, public.students CASCADE;
        RAISE NOTICE 'an earlier attempt was dropped, as drop_existing asked';
    ELSIF taken <> '{}' THEN
        CREATE TABLE public.prior_attempt (original_name text PRIMARY KEY, relation regclass NOT NULL);
        COMMENT ON TABLE public.prior_attempt IS
            'Tables of an earlier attempt at the unified schema, moved aside by its migration.';
        INSERT INTO public.prior_attempt SELECT c.relname, c.oid FROM pg_class AS c WHERE c.oid = ANY (taken);
        FOR earlier IN SELECT * FROM public.prior_attempt ORDER BY original_name LOOP
            backup := public.free_dated_name(earlier.original_name || '_prior');
            EXECUTE format('ALTER TABLE %s RENAME TO %I', earlier.relation, backup);
            RAISE NOTICE 'an earlier % is now %', earlier.original_name, backup;
        END LOOP;
    END IF;
END
$$
