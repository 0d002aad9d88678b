-- An earlier attempt: its rows are rows that were there first. 0001 moved its tables aside, and copied the columns of the
-- same name. This copies the rest, through an adapter. No later step reads these backups.
DO $adopt$
DECLARE
    students regclass;
    sessions regclass;
    steps regclass;
    link text;
    id_type text;
    emails text[];
    session record;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('bridge.applying', 'on', true), set_config('bridge.backfilling', 'on', true);
    SELECT max(p.relation::oid) FILTER (WHERE p.original_name = 'students'),
           max(p.relation::oid) FILTER (WHERE p.original_name = 'sessions'),
           max(p.relation::oid) FILTER (WHERE p.original_name = 'step_progress')
    INTO students, sessions, steps
    FROM public.prior_attempt AS p;

    -- 1. Read its sessions in clean columns, with the address of their student.
    CREATE TEMPORARY TABLE prior_session ON COMMIT DROP AS
    SELECT p.*, NULL::timestamptz AS expires_at, NULL::boolean AS is_active FROM bridge.legacy_progress AS p WHERE false;
    IF sessions IS NOT NULL THEN
        SELECT format('st.%1$I::text = s.%1$I::text', max(c.name)) INTO link
        FROM bridge.columns_of(sessions) AS c JOIN bridge.columns_of(students) AS k ON k.name = c.name
        WHERE c.name IN ('student_email', 'student_id')
        HAVING count(*) > 0;
        EXECUTE format('CREATE VIEW bridge.prior_sessions AS SELECT %s FROM %s AS s%s',
            (SELECT string_agg(format('s.%I', c.name), ', ') FROM bridge.columns_of(sessions) AS c
             WHERE c.name NOT IN ('student_id', 'expires_at', 'is_active')
               AND (link IS NULL OR c.name NOT IN ('student_email', 'student_name')))
            || coalesce((
                SELECT ', ' || string_agg(format('st.%I', c.name), ', ') FROM bridge.columns_of(students) AS c
                WHERE link IS NOT NULL AND c.name NOT IN ('student_id', 'github_username', 'created_at', 'updated_at')
                  AND (c.name IN ('student_email', 'student_name')
                       OR c.name NOT IN (SELECT k.name FROM bridge.columns_of(sessions) AS k))), ''),
            sessions, CASE WHEN link IS NOT NULL THEN format(' LEFT JOIN %s AS st ON %s', students, link) ELSE '' END);
        FOR session IN
            SELECT c.name, max(o.constant_default) AS value
            FROM bridge.columns_of('bridge.prior_sessions') AS c
            JOIN (SELECT k.* FROM unnest(ARRAY[sessions, students]) AS t(rel), bridge.columns_of(t.rel) AS k) AS o ON o.name = c.name
            WHERE o.constant_default IS NOT NULL
            GROUP BY c.name
        LOOP
            EXECUTE format('ALTER VIEW bridge.prior_sessions ALTER COLUMN %I SET DEFAULT %s', session.name, session.value);
        END LOOP;
        PERFORM bridge.create_adapter('prior', 'bridge.prior_sessions', 't.session_token::text');
        EXECUTE format($q$
            INSERT INTO prior_session
            SELECT p.*, o.expires_at, o.is_active
            FROM bridge.legacy_prior AS p
            JOIN (SELECT r.* FROM (SELECT NULL::timestamptz AS expires_at, NULL::boolean AS is_active) AS absent CROSS JOIN LATERAL (
                      SELECT t.session_token::text AS token, bridge.as_time(expires_at) AS expires_at, bridge.as_bool(is_active) AS is_active
                      FROM %s AS t) AS r) AS o ON o.token = p.token
            WHERE p.token <> '' $q$, sessions);
        DROP VIEW bridge.legacy_prior, bridge.prior_sessions;
    END IF;

    -- 2. Copy the students of its table, and those of its sessions.
    IF students IS NOT NULL THEN
        id_type := (SELECT c.type FROM bridge.columns_of(students) AS c WHERE c.name = 'student_id');
        EXECUTE format($q$
            INSERT INTO public.students AS st (student_id, student_email, student_name, github_username, created_at)
            SELECT DISTINCT ON (r.email) i.id, r.email, r.student_name, r.github_username, r.created_at
            FROM (SELECT NULL::text AS student_name, NULL::text AS github_username, NULL::timestamptz AS created_at) AS absent
            CROSS JOIN LATERAL (
                SELECT bridge.known_email(t.student_email::text) AS email, %s AS id, CASE WHEN public.clean_email(student_name::text) IS NOT NULL THEN student_name::text END AS student_name,
                       nullif(github_username::text, '') AS github_username, bridge.as_time(created_at) AS created_at
                FROM %s AS t) AS r
            CROSS JOIN LATERAL (
                SELECT coalesce(r.id, bridge.student_uuid(r.email, coalesce(
                    (SELECT min(p.token COLLATE "C") FROM prior_session AS p WHERE p.email = r.email), r.email))) AS id) AS i
            -- a downgrade may have left the student, with another address
            WHERE r.email IS NOT NULL AND NOT EXISTS (SELECT FROM public.students AS k WHERE k.student_id = i.id AND k.student_email <> r.email)
            ORDER BY r.email, public.clean_email(r.student_name) IS NULL, r.created_at, r.id
            ON CONFLICT (student_email) DO UPDATE SET
                student_name = coalesce(CASE WHEN public.clean_email(st.student_name) IS NOT NULL THEN st.student_name END, excluded.student_name),
                github_username = coalesce(st.github_username, excluded.github_username),
                created_at = least(st.created_at, excluded.created_at)
        $q$, CASE WHEN id_type = 'uuid' THEN 't.student_id' ELSE 'NULL::uuid' END, students);
        EXECUTE format('SELECT array_agg(bridge.known_email(t.student_email::text)) FROM %s AS t', students) INTO emails;
    END IF;
    INSERT INTO public.students (student_id, student_email, student_name, created_at)
    SELECT bridge.student_uuid(k.email, min(k.token COLLATE "C")), k.email,
           (array_agg(k.student_name ORDER BY k.row_at DESC NULLS LAST) FILTER (WHERE k.student_name IS NOT NULL))[1],
           min(least(k.created_at, k.started_at))
    FROM (SELECT coalesce(p.email, bridge.placeholder_email(p.token)) AS email, p.token, p.student_name, p.row_at, p.created_at, p.started_at
          FROM prior_session AS p
          WHERE NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p.token)) AS k
    GROUP BY k.email
    ON CONFLICT DO NOTHING;

    -- 3. Copy the sessions. A value that is already there stays.
    INSERT INTO public.sessions (session_token, student_id, started_at, created_at, last_activity, expires_at, is_active, updated_at)
    SELECT DISTINCT ON (p.token) p.token, st.student_id, p.started_at, p.created_at, p.last_activity,
           coalesce(p.expires_at, coalesce(p.last_activity, p.created_at, now()) + interval '30 days'), coalesce(p.is_active, true),
           coalesce(p.updated_at, now())
    FROM prior_session AS p
    JOIN public.students AS st ON st.student_email = coalesce(p.email, bridge.placeholder_email(p.token))
    ORDER BY p.token
    ON CONFLICT DO NOTHING;
    FOR session IN
        SELECT p.token, jsonb_object_agg(d.name, d.mapped) AS patch
        FROM prior_session AS p
        JOIN public.sessions AS v ON v.session_token = p.token
        CROSS JOIN LATERAL (SELECT jsonb_build_object('legacy_extra', CASE WHEN p.extra = '{}' THEN '{}' ELSE jsonb_build_object('sessions', p.extra) END)
                                   || to_jsonb(p) AS said) AS o
        CROSS JOIN LATERAL bridge.diff(to_jsonb(v), o.said - ARRAY[
            'token', 'tokenless', 'row_at', 'email', 'student_name', 'extra', 'unreadable', 'clamped', 'created_at', 'started_at',
            'expires_at', 'is_active', 'updated_at']) AS d
        WHERE d.mapped IS NOT NULL AND coalesce(d.unified, 'null') IN ('null', '[]', '{}', 'false', '0')
        GROUP BY p.token
    LOOP
        PERFORM bridge.update_session(session.token, session.patch);
    END LOOP;

    -- 4. Copy the steps. The name identifies the step.
    IF steps IS NOT NULL THEN
        PERFORM pg_temp.create_steps_view('prior_steps', steps, 't.session_token::text', '');
        INSERT INTO public.step_progress AS sp (
            session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts,
            validation_passed, code_submitted, deployment_url)
        SELECT v.session_token, v.student_id, e.step_number, min(e.step_name), min(e.started_at), min(e.completed_at), max(e.time_spent),
               max(e.attempts), bool_or(e.validation_passed), min(e.code_submitted COLLATE "C"), min(e.deployment_url COLLATE "C")
        FROM bridge.prior_steps AS e JOIN public.sessions AS v ON v.session_token = e.token
        GROUP BY v.session_token, e.step_number
        ON CONFLICT (session_token, step_number) DO NOTHING;
        DROP VIEW bridge.prior_steps;
    END IF;
    PERFORM bridge.align_steps(ARRAY(SELECT p.token FROM prior_session AS p));
    UPDATE public.sessions AS v
    SET current_step = CASE WHEN p.current_step IS NULL THEN coalesce((
        SELECT max(n) FROM unnest(public.session_steps_done(
            v.twilio_connected, v.openai_connected, v.call_direction_chosen, v.services_ready, v.step4_deployed, v.step5_deployed,
            v.step6_deployed, v.system_prompt_saved, v.step8_deployed, v.project_deployed,
            ARRAY(SELECT sp.step_number FROM public.step_progress AS sp WHERE sp.session_token = v.session_token AND sp.validation_passed))) AS n), 0)
        ELSE v.current_step END
    FROM prior_session AS p
    WHERE v.session_token = p.token AND v.current_step = 0;
    UPDATE public.sessions AS v SET started_at = v.created_at
    FROM prior_session AS p WHERE v.session_token = p.token AND v.started_at IS NULL AND v.created_at IS NOT NULL;
    -- as copied, without what an endpoint has inserted since 0001: the hand-back keeps what an application writes
    INSERT INTO bridge.override (table_name, key, column_name, value)
    SELECT 'prior students', st.student_email, '(row)', to_jsonb(st) FROM public.students AS st
    WHERE st.student_email = ANY (emails)
       OR st.student_email IN (SELECT coalesce(p.email, bridge.placeholder_email(p.token)) FROM prior_session AS p)
    UNION ALL
    SELECT 'prior copies', v.session_token, '(row)', to_jsonb(bridge.session_hash(v.session_token)) FROM public.sessions AS v
    WHERE v.session_token IN (SELECT p.token FROM prior_session AS p);
    PERFORM set_config('bridge.applying', '', true), set_config('bridge.backfilling', '', true);
END
$adopt$
