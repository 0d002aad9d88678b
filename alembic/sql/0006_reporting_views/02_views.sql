SELECT public.create_commented($views$
-- For people and BI tools: flags instead of keys and prompts. The token gives access to the session, so grant this view
-- with care.
CREATE VIEW session_overview AS  -- Sessions with their students, one row each; flags instead of secrets, but the whole token.
SELECT
    s.session_token, s.student_id, st.student_email, st.student_name, st.github_username, s.selected_phone_number,
    s.selected_voice, s.tts_provider, s.call_direction, s.use_case_description,
    s.openai_api_key IS NOT NULL AS has_api_key,  -- The session has an OpenAI API key.
    s.system_prompt IS NOT NULL AS has_system_prompt,  -- The session has a prompt of its own.
    s.tools <> '[]' AS has_tools,  -- The session has at least one tool.
    s.demo_mode, s.is_active, s.current_step, s.completion_rate, s.total_time_spent, s.twilio_connected,
    s.openai_connected, s.call_direction_chosen, s.services_ready, s.step4_code_validated, s.step4_committed,
    s.step4_deployed, s.step5_code_validated, s.step5_committed, s.step5_deployed, s.step6_code_validated,
    s.step6_committed, s.step6_deployed, s.system_prompt_saved, s.step7_committed, s.step7_deployed,
    s.tools_configured, s.step8_code_validated, s.step8_committed, s.step8_deployed, s.project_deployed, s.started_at,
    s.last_activity, s.expires_at, s.created_at, s.updated_at
FROM sessions AS s
JOIN students AS st ON st.student_id = s.student_id;

-- Students without a session are included. Grouped by every column of students, so that a lookup by id or address reads
-- one student only.
CREATE VIEW student_overview AS  -- Students, one row each, with the totals of their sessions; no secret.
SELECT
    st.student_id,  -- Immutable identity of the student.
    st.student_email,  -- Address in lower case.
    st.student_name,  -- Name as the student wrote it.
    st.github_username,  -- GitHub account.
    count(s.session_token) AS sessions,  -- Sessions of the student.
    count(s.session_token) FILTER (WHERE s.is_active AND s.expires_at > now()) AS active_sessions,  -- Sessions that may be used and have not expired.
    coalesce(max(s.completion_rate), 0) AS completion_rate,  -- Steps done in percent in the most advanced session, 0 to 100.
    coalesce(max(s.current_step), 0) AS current_step,  -- Greatest current_step of the sessions, 0 to 9.
    coalesce(sum(s.total_time_spent), 0) AS total_time_spent,  -- Seconds spent in all sessions together.
    min(s.started_at) AS started_at,  -- Start of the first session; NULL: unknown.
    max(s.last_activity) AS last_activity,  -- Last activity in any session; NULL: unknown.
    st.created_at,  -- Earliest known time of the student; NULL: unknown.
    st.updated_at  -- Last change of the row in students.
FROM students AS st
LEFT JOIN sessions AS s ON s.student_id = st.student_id
GROUP BY st.student_id, st.student_email, st.student_name, st.github_username, st.created_at, st.updated_at;

-- Done: as session_steps_done() defines it. Started: done, a row of step_progress, or one of the flags of the step. A
-- time of 0 seconds means unknown.
CREATE VIEW step_funnel AS  -- The nine steps: sessions that started and finished each, and the time spent; no secret.
WITH touched AS (
    SELECT
        sp.session_token,
        array_agg(sp.step_number) AS steps,
        array_agg(sp.time_spent) AS times,
        array_agg(sp.step_number) FILTER (WHERE sp.validation_passed) AS passed
    FROM step_progress AS sp
    GROUP BY sp.session_token
),
reached AS MATERIALIZED (
    SELECT
        public.session_steps_done(
            s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
            s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
            s.step8_deployed, s.project_deployed, t.passed) AS done,
        array_remove(ARRAY[
            CASE WHEN s.twilio_connected OR s.openai_connected THEN 1 END,
            CASE WHEN s.step4_code_validated OR s.step4_committed THEN 4 END,
            CASE WHEN s.step5_code_validated OR s.step5_committed THEN 5 END,
            CASE WHEN s.step6_code_validated OR s.step6_committed THEN 6 END,
            CASE WHEN s.step7_committed OR s.step7_deployed THEN 7 END,
            CASE WHEN s.tools_configured OR s.step8_code_validated OR s.step8_committed THEN 8 END
        ], NULL) AS flagged,
        t.steps,
        t.times
    FROM sessions AS s
    LEFT JOIN touched AS t ON t.session_token = s.session_token
),
counted AS (
    SELECT
        w.step_number,
        count(*) FILTER (WHERE w.step_number = ANY (r.done || r.flagged || r.steps)) AS started,
        count(*) FILTER (WHERE w.step_number = ANY (r.done)) AS done
    FROM reached AS r
    CROSS JOIN public.workshop_steps() AS w
    GROUP BY w.step_number
),
timed AS (
    SELECT
        u.step_number,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY u.time_spent) AS median_time_spent,
        avg(u.time_spent)::double precision AS mean_time_spent
    FROM reached AS r
    CROSS JOIN LATERAL unnest(r.steps, r.times) AS u(step_number, time_spent)
    WHERE u.time_spent > 0 AND u.step_number = ANY (r.done)
    GROUP BY u.step_number
)
SELECT
    w.step_number,  -- Step, 1 to 9.
    w.step_name,  -- Name of the step.
    coalesce(c.started, 0) AS started,  -- Sessions that started the step: done, a row of step_progress, or one of its flags.
    coalesce(c.done, 0) AS done,  -- Sessions that finished the step, as session_steps_done() defines it.
    t.median_time_spent,  -- Median seconds of the sessions that finished it and have a time; NULL: none.
    t.mean_time_spent  -- Mean seconds of the sessions that finished it and have a time; NULL: none.
