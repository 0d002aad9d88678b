-- The hand-back: applies what applications wrote to the unified tables, and keeps aside what only these tables hold.
-- The functions belong to the session (pg_temp): only a downgrade and workshop rollback-check need them.
DO $do$
BEGIN
    IF to_regnamespace('bridge') IS NULL THEN
        RETURN;  -- a fresh install never had one
    END IF;
    EXECUTE $functions$
-- Values of sessions and steps that another upgrade would not restore from the legacy tables. A session without a legacy
-- row is kept whole. So is a changed session of an earlier attempt, because another upgrade copies the attempt again. A
-- logged session has a later legacy write, which wins: its shared columns are not kept. Nor are those of a session that no
-- backfill has reached: they are copies of an earlier time.
CREATE OR REPLACE FUNCTION pg_temp.own_values(first_token text, last_token text) RETURNS SETOF bridge.override
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET jit = off
AS $$
DECLARE
    has_prior CONSTANT boolean := to_regclass('public.prior_attempt') IS NOT NULL;
BEGIN
    RETURN QUERY
    WITH k AS MATERIALIZED (
        SELECT u.session_token AS token, u.student_email, u.shared, u.expires_at, u.is_active, u.updated_at,
               m.session_token IS NOT NULL AS is_mapped, m.student_email AS mapped_email, m.shared AS mapped,
               coalesce(m.expires_at, u.updated_at + interval '30 days') AS mapped_expires_at, m.is_active AS mapped_is_active,
               coalesce(m.updated_at, u.updated_at) AS mapped_updated_at,
               CASE WHEN (m.shared).exercises = (u.shared).exercises THEN m.steps
                    ELSE bridge.steps_of(u.session_token, (u.shared).exercises) END AS steps,
               p.key IS NOT NULL AND p.value ->> 'hash' IS DISTINCT FROM bridge.session_hash(u.session_token) AS is_prior,
               p.value -> 'steps' AS prior_steps, l.is_logged, l.is_reached
        FROM bridge.unified AS u
        LEFT JOIN bridge.mapped(first_token, last_token) AS m ON m.session_token = u.session_token
        LEFT JOIN bridge.override AS p ON p.table_name = 'prior sessions' AND p.key = u.session_token
        CROSS JOIN LATERAL (
            SELECT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = u.session_token OFFSET 0) AS is_logged,
                   bridge.reached(u.session_token) AS is_reached
        ) AS l
        WHERE u.session_token >= first_token AND u.session_token <= last_token
          AND (m.session_token IS NOT NULL OR NOT l.is_logged AND (l.is_reached OR has_prior) OR EXISTS (
              SELECT FROM bridge.override AS o
              WHERE o.table_name = 'sessions' AND o.key = u.session_token AND o.column_name = '(row)' OFFSET 0))
    ),
    s AS (
        SELECT k.token, k.is_mapped, k.is_prior, k.is_logged, k.is_reached,
               bridge.session_json(k.student_email, k.shared) || jsonb_build_object(
                   'expires_at', k.expires_at, 'is_active', k.is_active, 'updated_at', k.updated_at) AS unified,
               bridge.session_json(k.mapped_email, k.mapped) || jsonb_build_object(
                   'expires_at', k.mapped_expires_at, 'is_active', k.mapped_is_active, 'updated_at', k.mapped_updated_at) AS mapped
        FROM k
        WHERE k.is_prior OR (k.student_email, k.shared, k.expires_at, k.is_active, k.updated_at) IS DISTINCT FROM
                            (k.mapped_email, k.mapped, k.mapped_expires_at, k.mapped_is_active, k.mapped_updated_at)
    )
    SELECT 'sessions', s.token, 0, '(row)', s.unified, NULL::jsonb
    FROM s WHERE NOT s.is_mapped
    UNION ALL
    SELECT 'sessions', s.token, 0, e.key, nullif(e.value, 'null'), nullif(s.mapped -> e.key, 'null')
    FROM s CROSS JOIN LATERAL jsonb_each(s.unified) AS e
    WHERE s.is_mapped AND e.key NOT IN ('session_token', 'completion_rate')
      AND (s.is_prior OR e.value IS DISTINCT FROM s.mapped -> e.key)
      AND (NOT s.is_logged AND s.is_reached OR e.key IN ('expires_at', 'is_active', 'updated_at'))
    UNION ALL
    SELECT 'step_progress', k.token, sp.step_number, e.key, nullif(e.value, 'null'), nullif(to_jsonb(d) -> e.key, 'null')
    FROM k
    JOIN (SELECT o.* FROM public.step_progress AS o WHERE o.session_token >= first_token AND o.session_token <= last_token) AS sp
        ON sp.session_token = k.token
    LEFT JOIN LATERAL (SELECT o.* FROM unnest(k.steps) AS o WHERE o.step_number = sp.step_number) AS d ON true
    CROSS JOIN LATERAL jsonb_each(to_jsonb(sp) - ARRAY['session_token', 'student_id', 'created_at', 'updated_at']) AS e
    WHERE (k.is_prior OR (sp.step_name, sp.started_at, sp.completed_at, sp.time_spent, sp.attempts, sp.validation_passed,
                          sp.code_submitted, sp.deployment_url) IS DISTINCT FROM
                         (d.step_name, d.started_at, d.completed_at, d.time_spent, d.attempts, d.validation_passed,
                          d.code_submitted, d.deployment_url))
      AND (k.is_prior OR e.value IS DISTINCT FROM to_jsonb(d) -> e.key)
      AND (k.is_reached OR NOT has_prior)
    UNION ALL
    SELECT 'step_progress', k.token, n.number::integer, '(row)', 'false', NULL
    FROM k CROSS JOIN LATERAL jsonb_array_elements(nullif(k.prior_steps, 'null')) AS n(number)
    WHERE NOT EXISTS (SELECT FROM public.step_progress AS sp WHERE sp.session_token = k.token AND sp.step_number = n.number::integer);
