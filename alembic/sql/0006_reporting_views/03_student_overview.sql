-- Students with what all their sessions come to. A student without a session is there as well.
-- Grouped by every column of students: a look-up by id or address then reads that student alone.
CREATE VIEW student_overview AS
SELECT
    st.student_id,
    st.student_email,
    st.student_name,
    st.github_username,
    count(s.session_token) AS sessions,
    count(s.session_token) FILTER (WHERE s.is_active AND s.expires_at > now()) AS active_sessions,
    coalesce(max(s.completion_rate), 0) AS completion_rate,
    coalesce(max(s.current_step), 0) AS current_step,
    coalesce(sum(s.total_time_spent), 0) AS total_time_spent,
    min(s.started_at) AS started_at,
    max(s.last_activity) AS last_activity,
    st.created_at,
    st.updated_at
FROM students AS st
LEFT JOIN sessions AS s ON s.student_id = st.student_id
GROUP BY st.student_id, st.student_email, st.student_name, st.github_username, st.created_at, st.updated_at;
COMMENT ON VIEW student_overview IS
    'Students, one row each, with what all their sessions come to; no secret.';
COMMENT ON COLUMN student_overview.student_id IS 'Immutable identity of the student.';
COMMENT ON COLUMN student_overview.student_email IS 'Address in lower case.';
COMMENT ON COLUMN student_overview.student_name IS 'Name as the student wrote it.';
COMMENT ON COLUMN student_overview.github_username IS 'GitHub account.';
COMMENT ON COLUMN student_overview.sessions IS 'Sessions of the student.';
COMMENT ON COLUMN student_overview.active_sessions IS 'Sessions that may be used and have not expired.';
COMMENT ON COLUMN student_overview.completion_rate IS 'Percentage of the session that got furthest, 0 to 100.';
COMMENT ON COLUMN student_overview.current_step IS 'Greatest current_step of the sessions, 0 to 9.';
COMMENT ON COLUMN student_overview.total_time_spent IS 'Seconds spent in all sessions together.';
COMMENT ON COLUMN student_overview.started_at IS 'Start of the first session; NULL: unknown.';
COMMENT ON COLUMN student_overview.last_activity IS 'Last activity in any session; NULL: unknown.';
COMMENT ON COLUMN student_overview.created_at IS 'First sign of the student; NULL: unknown.';
COMMENT ON COLUMN student_overview.updated_at IS 'Last change of the row in students.'
