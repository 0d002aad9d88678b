-- Puts the bridge on the legacy tables that there are. Where only one exists, the other is created
-- empty in its latest shape, so that the old application's first write to it is captured. Where
-- neither exists (a fresh install) there is nothing to bridge, and nothing of it stays.
DO $$
DECLARE
    odd text;
    missing text;
    present regclass;
    kept text;
    found bigint;
BEGIN
    SELECT string_agg(format('%s (%s)', c.relname, CASE c.relkind WHEN 'v' THEN 'a view'
                                                                   WHEN 'm' THEN 'a materialized view'
                                                                   WHEN 'f' THEN 'a foreign table'
                                                                   WHEN 'p' THEN 'a partitioned table'
                                                                   ELSE 'relkind ' || c.relkind::text END), ', ')
    INTO odd
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace
      AND c.relname IN ('workshop_students', 'student_configs')
      AND c.relkind <> 'r';
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'legacy tables have to be ordinary tables: %', odd
            USING HINT = 'This revision changed nothing.';
    END IF;

    INSERT INTO bridge.source (legacy_name, relation, created_here)
    SELECT n, to_regclass('public.' || n), false
    FROM unnest(ARRAY['workshop_students', 'student_configs']) AS n
    WHERE to_regclass('public.' || n) IS NOT NULL;

    IF NOT EXISTS (SELECT FROM bridge.source) AND to_regclass('public.prior_attempt') IS NULL THEN
        RAISE NOTICE 'no legacy tables: nothing to merge';
        PERFORM set_config('client_min_messages', 'warning', true);
        DROP SCHEMA bridge CASCADE;
        PERFORM set_config('client_min_messages', 'notice', true);
        RETURN;
    END IF;

    SELECT relation INTO present FROM bridge.source LIMIT 1;
    FOREACH missing IN ARRAY ARRAY['workshop_students', 'student_configs'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM bridge.source WHERE legacy_name = missing);
        IF missing = 'workshop_students' THEN
            CREATE TABLE public.workshop_students (
                session_token text PRIMARY KEY,
                student_email text NOT NULL,
                student_name text,
                exercises jsonb DEFAULT '{}'::jsonb,
                bug_reports jsonb DEFAULT '[]'::jsonb,
                started_at timestamptz DEFAULT now(),
                last_activity timestamptz DEFAULT now(),
                total_time_spent integer DEFAULT 0,
                completion_rate integer DEFAULT 0,
                repo_created boolean DEFAULT false,
                demo_mode boolean DEFAULT false,
                created_at timestamptz DEFAULT now(),
                updated_at timestamptz DEFAULT now()
            );
        ELSE
            CREATE TABLE public.student_configs (
                session_token text PRIMARY KEY,
                student_name text,
                student_email text,
                openai_api_key text,
                system_prompt text,
                tools jsonb DEFAULT '[]'::jsonb,
                voice_settings jsonb DEFAULT '{}'::jsonb,
                use_case_description text,
                call_direction text,
                ivr_greeting text,
                tts_provider text,
                selected_voice text,
                selected_phone_number text,
                websocket_url text,
                codespace_url text,
                github_repo_url text,
                railway_url text,
                demo_mode boolean DEFAULT false,
                current_step integer DEFAULT 0,
                twilio_connected boolean DEFAULT false,
                openai_connected boolean DEFAULT false,
                call_direction_chosen boolean DEFAULT false,
                services_ready boolean DEFAULT false,
                step4_code_validated boolean DEFAULT false,
                step4_committed boolean DEFAULT false,
                step4_deployed boolean DEFAULT false,
                step5_code_validated boolean DEFAULT false,
                step5_committed boolean DEFAULT false,
                step5_deployed boolean DEFAULT false,
                step6_code_validated boolean DEFAULT false,
                step6_committed boolean DEFAULT false,
                step6_deployed boolean DEFAULT false,
                system_prompt_saved boolean DEFAULT false,
                step7_committed boolean DEFAULT false,
                step7_deployed boolean DEFAULT false,
                tools_configured boolean DEFAULT false,
                step8_code_validated boolean DEFAULT false,
                step8_committed boolean DEFAULT false,
                step8_deployed boolean DEFAULT false,
                project_deployed boolean DEFAULT false,
                created_at timestamp DEFAULT now(),
                updated_at timestamp DEFAULT now()
            );
        END IF;
        PERFORM bridge.copy_access(present, to_regclass('public.' || missing), true);
        INSERT INTO bridge.source (legacy_name, relation, created_here)
        VALUES (missing, to_regclass('public.' || missing), true);
        RAISE NOTICE '% did not exist: created empty', missing;
    END LOOP;

    -- what an earlier downgrade kept aside
    SELECT format('public.%I', c.relname) INTO kept FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND c.relname ~ '^bridge_remainder_backup_\d{8}(_\d+)?$'
    ORDER BY c.oid DESC LIMIT 1;
    IF kept IS NOT NULL THEN
        EXECUTE format(
            'INSERT INTO bridge.remainder (table_name, key, step_number, column_name, value, over) '
            'SELECT table_name, key, step_number, column_name, value, over FROM %s', kept);
        GET DIAGNOSTICS found = ROW_COUNT;
        EXECUTE format('DROP TABLE %s', kept);
        RAISE NOTICE '% values taken up again from %', found, kept;
    END IF;

    PERFORM bridge.retry('SELECT bridge.attach()');
    PERFORM bridge.build_prior();
    PERFORM bridge.build_unions();
    -- Rows that an application wrote before now were noted by no trigger. Where a downgrade has made the
    -- tables read-only, what they hold is what it left behind.
    IF NOT bridge.is_read_only() THEN
        PERFORM bridge.note('unified', ARRAY(
            SELECT v.session_token FROM public.sessions AS v
            WHERE v.session_token NOT IN (SELECT a.token FROM bridge.brief_prior AS a)));
    END IF;
END
$$
