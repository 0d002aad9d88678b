-- Renames update_session_progress() of an earlier attempt, with any arguments; the downgrade restores the name. The
-- preflight has refused every other function with a name that this revision needs.
DO $$
DECLARE
    earlier regprocedure;
BEGIN
    FOR earlier IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname = 'update_session_progress'
        ORDER BY p.oid::regprocedure::text
    LOOP
        EXECUTE format('ALTER ROUTINE %s RENAME TO update_session_progress_prior_backup', earlier);
        RAISE NOTICE 'function % of an earlier attempt is now called update_session_progress_prior_backup', earlier;
    END LOOP;
END
$$
