-- Builds the adapters and creates the capture triggers. CREATE TRIGGER waits for writers in flight, so that after the
-- commit no write goes unseen. The locks are taken first and together; everything else here is quick.
CREATE OR REPLACE FUNCTION pg_temp.attach() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass;
    command text;
BEGIN
    FOR relation IN SELECT s.relation FROM bridge.source AS s ORDER BY s.legacy_name LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
    END LOOP;
    PERFORM bridge.build_adapter(s.legacy_name) FROM bridge.source AS s;
    FOR command IN
        SELECT format('CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT %s EXECUTE FUNCTION bridge.%I()',
                      'bridge_' || lower(e.event), e.event, c.relation, e.rows, c.condition,
                      CASE e.event WHEN 'TRUNCATE' THEN 'capture_legacy' ELSE c.capture END)
        FROM (
            SELECT s.relation, 'capture_legacy' AS capture, '' AS condition FROM bridge.source AS s
            UNION ALL
            SELECT to_regclass('public.' || n), 'capture_' || n, 'WHEN (current_setting(''bridge.applying'', true) IS DISTINCT FROM ''on'')'
            FROM unnest(ARRAY['students', 'sessions']) AS n
        ) AS c
        CROSS JOIN (VALUES ('INSERT', 'REFERENCING NEW TABLE AS new_rows'),
                           ('UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
                           ('DELETE', 'REFERENCING OLD TABLE AS old_rows'), ('TRUNCATE', '')) AS e(event, rows)
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;

-- Copies table grants, column grants and the owner to the relation that replaces another one. An owner without CREATE in
-- the schema cannot own it, and gets all rights instead.
CREATE FUNCTION bridge.copy_access(original regclass, stand_in regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    command text;
    can_become CONSTANT text := CASE WHEN current_setting('server_version_num')::integer < 160000
                                     THEN 'MEMBER' ELSE 'SET' END;
BEGIN
    FOR command IN
        -- what default privileges gave
        SELECT format('REVOKE ALL ON %s FROM %s CASCADE', stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_class AS s CROSS JOIN LATERAL aclexplode(s.relacl) AS a
        WHERE s.oid = stand_in AND a.grantee <> s.relowner
        GROUP BY a.grantee
        UNION ALL
        SELECT format(CASE WHEN has_schema_privilege(o.relowner, 'public', 'CREATE')
                                AND pg_has_role(o.relowner, can_become)
                           THEN 'ALTER TABLE %1$s OWNER TO %2$I'
                           ELSE 'GRANT ALL ON %1$s TO %2$I WITH GRANT OPTION' END,
                      stand_in, pg_get_userbyid(o.relowner))
        FROM pg_class AS o JOIN pg_class AS s ON s.oid = stand_in
        WHERE o.oid = original AND o.relowner <> s.relowner
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class AS o
        CROSS JOIN LATERAL aclexplode(o.relacl) AS a
        WHERE o.oid = original AND a.grantee <> o.relowner
        UNION ALL
        SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, c.attname, stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_attribute AS c
        CROSS JOIN LATERAL aclexplode(c.attacl) AS a
        WHERE c.attrelid = original AND NOT c.attisdropped
          AND EXISTS (SELECT FROM bridge.columns_of(stand_in) AS k WHERE k.name = c.attname)
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.copy_access(regclass, regclass) IS 'Copies grants and owner.';

-- Attaches the bridge to the legacy tables. If only one exists, the other is created empty in its latest shape, so that
-- triggers log the first write to it. If neither exists (a fresh install), the bridge is dropped again.
DO $$
DECLARE
    odd text;
    missing text;
    present regclass;
    kept text;
    rows bigint;
BEGIN
    -- the preflight has asked, but may have run long ago
    SELECT string_agg(c.relname, ', ') INTO odd FROM pg_class AS c
    WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs')) AND c.relkind <> 'r';
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'legacy tables have to be ordinary tables: %', odd USING HINT = 'This revision changed nothing.';
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
                session_token text PRIMARY KEY, student_email text NOT NULL, student_name text,
                exercises jsonb DEFAULT '{}'::jsonb, bug_reports jsonb DEFAULT '[]'::jsonb, started_at timestamptz DEFAULT now(),
                last_activity timestamptz DEFAULT now(), total_time_spent integer DEFAULT 0, completion_rate integer DEFAULT 0,
                repo_created boolean DEFAULT false, demo_mode boolean DEFAULT false, created_at timestamptz DEFAULT now(),
                updated_at timestamptz DEFAULT now()
            );
        ELSE
            CREATE TABLE public.student_configs (
                session_token text PRIMARY KEY, student_name text, student_email text, openai_api_key text, system_prompt text,
                tools jsonb DEFAULT '[]'::jsonb, voice_settings jsonb DEFAULT '{}'::jsonb, use_case_description text,
                call_direction text, ivr_greeting text, tts_provider text, selected_voice text, selected_phone_number text,
                websocket_url text, codespace_url text, github_repo_url text, railway_url text, demo_mode boolean DEFAULT false,
                current_step integer DEFAULT 0, twilio_connected boolean DEFAULT false, openai_connected boolean DEFAULT false,
                call_direction_chosen boolean DEFAULT false, services_ready boolean DEFAULT false,
                step4_code_validated boolean DEFAULT false, step4_committed boolean DEFAULT false, step4_deployed boolean DEFAULT false,
                step5_code_validated boolean DEFAULT false, step5_committed boolean DEFAULT false, step5_deployed boolean DEFAULT false,
                step6_code_validated boolean DEFAULT false, step6_committed boolean DEFAULT false, step6_deployed boolean DEFAULT false,
                system_prompt_saved boolean DEFAULT false, step7_committed boolean DEFAULT false, step7_deployed boolean DEFAULT false,
                tools_configured boolean DEFAULT false, step8_code_validated boolean DEFAULT false,
                step8_committed boolean DEFAULT false, step8_deployed boolean DEFAULT false, project_deployed boolean DEFAULT false,
                created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now()
            );
        END IF;
        PERFORM bridge.copy_access(present, to_regclass('public.' || missing));
        PERFORM public.copy_row_security(present, to_regclass('public.' || missing));
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
            'INSERT INTO bridge.override (table_name, key, step_number, column_name, value, over) '
            'SELECT ''kept '' || table_name, key, step_number, column_name, value, over FROM %s', kept);
        GET DIAGNOSTICS rows = ROW_COUNT;
        EXECUTE format('DROP TABLE %s', kept);
        RAISE NOTICE '% values were restored from %', rows, kept;
    END IF;

    -- LEGACY TABLES: SHARE ROW EXCLUSIVE, while triggers are created
    PERFORM public.retry_locking('SELECT pg_temp.attach()');
    -- the earliest application kept steps in a table of their own, by student_id
    PERFORM pg_temp.create_steps_view(
        'tracked_steps', to_regclass('public.workshop_step_progress'), 'w.token', format(
            ' JOIN (SELECT %s AS token, t.student_id::text AS student FROM %s AS t) AS w ON w.student = t.student_id::text',
            s.token_expression, 'public.workshop_students'))
    FROM bridge.source AS s
    WHERE s.legacy_name = 'workshop_students' AND to_regclass('public.workshop_step_progress') IS NOT NULL
      AND EXISTS (SELECT FROM bridge.columns_of(s.relation) AS c WHERE c.name = 'student_id');
    -- Rows that an application wrote before now were logged by no trigger. Where a downgrade has made the
    -- tables read-only, what they hold is what it left behind.
    PERFORM bridge.log_changes('unified', ARRAY(SELECT v.session_token FROM public.sessions AS v))
    WHERE NOT bridge.is_read_only() AND to_regclass('public.prior_attempt') IS NULL;
END
$$
