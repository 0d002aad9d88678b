-- Before 0005 no foreign key refuses orphaned rows. The drain has repaired those with a session in the legacy tables.
-- The others are refused by name, because only the operator knows their value.
CREATE OR REPLACE FUNCTION pg_temp.refuse_orphans() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found text;
    problems text := '';
    queries text := '';
    rows bigint;
BEGIN
    SELECT count(*), string_agg('...' || right(v.session_token, 4), ' ') INTO rows, found
    FROM (SELECT s.session_token FROM public.sessions AS s
          WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = s.student_id) LIMIT 1000) AS v;
    IF rows > 0 THEN
        problems := problems || format(' %s sessions without a student (%s)', rows, left(found, 60));
        queries := queries || ' SELECT * FROM sessions AS s WHERE NOT EXISTS (SELECT FROM students AS st WHERE st.student_id = s.student_id);';
    END IF;
    SELECT count(*), string_agg(format('...%s step %s', right(p.session_token, 4), p.step_number), ', ') INTO rows, found
    FROM (SELECT sp.session_token, sp.step_number FROM public.step_progress AS sp
          WHERE NOT EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = sp.session_token) LIMIT 1000) AS p;
    IF rows > 0 THEN
        problems := problems || format(' %s steps without a session (%s)', rows, left(found, 60));
        queries := queries || ' SELECT * FROM step_progress AS sp WHERE NOT EXISTS (SELECT FROM sessions AS s WHERE s.session_token = sp.session_token);';
    END IF;
    IF problems <> '' THEN
        RAISE EXCEPTION 'orphaned rows in the unified tables:%', problems
            USING ERRCODE = 'foreign_key_violation',
                  HINT = 'Nothing was deleted. Delete these rows, or give them a student or a session; then run this again. They are:' || queries;
    END IF;
    PERFORM set_config('bridge.applying', 'on', true);
    UPDATE public.step_progress AS sp SET student_id = v.student_id
    FROM public.sessions AS v
    WHERE v.session_token = sp.session_token AND v.student_id <> sp.student_id;
    -- as the foreign keys do when a session or a student is deleted
    UPDATE public.events AS e SET session_token = NULL
    WHERE e.session_token IS NOT NULL AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = e.session_token);
    UPDATE public.events AS e SET student_id = NULL
    WHERE e.student_id IS NOT NULL AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = e.student_id);
    PERFORM set_config('bridge.applying', '', true);
END
$$
