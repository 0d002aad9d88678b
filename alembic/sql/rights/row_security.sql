-- Where a legacy table has row security, so have the four tables; the reporting views then read with the rights of
-- their reader.
DO $$
DECLARE
    command text;
    protected record;
BEGIN
    SELECT coalesce(bool_or(c.relrowsecurity), false) AS on_, coalesce(bool_or(c.relforcerowsecurity), false) AS forced
    INTO protected
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND c.relname IN ('workshop_students', 'student_configs', 'workshop_step_progress');
    FOR command IN
        SELECT format('ALTER TABLE public.%I %s ROW LEVEL SECURITY', c.relname, w.what)
        FROM pg_class AS c
        CROSS JOIN LATERAL (VALUES ('ENABLE', protected.on_ AND NOT c.relrowsecurity),
                                   ('FORCE', protected.forced AND NOT c.relforcerowsecurity)) AS w(what, wanted)
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND w.wanted
          AND c.relname IN ('students', 'sessions', 'step_progress', 'events')
        ORDER BY array_position(ARRAY['students', 'sessions', 'step_progress', 'events'], c.relname::text)
    LOOP
        EXECUTE command;
    END LOOP;
    FOR command IN
        SELECT format('ALTER VIEW public.%I SET (security_invoker = true)', c.relname)
        FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'
          AND c.relname IN ('session_overview', 'student_overview', 'step_funnel', 'progress_by_day', 'stuck_sessions')
          AND EXISTS (SELECT FROM pg_class AS t
                      WHERE t.relnamespace = c.relnamespace AND t.relrowsecurity
                        AND t.relname IN ('students', 'sessions', 'step_progress', 'events'))
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