END
$$;

-- Keeps of students: id, GitHub name, and students without a legacy row. Keeps all events that no migration wrote. Another
-- upgrade copies the events of an earlier attempt again; they have the first ids.
CREATE OR REPLACE FUNCTION pg_temp.own_rows() RETURNS SETOF bridge.override
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
DECLARE
    copied bigint := 0;
    prior regclass;
BEGIN
    IF to_regclass('public.prior_attempt') IS NOT NULL THEN
        SELECT p.relation INTO prior FROM public.prior_attempt AS p WHERE p.original_name = 'events';
        IF prior IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM %s', prior) INTO copied;
        END IF;
    END IF;
    RETURN QUERY
    SELECT 'students', st.student_email, 0, o.column_name, o.value, o.over
    FROM public.students AS st
    LEFT JOIN bridge.students AS m ON m.student_email = st.student_email
    LEFT JOIN LATERAL (
        SELECT k.key, r.* FROM bridge.override AS k CROSS JOIN LATERAL jsonb_populate_record(NULL::public.students, k.value) AS r
        WHERE k.table_name = 'prior students' AND (k.key = st.student_email OR r.student_id = st.student_id)
        ORDER BY k.key = st.student_email DESC LIMIT 1
    ) AS p ON true
    CROSS JOIN LATERAL (
        VALUES ('student_id', to_jsonb(st.student_id), NULL::jsonb, p.key <> st.student_email OR st.student_id IS DISTINCT FROM coalesce(
                    p.student_id, bridge.student_uuid(m.student_email, m.first_token))),
               ('github_username', to_jsonb(st.github_username), NULL, st.github_username IS DISTINCT FROM p.github_username),
               ('student_name', to_jsonb(st.student_name), to_jsonb(m.student_name),
                    st.student_name IS DISTINCT FROM coalesce(m.student_name, p.student_name)),
               ('created_at', to_jsonb(st.created_at), to_jsonb(m.created_at),
                    st.created_at IS DISTINCT FROM least(m.created_at, p.created_at))
    ) AS o(column_name, value, over, kept)
    -- before the backfill reached it, the mapped value is newer; the same kept value has the mapped value of its time
    WHERE o.kept AND (o.over IS NULL OR bridge.reached('') OR o.column_name = 'created_at' AND st.created_at < m.created_at) AND NOT EXISTS (
        SELECT FROM bridge.override AS k
        WHERE k.table_name = 'kept students' AND (k.key, k.column_name) = (st.student_email, o.column_name) AND k.value IS NOT DISTINCT FROM o.value)
    UNION ALL
    SELECT 'students', m.student_email, 0, '(row)', 'false', jsonb_strip_nulls(to_jsonb(m))
    FROM bridge.students AS m
    -- a placeholder only where the legacy rows cannot name the student of the session; an earlier attempt names it
    WHERE (m.student_email NOT LIKE 'anonymous+%@workshop.invalid' OR EXISTS (
               SELECT FROM public.sessions AS v WHERE v.session_token = m.first_token AND NOT EXISTS (
                   SELECT FROM bridge.override AS p WHERE p.table_name = 'prior sessions' AND p.key = v.session_token)))
      AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = m.student_email)
      AND bridge.reached('')  -- before the first session, the backfill has not inserted every student
    UNION ALL
    SELECT 'students', p.key, 0, '(row)', 'false', NULL
    FROM bridge.override AS p
    WHERE p.table_name = 'prior students' AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = p.key)
      AND NOT EXISTS (SELECT FROM bridge.students AS m WHERE m.student_email = p.key)
    UNION ALL
    SELECT 'sessions', p.key, 0, '(row)', 'false', NULL
    FROM bridge.override AS p
    WHERE p.table_name = 'prior copies' AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p.key)
    UNION ALL
    SELECT 'events', e.id::text, 0, '(row)', to_jsonb(e), NULL
    FROM public.events AS e
    WHERE e.id > copied AND e.event_type <> 'legacy_merge'
      AND (e.event_type <> 'merge_note' OR e.event_data ? 'written_on_both_sides');
