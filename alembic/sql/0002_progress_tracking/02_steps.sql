-- The nine steps: names, present and former keys, and the one definition of "done".

CREATE FUNCTION public.workshop_steps()
    RETURNS TABLE (step_number integer, step_name text, exercise_key text, early_key text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES (1, 'Connect Accounts', 'step-1-connect-accounts', 'connect-accounts'),
           (2, 'Choose Use Case', 'step-2-choose-use-case', 'choose-use-case'),
           (3, 'Provision Services', 'step-3-provision-services', 'provision-number'),
           (4, 'Basic TwiML', 'step-4-basic-twiml', 'create-basic-twiml'),
           (5, 'WebSocket Handler', 'step-5-websocket-handler', 'build-websocket-handler'),
           (6, 'ConversationRelay', 'step-6-conversation-relay', 'create-conversation-relay'),
           (7, 'Custom AI Prompt', 'step-7-ai-tools', 'add-ai-tools'),
           (8, 'Tools & Functions', 'step-8-test-call', 'test-full-call'),
           (9, 'Deploy Your System', 'step-9-multichannel', 'add-multichannel');
END;
COMMENT ON FUNCTION public.workshop_steps() IS 'Lists the nine steps with their names and exercise keys.';

-- Runs for every exercise. A constant object is inlined; a join with workshop_steps() or a regular expression is
-- slower.
CREATE FUNCTION public.step_number_of(name text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN left(name, 5) = 'step-' THEN (
        '{"step-1-": 1, "step-2-": 2, "step-3-": 3, "step-4-": 4, "step-5-": 5,
          "step-6-": 6, "step-7-": 7, "step-8-": 8, "step-9-": 9,
          "step-1": 1, "step-2": 2, "step-3": 3, "step-4": 4, "step-5": 5,
          "step-6": 6, "step-7": 7, "step-8": 8, "step-9": 9}'::jsonb ->> left(name, 7))::integer
    ELSE (
        '{"exercise-1": 1, "exercise-2": 2, "exercise-3": 3, "exercise-4": 4, "exercise-5": 5,
          "exercise-6": 6, "exercise-7": 7, "exercise-8": 8, "exercise-9": 9,
          "Connect Accounts": 1, "connect-accounts": 1,
          "Choose Use Case": 2, "choose-use-case": 2,
          "Provision Services": 3, "provision-number": 3,
          "Basic TwiML": 4, "create-basic-twiml": 4,
          "WebSocket Handler": 5, "build-websocket-handler": 5,
          "ConversationRelay": 6, "create-conversation-relay": 6,
          "Custom AI Prompt": 7, "add-ai-tools": 7,
          "Tools & Functions": 8, "test-full-call": 8,
          "Deploy Your System": 9, "add-multichannel": 9, "Final Deployment": 9}'::jsonb ->> name)::integer
END;
COMMENT ON FUNCTION public.step_number_of(text) IS 'Returns the step of a title or an exercise key, else NULL.';

CREATE FUNCTION public.step_name_of(number integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['Connect Accounts', 'Choose Use Case', 'Provision Services', 'Basic TwiML', 'WebSocket Handler',
              'ConversationRelay', 'Custom AI Prompt', 'Tools & Functions', 'Deploy Your System'])[number];
COMMENT ON FUNCTION public.step_name_of(integer) IS 'Returns the name of step 1 to 9.';

-- Several keys of one step merge: done if one is done, earliest completion, greatest time and attempts. Unknown keys,
-- and entries that are neither an object nor true, are ignored and stay in the object.
CREATE FUNCTION public.exercise_steps(exercises jsonb)
    RETURNS TABLE (
        step_number integer, completed_at timestamptz, time_spent integer, attempts integer, validation_passed boolean)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        f.step_number,
        min(CASE WHEN f.done THEN public.parse_timestamp(f.done_at) END),
        coalesce(max(public.parse_count(f.time_spent)), 0),
        coalesce(max(public.parse_count(f.attempts)), 0),
        bool_or(f.done)
    FROM jsonb_each(exercises) AS e
    -- without OFFSET 0 PostgreSQL would compute these expressions at each use
    CROSS JOIN LATERAL (
        SELECT
            public.step_number_of(e.key) AS step_number,
            -- the common values first
            CASE e.value ->> 'completed' WHEN 'true' THEN true WHEN 'false' THEN false
                ELSE jsonb_typeof(e.value) = 'boolean' OR coalesce(public.parse_done(e.value -> 'completed'), false)
            END AS done,
            e.value ->> 'timestamp' AS done_at,
            e.value -> 'timeSpent' AS time_spent,
            e.value -> 'attempts' AS attempts
        OFFSET 0
    ) AS f
    WHERE f.step_number IS NOT NULL
      AND (jsonb_typeof(e.value) = 'object' OR e.value = 'true')
    GROUP BY f.step_number;
END;
COMMENT ON FUNCTION public.exercise_steps(jsonb) IS 'Reads an exercises object: its progress by step.';

-- Updates every key that the step has in the object, else its current key. p_passed NULL: the step has no row, and its
-- keys are removed.
CREATE FUNCTION public.exercises_with_step(
    exercises jsonb, p_number integer, p_passed boolean, p_completed_at timestamptz, p_time_spent integer, p_attempts integer)
    RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
AS $$
    SELECT CASE
        WHEN p_passed IS NULL THEN exercises - coalesce(k.keys, '{}')
        WHEN (s.validation_passed, s.completed_at, s.time_spent, s.attempts)
             IS NOT DISTINCT FROM
             (p_passed, CASE WHEN p_passed THEN p_completed_at END, p_time_spent, p_attempts) THEN exercises
        ELSE exercises || (
            SELECT jsonb_object_agg(e.key, CASE WHEN jsonb_typeof(exercises -> e.key) = 'object'
                                                THEN exercises -> e.key ELSE '{}' END
                || jsonb_build_object(
                    'completed', p_passed,
                    'timestamp', CASE WHEN p_passed
                                      THEN to_char(p_completed_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
                    'timeSpent', p_time_spent,
                    'attempts', p_attempts))
            FROM unnest(coalesce(k.keys, ARRAY[(
                SELECT w.exercise_key FROM public.workshop_steps() AS w
                WHERE w.step_number = p_number)])) AS e(key))
    END
    FROM (SELECT array_agg(o.key) AS keys FROM jsonb_object_keys(exercises) AS o(key)
          WHERE public.step_number_of(o.key) = p_number) AS k
    LEFT JOIN public.exercise_steps(exercises) AS s ON s.step_number = p_number
$$;
COMMENT ON FUNCTION public.exercises_with_step IS 'Returns the exercises object with one step updated from its step_progress row.';

-- A step is done by its flags, or because it was passed.
CREATE FUNCTION public.session_steps_done(
    twilio_connected boolean, openai_connected boolean, call_direction_chosen boolean, services_ready boolean,
    step4_deployed boolean, step5_deployed boolean, step6_deployed boolean, system_prompt_saved boolean,
    step8_deployed boolean, project_deployed boolean, passed integer[])
    RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_remove(ARRAY[
    CASE WHEN (twilio_connected AND openai_connected) OR 1 = ANY (passed) THEN 1 END,
    CASE WHEN call_direction_chosen OR 2 = ANY (passed) THEN 2 END,
    CASE WHEN services_ready OR 3 = ANY (passed) THEN 3 END,
    CASE WHEN step4_deployed OR 4 = ANY (passed) THEN 4 END,
    CASE WHEN step5_deployed OR 5 = ANY (passed) THEN 5 END,
    CASE WHEN step6_deployed OR 6 = ANY (passed) THEN 6 END,
    CASE WHEN system_prompt_saved OR 7 = ANY (passed) THEN 7 END,
    CASE WHEN step8_deployed OR 8 = ANY (passed) THEN 8 END,
    CASE WHEN project_deployed OR 9 = ANY (passed) THEN 9 END
], NULL);
COMMENT ON FUNCTION public.session_steps_done IS 'Lists the steps done, ascending: by flag, or by validation_passed in step_progress.';

CREATE FUNCTION public.session_completion_rate(done integer[]) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(100.0 * cardinality(done) / 9)::integer;
COMMENT ON FUNCTION public.session_completion_rate(integer[]) IS 'Returns the steps done in percent of nine, 0 to 100.'
