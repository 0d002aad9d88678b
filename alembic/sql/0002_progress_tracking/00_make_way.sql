-- An earlier attempt may have left update_session_progress(), with whatever arguments. It is moved aside, not
-- replaced: the downgrade gives it back. The preflight refuses a function of any other name, that of the backup included.
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
        RAISE NOTICE 'an earlier % is now update_session_progress_prior_backup', earlier;
    END LOOP;
END
$$
