-- Refuses, by name, rights and dependent objects of an earlier attempt that 0001 cannot move to the unified tables. A
-- right that the unified tables will lack is a notice.
DO $$
DECLARE
    problems text[];
    found text;
    fk record;
    lost bigint;
    earlier CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname IN ('students', 'sessions', 'step_progress', 'events')
          AND coalesce(current_setting('bridge.drop_existing', true), '') <> 'on');
    legacy CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname IN ('workshop_students', 'student_configs', 'workshop_step_progress'));
    -- columns of the unified tables that a policy of an earlier attempt may use
    columns CONSTANT jsonb := '{
        "students": {"uuid": "student_id", "text": "student_email student_name github_username",
            "timestamp with time zone": "created_at updated_at"},
        "sessions": {"uuid": "student_id",
            "text": "session_token selected_phone_number selected_voice tts_provider call_direction use_case_description openai_api_key system_prompt ivr_greeting websocket_url codespace_url github_repo_url railway_url",
            "jsonb": "tools voice_settings exercises bug_reports legacy_extra",
            "boolean": "twilio_connected openai_connected call_direction_chosen services_ready step4_code_validated step4_committed step4_deployed step5_code_validated step5_committed step5_deployed step6_code_validated step6_committed step6_deployed system_prompt_saved step7_committed step7_deployed tools_configured step8_code_validated step8_committed step8_deployed project_deployed demo_mode is_active",
            "integer": "current_step completion_rate total_time_spent",
            "timestamp with time zone": "started_at last_activity expires_at created_at updated_at"},
        "step_progress": {"uuid": "student_id", "text": "session_token step_name code_submitted deployment_url",
            "integer": "step_number time_spent attempts", "boolean": "validation_passed",
            "timestamp with time zone": "started_at completed_at created_at updated_at"},
        "events": {"bigint": "id", "uuid": "student_id", "text": "session_token event_type", "jsonb": "event_data",
            "timestamp with time zone": "created_at"}}';
    -- the rows with a key that 0001 copies unchanged (04_copy_prior.sql)
    survivors CONSTANT text := 'SELECT DISTINCT ON (e.address) o.student_id, o.student_email, e.address FROM public.students AS o, '
        'LATERAL (SELECT lower(btrim(o.student_email, E'' \t\r\n\f\x0B'')) AS address) AS e '
        'WHERE e.address NOT IN ('''', ''unknown@example.com'') ORDER BY e.address, o.student_id';
BEGIN
    SELECT coalesce(array_agg(format(told, named, current_user)), '{}') INTO problems
    FROM (VALUES
        ('row security hides rows of %1$s from role %2$s',
         (SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class AS c
          WHERE c.oid = ANY (earlier) AND row_security_active(c.oid))),
        -- the unified tables set updated_at by a trigger of 0002
        ('%1$s: drop or disable it, and create it on the unified table after the upgrade',
         (SELECT string_agg(format('trigger %s of %s', t.tgname, t.tgrelid::regclass), ', ' ORDER BY t.tgname)
          FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
          WHERE t.tgrelid = ANY (earlier) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT (t.tgtype & 3 = 3 AND (
              p.proname = 'moddatetime'
              OR regexp_replace(p.prosrc, '--[^\n]*', '', 'g')
                 ~* '^\s*begin\s+new\.updated_at\s*:?=\s*(now\(\)|\w+_timestamp(\(\))?)(\s+at\s+time\s+zone\s+''\w+'')?\s*;\s*return\s+new\s*;\s*end\s*;?\s*$')))),
        ('%1$s: drop it, and create it on the unified table after the upgrade',
         (SELECT string_agg(format('rule %s of %s', r.rulename, r.ev_class::regclass), ', ' ORDER BY r.rulename)
          FROM pg_rewrite AS r WHERE r.ev_class = ANY (earlier))),
        ('%1$s: drop it, and create one on the unified table after the upgrade',
         (SELECT string_agg(DISTINCT format('policy %s of %s uses column %s of %s, which the unified table %s', p.polname,
                                            p.polrelid::regclass, a.attname, c.relname,
                                            CASE WHEN k.type IS NULL THEN 'does not have' ELSE 'has as ' || k.type END), '; ')
          FROM pg_policy AS p
          JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (earlier)
          JOIN pg_class AS c ON c.oid = d.refobjid
          JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND a.attnum > 0
          LEFT JOIN LATERAL (
              SELECT t.key AS type FROM jsonb_each_text(columns -> c.relname::text) AS t
              WHERE a.attname::text = ANY (string_to_array(t.value, ' '))
          ) AS k ON true
          WHERE p.polrelid = ANY (earlier) AND k.type IS DISTINCT FROM format_type(a.atttypid, NULL)
            AND NOT coalesce(k.type = 'text' AND a.atttypid = 'varchar'::regtype, false)))
    ) AS checks(told, named)
    WHERE named IS NOT NULL;

    -- 0001 points foreign keys to the unified table, which must have all rows referred to by then
    FOR fk IN
        SELECT k.conname, k.conrelid, r.relname AS target, n.attname AS name, f.attname AS key, k.convalidated,
               pg_has_role(t.relowner, 'USAGE') AS owned, t.relkind,
               cardinality(k.conkey) = 1 AND k.conparentid = 0
               AND columns #>> ARRAY[r.relname::text, format_type(f.atttypid, NULL)] IS NOT NULL
               AND (r.relname, f.attname) IN (('students', 'student_id'), ('students', 'student_email'),
                                              ('sessions', 'session_token'))
               AND EXISTS (SELECT FROM pg_attribute AS i
                           WHERE i.attrelid = to_regclass('public.students') AND i.attname = 'student_id'
                             AND i.atttypid = 'uuid'::regtype) AS fits
        FROM pg_constraint AS k
        JOIN pg_class AS r ON r.oid = k.confrelid
        JOIN pg_class AS t ON t.oid = k.conrelid
        JOIN pg_attribute AS n ON n.attrelid = k.conrelid AND n.attnum = k.conkey[1]
        JOIN pg_attribute AS f ON f.attrelid = k.confrelid AND f.attnum = k.confkey[1]
        WHERE k.contype = 'f' AND k.confrelid = ANY (earlier) AND k.conrelid <> ALL (earlier) AND k.conparentid = 0
        ORDER BY k.conrelid::regclass::text, k.conname
    LOOP
        found := format('foreign key %s of %s', fk.conname, fk.conrelid::regclass);
        IF NOT fk.fits THEN
            problems := problems || format('%s refers to %s(%s), which the unified table does not have as a key: drop it',
                                           found, fk.target, fk.key);
        ELSIF NOT fk.owned THEN
            problems := problems || format('role %s does not own %s, whose foreign key %s refers to %s',
                                           current_user, fk.conrelid::regclass, fk.conname, fk.target);
        ELSIF fk.convalidated AND NOT EXISTS (SELECT FROM unnest(earlier) AS e WHERE row_security_active(e)) THEN
            EXECUTE format(
                'WITH kept AS MATERIALIZED (%s) '
                'SELECT count(*) FROM %s AS t WHERE t.%I IS NOT NULL AND t.%3$I NOT IN (%s)',
                survivors, fk.conrelid::regclass, fk.name,
                CASE fk.key WHEN 'student_id' THEN 'SELECT student_id FROM kept'
                            WHEN 'student_email' THEN 'SELECT student_email FROM kept WHERE student_email = address'
                            WHEN 'session_token' THEN
                                CASE WHEN EXISTS (SELECT FROM pg_attribute AS i
                                                  WHERE i.attrelid = to_regclass('public.sessions')
                                                    AND i.attname = 'student_id' AND i.atttypid = 'uuid'::regtype)
                                     THEN 'SELECT session_token FROM public.sessions WHERE student_id IN '
                                          '(SELECT student_id FROM kept) AND session_token <> '''''
                                     ELSE 'SELECT '''' WHERE false' END END)
            INTO lost;
            IF lost > 0 THEN
                problems := problems || format('%s refers with %s rows to %s that the unified table lacks, or has under another %s: '
                                               'correct them, or drop it', found, lost, fk.target, fk.key);
            END IF;
        END IF;
    END LOOP;

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'the tables of an earlier attempt cannot be replaced: %', array_to_string(problems, '; ')
            USING HINT = 'Nothing was changed. Correct all of it, then run again. To drop these tables and all dependent '
                         'objects: alembic -x drop_existing=true upgrade head.';
    END IF;

    FOR found IN
        SELECT format(told, named)
        FROM (VALUES
            ('row security is on for %s: students, sessions, step_progress and events get it too, and the reporting views '
             'become security_invoker. Without policies only the owner reads and writes them: docs/moving-endpoints.md shows '
             'which to write',
             (SELECT string_agg(c.relname, ', ') FROM pg_class AS c WHERE c.oid = ANY (legacy) AND c.relrowsecurity)),
            ('row security and policies of an earlier attempt are copied to the unified tables, where they apply to the rows of the '
             'legacy tables as well. Review them: %s',
             (SELECT string_agg(format('%s (%s)', c.relname, coalesce((SELECT string_agg(p.polname, ', ' ORDER BY p.polname)
                                                                      FROM pg_policy AS p WHERE p.polrelid = c.oid), 'none')), ', ')
              FROM pg_class AS c WHERE c.oid = ANY (earlier) AND c.relrowsecurity)),
            ('views of an earlier attempt read its backups from now on, not the unified tables: %s',
             (SELECT string_agg(DISTINCT v.oid::regclass::text, ', ')
              FROM pg_depend AS d
              JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
              JOIN pg_class AS v ON v.oid = r.ev_class
              WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (earlier) AND v.oid <> ALL (earlier))),
            ('default privileges would open the unified tables to %s: no role gets a right there that it lacks on a '
             'legacy table',
             (SELECT string_agg(DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END, ', ')
              FROM pg_default_acl AS a CROSS JOIN LATERAL aclexplode(a.defaclacl) AS g
              WHERE a.defaclrole = current_user::regrole AND a.defaclnamespace IN (0, 'public'::regnamespace)
                AND a.defaclobjtype = 'r' AND g.grantee <> a.defaclrole
                AND EXISTS (SELECT FROM unnest(legacy) AS l WHERE NOT has_table_privilege(g.grantee, l, g.privilege_type))))
        ) AS notices(told, named)
        WHERE named IS NOT NULL
    LOOP
        RAISE NOTICE '%', found;
    END LOOP;
END
$$
