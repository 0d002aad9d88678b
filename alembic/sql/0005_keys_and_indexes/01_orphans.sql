-- Until now no foreign key keeps an application from writing what leads nowhere. A step without a session becomes an
-- event, a session gets a student, an event loses its link; none of them stops the constraints. tokens NULL: all.
CREATE OR REPLACE FUNCTION pg_temp.give_a_home(tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    adopted text[];
    rows bigint;
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    WITH orphans AS (
        INSERT INTO public.students (student_id, student_email, student_name)
        SELECT v.student_id,
               'orphan+' || left(encode(sha256(convert_to(v.student_id::text, 'UTF8')), 'hex'), 16) || '@workshop.invalid',
               NULL
        FROM public.sessions AS v
        WHERE (tokens IS NULL OR v.session_token = ANY (tokens))
          AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = v.student_id)
        GROUP BY v.student_id
        RETURNING student_id
    )
    SELECT array_agg(v.session_token) INTO adopted
    FROM public.sessions AS v JOIN orphans AS o USING (student_id);
    IF adopted IS NOT NULL THEN
        RAISE NOTICE '% sessions had no student: one was made for them', cardinality(adopted);
    END IF;
    IF adopted IS NOT NULL AND to_regnamespace('bridge') IS NOT NULL THEN
        -- where a legacy table tells of the session, it says whose it is
        EXECUTE 'INSERT INTO bridge.pending (side, token) SELECT CASE WHEN EXISTS ('
                'SELECT FROM bridge.tokens AS k WHERE k.token = t) THEN ''legacy'' ELSE ''unified'' END, t '
                'FROM unnest($1) AS t' USING adopted;
    END IF;

    WITH orphans AS (
        DELETE FROM public.step_progress AS sp
        WHERE (tokens IS NULL OR sp.session_token = ANY (tokens))
          AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = sp.session_token)
        RETURNING *
    )
    INSERT INTO public.events (event_type, event_data)
    SELECT 'orphaned_step', to_jsonb(o) - 'session_token' FROM orphans AS o;
    GET DIAGNOSTICS rows = ROW_COUNT;
    IF rows > 0 THEN
        RAISE NOTICE '% steps had no session: they are events now (orphaned_step)', rows;
    END IF;

    UPDATE public.step_progress AS sp SET student_id = v.student_id
    FROM public.sessions AS v
    WHERE (tokens IS NULL OR v.session_token = ANY (tokens))
      AND v.session_token = sp.session_token AND v.student_id <> sp.student_id;
    UPDATE public.events AS e SET session_token = NULL
    WHERE (tokens IS NULL OR e.session_token = ANY (tokens)) AND e.session_token IS NOT NULL
      AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = e.session_token);
    UPDATE public.events AS e SET student_id = NULL
    WHERE (tokens IS NULL OR e.session_token = ANY (tokens)) AND e.student_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = e.student_id);
    PERFORM set_config('bridge.pulling', '', true);
END
$$;

-- Where endpoints have moved already: most of it, while nobody has to wait.
DO $$
DECLARE
    in_use boolean := true;
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        EXECUTE 'SELECT EXISTS (SELECT FROM bridge.pending AS p WHERE p.side = ''unified'')' INTO in_use;
    END IF;
    IF in_use THEN
        PERFORM set_config('lock_timeout', '50ms', true);
        PERFORM pg_temp.give_a_home(NULL);
    END IF;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RAISE NOTICE 'the new tables are being written: what leads nowhere is looked for once they are locked';
END
$$
