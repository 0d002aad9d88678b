-- The mapping: for each table of the unified schema, what it should hold, given the legacy tables as
-- they are now. Merge, sync, dry run and verification all read it from here; there is no other place
-- that knows a merge rule. p is workshop_students, c is student_configs.
--
-- The sources are joined by LATERAL ... OFFSET 0: always one index lookup a token, for one token, a
-- chunk or all of them, whatever the statistics of a half-filled database say.

CREATE VIEW bridge.tokens AS
SELECT token FROM bridge.legacy_progress
UNION
SELECT token FROM bridge.legacy_config;
COMMENT ON VIEW bridge.tokens IS 'Every session token of either legacy table.';

-- Whose session it is: workshop_students says, else student_configs, else nobody knows.
CREATE VIEW bridge.session_emails AS
SELECT k.token, coalesce(p.email, c.email, bridge.placeholder_email(k.token)) AS student_email
FROM bridge.tokens AS k
LEFT JOIN LATERAL (SELECT * FROM bridge.token_progress WHERE token = k.token OFFSET 0) AS p ON true
LEFT JOIN LATERAL (SELECT * FROM bridge.token_config WHERE token = k.token OFFSET 0) AS c ON true;
COMMENT ON VIEW bridge.session_emails IS 'Clean address, or placeholder, of each session.';

-- What each legacy row says about a student: the one it names, else its session's.
CREATE VIEW bridge.student_sources AS
SELECT
    r.token,
    coalesce(r.email, (SELECT e.student_email FROM bridge.session_emails AS e WHERE e.token = r.token))
        AS student_email,
    r.student_name,
    r.row_at,
    least(r.created_at, r.started_at) AS seen_at,
    1 AS rank
FROM bridge.legacy_progress AS r
UNION ALL
SELECT
    r.token,
    coalesce(r.email, (SELECT e.student_email FROM bridge.session_emails AS e WHERE e.token = r.token)),
    r.student_name,
    r.row_at,
    least(r.created_at, r.started_at),
    2
FROM bridge.legacy_config AS r;
COMMENT ON VIEW bridge.student_sources IS 'Legacy rows as sources about their students.';

