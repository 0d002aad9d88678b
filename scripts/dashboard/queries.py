"""The dashboard's queries. They read the reporting views of revision 0006: no API key, no prompt, no token."""

from models.steps import FLAGS

STUCK_LISTED = 1000

MISSING = """
SELECT array_agg(name) FILTER (WHERE to_regclass('public.' || name) IS NULL) AS missing
FROM unnest(ARRAY['session_overview', 'student_overview', 'step_funnel', 'progress_by_day',
                  'stuck_sessions']) AS name
"""
WHEN = "CASE WHEN isfinite(o.{0}) THEN floor(extract(epoch FROM o.{0}))::bigint END"
# Identifies a student in links. It is as stable as the address; student_id is not, because the
# backfill derives it from a token in some cases.
ROW_ID = "left(encode(sha256(convert_to({0}.student_email, 'UTF8')), 'hex'), 16)"
# Three states, because is_active does not depend on the time, and expires_at not on is_active.
STATE = "CASE WHEN {0}.expires_at <= now() THEN 'expired' WHEN {0}.is_active THEN 'active' ELSE 'inactive' END"
# Students type long texts; the page shortens them.
SHORT = "CASE WHEN length({0}) > {1} THEN left({0}, {1}) || ' ...' ELSE {0} END"
TYPED = ("selected_phone_number", "selected_voice", "tts_provider", "call_direction")
# One JSON array for each student: row id, address, name, GitHub account, and an array for each
# session in the order of SESSION in base.js. PostgreSQL writes the JSON, so Python handles no
# single row.
STUDENTS = f"""
SELECT json_build_array(
    {ROW_ID.format("st")}, st.student_email, {SHORT.format("st.student_name", 200)},
    {SHORT.format("st.github_username", 200)},
    coalesce(json_agg(s.shown ORDER BY s.started_at, s.session_token)
             FILTER (WHERE s.session_token IS NOT NULL), '[]'))::text
FROM students AS st
LEFT JOIN (
    SELECT
        o.student_id,
        o.session_token,
        o.started_at,
        json_build_array(
            right(o.session_token, 4), o.completion_rate, o.current_step, o.total_time_spent,
            session_steps_done(
                o.twilio_connected, o.openai_connected, o.call_direction_chosen, o.services_ready,
                o.step4_deployed, o.step5_deployed, o.step6_deployed, o.system_prompt_saved,
                o.step8_deployed, o.project_deployed, p.passed),
            concat({", ".join(f"o.{flag}::integer" for flag in FLAGS)}),
            coalesce(p.steps, '[]'),
            {", ".join(WHEN.format(c) for c in ("started_at", "last_activity", "expires_at"))},
            {STATE.format("o")}, o.demo_mode,
            o.has_api_key, o.has_system_prompt, o.has_tools,
            {", ".join(SHORT.format(f"o.{column}", 200) for column in TYPED)},
            {SHORT.format("o.use_case_description", 1000)}) AS shown
    FROM session_overview AS o
    LEFT JOIN (
        SELECT
            sp.session_token,
            array_agg(sp.step_number) FILTER (WHERE sp.validation_passed) AS passed,
            json_agg(json_build_array(sp.step_number, sp.time_spent, sp.attempts)) AS steps
        FROM step_progress AS sp
        GROUP BY sp.session_token
    ) AS p ON p.session_token = o.session_token
) AS s ON s.student_id = st.student_id
GROUP BY st.student_id
ORDER BY st.student_email
"""
MADE = """
SELECT current_database()::text AS database, floor(extract(epoch FROM now()))::bigint AS made
"""
FUNNEL = "SELECT * FROM step_funnel ORDER BY step_number"
DAYS = """
SELECT day::text, sessions_started, steps_completed, sessions_last_active
FROM progress_by_day ORDER BY day
"""
# End of the data. A single session does not count: its clock may be wrong, or it is a visit long
# after the workshop. One session starts once, and completes nine steps at most.
UNTIL = """
SELECT coalesce(max(day) FILTER (WHERE started > 1 OR completed > 9), max(day))::text
FROM (
    SELECT
        day,
        sum(sessions_started) OVER twelve_weeks AS started,
        sum(steps_completed) OVER twelve_weeks AS completed
    FROM progress_by_day
    WHERE day BETWEEN '1970-01-01' AND (now() AT TIME ZONE 'UTC')::date
      AND sessions_started + steps_completed > 0
    WINDOW twelve_weeks AS (ORDER BY day - date '1970-01-01' RANGE 83 PRECEDING)
) AS d
"""
STUCK = "SELECT count(*) AS count, count(*) FILTER (WHERE is_active) AS active FROM stuck_sessions"
STUCK_ROWS = f"""
SELECT
    {ROW_ID.format("stuck_sessions")} AS row_id, student_email,
    {SHORT.format("student_name", 200)} AS student_name, token_end,
    {STATE.format("stuck_sessions")} AS state, demo_mode, completion_rate, next_step, next_step_name,
    attempts, time_spent, quiet_days
FROM stuck_sessions
ORDER BY is_active DESC, quiet_since DESC NULLS LAST
LIMIT {STUCK_LISTED}
"""
# Sources of the sessions: the legacy tables, and the renamed tables of an earlier attempt.
BEFORE = {
    "bridge.source": "SELECT relation::text FROM bridge.source ORDER BY legacy_name DESC",
    "public.prior_attempt": "SELECT relation::text FROM prior_attempt ORDER BY original_name",
}
AFTER = ("students", "sessions", "step_progress", "events")
# Only the four counts of the event: an application may have added other values.
MERGES = """
SELECT
    floor(extract(epoch FROM e.created_at))::bigint,
    ARRAY(
        SELECT CASE jsonb_typeof(e.event_data -> n.name) WHEN 'number' THEN (e.event_data ->> n.name)::float END
        FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'merge_notes']) WITH ORDINALITY AS n(name, place)
        ORDER BY n.place)
FROM events AS e
WHERE e.event_type = 'legacy_merge' AND isfinite(e.created_at)
ORDER BY e.id
"""
# The merge decisions as in the dry run, including those of deleted sessions. A decision is {kind:
# true}, {kind: [column]} or {kind: {column: winner}}.
DECISIONS = """
SELECT k.kind, d.detail, count(DISTINCT coalesce(e.session_token, e.id::text))
FROM events AS e
CROSS JOIN LATERAL jsonb_each(e.event_data) AS k(kind, value)
LEFT JOIN LATERAL (
    SELECT o.key || CASE WHEN k.kind = 'conflicts' THEN ': ' || o.value || ' wins' ELSE '' END
    FROM jsonb_each_text(CASE jsonb_typeof(k.value) WHEN 'object' THEN k.value ELSE '{}' END) AS o
    UNION ALL
    SELECT a FROM jsonb_array_elements_text(
        CASE jsonb_typeof(k.value) WHEN 'array' THEN k.value ELSE '[]' END) AS a
) AS d(detail) ON true
WHERE e.event_type = 'merge_note' AND jsonb_typeof(e.event_data) = 'object'
GROUP BY GROUPING SETS ((k.kind), (k.kind, d.detail))
HAVING grouping(d.detail) = 1 OR d.detail IS NOT NULL
ORDER BY k.kind, d.detail NULLS FIRST
"""
DECIDED = """
SELECT count(DISTINCT coalesce(session_token, id::text)) FROM events WHERE event_type = 'merge_note'
"""
