-- Baseline of the benchmark: the same rows in the same four tables, by hand, in one transaction that locks the
-- application out. Without bridge, checks and downgrade. It handles only the generated data (workshop sample-data).
LOCK TABLE public.workshop_students, public.student_configs IN ACCESS EXCLUSIVE MODE;
CREATE TABLE students (LIKE public.students INCLUDING DEFAULTS);
CREATE TABLE sessions (LIKE public.sessions INCLUDING DEFAULTS);
CREATE TABLE step_progress (LIKE public.step_progress INCLUDING DEFAULTS);
CREATE TABLE events (LIKE public.events INCLUDING DEFAULTS INCLUDING IDENTITY);

-- Unwraps JSON that was stored as a string; NULL if unreadable. Before PostgreSQL 17 that needs a subtransaction.
CREATE FUNCTION parsed(v jsonb, type text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    content jsonb := v;
BEGIN
    IF jsonb_typeof(v) = 'string' THEN
        content := v #>> '{}';
    END IF;
    RETURN CASE WHEN jsonb_typeof(content) = type AND content NOT IN ('[]', '{}') THEN content END;
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END
$$;
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 170000 THEN
        CREATE OR REPLACE FUNCTION parsed(v jsonb, type text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $sql$
            SELECT CASE WHEN jsonb_typeof(o.content) = type AND o.content NOT IN ('[]', '{}') THEN o.content END
            FROM (SELECT json_query(v, '$' RETURNING jsonb OMIT QUOTES NULL ON ERROR) AS content OFFSET 0) AS o
        $sql$;
    END IF;
END
$$;

CREATE TEMPORARY TABLE legacy ON COMMIT DROP AS
SELECT session_token, p.session_token IS NOT NULL AS in_p, c.session_token IS NOT NULL AS in_c,
       coalesce(nullif(lower(btrim(p.student_email)), ''), nullif(lower(btrim(c.student_email)), ''),
                'anonymous+' || left(encode(sha256(convert_to(session_token, 'UTF8')), 'hex'), 16) || '@workshop.invalid') AS address,
       parsed(p.exercises, 'object') AS exercises, parsed(p.bug_reports, 'array') AS bug_reports,
       parsed(c.tools, 'array') AS tools, parsed(c.voice_settings, 'object') AS voice_settings,
       p.demo_mode IS TRUE OR c.demo_mode IS TRUE AS demo_mode,
       p.started_at, least(p.created_at, c.created_at AT TIME ZONE 'UTC') AS created_at,
       greatest(p.last_activity, c.updated_at AT TIME ZONE 'UTC') AS last_activity,
       greatest(p.updated_at, c.updated_at AT TIME ZONE 'UTC') AS updated_at,
       p.total_time_spent, p.repo_created
FROM public.workshop_students AS p
FULL JOIN public.student_configs AS c USING (session_token);

INSERT INTO students (student_email, student_name, created_at)
SELECT a.address, (array_agg(a.name ORDER BY a.name = a.address, a.at DESC) FILTER (WHERE a.name <> ''))[1], min(a.seen)
FROM (
    SELECT coalesce(nullif(lower(btrim(p.student_email)), ''), l.address) AS address, p.student_name AS name, p.updated_at AS at,
           p.created_at AS seen
    FROM public.workshop_students AS p JOIN legacy AS l USING (session_token)
    UNION ALL
    SELECT coalesce(nullif(lower(btrim(c.student_email)), ''), l.address), c.student_name, c.updated_at AT TIME ZONE 'UTC',
           c.created_at AT TIME ZONE 'UTC'
    FROM public.student_configs AS c JOIN legacy AS l USING (session_token)
) AS a
GROUP BY a.address;

INSERT INTO step_progress (
    session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts, validation_passed)
SELECT l.session_token, st.student_id, k.step_number, min(k.step_name), NULL,
       min((e.value ->> 'timestamp')::timestamptz) FILTER (WHERE e.value -> 'completed' = 'true'),
       coalesce(max((e.value ->> 'timeSpent')::integer), 0), coalesce(max((e.value ->> 'attempts')::integer), 0),
       bool_or(e.value -> 'completed' = 'true')
FROM legacy AS l
JOIN students AS st ON st.student_email = l.address
CROSS JOIN LATERAL jsonb_each(l.exercises) AS e
JOIN (
    SELECT w.step_number, w.step_name, u.key
    FROM public.workshop_steps() AS w
    CROSS JOIN LATERAL unnest(ARRAY[w.exercise_key, w.early_key, 'exercise-' || w.step_number]) AS u(key)
) AS k ON k.key = e.key
GROUP BY l.session_token, st.student_id, k.step_number;

INSERT INTO sessions (
    session_token, student_id, selected_phone_number, selected_voice, tts_provider, call_direction, use_case_description,
    openai_api_key, system_prompt, ivr_greeting, tools, voice_settings, websocket_url, codespace_url, github_repo_url,
    railway_url, twilio_connected, openai_connected, call_direction_chosen, services_ready, step4_code_validated,
    step4_committed, step4_deployed, step5_code_validated, step5_committed, step5_deployed, step6_code_validated,
    step6_committed, step6_deployed, system_prompt_saved, step7_committed, step7_deployed, tools_configured,
    step8_code_validated, step8_committed, step8_deployed, project_deployed, current_step, completion_rate,
    total_time_spent, exercises, bug_reports, legacy_extra, demo_mode, is_active, started_at, last_activity, expires_at,
    created_at, updated_at)
SELECT l.session_token, st.student_id, nullif(c.selected_phone_number, ''), nullif(c.selected_voice, ''),
    nullif(c.tts_provider, ''), nullif(c.call_direction, ''), nullif(c.use_case_description, ''), nullif(c.openai_api_key, ''),
    nullif(c.system_prompt, ''), nullif(c.ivr_greeting, ''), coalesce(l.tools, '[]'), coalesce(l.voice_settings, '{}'),
    nullif(c.websocket_url, ''), nullif(c.codespace_url, ''), nullif(c.github_repo_url, ''), nullif(c.railway_url, ''),
    c.twilio_connected IS TRUE, c.openai_connected IS TRUE, c.call_direction_chosen IS TRUE, c.services_ready IS TRUE,
    c.step4_code_validated IS TRUE, c.step4_committed IS TRUE, c.step4_deployed IS TRUE, c.step5_code_validated IS TRUE,
    c.step5_committed IS TRUE, c.step5_deployed IS TRUE, c.step6_code_validated IS TRUE, c.step6_committed IS TRUE,
    c.step6_deployed IS TRUE, c.system_prompt_saved IS TRUE, c.step7_committed IS TRUE, c.step7_deployed IS TRUE,
    c.tools_configured IS TRUE, c.step8_code_validated IS TRUE, c.step8_committed IS TRUE, c.step8_deployed IS TRUE,
    c.project_deployed IS TRUE,
    coalesce(c.current_step, d.last, 0), round(100.0 * d.done / 9)::integer,
    coalesce(greatest(l.total_time_spent, 0), 0), coalesce(l.exercises, '{}'), coalesce(l.bug_reports, '[]'),
    CASE WHEN l.repo_created THEN '{"workshop_students": {"repo_created": true}}' ELSE '{}'::jsonb END
        || CASE WHEN x.extra <> '{}' THEN jsonb_build_object('student_configs', x.extra) ELSE '{}' END,
    l.demo_mode, l.last_activity + interval '30 days' > now(), coalesce(l.started_at, l.created_at), l.last_activity,
    l.last_activity + interval '30 days', l.created_at, l.updated_at
FROM legacy AS l
JOIN students AS st ON st.student_email = l.address
LEFT JOIN public.student_configs AS c ON c.session_token = l.session_token
LEFT JOIN (
    SELECT session_token, array_agg(step_number) FILTER (WHERE validation_passed) AS passed FROM step_progress GROUP BY 1
) AS s ON s.session_token = l.session_token
CROSS JOIN LATERAL (
    SELECT count(*) AS done, max(n) AS last
    FROM (VALUES (1, c.twilio_connected AND c.openai_connected), (2, c.call_direction_chosen), (3, c.services_ready),
                 (4, c.step4_deployed), (5, c.step5_deployed), (6, c.step6_deployed), (7, c.system_prompt_saved),
                 (8, c.step8_deployed), (9, c.project_deployed)) AS f(n, flag)
    WHERE f.flag OR f.n = ANY (s.passed)
) AS d
CROSS JOIN LATERAL (
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'ci_service_sid', c.ci_service_sid, 'twilio_account_sid', c.twilio_account_sid, 'twilio_auth_token', c.twilio_auth_token,
        'enable_persistent_memory', nullif(c.enable_persistent_memory, false),
        'memory_retention_days', nullif(c.memory_retention_days, 30))) AS extra
    OFFSET 0
) AS x;
