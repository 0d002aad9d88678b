-- The hand-back: what only the unified schema holds is kept aside before its tables are dropped.

-- The unified tables become read-only for applications, so that nothing can be written to them and then dropped.
CREATE FUNCTION bridge.make_read_only() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['students', 'sessions', 'step_progress', 'events'] LOOP
        EXECUTE format(
            'CREATE TRIGGER read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.%I '
            'FOR EACH STATEMENT WHEN (current_setting(''bridge.applying'', true) IS DISTINCT FROM ''on'') '
            'EXECUTE FUNCTION public.refuse_write()', name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.make_read_only() IS 'Refuses writes of applications to the unified tables.';

CREATE FUNCTION bridge.is_read_only() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_trigger AS t
                   WHERE t.tgrelid = to_regclass('public.sessions') AND t.tgname = 'read_only')
$$;
COMMENT ON FUNCTION bridge.is_read_only() IS 'True: a downgrade has begun.';

CREATE FUNCTION bridge.make_writable() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF bridge.is_read_only() THEN
        DROP TRIGGER read_only ON public.students;
        DROP TRIGGER read_only ON public.sessions;
        DROP TRIGGER read_only ON public.step_progress;
        DROP TRIGGER read_only ON public.events;
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.make_writable() IS 'Reverses make_read_only().';

