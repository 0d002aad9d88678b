-- Sessions that are not finished and have been quiet for a day or more, with the step that comes next
-- for them. No token: its last four characters tell two sessions of a student apart.
CREATE VIEW stuck_sessions AS
SELECT
    s.student_id,
    st.student_email,
    st.student_name,
    right(s.session_token, 4) AS token_end,
    s.is_active AND s.expires_at > now() AS is_active,
    s.demo_mode,
    s.completion_rate,
    n.next_step,
    step_name_of(n.next_step) AS next_step_name,
    coalesce(sp.attempts, 0) AS attempts,
    coalesce(sp.time_spent, 0) AS time_spent,
    q.since AS quiet_since,
    CASE WHEN isfinite(q.since) THEN floor(extract(epoch FROM now() - q.since) / 86400)::integer END AS quiet_days,
    s.expires_at
FROM sessions AS s
JOIN students AS st ON st.student_id = s.student_id
CROSS JOIN LATERAL (SELECT coalesce(s.last_activity, s.started_at, s.created_at) AS since) AS q
CROSS JOIN LATERAL (
    SELECT session_steps_done(
        s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
        s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
        s.step8_deployed, s.project_deployed,
        ARRAY(SELECT p.step_number FROM step_progress AS p
              WHERE p.session_token = s.session_token AND p.validation_passed)) AS done
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    -- the steps done are in ascending order: the first that is not in its place is the next one
    SELECT CASE
        WHEN d.done[1] IS DISTINCT FROM 1 THEN 1
        WHEN d.done[2] IS DISTINCT FROM 2 THEN 2
        WHEN d.done[3] IS DISTINCT FROM 3 THEN 3
        WHEN d.done[4] IS DISTINCT FROM 4 THEN 4
        WHEN d.done[5] IS DISTINCT FROM 5 THEN 5
        WHEN d.done[6] IS DISTINCT FROM 6 THEN 6
        WHEN d.done[7] IS DISTINCT FROM 7 THEN 7
        WHEN d.done[8] IS DISTINCT FROM 8 THEN 8
        WHEN d.done[9] IS DISTINCT FROM 9 THEN 9
    END AS next_step
) AS n
LEFT JOIN step_progress AS sp ON sp.session_token = s.session_token AND sp.step_number = n.next_step
WHERE s.completion_rate < 100 AND (q.since > now() - interval '1 day') IS NOT TRUE;
COMMENT ON VIEW stuck_sessions IS
    'Unfinished sessions without activity for a day or more, and what they are at; no secret.';
COMMENT ON COLUMN stuck_sessions.student_id IS 'Whose session it is.';
COMMENT ON COLUMN stuck_sessions.student_email IS 'Address of the student.';
COMMENT ON COLUMN stuck_sessions.student_name IS 'Name as the student wrote it.';
COMMENT ON COLUMN stuck_sessions.token_end IS 'Last four characters of the session token.';
COMMENT ON COLUMN stuck_sessions.is_active IS 'The session may be used and has not expired.';
COMMENT ON COLUMN stuck_sessions.demo_mode IS 'Session of a demonstration.';
COMMENT ON COLUMN stuck_sessions.completion_rate IS 'Steps done in percent, 0 to 99.';
COMMENT ON COLUMN stuck_sessions.next_step IS 'First step that is not done, 1 to 9.';
COMMENT ON COLUMN stuck_sessions.next_step_name IS 'Name of that step.';
COMMENT ON COLUMN stuck_sessions.attempts IS 'Attempts at that step.';
COMMENT ON COLUMN stuck_sessions.time_spent IS 'Seconds spent in that step.';
COMMENT ON COLUMN stuck_sessions.quiet_since IS
    'Last activity, else the start of the session; NULL: unknown.';
COMMENT ON COLUMN stuck_sessions.quiet_days IS 'Days since then; NULL: unknown.';
COMMENT ON COLUMN stuck_sessions.expires_at IS 'End of the session.'
