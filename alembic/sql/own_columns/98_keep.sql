-- Keeps columns and objects that 0001 did not create before their tables are dropped: values and definitions go to
-- own_columns_backup_YYYYMMDD. With bridge.own_column only that column: a later revision drops it, and has its
-- definition. Values are stored as text, which every type reads back unchanged.
DO $$
DECLARE
    own record;
    kept text;
    rows bigint;
    told text[] := '{}';
    only_one CONSTANT text := nullif(current_setting('bridge.own_column', true), '');
    of_0001 CONSTANT jsonb := jsonb_build_object(
        'students',
        'student_id student_email student_name github_username created_at updated_at',
        'sessions',
        'session_token student_id selected_phone_number selected_voice tts_provider call_direction '
        'use_case_description openai_api_key system_prompt ivr_greeting tools voice_settings '
        'websocket_url codespace_url github_repo_url railway_url twilio_connected openai_connected '
        'call_direction_chosen services_ready step4_code_validated step4_committed step4_deployed '
        'step5_code_validated step5_committed step5_deployed step6_code_validated step6_committed '
        'step6_deployed system_prompt_saved step7_committed step7_deployed tools_configured '
        'step8_code_validated step8_committed step8_deployed project_deployed current_step '
        'completion_rate total_time_spent exercises bug_reports legacy_extra demo_mode is_active '
        'started_at last_activity expires_at created_at updated_at',
        'step_progress',
        'session_token step_number student_id step_name started_at completed_at time_spent attempts '
        'validation_passed code_submitted deployment_url created_at updated_at',
        'events',
        'id student_id session_token event_type event_data created_at');
