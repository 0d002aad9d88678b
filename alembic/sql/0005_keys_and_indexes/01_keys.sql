-- Readers go on, writers of the new tables wait until the commit.
--
-- Until now no foreign key kept an application from writing what leads nowhere. A step without a session
-- becomes an event, a session gets a student, an event loses its link; none of them stops the constraints. Mostly
-- there are none: they are looked for where a constraint finds one.
DO $$
DECLARE
    bridged CONSTANT boolean := to_regnamespace('bridge') IS NOT NULL;
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
    adopted text[];
    rows bigint;
BEGIN
    IF bridged THEN
        PERFORM bridge.lock_new_tables('SHARE ROW EXCLUSIVE');
        -- what has been carried over since the verification is right
        EXECUTE 'SELECT array_agg(DISTINCT p.token) FROM bridge.pending AS p WHERE p.side = ''unified''' INTO written;
    ELSE
        SELECT array_agg(v.session_token) INTO written FROM public.sessions AS v;
    END IF;
    PERFORM set_config('bridge.pulling', 'on', true);
    UPDATE public.step_progress AS sp SET student_id = v.student_id
    FROM public.sessions AS v
    WHERE v.session_token = ANY (written) AND v.session_token = sp.session_token AND v.student_id <> sp.student_id;
    BEGIN
        EXECUTE keys;
    EXCEPTION WHEN foreign_key_violation THEN
        WITH orphans AS (
            INSERT INTO public.students (student_id, student_email, student_name)
            SELECT v.student_id,
                   'orphan+' || left(encode(sha256(convert_to(min(v.session_token), 'UTF8')), 'hex'), 16) || '@workshop.invalid',
                   NULL
            FROM public.sessions AS v
            WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = v.student_id)
            GROUP BY v.student_id
            RETURNING student_id
        )
        SELECT array_agg(v.session_token) INTO adopted
        FROM public.sessions AS v JOIN orphans AS o USING (student_id);
        IF adopted IS NOT NULL THEN
            RAISE NOTICE '% sessions had no student: one was made for them', cardinality(adopted);
        END IF;
        IF adopted IS NOT NULL AND bridged THEN
            -- where a legacy table tells of the session, it says whose it is
            EXECUTE 'INSERT INTO bridge.pending (side, token) SELECT CASE WHEN EXISTS ('
                    'SELECT FROM bridge.tokens AS k WHERE k.token = t) THEN ''legacy'' ELSE ''unified'' END, t '
                    'FROM unnest($1) AS t' USING adopted;
        END IF;

        WITH orphans AS (
            DELETE FROM public.step_progress AS sp
            WHERE NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = sp.session_token)
            RETURNING *
        )
        INSERT INTO public.events (event_type, event_data)
        SELECT 'orphaned_step', to_jsonb(o) - 'session_token' FROM orphans AS o;
        GET DIAGNOSTICS rows = ROW_COUNT;
        IF rows > 0 THEN
            RAISE NOTICE '% steps had no session: they are events now (orphaned_step)', rows;
        END IF;

        UPDATE public.events AS e SET session_token = NULL
        WHERE e.session_token IS NOT NULL
          AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = e.session_token);
        UPDATE public.events AS e SET student_id = NULL
        WHERE e.student_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = e.student_id);
        EXECUTE keys;
    END;
    PERFORM set_config('bridge.pulling', '', true);
END
$$
