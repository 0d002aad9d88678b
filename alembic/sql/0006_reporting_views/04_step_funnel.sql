-- How many sessions began each of the nine steps and how many are done with it. Done is what
-- session_steps_done() says: the step's flags, or validation_passed. Begun is every other sign of it:
-- a row of step_progress, or one of the step's flags. 0 seconds means that nobody told the time.
CREATE VIEW step_funnel AS
WITH touched AS (
    SELECT
        sp.session_token,
        array_agg(sp.step_number) AS steps,
        array_agg(sp.time_spent) AS times,
        array_agg(sp.step_number) FILTER (WHERE sp.validation_passed) AS passed
    FROM step_progress AS sp
    GROUP BY sp.session_token
),
reached AS MATERIALIZED (
    SELECT
        session_steps_done(
            s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
            s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
            s.step8_deployed, s.project_deployed, t.passed) AS done,
        array_remove(ARRAY[
            CASE WHEN s.twilio_connected OR s.openai_connected THEN 1 END,
            CASE WHEN s.step4_code_validated OR s.step4_committed THEN 4 END,
            CASE WHEN s.step5_code_validated OR s.step5_committed THEN 5 END,
            CASE WHEN s.step6_code_validated OR s.step6_committed THEN 6 END,
            CASE WHEN s.step7_committed OR s.step7_deployed THEN 7 END,
            CASE WHEN s.tools_configured OR s.step8_code_validated OR s.step8_committed THEN 8 END
        ], NULL) AS flagged,
        t.steps,
        t.times
    FROM sessions AS s
    LEFT JOIN touched AS t ON t.session_token = s.session_token
),
counted AS (
    SELECT
        w.step_number,
        count(*) FILTER (WHERE w.step_number = ANY (r.done || r.flagged || r.steps)) AS started,
        count(*) FILTER (WHERE w.step_number = ANY (r.done)) AS done
    FROM reached AS r
    CROSS JOIN workshop_steps() AS w
    GROUP BY w.step_number
),
timed AS (
    SELECT
        u.step_number,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY u.time_spent) AS median_time_spent,
        avg(u.time_spent)::double precision AS mean_time_spent
    FROM reached AS r
    CROSS JOIN LATERAL unnest(r.steps, r.times) AS u(step_number, time_spent)
    WHERE u.time_spent > 0 AND u.step_number = ANY (r.done)
    GROUP BY u.step_number
)
SELECT
    w.step_number,
    w.step_name,
    coalesce(c.started, 0) AS started,
    coalesce(c.done, 0) AS done,
    t.median_time_spent,
    t.mean_time_spent
FROM workshop_steps() AS w
LEFT JOIN counted AS c ON c.step_number = w.step_number
LEFT JOIN timed AS t ON t.step_number = w.step_number;
COMMENT ON VIEW step_funnel IS
    'The nine steps: sessions that began and finished each, and how long it took; no secret.';
COMMENT ON COLUMN step_funnel.step_number IS 'Step, 1 to 9.';
COMMENT ON COLUMN step_funnel.step_name IS 'Name of the step.';
COMMENT ON COLUMN step_funnel.started IS
    'Sessions with any sign of the step: a row of step_progress or one of its flags.';
COMMENT ON COLUMN step_funnel.done IS 'Sessions that are done with it, as session_steps_done() defines it.';
COMMENT ON COLUMN step_funnel.median_time_spent IS
    'Seconds, the median of those who are done and whose time is known; NULL: of nobody.';
COMMENT ON COLUMN step_funnel.mean_time_spent IS
    'Seconds, the mean of those who are done and whose time is known; NULL: of nobody.'
