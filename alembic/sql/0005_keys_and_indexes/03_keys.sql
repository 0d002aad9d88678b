-- Readers go on, writers of the new tables wait until the commit.
DO $$
DECLARE
    keys CONSTANT text := $keys$
        ALTER TABLE public.sessions
            ADD CONSTRAINT fk_sessions_student_id_students
                FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE CASCADE;
        ALTER TABLE public.step_progress
            ADD CONSTRAINT fk_step_progress_session_token_sessions
                FOREIGN KEY (session_token) REFERENCES public.sessions (session_token) ON DELETE CASCADE,
            ADD CONSTRAINT fk_step_progress_student_id_students
                FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE CASCADE;
        ALTER TABLE public.events
            ADD CONSTRAINT fk_events_student_id_students
                FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE SET NULL,
            ADD CONSTRAINT fk_events_session_token_sessions
                FOREIGN KEY (session_token) REFERENCES public.sessions (session_token) ON DELETE SET NULL
    $keys$;
    written text[];
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.lock_new_tables('SHARE ROW EXCLUSIVE');
        EXECUTE 'SELECT array_agg(DISTINCT p.token) FROM bridge.pending AS p WHERE p.side = ''unified''' INTO written;
        PERFORM pg_temp.give_a_home(coalesce(written, '{}'));
    END IF;
    BEGIN
        EXECUTE keys;
    EXCEPTION
        WHEN foreign_key_violation THEN
            -- a student was deleted: nobody has noted the sessions
            PERFORM pg_temp.give_a_home(NULL);
            EXECUTE keys;
    END;
END
$$
