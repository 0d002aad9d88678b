-- Checks everything that could stop a later step, before the first change, and reports all problems at once. Conditions
-- that stop nothing are notices.
DO $$
DECLARE
    legacy CONSTANT text[] := ARRAY['workshop_students', 'student_configs'];
    unified CONSTANT text[] := ARRAY['students', 'sessions', 'step_progress', 'events'];
    problems text[];
    found text;
    path text;
BEGIN
    WITH present AS (
        SELECT c.oid, c.relname::text AS name, c.relkind AS kind, c.relowner AS owner FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind <> 'c'
    ),
    legacy_table AS (
        SELECT * FROM present WHERE kind = 'r' AND name = ANY (legacy)
    ),
    elsewhere AS (
        SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relname::text AS is_called, l.name AS wanted, n.nspname AS schema
        FROM unnest(legacy) AS l(name)
        JOIN pg_class AS c ON replace(l.name, '_', '') = lower(regexp_replace(c.relname::text, '[^A-Za-z]', '', 'g') COLLATE "C")
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND to_regclass('public.' || l.name) IS NULL
    ),
    -- names that the revisions need; 02_make_way moves the tables of an earlier attempt aside, and 0002 a function
    needed AS (
        SELECT m[1] AS kind, split_part(string_to_table(m[2], ' '), '(', 1) AS name
        FROM regexp_matches(current_setting('bridge.creates'), '^\d{4} (\w+) (.*)$', 'gn') AS m
    )
    SELECT array_agg(format(told, named, current_user, current_database())) INTO problems
    FROM (VALUES
        ('role %2$s may not create in schema public',
         (SELECT '' WHERE NOT has_schema_privilege('public', 'CREATE'))),
        ('role %2$s may not create a schema in database %3$s',
         (SELECT '' WHERE NOT has_database_privilege(current_database(), 'CREATE'))),
        ('role %2$s may not create temporary tables in database %3$s',
         (SELECT '' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY'))),
        ('role %2$s does not own %1$s',
         (SELECT string_agg(name, ', ' ORDER BY name) FROM present
          WHERE kind = 'r' AND name = ANY (legacy || unified) AND NOT pg_has_role(owner, 'USAGE'))),
        ('role %2$s may not read workshop_step_progress',
         (SELECT '' WHERE NOT has_table_privilege(to_regclass('public.workshop_step_progress'), 'SELECT'))),
        -- the backfill would read only the visible rows
        ('row security hides rows of %1$s from role %2$s',
         (SELECT string_agg(name, ', ' ORDER BY name) FROM present WHERE name = ANY (legacy || '{workshop_step_progress}') AND row_security_active(oid))),
        ('%1$s: not an ordinary table',
         (SELECT string_agg(name, ', ' ORDER BY name) FROM present WHERE kind <> 'r' AND name = ANY (legacy))),
        -- rows of a child table and statements rewritten by a rule would bypass the bridge
        ('legacy tables may have no child and no parent table: %1$s',
         (SELECT string_agg(DISTINCT format('%s and %s', i.inhparent::regclass, i.inhrelid::regclass), ', ')
          FROM pg_inherits AS i JOIN legacy_table AS l ON l.oid IN (i.inhparent, i.inhrelid))),
        ('legacy tables may have no rule: %1$s',
         (SELECT string_agg(format('%s on %s', r.rulename, l.name), ', ' ORDER BY r.rulename)
          FROM pg_rewrite AS r JOIN legacy_table AS l ON l.oid = r.ev_class)),
        ('the bridge has a trigger of this name: %1$s',
         (SELECT string_agg(format('%s on %s', t.tgname, l.name), ', ' ORDER BY t.tgname)
          FROM pg_trigger AS t JOIN legacy_table AS l ON l.oid = t.tgrelid WHERE t.tgname ~ '^bridge_(insert|update|delete|truncate)$')),
        ('legacy tables have to be in schema public, not %1$s',
         (SELECT string_agg(name, ', ') FROM elsewhere WHERE is_called = wanted AND schema <> 'public')),
        -- "Workshop_Students", "StudentConfigs"
        ('legacy tables have to have their names exactly: %1$s',
         (SELECT string_agg(format('%s is not %I', name, wanted), ', ' ORDER BY wanted) FROM elsewhere WHERE is_called <> wanted)),
        ('there is a schema "bridge" already',
         (SELECT '' WHERE to_regnamespace('bridge') IS NOT NULL)),
        ('names already taken: %1$s',
         (SELECT string_agg(name, ', ' ORDER BY name) FROM present
          WHERE name IN (SELECT n.name FROM needed AS n WHERE n.kind = 'relation')
             OR kind IN ('S', 'i', 'I') AND name = ANY (unified))),
        -- PostgreSQL creates a type with the name of each table and view
        ('types already there: %1$s',
         (SELECT string_agg(t.typname, ', ' ORDER BY t.typname)
          FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
          WHERE t.typnamespace = 'public'::regnamespace AND coalesce(c.relkind, 'c') = 'c'
            AND t.typname IN (SELECT n.name FROM needed AS n WHERE n.kind <> 'function')
            AND NOT EXISTS (SELECT FROM pg_type AS e WHERE e.typarray = t.oid))),
        -- an overload would make calls ambiguous
        ('functions already there: %1$s',
         (SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.oid::regprocedure::text) FROM pg_proc AS p
          WHERE p.pronamespace = 'public'::regnamespace AND (
              p.proname = 'update_session_progress_prior_backup'
              OR p.proname IN (SELECT n.name FROM needed AS n WHERE n.kind = 'function')
                 AND (p.proname <> 'update_session_progress' OR p.prokind NOT IN ('f', 'p')))))
    ) AS checks(told, named)
    WHERE named IS NOT NULL;

    -- Event triggers: objects are created on trial, in the two search paths of the migration, and rolled back.
    SELECT string_agg(format('%s (%s)', e.evtname, e.evtfoid::regprocedure), ', ' ORDER BY e.evtname) INTO found
    FROM pg_event_trigger AS e WHERE e.evtenabled <> 'D' AND e.evtevent <> 'login';
    FOREACH path IN ARRAY CASE WHEN found IS NOT NULL AND problems IS NULL THEN ARRAY['public', 'pg_catalog, pg_temp'] ELSE '{}' END LOOP
        BEGIN
            PERFORM set_config('search_path', path, true);
            CREATE SCHEMA bridge;
            CREATE TABLE bridge.tried (x integer);
            CREATE TEMPORARY TABLE tried (x integer);
            CREATE TABLE public.prior_attempt (x integer PRIMARY KEY, y text);
            COMMENT ON TABLE public.prior_attempt IS 'Tried.';
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
            RAISE SQLSTATE 'WM001';  -- rolls the trial back
        EXCEPTION
            WHEN SQLSTATE 'WM001' THEN
                NULL;
            WHEN OTHERS THEN
                problems := problems || format('event triggers refuse the objects of the migration (%s; search_path %s): %s',
                                               found, path, SQLERRM);
                EXIT;
        END;
    END LOOP;

    IF problems IS NOT NULL THEN
        RAISE EXCEPTION 'this database is not ready: %', array_to_string(problems, '; ')
            USING HINT = 'Nothing was changed. Correct all of it, then run again.';
    END IF;

    IF current_setting('is_superuser')::boolean THEN
        RAISE NOTICE 'role % is a superuser, and the triggers of the bridge will run as this role. '
                     'docs/dba-review.md lists the rights that a role of its own needs', current_user;
    END IF;

    -- the name changes with 0007, when the table becomes <name>_backup_YYYYMMDD
    FOR found IN
        SELECT format('trigger %s of %s: its function %s uses the name of its table, which 0007 changes; '
                      'see docs/dba-review.md', t.tgname, c.relname, t.tgfoid::regprocedure)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (legacy) AND NOT t.tgisinternal
          AND p.prosrc ~* 'tg_(table_name|relname|relid)|td\s*\[.(table_name|relid)|_td\s*->\s*\{.?(table_name|relname|relid)'
        ORDER BY 1
    LOOP
        RAISE WARNING '%', found;
    END LOOP;

    -- Compares the columns that the latest application writes with the existing ones: a misspelled column counts as
    -- missing.
    FOR found IN
        WITH written(table_name, columns) AS (VALUES
            ('workshop_students', ARRAY(SELECT string_to_table(
                'session_token student_email student_name exercises bug_reports started_at last_activity total_time_spent '
                'completion_rate repo_created demo_mode created_at updated_at', ' '))),
            ('student_configs', ARRAY(SELECT string_to_table(
                'session_token student_name student_email openai_api_key system_prompt tools voice_settings '
                'use_case_description call_direction ivr_greeting tts_provider selected_voice selected_phone_number '
                'websocket_url codespace_url github_repo_url railway_url demo_mode current_step twilio_connected '
                'openai_connected call_direction_chosen services_ready step4_code_validated step4_committed step4_deployed '
                'step5_code_validated step5_committed step5_deployed step6_code_validated step6_committed step6_deployed '
                'system_prompt_saved step7_committed step7_deployed tools_configured step8_code_validated step8_committed '
                'step8_deployed project_deployed created_at updated_at', ' ')))
        ),
        actual AS (
            SELECT w.table_name, w.columns AS written, array_agg(a.attname::text ORDER BY a.attnum) AS columns
            FROM written AS w
            JOIN pg_attribute AS a ON a.attrelid = to_regclass('public.' || w.table_name) AND a.attnum > 0 AND NOT a.attisdropped
            GROUP BY w.table_name, w.columns
        )
        SELECT format('%s lacks: %s; kept in sessions.legacy_extra: %s', t.table_name,
                      coalesce((SELECT string_agg(n, ', ') FROM unnest(t.written) AS n WHERE n <> ALL (t.columns)), 'nothing'),
                      coalesce((SELECT string_agg(n, ', ') FROM unnest(t.columns) AS n WHERE n = 'repo_created' OR n NOT IN (
                          SELECT unnest(w.columns) FROM written AS w UNION ALL
                          VALUES ('voice_handler_deployed'), ('websocket_handler_deployed'), ('full_deployment_complete'))), 'nothing'))
        FROM actual AS t
        ORDER BY t.table_name
    LOOP
        RAISE NOTICE '%', found;
    END LOOP;
END
$$
