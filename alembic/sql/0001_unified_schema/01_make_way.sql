-- Real databases have students/sessions/step_progress/events of an older shape, from earlier attempts.
-- They are moved aside as <name>_prior_backup_YYYYMMDD and recorded in prior_attempt, from where the
-- merge takes their rows as a further source. With -x drop_existing=true they are dropped instead.
-- What cannot be understood is refused, columns named, before anything changes.
DO $$
DECLARE
    taken record;
    reason text := '';
    candidate text;
    names CONSTANT text[] := ARRAY['students', 'sessions', 'step_progress', 'events'];
    dropping CONSTANT boolean := coalesce(current_setting('bridge.drop_existing', true), '') = 'on';
BEGIN
    FOR taken IN
        SELECT c.relname::text AS name, c.relkind, array_agg(a.attname::text ORDER BY a.attnum) AS columns
        FROM pg_class AS c
        LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (names)
        GROUP BY c.relname, c.relkind
    LOOP
        IF taken.relkind <> 'r' THEN
            reason := reason || format(' "%s" is not an ordinary table.', taken.name);
        ELSIF NOT dropping AND NOT (CASE taken.name
            WHEN 'students' THEN 'student_email' = ANY (taken.columns)
            WHEN 'sessions' THEN 'session_token' = ANY (taken.columns)
            WHEN 'step_progress' THEN taken.columns @> ARRAY['session_token', 'step_number']
            ELSE 'event_type' = ANY (taken.columns)
        END) THEN
            reason := reason || format(' "%s" has the columns %s.', taken.name,
                                       array_to_string(taken.columns, ', '));
        END IF;
    END LOOP;
    IF reason <> '' THEN
        RAISE EXCEPTION 'names of the unified schema are taken by what is no earlier attempt at it:%', reason
            USING HINT = 'Nothing was changed. Rename what stands there, then run again.';
    END IF;

    FOR candidate IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (names)
    LOOP
        IF to_regclass('public.prior_attempt') IS NULL THEN
            CREATE TABLE public.prior_attempt (
                original_name text PRIMARY KEY,
                relation regclass NOT NULL
            );
            COMMENT ON TABLE public.prior_attempt IS
                'Tables of an earlier attempt at the unified schema, moved aside by its migration.';
        END IF;
        INSERT INTO public.prior_attempt VALUES (candidate, to_regclass('public.' || candidate));
    END LOOP;
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;

    IF dropping THEN
        DROP TABLE IF EXISTS public.events, public.step_progress, public.sessions, public.students CASCADE;
        DROP TABLE public.prior_attempt;
        RAISE NOTICE 'an earlier attempt was dropped, as drop_existing asked';
        RETURN;
    END IF;

    FOR taken IN SELECT * FROM public.prior_attempt ORDER BY original_name LOOP
        SELECT b.name INTO candidate
        FROM generate_series(1, 1000) AS n
        CROSS JOIN LATERAL (
            SELECT taken.original_name || '_prior_backup_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
                || CASE WHEN n > 1 THEN '_' || n ELSE '' END AS name
        ) AS b
        WHERE to_regclass('public.' || b.name) IS NULL
        ORDER BY n
        LIMIT 1;
        EXECUTE format('ALTER TABLE %s RENAME TO %I', taken.relation, candidate);
        RAISE NOTICE 'an earlier % is now %', taken.original_name, candidate;
    END LOOP;
END
$$