END
$$;

-- After its first commit applications cannot write to the unified tables. The legacy tables stay in use. It can be repeated
-- after an interruption.
CREATE OR REPLACE PROCEDURE pg_temp.hand_back()
    LANGUAGE plpgsql
AS $$
DECLARE
    merged CONSTANT boolean := (SELECT s.merged_at IS NOT NULL FROM bridge.state AS s);
    read_only CONSTANT boolean := bridge.is_read_only();
    last_token text;
    range record;
    cursor_at text := '';
    size integer := 100;
    looked timestamptz;
    reported timestamptz := clock_timestamp();
    done bigint := 0;
    last_id bigint;
    unlogged bigint := 0;
    checks jsonb;
BEGIN
    IF (SELECT s.retired_at IS NOT NULL FROM bridge.state AS s) THEN
        RETURN;
    END IF;
    IF 4 > num_nonnulls(to_regclass('public.students'), to_regclass('public.sessions'),
                        to_regclass('public.step_progress'), to_regclass('public.events')) THEN
        RAISE NOTICE 'tables of the unified schema were dropped by hand: there is nothing to hand back';
        RETURN;
    END IF;
    PERFORM public.retry_locking('SELECT bridge.set_read_only(true)');
    -- before 0004 no trigger logs steps; in read-only tables they are what an earlier downgrade left behind
    PERFORM bridge.log_changes('unified', ARRAY(
        SELECT v.session_token FROM public.sessions AS v
        WHERE NOT bridge.reached(v.session_token) AND EXISTS (SELECT FROM public.step_progress AS sp WHERE sp.session_token = v.session_token)))
    WHERE NOT merged AND NOT read_only AND to_regclass('public.prior_attempt') IS NULL;
    CALL bridge.commit_chunk();
    last_token := bridge.last_token();
    CALL bridge.refresh_adapters(merged);
    CALL bridge.drain(strict => false);
    IF merged THEN
        -- compares every value, and logs what no trigger logged
        last_id := (SELECT coalesce(max(c.id), 0) FROM bridge.change_log AS c);
        CALL bridge.run_checks(checks, counts => false, log_as => 'unified');
        unlogged := (SELECT count(DISTINCT c.token) FROM bridge.change_log AS c WHERE c.id > last_id AND c.before = '{}');
    END IF;
    IF unlogged > 0 THEN
        RAISE NOTICE '% sessions differ though no trigger logged it: the values of the unified schema are taken', unlogged;
        CALL bridge.drain(strict => false);
    END IF;
    IF EXISTS (SELECT FROM bridge.change_log AS c WHERE c.side <> 'legacy') THEN
        RAISE EXCEPTION 'sessions of the unified schema could not be handed back: they are locked, or were refused'
            USING ERRCODE = 'lock_not_available',
                  HINT = 'The unified tables are read-only, nothing was dropped. End the long transactions on the workshop''s tables, '
                         'change what a warning above names as refused, and run the downgrade again; or upgrade again.';
    END IF;
    IF merged THEN
        CALL bridge.require_verified(counts => true, every_value => unlogged > 0);
    END IF;

    -- the overrides are complete at each commit: a killed run can be repeated, or upgraded again
    WHILE cursor_at < last_token LOOP
        looked := clock_timestamp();
        range := bridge.next_range(cursor_at, size);
        EXIT WHEN range.last_token IS NULL;
        DELETE FROM bridge.override AS o
        WHERE o.key >= range.first_token AND o.key <= range.last_token AND o.table_name IN ('sessions', 'step_progress')
          AND bridge.reached(o.key) AND NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = o.key);
        INSERT INTO bridge.override SELECT * FROM pg_temp.own_values(range.first_token, range.last_token)
        ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE SET value = excluded.value, over = excluded.over;
        cursor_at := range.last_token;
        done := done + range.sessions;
        reported := bridge.report(reported, format('kept what only the unified tables hold of %s sessions', done));
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, 2000, clock_timestamp() - looked);
    END LOOP;
    DELETE FROM bridge.override AS o
    WHERE o.table_name IN ('students', 'events')
       OR o.table_name IN ('sessions', 'step_progress') AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = o.key);
    INSERT INTO bridge.override SELECT * FROM pg_temp.own_rows();
    -- without a backfill the next upgrade begins with it
    UPDATE bridge.state SET merged_at = NULL, retired_at = CASE WHEN merged THEN clock_timestamp() END;
    CALL bridge.commit_chunk();
END
$$
    $functions$;
END
$do$
