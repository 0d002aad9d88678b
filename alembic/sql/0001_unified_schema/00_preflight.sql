-- One pass over everything that could stop a later step, before the first change; all of it is told at
-- once. What is merely worth knowing is a notice.
DO $$
DECLARE
    problems text[] := '{}';
    found text;
    legacy CONSTANT text[] := ARRAY['workshop_students', 'student_configs'];
BEGIN
    IF NOT has_schema_privilege('public', 'CREATE') THEN
        problems := problems || format('role %s may not create in schema public', current_user);
    END IF;
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
        problems := problems || format('role %s may not create a schema in database %s',
                                       current_user, current_database());
    END IF;

    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO found
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND c.relname = ANY (legacy || ARRAY['students', 'sessions', 'step_progress', 'events'])
      AND NOT pg_has_role(c.relowner, 'USAGE');
    IF found IS NOT NULL THEN
        problems := problems || format('role %s does not own %s', current_user, found);
    END IF;

    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO found
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'r' AND c.relname = ANY (legacy);
    IF found IS NOT NULL THEN
        problems := problems || format('%s: not an ordinary table', found);
    END IF;

    SELECT string_agg(format('%s.%s', c.relnamespace::regnamespace, c.relname), ', ') INTO found
    FROM pg_class AS c
    WHERE c.relname = ANY (legacy) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND c.relnamespace::regnamespace::text !~ '^(public$|pg_)'
      AND to_regclass('public.' || c.relname) IS NULL;
    IF found IS NOT NULL THEN
        problems := problems || format('legacy tables have to be in schema public, not %s', found);
    END IF;

    IF to_regnamespace('bridge') IS NOT NULL THEN
        problems := problems || 'there is a schema "bridge" already'::text;
    END IF;

    -- what stands there under a name of ours, and is no table of an earlier attempt
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO found
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace
      AND (c.relname IN ('prior_attempt', 'session_overview')
           OR c.relname ~ '^(pk|uq|ix)_(students|sessions|step_progress|events)(_|$)'
           OR c.relname ~ '^bridge_token_of_');
    IF found IS NOT NULL THEN
        problems := problems || format('names already taken: %s', found);
    END IF;

    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO found
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace
      AND p.oid::regprocedure::text IN (
          'unwrap_json(jsonb)', 'parse_timestamp(text)', 'parse_count(jsonb)', 'parse_done(jsonb)',
          'clean_email(text)', 'workshop_steps()', 'step_number_of(text)', 'step_name_of(integer)',
          'exercise_steps(jsonb)', 'session_completion_rate(integer[])', 'touch_updated_at()',
          'refuse_student_id_change()', 'clean_students()', 'clean_sessions()',
          'clean_step_progress()', 'clean_events()', 'passed_steps(text)', 'completion_rate()',
          'follow_step_progress()', 'update_session_progress_prior_backup(text)',
          'exercises_with_step(jsonb,integer,boolean,timestamp with time zone,integer,integer)',
          'session_steps_done(boolean,boolean,boolean,boolean,boolean,boolean,boolean,boolean,boolean,'
              'boolean,integer[])');
    IF found IS NOT NULL THEN
        problems := problems || format('functions already there: %s', found);
    END IF;

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'this database is not ready: %', array_to_string(problems, '; ')
            USING HINT = 'Nothing was changed. Mend all of it, then run again.';
    END IF;

    FOR found IN
        SELECT format('%s: %s rows at the last count', c.relname, greatest(c.reltuples, 0)::bigint)
        FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (legacy)
    LOOP
        RAISE NOTICE '%', found;
    END LOOP;
END
$$