-- The newest name that is not just the address, else the newest name; seen first when seen first.
-- Complete for an address only if all of its tokens are given: bridge.family() finds them.
CREATE FUNCTION bridge.map_students(tokens text[])
    RETURNS TABLE (student_email text, student_name text, created_at timestamptz, first_token text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        s.student_email,
        (array_agg(s.student_name
                   ORDER BY clean_email(s.student_name) = s.student_email,
                            s.row_at DESC NULLS LAST, s.rank, s.token)
            FILTER (WHERE clean_email(s.student_name) IS NOT NULL))[1],
        min(s.seen_at),
        min(s.token)
    FROM bridge.student_sources AS s
    WHERE s.token = ANY (tokens)
    GROUP BY s.student_email;
END;
COMMENT ON FUNCTION bridge.map_students(text[]) IS 'Students, as the given sessions describe them.';

CREATE VIEW bridge.students AS
SELECT m.student_email, m.student_name, m.created_at
FROM bridge.map_students(ARRAY(SELECT token FROM bridge.tokens)) AS m;
COMMENT ON VIEW bridge.students IS 'What students should hold; student_id is given on arrival.';

CREATE TYPE bridge.step AS (
    step_number integer,
    step_name text,
    started_at timestamptz,
    completed_at timestamptz,
    time_spent integer,
    attempts integer,
    validation_passed boolean
);
COMMENT ON TYPE bridge.step IS 'One step of a session, as step_progress holds it.';

-- One row for each session with all that is derived from its legacy rows, so that a chunk is read
-- and unwrapped once: steps become step_progress, note becomes a merge_note event. A note says what
-- was decided: which columns, which source won; never a value that could be a secret.
CREATE VIEW bridge.sessions AS
SELECT
    k.token AS session_token,
    st.student_id,

    -- configuration: student_configs has the last word
    coalesce(c.selected_phone_number, p.selected_phone_number) AS selected_phone_number,
    coalesce(c.selected_voice, p.selected_voice) AS selected_voice,
    coalesce(c.tts_provider, p.tts_provider) AS tts_provider,
    coalesce(c.call_direction, p.call_direction) AS call_direction,
    coalesce(c.use_case_description, p.use_case_description) AS use_case_description,
    coalesce(c.openai_api_key, p.openai_api_key) AS openai_api_key,
    coalesce(c.system_prompt, p.system_prompt) AS system_prompt,
    coalesce(c.ivr_greeting, p.ivr_greeting) AS ivr_greeting,
    coalesce(c.websocket_url, p.websocket_url) AS websocket_url,
    coalesce(c.codespace_url, p.codespace_url) AS codespace_url,
    coalesce(c.github_repo_url, p.github_repo_url) AS github_repo_url,
    coalesce(c.railway_url, p.railway_url) AS railway_url,
    coalesce(c.tools, p.tools, '[]') AS tools,
    coalesce(c.voice_settings, p.voice_settings, '{}') AS voice_settings,

    -- progress: workshop_students has the last word
    x.exercises,
    coalesce(p.bug_reports, c.bug_reports, '[]') AS bug_reports,

    -- flags: a full save of the old application resets what it does not know, so that false in one
    -- table is no evidence against true in the other
    f.twilio_connected,
    f.openai_connected,
    f.call_direction_chosen,
    f.services_ready,
    p.step4_code_validated IS TRUE OR c.step4_code_validated IS TRUE AS step4_code_validated,
    p.step4_committed IS TRUE OR c.step4_committed IS TRUE AS step4_committed,
    f.step4_deployed,
    p.step5_code_validated IS TRUE OR c.step5_code_validated IS TRUE AS step5_code_validated,
    p.step5_committed IS TRUE OR c.step5_committed IS TRUE AS step5_committed,
    f.step5_deployed,
    p.step6_code_validated IS TRUE OR c.step6_code_validated IS TRUE AS step6_code_validated,
    p.step6_committed IS TRUE OR c.step6_committed IS TRUE AS step6_committed,
    f.step6_deployed,
    f.system_prompt_saved,
    p.step7_committed IS TRUE OR c.step7_committed IS TRUE AS step7_committed,
    p.step7_deployed IS TRUE OR c.step7_deployed IS TRUE AS step7_deployed,
    p.tools_configured IS TRUE OR c.tools_configured IS TRUE AS tools_configured,
    p.step8_code_validated IS TRUE OR c.step8_code_validated IS TRUE AS step8_code_validated,
    p.step8_committed IS TRUE OR c.step8_committed IS TRUE AS step8_committed,
    f.step8_deployed,
    f.project_deployed,
    p.demo_mode IS TRUE OR c.demo_mode IS TRUE AS demo_mode,

    coalesce(greatest(p.current_step, c.current_step), d.done[cardinality(d.done)], 0) AS current_step,
    session_completion_rate(d.done) AS completion_rate,
    coalesce(greatest(p.total_time_spent, c.total_time_spent), 0) AS total_time_spent,

    -- times: NULL where no legacy row knows, never the time of the migration
    coalesce(least(p.started_at, c.started_at), least(p.created_at, c.created_at)) AS started_at,
    least(p.created_at, c.created_at) AS created_at,
    coalesce(greatest(p.last_activity, c.updated_at), p.updated_at) AS last_activity,

    CASE WHEN p.extra <> '{}' THEN jsonb_build_object('workshop_students', p.extra) ELSE '{}' END
        || CASE WHEN c.extra <> '{}' THEN jsonb_build_object('student_configs', c.extra) ELSE '{}' END
        AS legacy_extra,

    -- set when the row first arrives; the unified schema's own afterwards
    a.expires_at,
    a.expires_at > now() AND p.tokenless IS NOT TRUE AND c.tokenless IS NOT TRUE AS is_active,
    coalesce(greatest(p.updated_at, c.updated_at), now()) AS updated_at,

    -- for step_progress and events
    x.steps,
    nullif(jsonb_strip_nulls(jsonb_build_object(
        'placeholder_address', CASE WHEN p.email IS NULL AND c.email IS NULL THEN true END,
        'token_shared_by_many_browsers', CASE WHEN k.token IN ('null', 'undefined') THEN true END,
        'row_without_token', CASE WHEN p.tokenless OR c.tokenless THEN true END,
        'conflicts', (
            SELECT jsonb_object_agg(v.column_name, v.winner)
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
            ) AS v(column_name, winner, differs)
            WHERE v.differs AND p.token IS NOT NULL AND c.token IS NOT NULL
        ),
        'unreadable', (
            SELECT jsonb_agg(u.source || '.' || u.column_name ORDER BY u.source, u.column_name)
            FROM (
                SELECT 'workshop_students' AS source, jsonb_object_keys(p.unreadable) AS column_name
                UNION ALL
                SELECT 'student_configs', jsonb_object_keys(c.unreadable)
            ) AS u
        ),
        'clamped', nullif(coalesce(p.clamped, '{}') || coalesce(c.clamped, '{}'), '{}')
    )), '{}') AS note
FROM bridge.tokens AS k
LEFT JOIN LATERAL (SELECT * FROM bridge.token_progress WHERE token = k.token OFFSET 0) AS p ON true
LEFT JOIN LATERAL (SELECT * FROM bridge.token_config WHERE token = k.token OFFSET 0) AS c ON true
LEFT JOIN LATERAL (
    SELECT s.student_id FROM public.students AS s
    WHERE s.student_email = coalesce(p.email, c.email, bridge.placeholder_email(k.token))
    OFFSET 0
) AS st ON true
CROSS JOIN LATERAL (
    SELECT coalesce(
        greatest(p.last_activity, c.updated_at), p.updated_at,
        least(p.created_at, c.created_at), now()) + interval '30 days' AS expires_at
) AS a
CROSS JOIN LATERAL (
    SELECT
        e.exercises,
        ARRAY(
            SELECT ROW(s.step_number, step_name_of(s.step_number), NULL::timestamptz, s.completed_at,
                       s.time_spent, s.attempts, s.validation_passed)::bridge.step
            FROM exercise_steps(e.exercises) AS s
        ) AS steps
    FROM (SELECT coalesce(p.exercises, c.exercises, '{}') AS exercises) AS e
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
    SELECT session_steps_done(
        f.twilio_connected, f.openai_connected, f.call_direction_chosen, f.services_ready,
        f.step4_deployed, f.step5_deployed, f.step6_deployed, f.system_prompt_saved,
        f.step8_deployed, f.project_deployed,
        ARRAY(SELECT e.step_number FROM unnest(x.steps) AS e WHERE e.validation_passed)) AS done
    OFFSET 0
) AS d;
COMMENT ON VIEW bridge.sessions IS
    'What sessions should hold; beside its columns steps and note, for step_progress and events.';

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
