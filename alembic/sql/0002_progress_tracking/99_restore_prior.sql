-- Restores the names of the functions of an earlier attempt.
DO $$
DECLARE
    earlier regprocedure;
BEGIN
    FOR earlier IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname = 'update_session_progress_prior_backup'
    LOOP
        EXECUTE format('ALTER ROUTINE %s RENAME TO update_session_progress', earlier);
    END LOOP;
END
$$
