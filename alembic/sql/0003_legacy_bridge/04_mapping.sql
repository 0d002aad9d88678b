-- The mapping: for each table of the unified schema, what it should hold, given the legacy tables as
-- they are now. Merge, sync, dry run and verification all read it from here; there is no other place
-- that knows a merge rule. p is workshop_students, c is student_configs, a an earlier attempt at the
-- unified schema, second in precedence.
--
-- The sources are joined by LATERAL ... OFFSET 0: always one index lookup a token, for one token, a
-- chunk or all of them, whatever the statistics of a half-filled database say.

CREATE VIEW bridge.tokens AS SELECT DISTINCT token FROM bridge.token_source;
COMMENT ON VIEW bridge.tokens IS 'Every session token there is.';

-- What each legacy row says about a student: the one it names, else its session's. Where the session's
-- address is in the remainder, that one stands for the address that it is kept over. PL/pgSQL, here and
-- below, keeps the plan for as long as the connection lives: planning takes longer than a session's work.
CREATE TYPE bridge.student_source AS (
    token text,
    student_email text,
    student_name text,
    row_at timestamptz,
    seen_at timestamptz,
    rank integer,
    is_session_s boolean
);
COMMENT ON TYPE bridge.student_source IS
    'What a legacy row (its table by rank) says about a student; is_session_s: to whom the session belongs.';

-- A function, so that it is planned only where there is such a token.
CREATE FUNCTION bridge.shared_email(p_rank integer, p_token text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    CASE p_rank
        WHEN 1 THEN RETURN (SELECT p.email FROM bridge.token_progress AS p WHERE p.token = p_token);
        WHEN 2 THEN RETURN (SELECT c.email FROM bridge.token_config AS c WHERE c.token = p_token);
        WHEN 3 THEN RETURN (SELECT a.email FROM bridge.token_prior AS a WHERE a.token = p_token);
    END CASE;
END
$$;
COMMENT ON FUNCTION bridge.shared_email(integer, text) IS
    'Address of a token that several rows of one table (by rank) share.';

CREATE FUNCTION bridge.student_sources(tokens text[]) RETURNS SETOF bridge.student_source
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH r AS MATERIALIZED (
        SELECT p.token, p.email, p.student_name, p.row_at, least(p.created_at, p.started_at) AS seen_at, 1 AS rank
        FROM bridge.brief_progress AS p WHERE p.token = ANY (tokens)
        UNION ALL
        SELECT c.token, c.email, c.student_name, c.row_at, least(c.created_at, c.started_at), 2
        FROM bridge.brief_config AS c WHERE c.token = ANY (tokens)
        UNION ALL
        SELECT a.token, a.email, a.student_name, a.row_at, least(a.created_at, a.started_at), 3
        FROM bridge.brief_prior AS a WHERE a.token = ANY (tokens)
        UNION ALL
        SELECT o.key, NULL, NULL, NULL, NULL, 4
        FROM bridge.remainder AS o
        WHERE o.table_name = 'sessions' AND o.column_name = '(row)' AND o.value = 'true' AND o.key = ANY (tokens)
    ),
    -- whose session it is: the best of its rows says
    s AS MATERIALIZED (
        SELECT m.token, m.mapped_email, CASE WHEN o.key IS NULL THEN m.mapped_email ELSE o.value #>> '{}' END AS student_email
        FROM (
            SELECT
                r.token,
                coalesce(
                    CASE WHEN count(*) FILTER (WHERE r.rank = 1) < 2 THEN min(r.email) FILTER (WHERE r.rank = 1)
                         ELSE bridge.shared_email(1, r.token) END,
                    CASE WHEN count(*) FILTER (WHERE r.rank = 3) < 2 THEN min(r.email) FILTER (WHERE r.rank = 3)
                         ELSE bridge.shared_email(3, r.token) END,
                    CASE WHEN count(*) FILTER (WHERE r.rank = 2) < 2 THEN min(r.email) FILTER (WHERE r.rank = 2)
                         ELSE bridge.shared_email(2, r.token) END,
                    bridge.placeholder_email(r.token)) AS mapped_email
            FROM r
            GROUP BY r.token
        ) AS m
        LEFT JOIN bridge.remainder AS o
          ON o.table_name = 'sessions' AND o.key = m.token AND o.column_name = 'student_email'
         AND o.key = ANY (tokens) AND o.over #>> '{}' = m.mapped_email
    )
    SELECT r.token, n.student_email, r.student_name, r.row_at, r.seen_at, r.rank, n.student_email = s.student_email
    FROM r
    JOIN s USING (token)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN r.email IS NULL OR r.email = s.mapped_email THEN s.student_email ELSE r.email END
    ) AS n(student_email);
