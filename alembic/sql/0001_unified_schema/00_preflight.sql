-- One pass over everything that could stop a later step, before the first change; all of it is told at
-- once. What is merely worth knowing is a notice.
DO $$
DECLARE
    problems text[] := '{}';
    found text;
    path text;
    legacy CONSTANT text[] := ARRAY['workshop_students', 'student_configs'];
    relations CONSTANT text[] := ARRAY(
        SELECT string_to_table(m[1], ' ')
        FROM regexp_matches(current_setting('bridge.creates'), '^\d{4} relation (.*)$', 'gn') AS m);
    functions CONSTANT text[] := ARRAY(
        SELECT split_part(string_to_table(m[1], ' '), '(', 1)
        FROM regexp_matches(current_setting('bridge.creates'), '^\d{4} function (.*)$', 'gn') AS m);
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

    -- rows of a child, and statements that a rule rewrites, would bypass the bridge
    SELECT string_agg(DISTINCT format('%s and %s', i.inhparent::regclass, i.inhrelid::regclass), ', ') INTO found
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid IN (i.inhparent, i.inhrelid)
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (legacy);
    IF found IS NOT NULL THEN
        problems := problems || format('legacy tables may have no child and no parent table: %s', found);
    END IF;

    SELECT string_agg(format('%s on %s', r.rulename, c.relname), ', ' ORDER BY r.rulename) INTO found
    FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname = ANY (legacy);
    IF found IS NOT NULL THEN
        problems := problems || format('legacy tables may have no rule: %s', found);
    END IF;

    SELECT string_agg(format('%s.%s', c.relnamespace::regnamespace, c.relname), ', ') INTO found
    FROM pg_class AS c
    WHERE c.relname = ANY (legacy) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND c.relnamespace::regnamespace::text !~ '^(public$|pg_)'
      AND to_regclass('public.' || c.relname) IS NULL;
    IF found IS NOT NULL THEN
        problems := problems || format('legacy tables have to be in schema public, not %s', found);
    END IF;

    -- "Workshop_Students", "StudentConfigs"
    SELECT string_agg(format('%I.%I is not %I', c.relnamespace::regnamespace::text, c.relname, n), ', ' ORDER BY n)
    INTO found
    FROM pg_class AS c JOIN unnest(legacy) AS n
      ON replace(n, '_', '') = lower(regexp_replace(c.relname::text, '[^A-Za-z]', '', 'g') COLLATE "C")
    WHERE c.relname <> n AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND c.relnamespace::regnamespace::text !~ '^pg_' AND to_regclass('public.' || n) IS NULL;
    IF found IS NOT NULL THEN
        problems := problems || format('legacy tables have to have their names exactly: %s', found);
    END IF;

    IF to_regnamespace('bridge') IS NOT NULL THEN
        problems := problems || 'there is a schema "bridge" already'::text;
    END IF;

    -- what has a name that a revision will need; 01_make_way moves the tables of an earlier attempt aside
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) INTO found
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (relations) AND c.relkind <> 'c';
    IF found IS NOT NULL THEN
        problems := problems || format('names already taken: %s', found);
    END IF;

    -- each table and view has a type of its name
    SELECT string_agg(t.typname, ', ' ORDER BY t.typname) INTO found
    FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
    WHERE t.typnamespace = 'public'::regnamespace
      AND t.typname = ANY (relations || legacy || ARRAY['students', 'sessions', 'step_progress', 'events'])
      AND coalesce(c.relkind, 'c') = 'c' AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid);
    IF found IS NOT NULL THEN
        problems := problems || format('types already there: %s', found);
    END IF;

    -- with other arguments too, because a call could mean either; 0002 moves update_session_progress() aside
    SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text) INTO found
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace AND (
        p.proname = 'update_session_progress_prior_backup'
        OR p.proname = ANY (functions) AND (p.proname <> 'update_session_progress' OR p.prokind NOT IN ('f', 'p')));
    IF found IS NOT NULL THEN
        problems := problems || format('functions already there: %s', found);
    END IF;

    -- Event triggers: tried, in the two search paths of the migration, and rolled back.
    SELECT string_agg(format('%s (%s)', e.evtname, e.evtfoid::regprocedure), ', ' ORDER BY e.evtname) INTO found
    FROM pg_event_trigger AS e WHERE e.evtenabled <> 'D' AND e.evtevent <> 'login';
    FOREACH path IN ARRAY CASE WHEN found IS NOT NULL AND problems = '{}' THEN ARRAY['public', 'pg_catalog, pg_temp'] ELSE '{}' END LOOP
        BEGIN
            PERFORM set_config('search_path', path, true);
            CREATE SCHEMA bridge;
            CREATE TABLE bridge.tried (x integer);
            CREATE TABLE public.prior_attempt (x integer PRIMARY KEY, y text);
            COMMENT ON TABLE public.prior_attempt IS 'Tried.';
            CREATE TEMPORARY TABLE tried (x integer);
            CREATE INDEX ix_sessions_student_id ON public.prior_attempt (y);
            CREATE FUNCTION public.refuse_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER tried AFTER INSERT ON public.prior_attempt EXECUTE FUNCTION public.refuse_write();
            GRANT SELECT ON public.prior_attempt TO CURRENT_USER;
            ALTER TABLE public.prior_attempt RENAME TO bridge_token_of_student_configs;
            CREATE VIEW public.session_overview AS SELECT * FROM public.bridge_token_of_student_configs;
            IF (SELECT count(*) <> 2 OR bool_or(c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE'))
                FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
                WHERE c.oid = 'public.bridge_token_of_student_configs'::regclass)
            THEN
                RAISE EXCEPTION 'a new table gets other columns, another owner or forced row security';
            END IF;
            DROP VIEW public.session_overview;
            DROP TRIGGER tried ON public.bridge_token_of_student_configs;
            DROP FUNCTION public.refuse_write();
            DROP TABLE public.bridge_token_of_student_configs, pg_temp.tried, bridge.tried;
            DROP SCHEMA bridge;
            RAISE SQLSTATE 'WM001';  -- takes it all back
        EXCEPTION
            WHEN SQLSTATE 'WM001' THEN
                NULL;
            WHEN OTHERS THEN
                problems := problems || format('event triggers do not let it create its objects (%s; search_path %s): %s',
                                               found, path, SQLERRM);
                EXIT;
        END;
    END LOOP;

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'this database is not ready: %', array_to_string(problems, '; ')
            USING HINT = 'Nothing was changed. Mend all of it, then run again.';
    END IF;

    IF current_setting('is_superuser')::boolean THEN
        RAISE NOTICE 'role % is a superuser, and the triggers of the bridge will run as this role; '
                     'docs/dba-review.md lists the rights that a role of its own needs', current_user;
    END IF;

    -- the name changes with 0007, when the table becomes <name>_backup_YYYYMMDD
    FOR found IN
        SELECT format('trigger %s of %s: its function %s uses the name of its table, which 0007 changes; docs/dba-review.md says what to do', t.tgname, c.relname,
                      t.tgfoid::regprocedure)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (legacy) AND NOT t.tgisinternal
          AND p.prosrc ~* 'tg_(table_name|relname|relid)|td\s*\[.(table_name|relid)|_td\s*->\s*\{.?(table_name|relname|relid)'
        ORDER BY 1
    LOOP
        RAISE WARNING '%', found;
    END LOOP;

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
        SELECT format('%s lacks: %s; kept in sessions.legacy_extra: %s', table_name,
                      coalesce(string_agg(e.name, ', ') FILTER (WHERE a.name IS NULL), 'nothing'),
                      coalesce(string_agg(a.name, ', ') FILTER (WHERE a.name NOT IN (
                          SELECT h.name FROM expected AS h WHERE h.name <> 'repo_created'
                          UNION ALL
                          VALUES ('voice_handler_deployed'), ('websocket_handler_deployed'),
                                 ('full_deployment_complete'))), 'nothing'))
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
