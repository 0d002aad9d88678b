-- What happened on each day, in UTC. A day on which nothing did has no row, and what has no known
-- time is in none.
CREATE VIEW progress_by_day AS
WITH happened AS (
    SELECT s.started_at AS at, 1 AS started, 0 AS completed, 0 AS last_active
    FROM sessions AS s
    UNION ALL
    SELECT sp.completed_at, 0, 1, 0
    FROM step_progress AS sp
    WHERE sp.validation_passed
    UNION ALL
    SELECT s.last_activity, 0, 0, 1
    FROM sessions AS s
)
SELECT
    (h.at AT TIME ZONE 'UTC')::date AS day,
    sum(h.started) AS sessions_started,
    sum(h.completed) AS steps_completed,
    sum(h.last_active) AS sessions_last_active
FROM happened AS h
WHERE isfinite(h.at)
GROUP BY (h.at AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW progress_by_day IS 'What happened on each day (UTC); no secret.';
COMMENT ON COLUMN progress_by_day.day IS 'Day in UTC; days without anything have no row.';
COMMENT ON COLUMN progress_by_day.sessions_started IS 'Sessions whose started_at is on that day.';
COMMENT ON COLUMN progress_by_day.steps_completed IS
    'Rows of step_progress passed on that day, by completed_at.';
COMMENT ON COLUMN progress_by_day.sessions_last_active IS
    'Sessions whose last_activity is on that day: each counts once, on its last one.'