END
$$;
COMMENT ON FUNCTION bridge.student_sources(text[]) IS 'Legacy rows as sources about their students.';

-- The first merge collects the sources of all sessions here, and reads them by address.
CREATE UNLOGGED TABLE bridge.collected_source (LIKE bridge.student_source);
CREATE INDEX collected_source_by_email ON bridge.collected_source (student_email);
COMMENT ON TABLE bridge.collected_source IS 'Sources about students while the first merge goes on, else empty.';

-- While the first merge goes on, sessions that nobody else can see yet belong to a student as well.
CREATE VIEW bridge.address AS
SELECT token, student_email FROM bridge.other_address
UNION ALL
SELECT token, student_email FROM bridge.collected_source;
COMMENT ON VIEW bridge.address IS 'Sessions that tell of an address, beside those that belong to its student.';

-- The newest name that is not just the address, else the newest name; seen first when seen first.
-- Complete for an address only if all of its tokens are given (bridge.family() finds them), or if it is among
-- those whose collected sources are asked for. The mapped_ columns are what the legacy tables say, without the
-- remainder.
CREATE FUNCTION bridge.map_students(tokens text[], collected text[] DEFAULT '{}')
    RETURNS TABLE (
        student_email text,
        student_name text,
        created_at timestamptz,
        first_token text,
        mapped_name text,
        mapped_created_at timestamptz
    )
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH sources AS MATERIALIZED (
        SELECT * FROM bridge.student_sources(tokens)
        UNION ALL
        SELECT * FROM bridge.collected_source AS o WHERE o.student_email = ANY (collected)
    ),
    mapped AS (
        SELECT
            s.student_email,
            (array_agg(s.student_name ORDER BY s.is_address, s.row_at DESC NULLS LAST, s.rank, s.token COLLATE "C", s.student_name COLLATE "C")
                FILTER (WHERE s.is_address IS NOT NULL))[1] AS student_name,
            min(s.seen_at) AS created_at,
            min(s.token COLLATE "C") AS first_token,
            bool_or(s.is_session_s) AS has_session
        FROM (
            -- OFFSET 0: of a column all students are sorted at once, of an expression each one's sources
            SELECT k.*, public.clean_email(k.student_name) = k.student_email AS is_address
            FROM (
                SELECT * FROM sources
                UNION ALL
                SELECT NULL, o.student_email, o.student_name, o.row_at, o.created_at, 5, false
                FROM bridge.prior_students AS o
                WHERE o.student_email IN (SELECT k.student_email FROM sources AS k)
            ) AS k
            OFFSET 0
        ) AS s
        GROUP BY s.student_email
    )
    SELECT
        m.student_email,
        CASE WHEN n.key IS NULL THEN m.student_name ELSE n.value #>> '{}' END,
        CASE WHEN c.key IS NULL THEN m.created_at ELSE (c.value #>> '{}')::timestamptz END,
        m.first_token,
        m.student_name,
        m.created_at
    FROM mapped AS m
    -- OFFSET 0 and count(*): looked up for each student, else the remainder of all is read for some
    LEFT JOIN LATERAL (
        SELECT r.key, r.value FROM bridge.remainder AS r
        WHERE r.table_name = 'students' AND r.key = m.student_email AND r.column_name = 'student_name'
          AND r.over #>> '{}' IS NOT DISTINCT FROM m.student_name
        OFFSET 0
    ) AS n ON true
    LEFT JOIN LATERAL (
        SELECT r.key, r.value FROM bridge.remainder AS r
        WHERE r.table_name = 'students' AND r.key = m.student_email AND r.column_name = 'created_at'
          AND (r.over #>> '{}')::timestamptz IS NOT DISTINCT FROM m.created_at
        OFFSET 0
    ) AS c ON true
    -- deleted where only a second address of a session, or an earlier attempt, goes on telling of it
    WHERE m.has_session OR 0 = (
        SELECT count(*) FROM bridge.remainder AS r
        WHERE r.table_name = 'students' AND r.key = m.student_email AND r.column_name = '(row)'
          AND r.value = 'false');
END
$$;
COMMENT ON FUNCTION bridge.map_students(text[], text[]) IS 'Students, as the given sessions describe them.';

CREATE VIEW bridge.students AS
SELECT m.student_email, m.student_name, m.created_at
FROM bridge.map_students(ARRAY(SELECT token FROM bridge.tokens)) AS m;
COMMENT ON VIEW bridge.students IS 'What students should hold; student_id is given on arrival.';

-- Where sources differ: the name of the one that won, first before prior before last. NULL has no say.
CREATE FUNCTION bridge.winner(first_name text, first text, prior text, last text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN first <> prior OR first <> last OR prior <> last THEN
    CASE WHEN first IS NOT NULL THEN first_name ELSE 'sessions' END
END;
COMMENT ON FUNCTION bridge.winner(text, text, text, text) IS 'Which source won; NULL: no conflict.';

CREATE FUNCTION bridge.winner(first_name text, first jsonb, prior jsonb, last jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN first <> prior OR first <> last OR prior <> last THEN
    CASE WHEN first IS NOT NULL THEN first_name ELSE 'sessions' END
END;
COMMENT ON FUNCTION bridge.winner(text, jsonb, jsonb, jsonb) IS 'Which source won; NULL: no conflict.';

-- Steps of the exercises and of older tables of steps; one step told twice merges as two keys do.
CREATE FUNCTION bridge.steps_of(p_token text, exercises jsonb) RETURNS bridge.step[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT ROW(s.step_number, public.step_name_of(s.step_number), min(s.started_at),
                   min(s.completed_at), max(s.time_spent), max(s.attempts), bool_or(s.validation_passed),
                   min(s.code_submitted COLLATE "C"), min(s.deployment_url COLLATE "C"))::bridge.step
        FROM (
            SELECT e.step_number, NULL::timestamptz AS started_at, e.completed_at, e.time_spent,
                   e.attempts, e.validation_passed, NULL::text AS code_submitted,
                   NULL::text AS deployment_url
            FROM public.exercise_steps(exercises) AS e
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
COMMENT ON FUNCTION bridge.steps_of(text, jsonb) IS 'Steps of a session, from all that tells of them.';

-- exercises follows the steps; a step that it tells rightly already is not touched.
CREATE FUNCTION bridge.exercises_with(exercises jsonb, steps bridge.step[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step bridge.step;
BEGIN
    FOREACH step IN ARRAY steps LOOP
        exercises := public.exercises_with_step(exercises, step.step_number, step.validation_passed,
                                                step.completed_at, step.time_spent, step.attempts);
    END LOOP;
    RETURN exercises;
END
$$;
COMMENT ON FUNCTION bridge.exercises_with(jsonb, bridge.step[]) IS 'The exercises, in line with steps.';

CREATE FUNCTION bridge.exercises_in_line(exercises jsonb, steps bridge.step[]) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    surplus integer;
BEGIN
    FOR surplus IN
        SELECT e.step_number FROM public.exercise_steps(exercises) AS e
        WHERE e.step_number NOT IN (SELECT s.step_number FROM unnest(steps) AS s)
    LOOP
        exercises := public.exercises_with_step(exercises, surplus, NULL, NULL, NULL, NULL);
    END LOOP;
    RETURN bridge.exercises_with(exercises, steps);
END
$$;
COMMENT ON FUNCTION bridge.exercises_in_line(jsonb, bridge.step[]) IS
    'The exercises, telling of exactly these steps.';

-- One row for each session with all that is derived from its legacy rows, so that a chunk is read
-- and unwrapped once: steps become step_progress, note becomes a merge_note event. A note says what
-- was decided: which columns, which source won; never a value that could be a secret.
CREATE VIEW bridge.mapped_sessions AS
SELECT
    k.token AS session_token,
    e.student_email,

    -- configuration: student_configs has the last word
    coalesce(c.selected_phone_number, a.selected_phone_number, p.selected_phone_number) AS selected_phone_number,
    coalesce(c.selected_voice, a.selected_voice, p.selected_voice) AS selected_voice,
    coalesce(c.tts_provider, a.tts_provider, p.tts_provider) AS tts_provider,
    coalesce(c.call_direction, a.call_direction, p.call_direction) AS call_direction,
    coalesce(c.use_case_description, a.use_case_description, p.use_case_description) AS use_case_description,
    coalesce(c.openai_api_key, a.openai_api_key, p.openai_api_key) AS openai_api_key,
    coalesce(c.system_prompt, a.system_prompt, p.system_prompt) AS system_prompt,
    coalesce(c.ivr_greeting, a.ivr_greeting, p.ivr_greeting) AS ivr_greeting,
    coalesce(c.websocket_url, a.websocket_url, p.websocket_url) AS websocket_url,
    coalesce(c.codespace_url, a.codespace_url, p.codespace_url) AS codespace_url,
    coalesce(c.github_repo_url, a.github_repo_url, p.github_repo_url) AS github_repo_url,
    coalesce(c.railway_url, a.railway_url, p.railway_url) AS railway_url,
    coalesce(c.tools, a.tools, p.tools, '[]') AS tools,
    coalesce(c.voice_settings, a.voice_settings, p.voice_settings, '{}') AS voice_settings,

    -- progress: workshop_students has the last word
    x.exercises,
    coalesce(p.bug_reports, a.bug_reports, c.bug_reports, '[]') AS bug_reports,

    -- flags: a full save of the old application resets what it does not know, so that false in one
    -- table is no evidence against true in the other
    f.twilio_connected,
    f.openai_connected,
    f.call_direction_chosen,
    f.services_ready,
    p.step4_code_validated IS TRUE OR c.step4_code_validated IS TRUE OR a.step4_code_validated IS TRUE AS step4_code_validated,
    p.step4_committed IS TRUE OR c.step4_committed IS TRUE OR a.step4_committed IS TRUE AS step4_committed,
    f.step4_deployed,
    p.step5_code_validated IS TRUE OR c.step5_code_validated IS TRUE OR a.step5_code_validated IS TRUE AS step5_code_validated,
    p.step5_committed IS TRUE OR c.step5_committed IS TRUE OR a.step5_committed IS TRUE AS step5_committed,
    f.step5_deployed,
    p.step6_code_validated IS TRUE OR c.step6_code_validated IS TRUE OR a.step6_code_validated IS TRUE AS step6_code_validated,
    p.step6_committed IS TRUE OR c.step6_committed IS TRUE OR a.step6_committed IS TRUE AS step6_committed,
    f.step6_deployed,
    f.system_prompt_saved,
    p.step7_committed IS TRUE OR c.step7_committed IS TRUE OR a.step7_committed IS TRUE AS step7_committed,
    p.step7_deployed IS TRUE OR c.step7_deployed IS TRUE OR a.step7_deployed IS TRUE AS step7_deployed,
    p.tools_configured IS TRUE OR c.tools_configured IS TRUE OR a.tools_configured IS TRUE AS tools_configured,
    p.step8_code_validated IS TRUE OR c.step8_code_validated IS TRUE OR a.step8_code_validated IS TRUE AS step8_code_validated,
    p.step8_committed IS TRUE OR c.step8_committed IS TRUE OR a.step8_committed IS TRUE AS step8_committed,
    f.step8_deployed,
    f.project_deployed,
    p.demo_mode IS TRUE OR c.demo_mode IS TRUE OR a.demo_mode IS TRUE AS demo_mode,

    coalesce(greatest(p.current_step, c.current_step, a.current_step), d.done[cardinality(d.done)], 0) AS current_step,
    session_completion_rate(d.done) AS completion_rate,
    coalesce(greatest(p.total_time_spent, c.total_time_spent, a.total_time_spent), 0) AS total_time_spent,

    -- times: NULL where no legacy row knows, never the time of the migration
    coalesce(least(p.started_at, c.started_at, a.started_at), least(p.created_at, c.created_at, a.created_at)) AS started_at,
    least(p.created_at, c.created_at, a.created_at) AS created_at,
    coalesce(greatest(p.last_activity, c.last_activity, c.updated_at, a.last_activity), p.updated_at) AS last_activity,

    CASE WHEN p.extra <> '{}' THEN jsonb_build_object('workshop_students', p.extra) ELSE '{}' END
        || CASE WHEN c.extra <> '{}' THEN jsonb_build_object('student_configs', c.extra) ELSE '{}' END
        || CASE WHEN a.extra <> '{}' THEN jsonb_build_object('sessions', a.extra) ELSE '{}' END
        AS legacy_extra,

    -- set when the row first arrives; the unified schema's own afterwards
    t.expires_at,
    t.expires_at > now() IS NOT FALSE AND p.tokenless IS NOT TRUE AND c.tokenless IS NOT TRUE AS is_active,
    greatest(p.updated_at, c.updated_at, a.updated_at) AS updated_at,

    -- for step_progress and events
    x.steps,
    nullif(
        CASE WHEN coalesce(p.email, a.email, c.email) IS NULL THEN '{"placeholder_address": true}'::jsonb ELSE '{}' END
        || CASE WHEN k.token IN ('null', 'undefined') THEN '{"token_shared_by_many_browsers": true}'::jsonb ELSE '{}' END
        || CASE WHEN p.tokenless OR c.tokenless THEN '{"row_without_token": true}'::jsonb ELSE '{}' END
        || CASE WHEN num_nonnulls(p.token, c.token, a.token) > 1 AND coalesce(
            w.student_email, w.exercises, w.bug_reports, w.selected_phone_number, w.selected_voice,
            w.tts_provider, w.call_direction, w.use_case_description, w.openai_api_key,
            w.system_prompt, w.ivr_greeting, w.websocket_url, w.codespace_url, w.github_repo_url,
            w.railway_url, w.tools, w.voice_settings
        ) IS NOT NULL THEN jsonb_build_object('conflicts', jsonb_strip_nulls(jsonb_build_object(
            'student_email', w.student_email,
            'exercises', w.exercises,
            'bug_reports', w.bug_reports,
            'selected_phone_number', w.selected_phone_number,
            'selected_voice', w.selected_voice,
            'tts_provider', w.tts_provider,
            'call_direction', w.call_direction,
            'use_case_description', w.use_case_description,
            'openai_api_key', w.openai_api_key,
            'system_prompt', w.system_prompt,
            'ivr_greeting', w.ivr_greeting,
            'websocket_url', w.websocket_url,
            'codespace_url', w.codespace_url,
            'github_repo_url', w.github_repo_url,
            'railway_url', w.railway_url,
            'tools', w.tools,
            'voice_settings', w.voice_settings
        ))) ELSE '{}' END
        || CASE WHEN p.unreadable <> '{}' OR c.unreadable <> '{}' OR a.unreadable <> '{}' THEN jsonb_build_object('unreadable', (
            SELECT jsonb_agg(u.source || '.' || u.column_name ORDER BY u.source, u.column_name)
            FROM (
                SELECT 'workshop_students' AS source, jsonb_object_keys(p.unreadable) AS column_name
                UNION ALL
                SELECT 'student_configs', jsonb_object_keys(c.unreadable)
                UNION ALL
                SELECT 'sessions', jsonb_object_keys(a.unreadable)
            ) AS u
        )) ELSE '{}' END
        || CASE WHEN p.clamped <> '{}' OR c.clamped <> '{}' OR a.clamped <> '{}' THEN jsonb_build_object(
            'clamped', coalesce(a.clamped, '{}') || coalesce(c.clamped, '{}') || coalesce(p.clamped, '{}'))
        ELSE '{}' END,
    '{}') AS note
FROM bridge.tokens AS k
LEFT JOIN LATERAL (SELECT * FROM bridge.token_progress WHERE token = k.token OFFSET 0) AS p ON true
LEFT JOIN LATERAL (SELECT * FROM bridge.token_config WHERE token = k.token OFFSET 0) AS c ON true
LEFT JOIN LATERAL (SELECT * FROM bridge.token_prior WHERE token = k.token OFFSET 0) AS a ON true
CROSS JOIN LATERAL (
    SELECT coalesce(p.email, a.email, c.email, bridge.placeholder_email(k.token)) AS student_email OFFSET 0
) AS e
CROSS JOIN LATERAL (
    -- near the end of time there is no room for 30 days
    SELECT CASE WHEN l.at < '294000-01-01 00:00:00Z' THEN l.at + interval '30 days' ELSE l.at END AS expires_at
    FROM (SELECT coalesce(
        greatest(p.last_activity, c.last_activity, c.updated_at, a.last_activity), p.updated_at,
        least(p.created_at, c.created_at, a.created_at)) AS at) AS l
) AS t
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN w.tracked THEN bridge.exercises_with(w.exercises, s.steps) ELSE w.exercises END AS exercises,
        s.steps,
        CASE
            WHEN s.steps = '{}' THEN '{}'
            ELSE ARRAY(SELECT e.step_number FROM unnest(s.steps) AS e WHERE e.validation_passed)
        END AS passed
    FROM (
        SELECT
            coalesce(p.exercises, a.exercises, c.exercises, '{}') AS exercises,
            EXISTS (SELECT FROM bridge.tracked_steps AS r WHERE r.token = k.token) AS tracked
        OFFSET 0
    ) AS w
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN w.tracked THEN bridge.steps_of(k.token, w.exercises)
            WHEN w.exercises = '{}' THEN '{}'  -- of many sessions: starting a look takes longer
            ELSE ARRAY(
                SELECT ROW(e.step_number, step_name_of(e.step_number), NULL, e.completed_at, e.time_spent,
                           e.attempts, e.validation_passed, NULL, NULL)::bridge.step
                FROM exercise_steps(w.exercises) AS e)
        END AS steps
        OFFSET 0
    ) AS s
    OFFSET 0
) AS x
CROSS JOIN LATERAL (
    SELECT
        p.twilio_connected IS TRUE OR c.twilio_connected IS TRUE OR a.twilio_connected IS TRUE AS twilio_connected,
        p.openai_connected IS TRUE OR c.openai_connected IS TRUE OR a.openai_connected IS TRUE AS openai_connected,
        p.call_direction_chosen IS TRUE OR c.call_direction_chosen IS TRUE OR a.call_direction_chosen IS TRUE AS call_direction_chosen,
        p.services_ready IS TRUE OR c.services_ready IS TRUE OR a.services_ready IS TRUE AS services_ready,
        p.step4_deployed IS TRUE OR c.step4_deployed IS TRUE OR a.step4_deployed IS TRUE AS step4_deployed,
        p.step5_deployed IS TRUE OR c.step5_deployed IS TRUE OR a.step5_deployed IS TRUE AS step5_deployed,
        p.step6_deployed IS TRUE OR c.step6_deployed IS TRUE OR a.step6_deployed IS TRUE AS step6_deployed,
        p.system_prompt_saved IS TRUE OR c.system_prompt_saved IS TRUE OR a.system_prompt_saved IS TRUE AS system_prompt_saved,
        p.step8_deployed IS TRUE OR c.step8_deployed IS TRUE OR a.step8_deployed IS TRUE AS step8_deployed,
        p.project_deployed IS TRUE OR c.project_deployed IS TRUE OR a.project_deployed IS TRUE AS project_deployed
) AS f
CROSS JOIN LATERAL (
    -- where sources differ: which one won
    SELECT
        bridge.winner('workshop_students', p.email, a.email, c.email) AS student_email,
        bridge.winner('workshop_students', p.exercises, a.exercises, c.exercises) AS exercises,
        bridge.winner('workshop_students', p.bug_reports, a.bug_reports, c.bug_reports) AS bug_reports,
        bridge.winner('student_configs', c.selected_phone_number, a.selected_phone_number, p.selected_phone_number) AS selected_phone_number,
        bridge.winner('student_configs', c.selected_voice, a.selected_voice, p.selected_voice) AS selected_voice,
        bridge.winner('student_configs', c.tts_provider, a.tts_provider, p.tts_provider) AS tts_provider,
        bridge.winner('student_configs', c.call_direction, a.call_direction, p.call_direction) AS call_direction,
        bridge.winner('student_configs', c.use_case_description, a.use_case_description, p.use_case_description) AS use_case_description,
        bridge.winner('student_configs', c.openai_api_key, a.openai_api_key, p.openai_api_key) AS openai_api_key,
        bridge.winner('student_configs', c.system_prompt, a.system_prompt, p.system_prompt) AS system_prompt,
        bridge.winner('student_configs', c.ivr_greeting, a.ivr_greeting, p.ivr_greeting) AS ivr_greeting,
        bridge.winner('student_configs', c.websocket_url, a.websocket_url, p.websocket_url) AS websocket_url,
        bridge.winner('student_configs', c.codespace_url, a.codespace_url, p.codespace_url) AS codespace_url,
        bridge.winner('student_configs', c.github_repo_url, a.github_repo_url, p.github_repo_url) AS github_repo_url,
        bridge.winner('student_configs', c.railway_url, a.railway_url, p.railway_url) AS railway_url,
        bridge.winner('student_configs', c.tools, a.tools, p.tools) AS tools,
        bridge.winner('student_configs', c.voice_settings, a.voice_settings, p.voice_settings) AS voice_settings
) AS w
CROSS JOIN LATERAL (
    SELECT session_steps_done(
        f.twilio_connected, f.openai_connected, f.call_direction_chosen, f.services_ready,
        f.step4_deployed, f.step5_deployed, f.step6_deployed, f.system_prompt_saved,
        f.step8_deployed, f.project_deployed, x.passed) AS done
    OFFSET 0
) AS d;
COMMENT ON VIEW bridge.mapped_sessions IS
    'What the legacy tables say of each session; steps and note are for step_progress and events.';

CREATE FUNCTION bridge.mapped(tokens text[]) RETURNS SETOF bridge.mapped_sessions
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM bridge.mapped_sessions AS m WHERE m.session_token = ANY (tokens);
END
$$;
COMMENT ON FUNCTION bridge.mapped(text[]) IS 'Some of bridge.mapped_sessions.';

-- The remainder, applied: each kept value for as long as the mapping says what it said then.
CREATE FUNCTION bridge.with_remainder(m bridge.mapped_sessions) RETURNS bridge.mapped_sessions
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $$
DECLARE
    said CONSTANT jsonb := to_jsonb(m);
    patch CONSTANT jsonb := (
        SELECT jsonb_object_agg(r.column_name, r.value)
        FROM bridge.remainder AS r
        WHERE r.table_name = 'sessions' AND r.key = m.session_token AND r.column_name <> '(row)'
          AND r.over IS NOT DISTINCT FROM nullif(said -> r.column_name, 'null'));
BEGIN
    IF patch IS NOT NULL THEN
        m := jsonb_populate_record(m, patch);
    END IF;
    IF EXISTS (SELECT FROM bridge.remainder AS r
               WHERE r.table_name = 'step_progress' AND r.key = m.session_token) THEN
        m.steps := ARRAY(
            SELECT jsonb_populate_record(s.mapped, jsonb_object_agg(r.column_name, r.value)
                       FILTER (WHERE r.key IS NOT NULL
                                 AND r.over IS NOT DISTINCT FROM nullif(s.said -> r.column_name, 'null')))
            FROM (
                SELECT n.number, e AS mapped, to_jsonb(e) AS said
                FROM generate_series(1, 9) AS n(number)
                LEFT JOIN unnest(m.steps) AS e ON e.step_number = n.number
            ) AS s
            LEFT JOIN bridge.remainder AS r
              ON r.table_name = 'step_progress' AND r.key = m.session_token AND r.step_number = s.number
            GROUP BY s.number, s.mapped, s.said
            HAVING CASE WHEN s.said IS NULL
                THEN bool_or(r.column_name = '(row)' AND r.value = 'true')
                ELSE bool_or(r.column_name = '(row)' AND r.value = 'false' AND r.over = s.said) IS NOT TRUE
            END
            ORDER BY s.number);
        IF patch ? 'exercises' IS NOT TRUE THEN
            m.exercises := bridge.exercises_in_line(m.exercises, m.steps);
        END IF;
    END IF;
    m.completion_rate := public.session_completion_rate(public.session_steps_done(
        m.twilio_connected, m.openai_connected, m.call_direction_chosen, m.services_ready,
        m.step4_deployed, m.step5_deployed, m.step6_deployed, m.system_prompt_saved,
        m.step8_deployed, m.project_deployed,
        ARRAY(SELECT e.step_number FROM unnest(m.steps) AS e WHERE e.validation_passed)));
    RETURN m;
END
$$;
COMMENT ON FUNCTION bridge.with_remainder(bridge.mapped_sessions) IS
    'A session as mapped, with what the legacy tables cannot say of it.';

-- Nearly all sessions have no remainder: they do not go through a function. Who knows that of all that are asked
-- for reads plain_sessions: half the plan takes half the time to start. Who carries some sessions over calls
-- sessions_of(): the plan of the mapping is then made once in a connection, whatever is done with them.
DO $generate$
BEGIN
    EXECUTE (
        SELECT format(
            $views$
CREATE VIEW bridge.plain_sessions AS
SELECT o.session_token, st.student_id, %1$s
FROM bridge.mapped_sessions AS o
%2$s;

CREATE VIEW bridge.sessions AS
SELECT m.* FROM bridge.plain_sessions AS m
WHERE NOT EXISTS (SELECT FROM bridge.remainder AS r WHERE r.key = m.session_token)
UNION ALL
SELECT k.key AS session_token, st.student_id, %1$s
FROM (SELECT DISTINCT r.key FROM bridge.remainder AS r) AS k
CROSS JOIN LATERAL (SELECT s AS mapped FROM bridge.mapped_sessions AS s WHERE s.session_token = k.key OFFSET 0) AS m
CROSS JOIN LATERAL bridge.with_remainder(m.mapped) AS o
%2$s;

CREATE FUNCTION bridge.sessions_of(tokens text[]) RETURNS SETOF bridge.sessions
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    kept CONSTANT text[] := ARRAY(SELECT DISTINCT r.key FROM bridge.remainder AS r WHERE r.key = ANY (tokens));
BEGIN
    -- each query takes as long to begin as one session takes
    IF cardinality(kept) < cardinality(tokens) THEN
        RETURN QUERY
        SELECT o.session_token, st.student_id, %1$s
        FROM bridge.mapped(ARRAY(SELECT t FROM unnest(tokens) AS t WHERE t NOT IN (SELECT unnest(kept)))) AS o
        %2$s;
    END IF;
    IF kept <> '{}' THEN
        RETURN QUERY
        SELECT o.session_token, st.student_id, %1$s
        FROM bridge.mapped(kept) AS m
        CROSS JOIN LATERAL bridge.with_remainder(m) AS o
        %2$s;
    END IF;
END
$body$
            $views$,
            string_agg(c.expression, ', '),
            $student$
LEFT JOIN LATERAL (
    SELECT s.student_id FROM public.students AS s WHERE s.student_email = o.student_email OFFSET 0
) AS st ON true
            $student$)
        FROM bridge.columns_of('bridge.mapped_sessions') AS k
        CROSS JOIN LATERAL (
            SELECT format(
                CASE k.name
                    -- where no legacy row knows any time
                    WHEN 'expires_at' THEN 'coalesce(o.%1$I, now() + interval ''30 days'') AS %1$I'
                    WHEN 'updated_at' THEN 'coalesce(o.%1$I, now()) AS %1$I'
                    ELSE 'o.%1$I' END, k.name) AS expression
        ) AS c
        WHERE k.name <> 'session_token');
END
$generate$;
COMMENT ON VIEW bridge.plain_sessions IS 'The same as sessions where nothing is in the remainder.';
COMMENT ON VIEW bridge.sessions IS
    'What sessions should hold; beside its columns student_email, steps and note.';
COMMENT ON FUNCTION bridge.sessions_of(text[]) IS 'Some of bridge.sessions.';

CREATE VIEW bridge.step_progress AS
SELECT s.session_token, s.student_id, e.*
FROM bridge.sessions AS s
CROSS JOIN LATERAL unnest(s.steps) AS e;
COMMENT ON VIEW bridge.step_progress IS 'What step_progress should hold.';

CREATE VIEW bridge.notes AS
SELECT s.session_token AS token, s.note
FROM bridge.sessions AS s
WHERE s.note IS NOT NULL;
COMMENT ON VIEW bridge.notes IS 'Decisions of the merge, by session.'
