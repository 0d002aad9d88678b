-- Two triggers keep step_progress and sessions.exercises in line. The bridge applies exercises only; its own inserts write
-- both, without these triggers. The functions run as their owner, so each refuses another table: every role can put a
-- trigger on its own table.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM public.lock_unified_tables('SHARE ROW EXCLUSIVE');
    END IF;
    IF EXISTS (SELECT FROM pg_proc AS p
               WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> current_user::regrole
                 AND p.proname IN ('follow_step_progress', 'steps_follow_exercises', 'completion_rate')) THEN
        RAISE EXCEPTION 'a trigger function of this step belongs to another role'
            USING HINT = 'Nothing was changed. Drop it, or run this as its owner.';
    END IF;
END
$$;

-- OR REPLACE: 0004 commits in steps, and is repeated after an interruption.
CREATE OR REPLACE FUNCTION public.follow_step_progress() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $$
BEGIN
    IF TG_RELID <> 'public.step_progress'::regclass THEN
        RAISE EXCEPTION 'this trigger function serves the unified tables only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- Before 0005 no foreign key refuses a step if its session is deleted at the same time. An early step has no session yet.
    IF TG_OP <> 'DELETE' AND EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = NEW.session_token) THEN
        PERFORM FROM public.sessions AS s WHERE s.session_token = NEW.session_token FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'session ...% was deleted meanwhile', right(NEW.session_token, 4) USING ERRCODE = 'foreign_key_violation';
        END IF;
    END IF;
    IF TG_WHEN = 'BEFORE' THEN RETURN NEW; END IF;
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND (OLD.session_token, OLD.step_number) <> (NEW.session_token, NEW.step_number) THEN
        UPDATE public.sessions AS s
        SET exercises = public.exercises_with_step(s.exercises, OLD.step_number, NULL, NULL, NULL, NULL)
        WHERE s.session_token = OLD.session_token AND NOT EXISTS (  -- the same statement may have given the number to another row
            SELECT FROM public.step_progress AS sp WHERE (sp.session_token, sp.step_number) = (OLD.session_token, OLD.step_number));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE public.sessions AS s SET exercises = n.exercises
        FROM (
            SELECT public.exercises_with_step(o.exercises, NEW.step_number, NEW.validation_passed,
                                              NEW.completed_at, NEW.time_spent, NEW.attempts) AS exercises
            FROM public.sessions AS o WHERE o.session_token = NEW.session_token
        ) AS n
        WHERE s.session_token = NEW.session_token AND s.exercises <> n.exercises;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION public.follow_step_progress() IS 'Trigger: exercises of a session follow its steps.';

CREATE OR REPLACE TRIGGER follow_step_progress AFTER INSERT OR UPDATE OR DELETE ON step_progress
    FOR EACH ROW WHEN (current_setting('bridge.applying', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION public.follow_step_progress();
-- Locks the session before an upsert locks the step, as a transaction that writes the session first does: else they deadlock.
CREATE OR REPLACE TRIGGER follow_step_progress_first BEFORE INSERT ON step_progress
    FOR EACH ROW WHEN (current_setting('bridge.applying', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION public.follow_step_progress();

CREATE OR REPLACE FUNCTION public.steps_follow_exercises() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $$
DECLARE
    step public.step_progress;
    all_exercises jsonb;
BEGIN
    IF TG_RELID <> 'public.sessions'::regclass THEN
        RAISE EXCEPTION 'this trigger function serves the unified tables only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'DELETE' THEN
        -- the foreign key of 0005 does it later
        DELETE FROM public.step_progress AS sp WHERE sp.session_token = OLD.session_token;
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' AND current_setting('bridge.applying', true) IS DISTINCT FROM 'on' THEN
        all_exercises := NEW.exercises;
        -- an endpoint may have written steps before their session
        FOR step IN SELECT sp.* FROM public.step_progress AS sp WHERE sp.session_token = NEW.session_token LOOP
            all_exercises := public.exercises_with_step(all_exercises, step.step_number, step.validation_passed,
                                                        step.completed_at, step.time_spent, step.attempts);
        END LOOP;
        IF all_exercises <> NEW.exercises THEN
            UPDATE public.sessions AS s SET exercises = all_exercises WHERE s.session_token = NEW.session_token;
            NEW.exercises := all_exercises;
        END IF;
    END IF;
    IF TG_OP = 'INSERT' AND NEW.exercises = '{}' OR TG_OP = 'UPDATE' AND OLD.exercises = NEW.exercises THEN
        RETURN NULL;
    END IF;
    -- Only what differs from before: a statement may have written rows that the exercises follow a moment later.
    DELETE FROM public.step_progress AS sp
    WHERE sp.session_token = NEW.session_token
      AND (TG_OP = 'INSERT' OR sp.step_number IN (SELECT e.step_number FROM public.exercise_steps(OLD.exercises) AS e))
      AND sp.step_number NOT IN (SELECT e.step_number FROM public.exercise_steps(NEW.exercises) AS e);
    INSERT INTO public.step_progress AS sp (
        session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts, validation_passed)
    SELECT NEW.session_token, NEW.student_id, e.step_number, public.step_name_of(e.step_number), NULL, e.completed_at, e.time_spent,
           e.attempts, e.validation_passed
    FROM (SELECT * FROM public.exercise_steps(NEW.exercises) EXCEPT
          SELECT * FROM public.exercise_steps(OLD.exercises)) AS e
    ON CONFLICT (session_token, step_number) DO UPDATE SET
        completed_at = excluded.completed_at, time_spent = excluded.time_spent, attempts = excluded.attempts,
        validation_passed = excluded.validation_passed
    WHERE (sp.validation_passed, CASE WHEN sp.validation_passed THEN sp.completed_at END, sp.time_spent, sp.attempts)
          IS DISTINCT FROM (excluded.validation_passed, excluded.completed_at, excluded.time_spent, excluded.attempts);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION public.steps_follow_exercises() IS 'Trigger: step_progress of a session follows its exercises.';

CREATE OR REPLACE TRIGGER steps_follow_exercises AFTER INSERT OR UPDATE OF exercises OR DELETE ON sessions
    FOR EACH ROW WHEN (current_setting('bridge.backfilling', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION public.steps_follow_exercises();

CREATE OR REPLACE FUNCTION public.completion_rate() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_RELID <> 'public.sessions'::regclass THEN
        RAISE EXCEPTION 'this trigger function serves the unified tables only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    NEW.completion_rate := public.session_completion_rate(public.session_steps_done(
        NEW.twilio_connected, NEW.openai_connected, NEW.call_direction_chosen, NEW.services_ready,
        NEW.step4_deployed, NEW.step5_deployed, NEW.step6_deployed, NEW.system_prompt_saved,
        NEW.step8_deployed, NEW.project_deployed,
        ARRAY(SELECT e.step_number FROM public.exercise_steps(NEW.exercises) AS e WHERE e.validation_passed)));
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.completion_rate() IS 'Trigger: completion_rate follows the flags and the exercises.';

CREATE OR REPLACE TRIGGER completion_rate BEFORE INSERT OR UPDATE OF
        completion_rate, exercises, twilio_connected, openai_connected, call_direction_chosen, services_ready,
        step4_deployed, step5_deployed, step6_deployed, system_prompt_saved, step8_deployed, project_deployed
    ON sessions FOR EACH ROW WHEN (current_setting('bridge.backfilling', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION public.completion_rate()
