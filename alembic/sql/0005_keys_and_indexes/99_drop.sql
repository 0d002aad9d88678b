-- IF EXISTS, because the operator may have dropped the tables.
ALTER TABLE IF EXISTS events
    DROP CONSTRAINT IF EXISTS fk_events_session_token_sessions,
    DROP CONSTRAINT IF EXISTS fk_events_student_id_students;
ALTER TABLE IF EXISTS step_progress
    DROP CONSTRAINT IF EXISTS fk_step_progress_student_id_students,
    DROP CONSTRAINT IF EXISTS fk_step_progress_session_token_sessions;
ALTER TABLE IF EXISTS sessions DROP CONSTRAINT IF EXISTS fk_sessions_student_id_students;
DROP INDEX IF EXISTS
    ix_events_event_type,
    ix_events_student_id,
    ix_step_progress_student_id,
    ix_sessions_is_active_expires_at,
    ix_sessions_last_activity
