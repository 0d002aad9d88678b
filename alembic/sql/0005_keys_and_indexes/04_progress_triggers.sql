-- From here on completion_rate and exercises are right whoever writes flags or steps.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.lock_new_tables('SHARE ROW EXCLUSIVE');
    END IF;
END
$$;

CREATE FUNCTION passed_steps(p_session_token text) RETURNS integer[]
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT array_agg(sp.step_number)
    FROM step_progress AS sp
    WHERE sp.session_token = p_session_token AND sp.validation_passed;
END;
COMMENT ON FUNCTION passed_steps(text) IS 'Steps of a session with validation_passed.';

CREATE FUNCTION completion_rate() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.completion_rate := public.session_completion_rate(public.session_steps_done(
        NEW.twilio_connected, NEW.openai_connected, NEW.call_direction_chosen, NEW.services_ready,
        NEW.step4_deployed, NEW.step5_deployed, NEW.step6_deployed, NEW.system_prompt_saved,
        NEW.step8_deployed, NEW.project_deployed, public.passed_steps(NEW.session_token)));
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION completion_rate() IS 'Trigger: completion_rate follows the flags and the steps.';

CREATE TRIGGER completion_rate
    BEFORE INSERT OR UPDATE OF
        completion_rate, twilio_connected, openai_connected, call_direction_chosen, services_ready,
        step4_deployed, step5_deployed, step6_deployed, system_prompt_saved, step8_deployed,
        project_deployed
    ON sessions
    FOR EACH ROW EXECUTE FUNCTION completion_rate();

CREATE FUNCTION follow_step_progress() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.session_token, OLD.step_number)
                                                 <> (NEW.session_token, NEW.step_number)) THEN
        UPDATE public.sessions AS s
        SET exercises = public.exercises_with_step(s.exercises, OLD.step_number, NULL, NULL, NULL, NULL),
            completion_rate = 0  -- recomputed by its own trigger
        WHERE s.session_token = OLD.session_token;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE public.sessions AS s
        SET exercises = n.exercises, completion_rate = n.rate
        FROM (
            SELECT
                public.exercises_with_step(o.exercises, NEW.step_number, NEW.validation_passed,
                                           NEW.completed_at, NEW.time_spent, NEW.attempts) AS exercises,
                public.session_completion_rate(public.session_steps_done(
                    o.twilio_connected, o.openai_connected, o.call_direction_chosen, o.services_ready,
                    o.step4_deployed, o.step5_deployed, o.step6_deployed, o.system_prompt_saved,
                    o.step8_deployed, o.project_deployed, public.passed_steps(o.session_token))) AS rate
            FROM public.sessions AS o
            WHERE o.session_token = NEW.session_token
        ) AS n
        WHERE s.session_token = NEW.session_token
          AND (s.exercises, s.completion_rate) IS DISTINCT FROM (n.exercises, n.rate);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION follow_step_progress() IS
    'Trigger: completion_rate and exercises of a session follow its steps.';

CREATE TRIGGER follow_step_progress AFTER INSERT OR UPDATE OR DELETE ON step_progress
    FOR EACH ROW EXECUTE FUNCTION follow_step_progress()