CREATE FUNCTION bridge.next_range(after text, size integer, OUT first_token text, OUT last_token text, OUT sessions bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(k.token), max(k.token), count(*)
    FROM (
        (SELECT t.token FROM bridge.legacy_progress AS t WHERE t.token > after ORDER BY t.token LIMIT size)
        UNION
        (SELECT t.token FROM bridge.legacy_config AS t WHERE t.token > after ORDER BY t.token LIMIT size)
        UNION
        (SELECT v.session_token FROM public.sessions AS v WHERE v.session_token > after ORDER BY v.session_token LIMIT size)
        ORDER BY token LIMIT size
    ) AS k
$$;
COMMENT ON FUNCTION bridge.next_range(text, integer) IS
    'First and last of the next tokens in key order, of both sides; NULL at the end.';

-- Work that goes through all sessions ends where they ended when it began: applications may use ever greater tokens.
CREATE FUNCTION bridge.last_token() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest(
        (SELECT t.token FROM bridge.legacy_progress AS t ORDER BY t.token DESC LIMIT 1),
        (SELECT t.token FROM bridge.legacy_config AS t ORDER BY t.token DESC LIMIT 1),
        (SELECT max(v.session_token) FROM public.sessions AS v))
$$;
COMMENT ON FUNCTION bridge.last_token() IS 'The last token of either side in key order.';

-- A chunk holds some 45 ms of work, because the application's ALTER TABLE waits for it.
CREATE FUNCTION bridge.next_size(size integer, most integer, took interval) RETURNS integer
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN least(most, 2 * size, greatest(25, (size * 0.045 / greatest(extract(epoch FROM took), 0.001))::integer));
COMMENT ON FUNCTION bridge.next_size(integer, integer, interval) IS 'Sessions of the next chunk, from how long the last one took.';

CREATE FUNCTION bridge.own_columns(expires_at timestamptz, is_active boolean, updated_at timestamptz) RETURNS jsonb
    LANGUAGE sql STABLE
RETURN jsonb_build_object('expires_at', expires_at, 'is_active', is_active, 'updated_at', updated_at);
COMMENT ON FUNCTION bridge.own_columns(timestamptz, boolean, timestamptz) IS
    'Columns of a session that the mapping sets when it inserts the row.';

-- What another upgrade would not bring back, of sessions and their steps. A session that no legacy table has is kept whole,
-- and so is one of an earlier attempt, which another upgrade copies again. Nearly all rows are equal: only others become JSON.
CREATE FUNCTION bridge.own_values(first_token text, last_token text) RETURNS SETOF bridge.override
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH k AS MATERIALIZED (
        SELECT u.session_token AS token, u.student_email, u.shared, u.expires_at, u.is_active, u.updated_at,
               m.session_token IS NOT NULL AS is_mapped, m.student_email AS mapped_email, m.shared AS mapped,
               coalesce(m.expires_at, u.updated_at + interval '30 days') AS mapped_expires_at, m.is_active AS mapped_is_active,
               coalesce(m.updated_at, u.updated_at) AS mapped_updated_at,
               CASE WHEN (m.shared).exercises = (u.shared).exercises THEN m.steps
                    ELSE bridge.steps_of(u.session_token, (u.shared).exercises) END AS steps,
               p.key IS NOT NULL AS is_prior, p.value AS prior_steps
        FROM bridge.unified AS u
        LEFT JOIN bridge.mapped(first_token, last_token) AS m ON m.session_token = u.session_token
        LEFT JOIN bridge.override AS p ON p.table_name = 'prior sessions' AND p.key = u.session_token
        WHERE u.session_token >= first_token AND u.session_token <= last_token
    ),
    s AS (
        SELECT k.token, k.is_mapped, k.is_prior,
               bridge.session_json(k.student_email, k.shared) || bridge.own_columns(k.expires_at, k.is_active, k.updated_at) AS unified,
               bridge.session_json(k.mapped_email, k.mapped)
                   || bridge.own_columns(k.mapped_expires_at, k.mapped_is_active, k.mapped_updated_at) AS mapped
        FROM k
        WHERE k.is_prior OR (k.student_email, k.shared, k.expires_at, k.is_active, k.updated_at) IS DISTINCT FROM
                            (k.mapped_email, k.mapped, k.mapped_expires_at, k.mapped_is_active, k.mapped_updated_at)
    )
    SELECT 'sessions', s.token COLLATE "C", 0, '(row)', s.unified, NULL::jsonb
    FROM s WHERE NOT s.is_mapped
    UNION ALL
    SELECT 'sessions', s.token, 0, e.key, nullif(e.value, 'null'), nullif(s.mapped -> e.key, 'null')
    FROM s CROSS JOIN LATERAL jsonb_each(s.unified) AS e
    WHERE s.is_mapped AND e.key NOT IN ('session_token', 'completion_rate')
      AND (s.is_prior OR e.value IS DISTINCT FROM s.mapped -> e.key)
    UNION ALL
    SELECT 'step_progress', k.token, sp.step_number, e.key, nullif(e.value, 'null'), nullif(to_jsonb(d) -> e.key, 'null')
    FROM k
    JOIN public.step_progress AS sp ON sp.session_token = k.token
    LEFT JOIN LATERAL (SELECT o.* FROM unnest(k.steps) AS o WHERE o.step_number = sp.step_number) AS d ON true
    CROSS JOIN LATERAL jsonb_each(to_jsonb(sp) - ARRAY['session_token', 'student_id', 'created_at', 'updated_at']) AS e
    WHERE (k.is_prior OR (sp.step_name, sp.started_at, sp.completed_at, sp.time_spent, sp.attempts, sp.validation_passed,
                          sp.code_submitted, sp.deployment_url) IS DISTINCT FROM
                         (d.step_name, d.started_at, d.completed_at, d.time_spent, d.attempts, d.validation_passed,
                          d.code_submitted, d.deployment_url))
      AND (k.is_prior OR e.value IS DISTINCT FROM to_jsonb(d) -> e.key)
    UNION ALL
    SELECT 'step_progress', k.token, n.number::integer, '(row)', 'false', NULL
    FROM k CROSS JOIN LATERAL jsonb_array_elements(k.prior_steps) AS n(number)
    WHERE NOT EXISTS (SELECT FROM public.step_progress AS sp WHERE sp.session_token = k.token AND sp.step_number = n.number::integer);
END
$$;
COMMENT ON FUNCTION bridge.own_values(text, text) IS 'Values of sessions and steps that only the unified schema holds.';

-- Of students: identity, GitHub name, and those whom no legacy row names. Of events: all that no migration wrote. The events
-- of an earlier attempt have the first numbers, and another upgrade copies them again.
CREATE FUNCTION bridge.own_rows() RETURNS SETOF bridge.override
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
    SELECT 'students', st.student_email COLLATE "C", 0, o.column_name, o.value, o.over
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
               ('github_username', nullif(to_jsonb(st.github_username), 'null'), NULL, st.github_username IS DISTINCT FROM p.github_username),
               ('student_name', nullif(to_jsonb(st.student_name), 'null'), nullif(to_jsonb(m.student_name), 'null'),
                    st.student_name IS DISTINCT FROM coalesce(m.student_name, p.student_name)),
               ('created_at', nullif(to_jsonb(st.created_at), 'null'), nullif(to_jsonb(m.created_at), 'null'),
                    st.created_at IS DISTINCT FROM least(m.created_at, p.created_at))
    ) AS o(column_name, value, over, kept)
    WHERE o.kept
    UNION ALL
    SELECT 'students', m.student_email, 0, '(row)', 'false', NULL
    FROM bridge.students AS m
    -- a placeholder only where the legacy rows cannot name the student whom the session has; an earlier attempt names it
    WHERE (m.student_email NOT LIKE 'anonymous+%@workshop.invalid' OR EXISTS (
               SELECT FROM public.sessions AS v WHERE v.session_token = m.first_token AND NOT EXISTS (
                   SELECT FROM bridge.override AS p WHERE p.table_name = 'prior sessions' AND p.key = v.session_token)))
      AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = m.student_email)
    UNION ALL
    SELECT 'students', p.key, 0, '(row)', 'false', NULL
    FROM bridge.override AS p
    WHERE p.table_name = 'prior students' AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = p.key)
      AND NOT EXISTS (SELECT FROM bridge.students AS m WHERE m.student_email = p.key)
    UNION ALL
    SELECT 'sessions', p.key, 0, '(row)', 'false', NULL
    FROM bridge.override AS p
    WHERE p.table_name = 'prior sessions' AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p.key)
    UNION ALL
    SELECT 'events', e.id::text, 0, '(row)', to_jsonb(e), NULL
    FROM public.events AS e
    WHERE e.id > copied AND e.event_type <> 'legacy_merge'
      AND (e.event_type <> 'merge_note' OR e.event_data ? 'written_on_both_sides');
