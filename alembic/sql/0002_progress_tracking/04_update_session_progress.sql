-- The application calls it when a student makes progress. The backfill does not: it would set last_activity to the time
-- of the migration.
CREATE FUNCTION public.update_session_progress(p_session_token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.sessions AS s
    SET completion_rate = public.session_completion_rate(d.done),
        current_step = greatest(s.current_step, d.done[cardinality(d.done)]),
        total_time_spent = greatest(s.total_time_spent, p.time_spent),
        last_activity = now()
    FROM (
        SELECT
            array_agg(step_number) FILTER (WHERE validation_passed) AS passed,
            least(coalesce(sum(time_spent), 0), 2147483647)::integer AS time_spent
        FROM public.step_progress
        WHERE session_token = p_session_token
    ) AS p
    CROSS JOIN LATERAL (
        SELECT public.session_steps_done(
            s2.twilio_connected, s2.openai_connected, s2.call_direction_chosen, s2.services_ready,
            s2.step4_deployed, s2.step5_deployed, s2.step6_deployed, s2.system_prompt_saved,
            s2.step8_deployed, s2.project_deployed, p.passed) AS done
        FROM public.sessions AS s2
        WHERE s2.session_token = p_session_token
    ) AS d
    WHERE s.session_token = p_session_token;
END
$$;
COMMENT ON FUNCTION public.update_session_progress IS 'Recomputes completion, raises current_step to the highest step done, sets last_activity.'