FROM public.workshop_steps() AS w
LEFT JOIN counted AS c ON c.step_number = w.step_number
LEFT JOIN timed AS t ON t.step_number = w.step_number;

CREATE VIEW progress_by_day AS  -- Progress by day (UTC); days without progress have no row. No secret.
WITH happened AS (
    SELECT s.started_at AS at, 1 AS started, 0 AS completed, 0 AS last_active
    FROM sessions AS s
    UNION ALL
    SELECT sp.completed_at, 0, 1, 0
    FROM step_progress AS sp
    WHERE sp.validation_passed
    UNION ALL
    SELECT s.last_activity, 0, 0, 1
    FROM sessions AS s
)
SELECT
    (h.at AT TIME ZONE 'UTC')::date AS day,  -- Day in UTC.
    sum(h.started) AS sessions_started,  -- Sessions with started_at on that day.
    sum(h.completed) AS steps_completed,  -- Rows of step_progress passed on that day, by completed_at.
    sum(h.last_active) AS sessions_last_active  -- Sessions with last_activity on that day: each counts once.
FROM happened AS h
WHERE isfinite(h.at)
GROUP BY (h.at AT TIME ZONE 'UTC')::date;

-- Has no token: its last four characters distinguish two sessions of a student.
CREATE VIEW stuck_sessions AS  -- Unfinished sessions without activity for a day or more, and their next step; no secret.
SELECT
    s.student_id,  -- Student of the session.
    st.student_email,  -- Address of the student.
    st.student_name,  -- Name as the student wrote it.
    right(s.session_token, 4) AS token_end,  -- Last four characters of the session token.
    s.is_active AND s.expires_at > now() AS is_active,  -- The session may be used and has not expired.
    s.demo_mode,  -- Session of a demonstration.
    s.completion_rate,  -- Steps done in percent, 0 to 99.
    n.next_step,  -- First step that is not done, 1 to 9.
    public.step_name_of(n.next_step) AS next_step_name,  -- Name of that step.
    coalesce(sp.attempts, 0) AS attempts,  -- Attempts at that step.
    coalesce(sp.time_spent, 0) AS time_spent,  -- Seconds spent in that step.
    q.since AS quiet_since,  -- Last activity, else the start of the session; NULL: unknown.
    CASE WHEN isfinite(q.since) THEN floor(extract(epoch FROM now() - q.since) / 86400)::integer END AS quiet_days,  -- Days since then; NULL: unknown.
    s.expires_at  -- End of the session.
FROM sessions AS s
JOIN students AS st ON st.student_id = s.student_id
CROSS JOIN LATERAL (SELECT coalesce(s.last_activity, s.started_at, s.created_at) AS since) AS q
CROSS JOIN LATERAL (
    SELECT public.session_steps_done(
        s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
        s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
        s.step8_deployed, s.project_deployed,
        ARRAY(SELECT p.step_number FROM step_progress AS p
              WHERE p.session_token = s.session_token AND p.validation_passed)) AS done
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    -- the steps done are ascending: the first one missing is the next step
    SELECT CASE
        WHEN d.done[1] IS DISTINCT FROM 1 THEN 1 WHEN d.done[2] IS DISTINCT FROM 2 THEN 2
        WHEN d.done[3] IS DISTINCT FROM 3 THEN 3 WHEN d.done[4] IS DISTINCT FROM 4 THEN 4
        WHEN d.done[5] IS DISTINCT FROM 5 THEN 5 WHEN d.done[6] IS DISTINCT FROM 6 THEN 6
        WHEN d.done[7] IS DISTINCT FROM 7 THEN 7 WHEN d.done[8] IS DISTINCT FROM 8 THEN 8
        WHEN d.done[9] IS DISTINCT FROM 9 THEN 9
    END AS next_step
) AS n
LEFT JOIN step_progress AS sp ON sp.session_token = s.session_token AND sp.step_number = n.next_step
WHERE s.completion_rate < 100 AND (q.since > now() - interval '1 day') IS NOT TRUE;
$views$);

-- The other columns of session_overview get the comments of the tables.
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT v.attname AS name, coalesce(col_description(to_regclass('public.sessions'), s.attnum),
                                           col_description(to_regclass('public.students'), st.attnum)) AS comment
        FROM pg_attribute AS v
        LEFT JOIN pg_attribute AS s ON s.attrelid = 'public.sessions'::regclass AND s.attname = v.attname
        LEFT JOIN pg_attribute AS st ON st.attrelid = 'public.students'::regclass AND st.attname = v.attname
        WHERE v.attrelid = 'public.session_overview'::regclass AND v.attnum > 0 AND col_description(v.attrelid, v.attnum) IS NULL
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.session_overview.%I IS %L', col.name, col.comment);
    END LOOP;
END
$$