END
$$;
COMMENT ON FUNCTION bridge.own_rows() IS 'Values of students, and events, that only the unified schema holds.';

-- From its first commit on applications cannot write to the unified tables any more; the legacy tables stay in use
-- throughout. Can be repeated: after an interruption it continues.
CREATE PROCEDURE bridge.hand_back()
    LANGUAGE plpgsql
AS $$
DECLARE
    merged CONSTANT boolean := (SELECT s.merged_at IS NOT NULL FROM bridge.state AS s);
    last_token text;
    range record;
    cursor_at text := '';
    size integer := 100;
    looked timestamptz;
    last_id bigint;
    unlogged bigint := 0;
BEGIN
    IF (SELECT s.retired_at IS NOT NULL FROM bridge.state AS s) THEN
        RETURN;
    END IF;
    IF 4 > num_nonnulls(to_regclass('public.students'), to_regclass('public.sessions'),
                        to_regclass('public.step_progress'), to_regclass('public.events')) THEN
        RAISE NOTICE 'tables of the unified schema were dropped by hand: there is nothing to hand back';
        RETURN;
    END IF;
    IF NOT bridge.is_read_only() THEN
        PERFORM public.retry_locking('SELECT bridge.make_read_only()');
        CALL bridge.commit_chunk();
    END IF;
    last_token := bridge.last_token();
    CALL bridge.refresh_adapters(merged);
    CALL bridge.drain(strict => false);
    IF merged THEN
        -- compares every value; what differs though no trigger logged it is logged
        last_id := (SELECT coalesce(max(c.id), 0) FROM bridge.change_log AS c);
        CALL bridge.log_differences('unified');
        unlogged := (SELECT count(DISTINCT c.token) FROM bridge.change_log AS c WHERE c.id > last_id AND c.before = '{}');
    END IF;
    IF unlogged > 0 THEN
        RAISE NOTICE '% sessions differ though no trigger logged it: the values of the unified schema are taken', unlogged;
        CALL bridge.drain(strict => false);
    END IF;
    IF EXISTS (SELECT FROM bridge.change_log AS c WHERE c.side = 'unified') THEN
        RAISE EXCEPTION 'sessions of the unified schema could not be handed back: they are locked, or were refused'
            USING ERRCODE = 'lock_not_available',
                  HINT = 'The unified tables are read-only, nothing was dropped. End the long transactions on the workshop''s tables, '
                         'change what a warning above names as refused, and run the downgrade again; or upgrade again.';
    END IF;
    IF merged THEN
        CALL bridge.require_verified(every_value => unlogged > 0);
    END IF;

    -- at each commit the overrides are complete: a run that is killed here is repeated, or upgraded again
    cursor_at := '';
    size := 100;
    WHILE cursor_at < last_token LOOP
        looked := clock_timestamp();
        range := bridge.next_range(cursor_at, size);
        EXIT WHEN range.last_token IS NULL;
        DELETE FROM bridge.override AS o
        WHERE o.key >= range.first_token AND o.key <= range.last_token AND o.table_name IN ('sessions', 'step_progress');
        INSERT INTO bridge.override SELECT * FROM bridge.own_values(range.first_token, range.last_token);
        cursor_at := range.last_token;
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, 2000, clock_timestamp() - looked);
    END LOOP;
    DELETE FROM bridge.override AS o
    WHERE o.table_name IN ('students', 'events')
       OR o.table_name IN ('sessions', 'step_progress') AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = o.key);
    INSERT INTO bridge.override SELECT * FROM bridge.own_rows();
    DELETE FROM bridge.override AS o WHERE o.table_name LIKE 'prior %';
    UPDATE bridge.state SET merged_at = NULL, retired_at = clock_timestamp();
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.hand_back() IS
    'Writes to the legacy tables what was written to the unified schema, and keeps the rest aside; can be repeated.';

-- The application adds columns while it runs, and a view does not see a column that came later.
CREATE PROCEDURE bridge.refresh_adapters(compare boolean)
    LANGUAGE plpgsql
AS $$
DECLARE
    stale text[];
BEGIN
    SELECT array_agg(s.legacy_name) INTO stale
    FROM bridge.source AS s
    WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation);
    IF stale IS NULL THEN
        RETURN;
    END IF;
    RAISE NOTICE 'columns changed since the adapters were built: %', array_to_string(stale, ', ');
    PERFORM public.retry_locking(format('SELECT bridge.build_adapter(%L)', n)) FROM unnest(stale) AS n;
    CALL bridge.commit_chunk();
    IF compare THEN
        CALL bridge.log_differences('legacy');
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.refresh_adapters(boolean) IS
    'Rebuilds the adapters of tables whose columns changed; compare: and logs the sessions that differ then.'
