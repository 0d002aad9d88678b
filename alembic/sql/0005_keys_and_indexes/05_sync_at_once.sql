-- From the commit on the triggers carry over what they note. What is pending by then is left to 0006:
-- reading the legacy tables in here would hold a lock on them for as long as this revision takes.
-- Plans are made once for each connection from now on: not for tables that were empty a moment ago. A small
-- sample of the columns that lookups go by is enough for that; autovacuum takes a larger one later.
SET LOCAL default_statistics_target = 10;
ANALYZE students (student_id, student_email);
ANALYZE sessions (session_token, student_id, last_activity, is_active, expires_at, current_step, completion_rate);
ANALYZE step_progress (session_token, student_id, step_number, validation_passed);
ANALYZE events (student_id, session_token, event_type);
SET LOCAL default_statistics_target TO DEFAULT;

DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        UPDATE bridge.state SET sync = true;
    END IF;
END
$$
