-- Verification: compares the unified tables with the legacy tables. Counts come from the raw tables, without adapters and
-- mapping. Logged sessions are left out: they differ until the drain applies them.

CREATE FUNCTION bridge.raw(first_token text, last_token text)
    RETURNS TABLE (source text, token text, student_email text, openai_api_key text, exercises text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE (
        SELECT string_agg(format(
            'SELECT %L::text, (%s) COLLATE "default", %s FROM %s AS t WHERE (%2$s) COLLATE "default" BETWEEN $1 AND $2',
            s.legacy_name, s.token_expression, r.columns, s.relation), ' UNION ALL ')
        FROM bridge.source AS s
        CROSS JOIN LATERAL (
            SELECT string_agg(CASE WHEN c.name IS NULL THEN 'NULL::text'
                                   WHEN c.type = 'jsonb' THEN format('t.%I #>> ''{}''', w.name)
                                   ELSE format('t.%I::text COLLATE "default"', w.name) END, ', ' ORDER BY w.n)
            FROM unnest(ARRAY['student_email', 'openai_api_key', 'exercises']) WITH ORDINALITY AS w(name, n)
            LEFT JOIN bridge.columns_of(s.relation) AS c ON c.name = w.name
        ) AS r(columns)) USING first_token, last_token;
END
$$;
COMMENT ON FUNCTION bridge.raw(text, text) IS 'Legacy rows of a range of tokens, as stored.';

-- A layer of JSON strings adds backslashes only.
CREATE FUNCTION bridge.count_completed(exercises text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(cardinality(string_to_array(
    replace(replace(replace(replace(replace(exercises, '\', ''), ' ', ''), E'\n', ''), E'\t', ''), E'\r', ''),
    '"completed":true')) - 1, 0);
COMMENT ON FUNCTION bridge.count_completed(text) IS 'Completed exercises, counted as text.';

-- One statement has one snapshot: a write in between would change one count only.
CREATE FUNCTION bridge.count_range(first_token text, last_token text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_mergejoin = off SET jit = off
AS $$
BEGIN
    RETURN (
        WITH left_out AS MATERIALIZED (
            SELECT c.token FROM bridge.change_log AS c WHERE c.token >= first_token AND c.token <= last_token
            UNION
            SELECT o.key FROM bridge.override AS o
            WHERE o.key >= first_token AND o.key <= last_token AND o.table_name = 'sessions'
              AND o.column_name IN ('(row)', 'student_email', 'openai_api_key', 'exercises')
        ),
        raw AS MATERIALIZED (
            SELECT r.token, r.source, lower(btrim(r.student_email, E' \t\r\n\f\x0B') COLLATE "C") COLLATE "default" AS address,
                   nullif(r.openai_api_key, '') AS api_key, bridge.count_completed(r.exercises) AS completed
            FROM bridge.raw(first_token, last_token) AS r
            WHERE r.token NOT IN (SELECT k.token FROM left_out AS k)
        ),
        unified AS MATERIALIZED (
            SELECT v.session_token AS token, v.student_id, st.student_email, v.openai_api_key AS api_key,
                   bridge.count_completed(v.exercises::text || v.legacy_extra::text) AS completed
            FROM public.sessions AS v
            LEFT JOIN LATERAL (SELECT k.* FROM public.students AS k WHERE k.student_id = v.student_id OFFSET 0) AS st ON true
            WHERE v.session_token >= first_token AND v.session_token <= last_token
              AND v.session_token NOT IN (SELECT k.token FROM left_out AS k)
        ),
        by_token AS (
            SELECT
                bool_or(r.api_key IS NOT NULL) AS has_key,
                bool_or(r.api_key = v.api_key) AS key_arrived,
                bool_and(coalesce(r.address, '') IN ('', 'unknown@example.com')) AS no_address,
                bool_or(v.student_email LIKE 'anonymous+%@workshop.invalid') AS placeholder,
                -- any of the rows that share a token may be the one in use
                coalesce(min(r.completed) FILTER (WHERE r.source = 'workshop_students'), min(r.completed)) AS completed,
                min(v.completed) AS unified_completed
            FROM raw AS r
            LEFT JOIN unified AS v ON v.token = r.token
            GROUP BY r.token
        )
        SELECT jsonb_build_object(
            'raw_sessions', count(*),
            'sessions', (SELECT count(*) FROM unified),
            'raw_placeholders', count(*) FILTER (WHERE b.no_address),
            'placeholders', count(*) FILTER (WHERE b.no_address AND b.placeholder),
            'raw_keys', count(*) FILTER (WHERE b.has_key),
            'keys', count(*) FILTER (WHERE b.key_arrived),
            'raw_completed', coalesce(sum(b.completed), 0),
            'completed', coalesce(sum(b.unified_completed), 0),
            'addresses_without_student', (
                SELECT count(DISTINCT r.address) FROM raw AS r
                WHERE r.address NOT IN ('', 'unknown@example.com')
                  AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = r.address OFFSET 0)
                  AND NOT EXISTS (SELECT FROM bridge.override AS o
                                  WHERE o.table_name = 'students' AND o.key = r.address AND o.column_name = '(row)')),
            'orphans', (SELECT count(*) FROM unified AS v WHERE v.student_email IS NULL),
            'steps_without_session', (
                SELECT count(*) FROM public.step_progress AS sp
                WHERE sp.session_token >= first_token AND sp.session_token <= last_token
                  AND sp.session_token NOT IN (SELECT k.token FROM left_out AS k)
                  AND NOT EXISTS (SELECT FROM unified AS v WHERE v.token = sp.session_token AND v.student_id = sp.student_id)))
        FROM by_token AS b
    );
END
$$;
COMMENT ON FUNCTION bridge.count_range(text, text) IS 'Counts of both sides for a range of tokens.';

CREATE TYPE bridge.difference AS (table_name text, column_name text, token text);
COMMENT ON TYPE bridge.difference IS 'A value that differs between both sides.';

-- Compares every value of sessions and steps, and the student sources.
CREATE FUNCTION bridge.differences(first_token text, last_token text) RETURNS SETOF bridge.difference
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH k AS MATERIALIZED (
        SELECT coalesce(u.session_token, m.session_token) AS token, u.student_id, u.student_email, u.shared,
               m.student_email AS mapped_email, m.shared AS mapped, m.steps,
               u.session_token IS NOT NULL AS is_unified, m.session_token IS NOT NULL AS is_mapped,
               (u.student_email, u.shared) IS NOT DISTINCT FROM (m.student_email, m.shared) AS is_equal
        FROM (SELECT o.* FROM bridge.unified AS o WHERE o.session_token >= first_token AND o.session_token <= last_token) AS u
        FULL JOIN bridge.mapped(first_token, last_token) AS m ON m.session_token = u.session_token
    ),
    found AS (
        SELECT 'sessions' AS table_name, d.name AS column_name, k.token
        FROM k CROSS JOIN LATERAL bridge.diff(
            bridge.session_json(k.student_email, k.shared), bridge.session_json(k.mapped_email, k.mapped)) AS d
        WHERE k.is_unified AND k.is_mapped AND NOT k.is_equal AND d.name <> 'completion_rate' AND NOT EXISTS (
            SELECT FROM bridge.override AS o
            WHERE o.table_name = 'sessions' AND o.key = k.token AND o.column_name = d.name AND o.over IS NOT DISTINCT FROM d.mapped)
        UNION ALL
        SELECT 'sessions', 'completion_rate', k.token FROM k
        WHERE k.is_unified AND NOT k.is_equal AND (k.shared).completion_rate <> public.session_completion_rate(public.session_steps_done(
            (k.shared).twilio_connected, (k.shared).openai_connected, (k.shared).call_direction_chosen, (k.shared).services_ready,
            (k.shared).step4_deployed, (k.shared).step5_deployed, (k.shared).step6_deployed, (k.shared).system_prompt_saved,
            (k.shared).step8_deployed, (k.shared).project_deployed,
            ARRAY(SELECT sp.step_number FROM public.step_progress AS sp WHERE sp.session_token = k.token AND sp.validation_passed)))
        UNION ALL
        SELECT 'sessions', CASE WHEN k.is_mapped THEN '(row missing)' ELSE '(row without legacy)' END, k.token FROM k
        WHERE NOT (k.is_unified AND k.is_mapped) AND NOT EXISTS (
            SELECT FROM bridge.override AS o
            WHERE o.table_name = 'sessions' AND o.key = k.token AND o.column_name = '(row)' AND k.is_unified)
        UNION ALL
        SELECT 'step_progress', d.name, coalesce(sp.session_token, e.token)
        FROM (SELECT o.* FROM public.step_progress AS o WHERE o.session_token >= first_token AND o.session_token <= last_token) AS sp
        FULL JOIN (
            -- the mapping derived its steps from the same exercises
            SELECT k.token, k.student_id, x.step_number, x.completed_at, x.time_spent, x.attempts, x.validation_passed
            FROM k CROSS JOIN LATERAL unnest(k.steps) AS x WHERE k.is_equal
            UNION ALL
            SELECT k.token, k.student_id, x.step_number, x.completed_at, x.time_spent, x.attempts, x.validation_passed
            FROM k CROSS JOIN LATERAL public.exercise_steps((k.shared).exercises) AS x
            WHERE k.is_unified AND NOT k.is_equal AND jsonb_typeof((k.shared).exercises) = 'object'
        ) AS e ON e.token = sp.session_token AND e.step_number = sp.step_number
        CROSS JOIN LATERAL (
            SELECT '(row missing)' WHERE sp.session_token IS NULL
            UNION ALL SELECT '(row without legacy)' WHERE e.token IS NULL
            UNION ALL SELECT 'student_id' WHERE sp.student_id <> e.student_id
            -- an unknown name belongs to the unified table alone
            UNION ALL SELECT 'step_name' WHERE public.step_number_of(sp.step_name) <> sp.step_number
            UNION ALL SELECT 'completed_at' WHERE sp.validation_passed AND sp.completed_at IS DISTINCT FROM e.completed_at
            UNION ALL SELECT 'time_spent' WHERE sp.time_spent <> e.time_spent
            UNION ALL SELECT 'attempts' WHERE sp.attempts <> e.attempts
            UNION ALL SELECT 'validation_passed' WHERE sp.validation_passed <> e.validation_passed
        ) AS d(name)
        UNION ALL
        SELECT 'students', '(source)', k.token
        FROM (SELECT s.* FROM bridge.sources_of(first_token, last_token) AS s
              EXCEPT ALL
              SELECT s.* FROM bridge.student_source AS s WHERE s.token >= first_token AND s.token <= last_token) AS k
    )
    SELECT f.table_name, f.column_name, f.token FROM found AS f
    WHERE NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = f.token);
END
$$;
COMMENT ON FUNCTION bridge.differences(text, text) IS 'Values that differ between both sides, for a range of tokens, both ends included.';

CREATE FUNCTION bridge.student_differences(emails text[]) RETURNS SETOF bridge.difference
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    SELECT 'students', CASE d.name WHEN '(row)' THEN '(row missing)' ELSE d.name END, d.first_token
    FROM bridge.student_diff(emails) AS d
    WHERE NOT EXISTS (
          SELECT FROM bridge.override AS o
          WHERE o.table_name = 'students' AND o.key = d.student_email AND o.column_name = d.name
            AND (d.name = '(row)' OR o.over IS NOT DISTINCT FROM d.mapped))
      AND NOT EXISTS (
          SELECT FROM bridge.change_log AS c JOIN bridge.student_source AS s ON s.token = c.token WHERE s.student_email = d.student_email)
      AND NOT EXISTS (
          SELECT FROM bridge.change_log AS c JOIN public.sessions AS v ON v.session_token = c.token
          JOIN public.students AS st ON st.student_id = v.student_id WHERE st.student_email = d.student_email)
$$;
COMMENT ON FUNCTION bridge.student_differences(text[]) IS 'Values of students that differ.';

-- Only logs: the drain applies. Steps and exercises are merged first, because apply() compares exercises only.
CREATE FUNCTION bridge.add_differences(seen jsonb, listed bridge.difference[], log_as text) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF log_as IS NOT NULL AND listed <> '{}' THEN
        PERFORM set_config('bridge.applying', 'on', true);
        PERFORM bridge.align_steps(ARRAY(
            SELECT f.token FROM unnest(listed) AS f WHERE f.table_name = 'step_progress' OR f.column_name = 'completion_rate'));
        PERFORM bridge.log_changes(log_as, ARRAY(SELECT f.token FROM unnest(listed) AS f), CASE log_as WHEN 'unified' THEN '{}'::jsonb END);
        PERFORM set_config('bridge.applying', '', true);
    END IF;
    RETURN seen || coalesce((
        SELECT jsonb_object_agg(d.name, jsonb_build_object(
            'count', d.n + coalesce((seen -> d.name ->> 'count')::bigint, 0),
            'tails', coalesce(seen -> d.name -> 'tails', '[]') || to_jsonb(d.tails)))
        FROM (
            SELECT f.table_name || '.' || f.column_name AS name, count(DISTINCT f.token) AS n, (array_agg('...' || right(f.token, 4)))[:5] AS tails
            FROM unnest(listed) AS f GROUP BY 1
        ) AS d), '{}');
END
$$;
COMMENT ON FUNCTION bridge.add_differences IS
    'Adds differences to an object: for each column a count, and the ends of some tokens. log_as: logs the sessions as changed on this side.';

-- Runs range by range, with commits. The result is a JSON array of checks. log_as finds writes that no trigger logged: each
-- session that differs is logged, as changed on this side.
CREATE PROCEDURE bridge.run_checks(
    INOUT result jsonb, counts boolean DEFAULT true, every_value boolean DEFAULT true, log_as text DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    last_token CONSTANT text := greatest(bridge.last_token(), (SELECT max(sp.session_token) FROM public.step_progress AS sp));
    range record;
    emails text[];
    n jsonb := bridge.count_range('', '');  -- a range without tokens: zeros
    done bigint := 0;
    listed bridge.difference[];
    differing jsonb := '{}';
    cursor_at text := '';
    size integer := 100;
    looked timestamptz;
    began CONSTANT timestamptz := clock_timestamp();
    reported timestamptz := began;
BEGIN
    CALL bridge.commit_chunk();
    WHILE cursor_at < last_token LOOP
        looked := clock_timestamp();
        range := bridge.next_range(cursor_at, size);
        IF range.last_token IS NULL THEN
            range.first_token := cursor_at;
            range.last_token := last_token;  -- steps of no session
        END IF;
        done := done + range.sessions;
        IF counts THEN
            n := (SELECT jsonb_object_agg(e.key, (n ->> e.key)::bigint + e.value::bigint)
                  FROM jsonb_each(bridge.count_range(range.first_token, range.last_token)) AS e);
        END IF;
        IF every_value THEN
            listed := ARRAY(SELECT d FROM bridge.differences(range.first_token, range.last_token) AS d);
            differing := bridge.add_differences(differing, listed, CASE WHEN range.sessions > 0 THEN log_as END);
        END IF;
        cursor_at := range.last_token;
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, 2000, clock_timestamp() - looked);
        reported := bridge.report(reported, format('verified %s sessions, %s a second', done,
                                                   round(done / extract(epoch FROM clock_timestamp() - began))));
    END LOOP;
    cursor_at := '';
    WHILE every_value LOOP
        emails := ARRAY(SELECT DISTINCT s.student_email FROM bridge.student_source AS s
                        WHERE s.student_email > cursor_at ORDER BY s.student_email LIMIT 2000);
        EXIT WHEN emails = '{}';
        cursor_at := emails[cardinality(emails)];
        listed := ARRAY(SELECT d FROM bridge.student_differences(emails) AS d);
        differing := bridge.add_differences(differing, listed, log_as);
        CALL bridge.commit_chunk();
    END LOOP;

    SELECT jsonb_agg(jsonb_build_object('check_name', c.check_name, 'expected', c.expected, 'actual', c.actual,
                                        'ok', coalesce(c.holds, c.expected = c.actual)))
    INTO result
    FROM (
        VALUES
            (counts, 'sessions: one for each token of either table', n -> 'raw_sessions', n -> 'sessions', NULL::boolean),
            (counts, 'students: addresses of either table without one', '0', n -> 'addresses_without_student', NULL),
            (counts, 'students: a placeholder for each session without an address', n -> 'raw_placeholders', n -> 'placeholders', NULL),
            (counts, 'API keys: byte for byte', n -> 'raw_keys', n -> 'keys', NULL),
            (counts, 'orphans: sessions without a student', '0', n -> 'orphans', NULL),
            (counts, 'orphans: steps without a session', '0', n -> 'steps_without_session', NULL),
            (true, 'adapters: legacy tables whose columns or key changed', '0', (
                SELECT to_jsonb(count(*)) FROM bridge.source AS s
                WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation)), NULL),
            (counts, 'exercises: completed ones, counted as text', n -> 'raw_completed', n -> 'completed',
             (n ->> 'raw_completed')::bigint <= (n ->> 'completed')::bigint),
            (every_value, 'cells: sessions with every mapped value as mapped', to_jsonb(done), to_jsonb(done - coalesce((
                SELECT max((f.value ->> 'count')::bigint) FROM jsonb_each(differing) AS f), 0)), differing = '{}')
    ) AS c(wanted, check_name, expected, actual, holds)
    WHERE c.wanted;
    result := result
        || coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'check_name', format('cells: %s differs (sessions %s)', f.key, coalesce((
                SELECT string_agg(t.tail, ' ') FROM (SELECT jsonb_array_elements_text(f.value -> 'tails') AS tail LIMIT 5) AS t), 'none')),
            'expected', 0, 'actual', f.value -> 'count', 'ok', false) ORDER BY f.key)
        FROM jsonb_each(differing) AS f), '[]');
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.run_checks(jsonb, boolean, boolean, text) IS 'Runs the checks, in short transactions.';

CREATE FUNCTION bridge.verify()
    RETURNS TABLE (check_name text, expected bigint, actual bigint, ok boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
BEGIN
    PERFORM set_config('bridge.single_transaction', 'on', true);
    CALL bridge.run_checks(result);
    RETURN QUERY
    SELECT r.check_name, r.expected, r.actual, r.ok
    FROM jsonb_to_recordset(result) AS r(check_name text, expected bigint, actual bigint, ok boolean);
END
$$;
COMMENT ON FUNCTION bridge.verify() IS 'All checks, in the transaction of the caller.';

CREATE PROCEDURE bridge.require_verified(counts boolean, every_value boolean)
    LANGUAGE plpgsql
AS $$
DECLARE
    result jsonb;
    failed text;
BEGIN
    CALL bridge.run_checks(result, counts, every_value);
    SELECT string_agg(format('%s: expected %s, found %s', r.check_name, r.expected, r.actual), '; ') INTO failed
    FROM jsonb_to_recordset(result) AS r(check_name text, expected bigint, actual bigint, ok boolean)
    WHERE r.ok IS NOT TRUE;
    IF failed IS NOT NULL THEN
        RAISE EXCEPTION 'verification failed: %', failed
            USING HINT = 'The legacy tables are untouched and in use. SELECT * FROM bridge.verify() shows every check.';
    END IF;
    RAISE NOTICE 'verified: %', concat_ws(' and ', CASE WHEN counts THEN 'counts' END, CASE WHEN every_value THEN 'every value' END);
END
$$;
COMMENT ON PROCEDURE bridge.require_verified(boolean, boolean) IS 'Raises an error if a check fails.';

-- After a downgrade that stopped, or that ended at 0003, the rows are still there: only differences are logged.
CREATE PROCEDURE bridge.merge()
    LANGUAGE plpgsql
AS $$
DECLARE
    checks jsonb;
BEGIN
    CALL bridge.refresh_adapters(true);
    UPDATE bridge.state SET merged_at = coalesce(merged_at, retired_at), retired_at = NULL;
    DELETE FROM bridge.override AS o
    WHERE o.table_name IN ('step_progress', 'events') OR o.column_name IN ('student_id', 'github_username', 'expires_at', 'is_active', 'updated_at');
    -- with the value true, a deleted session of an earlier attempt would exist again
    DELETE FROM bridge.override WHERE table_name = 'sessions' AND column_name = '(row)' AND value = 'false';
    UPDATE bridge.override SET value = 'true' WHERE table_name = 'sessions' AND column_name = '(row)';
    CALL bridge.commit_chunk();
    CALL bridge.run_checks(checks, counts => false, log_as => 'legacy');
END
$$;
COMMENT ON PROCEDURE bridge.merge() IS 'Merges again, after the backfill: logs every session that differs.';

CREATE PROCEDURE bridge.finish_merge()
    LANGUAGE plpgsql
AS $$
BEGIN
    CALL bridge.drain(strict => false);
    CALL bridge.drain(strict => false);  -- what was logged meanwhile
    CALL bridge.require_verified(counts => true, every_value => false);
    PERFORM public.retry_locking('SELECT bridge.set_read_only(false)');
END
$$;
COMMENT ON PROCEDURE bridge.finish_merge() IS 'Drain and counts; refuses to continue if a count does not add up.'
