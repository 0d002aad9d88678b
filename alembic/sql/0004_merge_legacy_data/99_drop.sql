-- IF EXISTS: an operator may have dropped the table.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM public.lock_unified_tables('ACCESS EXCLUSIVE');
    END IF;
END
$$;
DROP TRIGGER IF EXISTS follow_step_progress ON step_progress;
DROP TRIGGER IF EXISTS follow_step_progress_first ON step_progress;
DROP TRIGGER IF EXISTS completion_rate ON sessions;
DROP TRIGGER IF EXISTS steps_follow_exercises ON sessions;
DROP FUNCTION public.steps_follow_exercises();
DROP FUNCTION public.follow_step_progress();
DROP FUNCTION public.completion_rate()
