-- Writers of the unified tables wait for the first transaction only. From its commit on the keys refuse new orphaned
-- rows. Existing rows are validated while writes continue.
DO $$
DECLARE
    commits CONSTANT boolean := current_setting('bridge.single_transaction', true) IS DISTINCT FROM 'on';
    added CONSTANT text := $keys$
        ALTER TABLE public.sessions
            ADD CONSTRAINT fk_sessions_student_id_students FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE CASCADE NOT VALID;
        ALTER TABLE public.step_progress
            ADD CONSTRAINT fk_step_progress_session_token_sessions FOREIGN KEY (session_token) REFERENCES public.sessions (session_token) ON DELETE CASCADE NOT VALID,
            ADD CONSTRAINT fk_step_progress_student_id_students FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE CASCADE NOT VALID;
        ALTER TABLE public.events
            ADD CONSTRAINT fk_events_student_id_students FOREIGN KEY (student_id) REFERENCES public.students (student_id) ON DELETE SET NULL NOT VALID,
            ADD CONSTRAINT fk_events_session_token_sessions FOREIGN KEY (session_token) REFERENCES public.sessions (session_token) ON DELETE SET NULL NOT VALID
    $keys$;
    names CONSTANT text[] := ARRAY(SELECT m[1] FROM regexp_matches(added, 'CONSTRAINT (\w+)', 'g') AS m);
    constrained CONSTANT regclass[] := ARRAY['public.sessions', 'public.step_progress', 'public.events'];
    -- constraints that a killed run has left
    left_over CONSTANT text := (
        SELECT string_agg(format('ALTER TABLE public.%I DROP CONSTRAINT %I', t.relname, c.conname), '; ')
        FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid
        WHERE t.oid = ANY (constrained) AND c.conname = ANY (names));
    command text;
BEGIN
    PERFORM public.lock_unified_tables(CASE WHEN left_over IS NULL THEN 'SHARE ROW EXCLUSIVE' ELSE 'ACCESS EXCLUSIVE' END);
    EXECUTE concat_ws('; ', left_over, added);
    IF commits THEN
        COMMIT;
    END IF;
    -- deleting a session in the meantime has orphaned its steps
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: logged sessions are read, and written where endpoints wrote
        CALL bridge.drain(strict => false);
    END IF;
    PERFORM pg_temp.refuse_orphans();

    FOR command IN
        SELECT format('ALTER TABLE public.%I VALIDATE CONSTRAINT %I', t.relname, c.conname)
        FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid
        WHERE t.oid = ANY (constrained) AND c.conname = ANY (names)
        ORDER BY 1
    LOOP
        PERFORM public.retry_locking(command);
        IF commits THEN
            COMMIT;
        END IF;
    END LOOP;
END
$$
