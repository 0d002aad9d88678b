-- An earlier attempt may have left update_session_progress(text). It is moved aside, not replaced:
-- the downgrade gives it back. A function of ours under any other name is refused by CREATE.
DO $$
BEGIN
    IF to_regprocedure('public.update_session_progress(text)') IS NOT NULL THEN
        IF to_regprocedure('public.update_session_progress_prior_backup(text)') IS NOT NULL THEN
            RAISE EXCEPTION 'function update_session_progress_prior_backup(text) is in the way'
                USING HINT = 'This revision changed nothing. Drop it, then run again.';
        END IF;
        ALTER FUNCTION public.update_session_progress(text)
            RENAME TO update_session_progress_prior_backup;
        RAISE NOTICE 'an earlier update_session_progress(text) is now ..._prior_backup(text)';
    END IF;
END
$$
