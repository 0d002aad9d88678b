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

    IF NOT has_database_privilege(current_database(), 'TEMPORARY') THEN
        problems := problems || format('role %s may not create temporary tables in database %s',
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

    IF NOT has_table_privilege(to_regclass('public.workshop_step_progress'), 'SELECT') THEN
        problems := problems || format('role %s may not read workshop_step_progress', current_user);
    END IF;

    -- the merge would take what it sees for all there is
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO found
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (legacy)
      AND row_security_active(c.oid);
    IF found IS NOT NULL THEN
        problems := problems || format('row security hides rows of %s from role %s', found, current_user);
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
      AND (c.relname IN ('prior_attempt', 'session_overview', 'student_overview', 'step_funnel',
                         'progress_by_day', 'stuck_sessions')
           OR c.relname ~ '^(pk|uq|ix)_(students|sessions|step_progress|events)(_|$)'
           OR c.relname ~ '^bridge_token_of_');
    IF found IS NOT NULL THEN
        problems := problems || format('names already taken: %s', found);
    END IF;

    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO found
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace
      AND p.oid::regprocedure::text IN (
          'unwrap_json(jsonb)', 'parse_timestamp(text)', 'read_timestamp(text)', 'parse_count(jsonb)', 'parse_done(jsonb)',
          'clean_email(text)', 'workshop_steps()', 'step_number_of(text)', 'step_name_of(integer)',
          'exercise_steps(jsonb)', 'session_completion_rate(integer[])', 'touch_updated_at()',
          'refuse_student_id_change()', 'clean_students()', 'clean_sessions()',
          'clean_step_progress()', 'clean_events()', 'passed_steps(text)', 'completion_rate()',
          'follow_step_progress()', 'refuse_write()', 'update_session_progress_prior_backup(text)',
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

    -- what the latest application writes, against what is there: a misspelled column looks like none
    FOR found IN
        WITH expected AS (
            SELECT 'workshop_students' AS table_name, unnest(string_to_array(
                'session_token student_email student_name exercises bug_reports started_at '
                'last_activity total_time_spent completion_rate repo_created demo_mode created_at '
                'updated_at', ' ')) AS name
            UNION ALL
            SELECT 'student_configs', unnest(string_to_array(
                'session_token student_name student_email openai_api_key system_prompt tools '
                'voice_settings use_case_description call_direction ivr_greeting tts_provider '
                'selected_voice selected_phone_number websocket_url codespace_url github_repo_url '
                'railway_url demo_mode current_step twilio_connected openai_connected '
                'call_direction_chosen services_ready step4_code_validated step4_committed '
                'step4_deployed step5_code_validated step5_committed step5_deployed '
                'step6_code_validated step6_committed step6_deployed system_prompt_saved '
                'step7_committed step7_deployed tools_configured step8_code_validated '
                'step8_committed step8_deployed project_deployed created_at updated_at', ' '))
        ),
        actual AS (
            SELECT c.relname::text AS table_name, a.attname::text AS name
            FROM pg_class AS c
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (legacy)
        )
        SELECT format('%s lacks: %s; has in addition: %s', table_name,
                      coalesce(string_agg(e.name, ', ') FILTER (WHERE a.name IS NULL), 'nothing'),
                      coalesce(string_agg(a.name, ', ') FILTER (WHERE e.name IS NULL), 'nothing'))
        FROM expected AS e
        FULL JOIN actual AS a USING (table_name, name)
        WHERE table_name IN (SELECT k.table_name FROM actual AS k)
        GROUP BY table_name
        ORDER BY table_name
    LOOP
        RAISE NOTICE '%', found;
    END LOOP;
END
$$
