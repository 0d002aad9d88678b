-- The mapping: computes each session from the legacy tables as they are now. All merge rules stand here.
-- p is workshop_students, c is student_configs.

CREATE VIEW bridge.tokens AS
SELECT p.token FROM bridge.legacy_progress AS p
UNION
SELECT c.token FROM bridge.legacy_config AS c;
COMMENT ON VIEW bridge.tokens IS 'Every session token of the legacy tables.';

CREATE TYPE bridge.step AS (
    step_number integer, step_name text, started_at timestamptz, completed_at timestamptz, time_spent integer,
    attempts integer, validation_passed boolean, code_submitted text, deployment_url text
);
COMMENT ON TYPE bridge.step IS 'One step of a session.';

-- Creates or replaces a view over a table of steps. The name identifies the step: titles count from 0, exercise keys from 1.
CREATE OR REPLACE FUNCTION pg_temp.create_steps_view(name text, rel regclass, token text, joined text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $build$
BEGIN
    EXECUTE format($view$
CREATE OR REPLACE VIEW bridge.%I AS
SELECT r.*
FROM (SELECT NULL::text AS step_name, NULL::timestamptz AS started_at, NULL::timestamptz AS completed_at, NULL::integer AS time_spent,
             NULL::integer AS attempts, NULL::boolean AS validation_passed, NULL::text AS code_submitted, NULL::text AS deployment_url) AS absent
CROSS JOIN LATERAL (
    SELECT (%s) COLLATE "default" AS token, n.number AS step_number, public.step_name_of(n.number) AS step_name,
           bridge.as_time(started_at) AS started_at, bridge.as_time(completed_at) AS completed_at,
           greatest(coalesce(bridge.as_int(time_spent), 0), 0) AS time_spent,
           greatest(coalesce(bridge.as_int(attempts), 0), 0) AS attempts,
           coalesce(bridge.as_bool(validation_passed), false) AS validation_passed,
           nullif(code_submitted::text, '') COLLATE "default" AS code_submitted,
           nullif(deployment_url::text, '') COLLATE "default" AS deployment_url
    FROM %s AS t%s
    CROSS JOIN LATERAL (SELECT coalesce(public.step_number_of(step_name::text), bridge.as_int(t.step_number)) AS number) AS n
    WHERE n.number BETWEEN 1 AND 9
) AS r
    $view$, name, token, rel, joined);
END
$build$;

CREATE VIEW bridge.tracked_steps AS SELECT NULL::text AS token, (NULL::bridge.step).* WHERE false;
COMMENT ON VIEW bridge.tracked_steps IS 'Rows of workshop_step_progress, by session token.';

-- A step in both sources is merged like two keys of one exercise.
CREATE FUNCTION bridge.steps_of(p_token text, p_exercises jsonb) RETURNS bridge.step[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT ROW(s.step_number, public.step_name_of(s.step_number), min(s.started_at),
                   min(s.completed_at), max(s.time_spent), max(s.attempts), bool_or(s.validation_passed),
                   min(s.code_submitted COLLATE "C"), min(s.deployment_url COLLATE "C"))::bridge.step
        FROM (
            SELECT e.step_number, NULL::timestamptz AS started_at, e.completed_at, e.time_spent, e.attempts,
                   e.validation_passed, NULL::text AS code_submitted, NULL::text AS deployment_url
            FROM public.exercise_steps(p_exercises) AS e
            UNION ALL
            SELECT t.step_number, t.started_at, t.completed_at, t.time_spent, t.attempts,
                   t.validation_passed, t.code_submitted, t.deployment_url
            FROM bridge.tracked_steps AS t
            WHERE t.token = p_token
        ) AS s
        GROUP BY s.step_number
        ORDER BY s.step_number
    );
END
$$;
COMMENT ON FUNCTION bridge.steps_of(text, jsonb) IS 'Steps of a session, from its exercises and from workshop_step_progress.';

CREATE FUNCTION bridge.exercises_with(p_exercises jsonb, p_steps bridge.step[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step bridge.step;
BEGIN
    FOREACH step IN ARRAY p_steps LOOP
        p_exercises := public.exercises_with_step(p_exercises, step.step_number, step.validation_passed,
                                                  step.completed_at, step.time_spent, step.attempts);
    END LOOP;
    RETURN p_exercises;
END
$$;
COMMENT ON FUNCTION bridge.exercises_with(jsonb, bridge.step[]) IS 'The exercises object, in line with these steps.';

-- Columns of a session that the legacy tables can hold. Both sides are compared as values of this type.
CREATE TYPE bridge.shared_columns AS (
    session_token text, selected_phone_number text, selected_voice text, tts_provider text, call_direction text,
    use_case_description text, openai_api_key text, system_prompt text, ivr_greeting text, websocket_url text, codespace_url text,
    github_repo_url text, railway_url text, tools jsonb, voice_settings jsonb, exercises jsonb, bug_reports jsonb,
    twilio_connected boolean, openai_connected boolean, call_direction_chosen boolean, services_ready boolean,
    step4_code_validated boolean, step4_committed boolean, step4_deployed boolean, step5_code_validated boolean,
    step5_committed boolean, step5_deployed boolean, step6_code_validated boolean, step6_committed boolean,
    step6_deployed boolean, system_prompt_saved boolean, step7_committed boolean, step7_deployed boolean,
    tools_configured boolean, step8_code_validated boolean, step8_committed boolean, step8_deployed boolean,
    project_deployed boolean, demo_mode boolean, current_step integer, completion_rate integer, total_time_spent integer,
    started_at timestamptz, created_at timestamptz, last_activity timestamptz, legacy_extra jsonb
);
COMMENT ON TYPE bridge.shared_columns IS 'Columns of a session that both sides have.';

CREATE TYPE bridge.mapped_session AS (
    session_token text, student_email text, shared bridge.shared_columns,
    -- set when the row is inserted, then the unified schema's own
    expires_at timestamptz, is_active boolean, updated_at timestamptz,
    -- rows of step_progress, and the merge decisions for an event
    steps bridge.step[], note jsonb
);
COMMENT ON TYPE bridge.mapped_session IS 'A session computed from the legacy tables.';

-- A function of a range, because the planner then joins two index scans. For one session, both ends are its token.
CREATE FUNCTION bridge.mapped(first_token text, last_token text) RETURNS SETOF bridge.mapped_session
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp SET row_security = off
    SET TimeZone = 'UTC'
    SET DateStyle = 'ISO, YMD'
    SET IntervalStyle = 'postgres'
    SET extra_float_digits = 1
    SET bytea_output = 'hex'
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT
        k.token,
        e.student_email,
        ROW(
        k.token,

        -- configuration: student_configs wins
        coalesce(c.selected_phone_number, p.selected_phone_number), coalesce(c.selected_voice, p.selected_voice),
        coalesce(c.tts_provider, p.tts_provider), coalesce(c.call_direction, p.call_direction),
        coalesce(c.use_case_description, p.use_case_description), coalesce(c.openai_api_key, p.openai_api_key),
        coalesce(c.system_prompt, p.system_prompt), coalesce(c.ivr_greeting, p.ivr_greeting),
        coalesce(c.websocket_url, p.websocket_url), coalesce(c.codespace_url, p.codespace_url),
        coalesce(c.github_repo_url, p.github_repo_url), coalesce(c.railway_url, p.railway_url),
        coalesce(c.tools, p.tools, '[]'), coalesce(c.voice_settings, p.voice_settings, '{}'),

        -- progress: workshop_students wins
        x.exercises,
        coalesce(p.bug_reports, c.bug_reports, '[]'),

        -- flags: a full save of the legacy application resets flags that it does not know; true wins
        f.twilio_connected, f.openai_connected, f.call_direction_chosen, f.services_ready,
        p.step4_code_validated IS TRUE OR c.step4_code_validated IS TRUE, p.step4_committed IS TRUE OR c.step4_committed IS TRUE, f.step4_deployed,
        p.step5_code_validated IS TRUE OR c.step5_code_validated IS TRUE, p.step5_committed IS TRUE OR c.step5_committed IS TRUE, f.step5_deployed,
        p.step6_code_validated IS TRUE OR c.step6_code_validated IS TRUE, p.step6_committed IS TRUE OR c.step6_committed IS TRUE, f.step6_deployed,
        f.system_prompt_saved, p.step7_committed IS TRUE OR c.step7_committed IS TRUE, p.step7_deployed IS TRUE OR c.step7_deployed IS TRUE,
        p.tools_configured IS TRUE OR c.tools_configured IS TRUE, p.step8_code_validated IS TRUE OR c.step8_code_validated IS TRUE,
        p.step8_committed IS TRUE OR c.step8_committed IS TRUE,
        f.step8_deployed, f.project_deployed,
        p.demo_mode IS TRUE OR c.demo_mode IS TRUE,

        coalesce(greatest(p.current_step, c.current_step), d.done[cardinality(d.done)], 0),
        public.session_completion_rate(d.done),
        coalesce(greatest(p.total_time_spent, c.total_time_spent), 0),

        -- times: NULL where no legacy row knows one, never the time of the migration
        coalesce(least(p.started_at, c.started_at), least(p.created_at, c.created_at)),
        least(p.created_at, c.created_at),
        a.last_activity,

        CASE WHEN p.extra <> '{}' THEN jsonb_build_object('workshop_students', p.extra) ELSE '{}' END
            || CASE WHEN c.extra <> '{}' THEN jsonb_build_object('student_configs', c.extra) ELSE '{}' END
        )::bridge.shared_columns,

        t.expires_at,
        t.expires_at > now() IS NOT FALSE AND p.tokenless IS NOT TRUE AND c.tokenless IS NOT TRUE,
        greatest(p.updated_at, c.updated_at),
        x.steps,

        -- a merge decision names columns and sources, never a value: it could be a secret
        nullif(jsonb_strip_nulls(jsonb_build_object(
            'placeholder_address', CASE WHEN coalesce(p.email, c.email) IS NULL THEN true END,
            'token_shared_by_many_browsers', CASE WHEN k.token IN ('null', 'undefined') THEN true END,
            'row_without_token', CASE WHEN p.tokenless OR c.tokenless THEN true END,
            'conflicts', w.conflicts,
            'unreadable', CASE WHEN p.unreadable <> '{}' OR c.unreadable <> '{}' THEN (
                SELECT jsonb_agg(DISTINCT u.name)
                FROM (SELECT 'workshop_students.' || unnest(p.unreadable) UNION ALL
                      SELECT 'student_configs.' || unnest(c.unreadable)) AS u(name)) END,
            'clamped', nullif(coalesce(c.clamped, '{}') || coalesce(p.clamped, '{}'), '{}'))), '{}')
    FROM (SELECT * FROM bridge.token_progress AS o WHERE o.token >= first_token AND o.token <= last_token) AS p
    FULL JOIN (SELECT * FROM bridge.token_config AS o WHERE o.token >= first_token AND o.token <= last_token) AS c
        ON c.token = p.token
    CROSS JOIN LATERAL (SELECT coalesce(p.token, c.token) AS token) AS k
    CROSS JOIN LATERAL (
        SELECT coalesce(p.email, c.email, bridge.placeholder_email(k.token)) AS student_email OFFSET 0
    ) AS e
    CROSS JOIN LATERAL (
        SELECT coalesce(greatest(p.last_activity, c.last_activity, c.updated_at), p.updated_at) AS last_activity
    ) AS a
    CROSS JOIN LATERAL (
        -- 30 days more would exceed the range of timestamptz
        SELECT CASE WHEN l.at < '294000-01-01 00:00:00Z' THEN l.at + interval '30 days' ELSE l.at END AS expires_at
        FROM (SELECT coalesce(a.last_activity, p.created_at, c.created_at) AS at) AS l
    ) AS t
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.tracked THEN bridge.exercises_with(w.exercises, s.steps) ELSE w.exercises END AS exercises,
               s.steps,
               CASE WHEN s.steps = '{}' THEN '{}'
                    ELSE ARRAY(SELECT n.step_number FROM unnest(s.steps) AS n WHERE n.validation_passed) END AS passed
        FROM (SELECT coalesce(p.exercises, c.exercises, '{}') AS exercises OFFSET 0) AS w
        CROSS JOIN LATERAL (
            SELECT q.tracked, CASE
                WHEN q.tracked THEN bridge.steps_of(k.token, w.exercises)
                WHEN w.exercises = '{}' THEN '{}'
                ELSE ARRAY(SELECT ROW(n.step_number, public.step_name_of(n.step_number), NULL, n.completed_at, n.time_spent,
                                      n.attempts, n.validation_passed, NULL, NULL)::bridge.step
                           FROM public.exercise_steps(w.exercises) AS n) END AS steps
            FROM (SELECT EXISTS (SELECT FROM bridge.tracked_steps AS r WHERE r.token = k.token) AS tracked OFFSET 0) AS q
            OFFSET 0
        ) AS s
        OFFSET 0
    ) AS x
    CROSS JOIN LATERAL (
        SELECT
            p.twilio_connected IS TRUE OR c.twilio_connected IS TRUE AS twilio_connected,
            p.openai_connected IS TRUE OR c.openai_connected IS TRUE AS openai_connected,
            p.call_direction_chosen IS TRUE OR c.call_direction_chosen IS TRUE AS call_direction_chosen,
            p.services_ready IS TRUE OR c.services_ready IS TRUE AS services_ready,
            p.step4_deployed IS TRUE OR c.step4_deployed IS TRUE AS step4_deployed,
            p.step5_deployed IS TRUE OR c.step5_deployed IS TRUE AS step5_deployed,
            p.step6_deployed IS TRUE OR c.step6_deployed IS TRUE AS step6_deployed,
            p.system_prompt_saved IS TRUE OR c.system_prompt_saved IS TRUE AS system_prompt_saved,
            p.step8_deployed IS TRUE OR c.step8_deployed IS TRUE AS step8_deployed,
            p.project_deployed IS TRUE OR c.project_deployed IS TRUE AS project_deployed
    ) AS f
    CROSS JOIN LATERAL (
        SELECT public.session_steps_done(
            f.twilio_connected, f.openai_connected, f.call_direction_chosen, f.services_ready,
            f.step4_deployed, f.step5_deployed, f.step6_deployed, f.system_prompt_saved,
            f.step8_deployed, f.project_deployed, x.passed) AS done
        OFFSET 0
    ) AS d
    CROSS JOIN LATERAL (
        -- two values differ, and neither is NULL. The first comparison is for speed: most rows have no conflict.
        SELECT CASE WHEN
            (p.email, p.exercises, p.bug_reports, p.selected_phone_number, p.selected_voice, p.tts_provider, p.call_direction,
             p.use_case_description, p.openai_api_key, p.system_prompt, p.ivr_greeting, p.websocket_url, p.codespace_url,
             p.github_repo_url, p.railway_url, p.tools, p.voice_settings)
            <> (c.email, c.exercises, c.bug_reports, c.selected_phone_number, c.selected_voice, c.tts_provider, c.call_direction,
                c.use_case_description, c.openai_api_key, c.system_prompt, c.ivr_greeting, c.websocket_url, c.codespace_url,
                c.github_repo_url, c.railway_url, c.tools, c.voice_settings)
        THEN (
            SELECT jsonb_object_agg(v.name, v.winner)
            FROM (VALUES
                ('student_email', 'workshop_students', p.email <> c.email),
                ('exercises', 'workshop_students', p.exercises <> c.exercises),
                ('bug_reports', 'workshop_students', p.bug_reports <> c.bug_reports),
                ('selected_phone_number', 'student_configs', p.selected_phone_number <> c.selected_phone_number),
                ('selected_voice', 'student_configs', p.selected_voice <> c.selected_voice),
                ('tts_provider', 'student_configs', p.tts_provider <> c.tts_provider),
                ('call_direction', 'student_configs', p.call_direction <> c.call_direction),
                ('use_case_description', 'student_configs', p.use_case_description <> c.use_case_description),
                ('openai_api_key', 'student_configs', p.openai_api_key <> c.openai_api_key),
                ('system_prompt', 'student_configs', p.system_prompt <> c.system_prompt),
                ('ivr_greeting', 'student_configs', p.ivr_greeting <> c.ivr_greeting),
                ('websocket_url', 'student_configs', p.websocket_url <> c.websocket_url),
                ('codespace_url', 'student_configs', p.codespace_url <> c.codespace_url),
                ('github_repo_url', 'student_configs', p.github_repo_url <> c.github_repo_url),
                ('railway_url', 'student_configs', p.railway_url <> c.railway_url),
                ('tools', 'student_configs', p.tools <> c.tools),
                ('voice_settings', 'student_configs', p.voice_settings <> c.voice_settings)
            ) AS v(name, winner, differs)
            WHERE v.differs) END AS conflicts
    ) AS w;
END
$$;
COMMENT ON FUNCTION bridge.mapped(text, text) IS 'Computes the sessions of a range of tokens, both ends included.';

CREATE VIEW bridge.sessions AS
SELECT m.student_email, (m.shared).*, m.expires_at, m.is_active, m.updated_at, m.steps, m.note
FROM bridge.mapped('', (SELECT max(t.token) FROM bridge.tokens AS t)) AS m;
COMMENT ON VIEW bridge.sessions IS 'Every session, computed from the legacy tables.';

-- A row without an address belongs to the student of its session.
CREATE FUNCTION bridge.sources_of(first_token text, last_token text) RETURNS SETOF bridge.student_source
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    WITH r AS MATERIALIZED (
        SELECT p.token, 'workshop_students' AS legacy_name, p.email, p.student_name, p.row_at, least(p.created_at, p.started_at) AS seen_at
        FROM bridge.legacy_progress AS p WHERE p.token >= first_token AND p.token <= last_token
        UNION ALL
        SELECT c.token, 'student_configs', c.email, c.student_name, c.row_at, least(c.created_at, c.started_at)
        FROM bridge.legacy_config AS c WHERE c.token >= first_token AND c.token <= last_token
    ),
    s AS (
        SELECT DISTINCT ON (r.token) r.token, coalesce(r.email, bridge.placeholder_email(r.token)) AS student_email
        FROM r
        ORDER BY r.token, r.email IS NULL, r.legacy_name DESC, r.row_at DESC NULLS LAST, r.email
    )
    SELECT r.token, r.legacy_name, coalesce(r.email, s.student_email), r.student_name, r.row_at, r.seen_at,
           r.email IS NULL OR r.email = s.student_email
    FROM r JOIN s ON s.token = r.token;
END
$$;
COMMENT ON FUNCTION bridge.sources_of(text, text) IS 'Reads the student sources of a range of tokens.';

-- The newest name that is not the address, else the newest name. The earliest time of any row.
CREATE VIEW bridge.students AS
SELECT
    s.student_email,
    (array_agg(s.student_name ORDER BY s.is_address, s.row_at DESC NULLS LAST, s.legacy_name DESC, s.token COLLATE "C", s.student_name COLLATE "C")
        FILTER (WHERE s.is_address IS NOT NULL))[1] AS student_name,
    min(s.seen_at) AS created_at,
    min(s.token COLLATE "C") COLLATE "default" AS first_token,
    bool_or(s.of_session) AS has_session
FROM (
    SELECT o.*, public.clean_email(o.student_name) = o.student_email AS is_address
    FROM bridge.student_source AS o
) AS s
GROUP BY s.student_email;
COMMENT ON VIEW bridge.students IS 'Every student, computed from the student sources.'
