-- Each index has its own transaction: writers wait for one index at a time. Indexes that a killed run has left are
-- built anew.
DO $$
DECLARE
    name text;
    indexed text;
    command text;
BEGIN
    FOR name, indexed IN
        VALUES ('ix_sessions_last_activity', 'sessions (last_activity DESC)'),
               ('ix_sessions_is_active_expires_at', 'sessions (is_active, expires_at)'),
               ('ix_step_progress_student_id', 'step_progress (student_id)'),
               ('ix_events_student_id', 'events (student_id)'),
               ('ix_events_event_type', 'events (event_type)')
    LOOP
        command := format('CREATE INDEX %I ON public.%s', name, indexed);
        IF EXISTS (SELECT FROM pg_index AS i
                   WHERE i.indexrelid = to_regclass('public.' || name)
                     AND i.indrelid = to_regclass('public.' || split_part(indexed, ' ', 1))) THEN
            command := format('DROP INDEX public.%I; %s', name, command);
        END IF;
        PERFORM public.retry_locking(command);
        IF current_setting('bridge.single_transaction', true) IS DISTINCT FROM 'on' THEN
            COMMIT;
        END IF;
    END LOOP;

    -- From 0005 on connections cache plans, and must not plan for empty tables. A small sample of the columns used in
    -- lookups is enough; autovacuum takes a larger one later.
    PERFORM set_config('default_statistics_target', '10', true);
    ANALYZE public.students (student_id, student_email);
    ANALYZE public.sessions (session_token, student_id, last_activity, is_active, expires_at, current_step, completion_rate);
    ANALYZE public.step_progress (session_token, student_id, step_number, validation_passed);
    ANALYZE public.events (student_id, session_token, event_type);
END
$$