BEGIN
    FOR own IN
        WITH tables AS (
            SELECT c.oid, c.relname AS name, k.key FROM pg_class AS c
            JOIN (VALUES ('students', 't.student_id::text'), ('sessions', 't.session_token'),
                         ('step_progress', 't.session_token || '' '' || t.step_number'), ('events', 't.id::text')) AS k(name, key)
              ON c.oid = to_regclass('public.' || k.name)
        ),
        ours AS (
            SELECT string_to_table(m[1], ' ') AS name
            FROM regexp_matches(current_setting('bridge.creates'), '^\d{4} (?:relation|function) (.*)$', 'gn') AS m
        )
        SELECT 1 AS place, t.name AS table_name, a.attname::text AS name, t.key,
               CASE WHEN a.attgenerated = '' THEN
                   CASE WHEN a.atthasdef OR a.attidentity <> '' THEN 'true' ELSE format('t.%I IS NOT NULL', a.attname) END
               END AS condition,
               CASE WHEN only_one IS NULL THEN format(
                   'ALTER TABLE public.%I ADD COLUMN IF NOT EXISTS %I %s%s%s', t.name, a.attname,
                   format_type(a.atttypid, a.atttypmod),
                   (SELECT format(' COLLATE %I.%I', l.collnamespace::regnamespace::text, l.collname)
                    FROM pg_collation AS l JOIN pg_type AS y ON y.oid = a.atttypid
                    WHERE l.oid = a.attcollation AND l.oid <> y.typcollation),
                   (SELECT format(CASE WHEN a.attgenerated = '' THEN ' DEFAULT %s' ELSE ' GENERATED ALWAYS AS (%s) STORED' END,
                                  pg_get_expr(d.adbin, d.adrelid))
                    FROM pg_attrdef AS d
                    WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum
                      AND pg_get_serial_sequence(format('public.%I', t.name), a.attname) IS NULL)) END AS definition
        FROM tables AS t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE CASE WHEN only_one IS NULL THEN a.attname <> ALL (string_to_array(of_0001 ->> t.name::text, ' '))
                   ELSE t.name || '.' || a.attname = only_one END
        UNION ALL
        SELECT 2, t.name, o.name, NULL, NULL, o.definition
        FROM tables AS t
        CROSS JOIN LATERAL (
            SELECT 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid) FROM pg_index AS i
            WHERE i.indrelid = t.oid AND i.indexrelid::regclass::text NOT IN (SELECT u.name FROM ours AS u)
              AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
            UNION ALL
            SELECT 'constraint ' || k.conname,
                   format('ALTER TABLE public.%I ADD CONSTRAINT %I %s', t.name, k.conname, pg_get_constraintdef(k.oid))
            FROM pg_constraint AS k
            WHERE k.conrelid = t.oid AND k.contype NOT IN ('n', 't')
              AND k.conname !~ '^(pk|uq|ck|fk)_(students|sessions|step_progress|events)(_|$)'
            UNION ALL
            SELECT 'trigger ' || g.tgname, pg_get_triggerdef(g.oid)
            FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
            WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND p.pronamespace IS DISTINCT FROM to_regnamespace('bridge')
              AND NOT (g.tgname IN (p.proname, p.proname || '_first', 'read_only') AND p.oid::regprocedure::text IN (SELECT u.name FROM ours AS u))
            UNION ALL
            SELECT 'policy ' || p.polname, format(
                'CREATE POLICY %I ON public.%I AS %s FOR %s TO %s%s%s', p.polname, t.name,
                CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                              ELSE 'ALL' END,
                (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ') FROM unnest(p.polroles) AS r),
                ' USING (' || pg_get_expr(p.polqual, t.oid) || ')',
                ' WITH CHECK (' || pg_get_expr(p.polwithcheck, t.oid) || ')')
            -- except those that 0001 copied: the table of the earlier attempt still has them
            FROM pg_policy AS p WHERE p.polrelid = t.oid AND NOT EXISTS (
                SELECT FROM pg_policy AS e JOIN pg_class AS b ON b.oid = e.polrelid
                WHERE e.polname = p.polname AND b.relname ~ format('^%s_prior_backup_\d{8}(_\d+)?$', t.name))
            UNION ALL
            SELECT 'rule ' || r.rulename, pg_get_ruledef(r.oid) FROM pg_rewrite AS r WHERE r.ev_class = t.oid
            UNION ALL
            SELECT 'statistics ' || s.stxname, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext AS s WHERE s.stxrelid = t.oid
            UNION ALL
            SELECT 'publication ' || b.pubname, format('ALTER PUBLICATION %I ADD TABLE public.%I', b.pubname, t.name)
            FROM pg_publication_rel AS r JOIN pg_publication AS b ON b.oid = r.prpubid WHERE r.prrelid = t.oid
        ) AS o(name, definition)
        WHERE only_one IS NULL
        ORDER BY 1, 2, 3
    LOOP
        rows := 0;
        IF own.condition IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM public.%I AS t WHERE %s', own.table_name, own.condition) INTO rows;
        END IF;
        CONTINUE WHEN own.definition IS NULL AND rows = 0;
        IF kept IS NULL THEN
            kept := public.free_dated_name('own_columns');
            EXECUTE format('CREATE TABLE public.%I (table_name text NOT NULL, name text NOT NULL, definition text, key text, '
                           'value text, UNIQUE NULLS NOT DISTINCT (table_name, name, key))', kept);
            EXECUTE format('ALTER TABLE public.%I REPLICA IDENTITY FULL', kept);  -- as of bridge.student_source
            EXECUTE format('COMMENT ON TABLE public.%I IS %L', kept, 'Columns and other objects added to '
                           'the unified tables outside this migration, kept by a downgrade: definitions, and values by key. May hold secrets.');
            -- default privileges may have opened it
            EXECUTE (SELECT coalesce(string_agg(DISTINCT format('REVOKE ALL ON public.%I FROM %s', kept,
                                                        CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END), '; '),
                                     'SELECT 1')
                     FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
                     WHERE c.oid = to_regclass('public.' || kept) AND g.grantee <> c.relowner);
        END IF;
        IF own.definition IS NOT NULL THEN
            EXECUTE format('INSERT INTO public.%I VALUES (%L, %L, %L)', kept, own.table_name, own.name, own.definition);
        END IF;
        IF rows > 0 THEN
            EXECUTE format('INSERT INTO public.%I SELECT %L, %L, NULL, %s, t.%I::text FROM public.%I AS t WHERE %s',
                           kept, own.table_name, own.name, own.key, own.name, own.table_name, own.condition);
        END IF;
        told := told || CASE own.place WHEN 1 THEN format('%s.%s (%s values)', own.table_name, own.name, rows)
                                       ELSE format('%s of %s', own.name, own.table_name) END;
    END LOOP;
    IF kept IS NOT NULL THEN
        RAISE NOTICE 'kept aside in %: %', kept, array_to_string(told, ', ');
    END IF;
    PERFORM set_config('bridge.kept', coalesce(kept, ''), true);
END
$$
