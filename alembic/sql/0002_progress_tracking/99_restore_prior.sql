-- Gives the function of an earlier attempt its name back.
DO $$
BEGIN
    IF to_regprocedure('public.update_session_progress_prior_backup(text)') IS NOT NULL THEN
        ALTER FUNCTION public.update_session_progress_prior_backup(text)
            RENAME TO update_session_progress;
    END IF;
END
$$
