-- The backfill: inserts the mapped sessions in key order, in chunks, each with its own commit. The cursor is stored, so
-- that a killed run continues. The drain applies what an application writes meanwhile. The functions belong to the session
-- (pg_temp): nothing else needs them.

-- --- rows that were there first --------------------------------------------------------------------

-- Combines sessions that were there first with the mapping. said: token -> column -> mapped value, null without legacy rows.
-- changed: those of an earlier attempt that an application has written since 0003 copied them.
CREATE OR REPLACE FUNCTION pg_temp.combine(said jsonb, changed text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
DECLARE
    tokens CONSTANT text[] := ARRAY(SELECT jsonb_object_keys(said));
    -- A downgrade left these rows, and handed them back: what the legacy tables have now is later.
    handed_back CONSTANT boolean := bridge.is_read_only() AND to_regclass('public.prior_attempt') IS NULL;
    session record;
BEGIN
    PERFORM bridge.delete_session(v.session_token) FROM public.sessions AS v
    WHERE handed_back AND v.session_token = ANY (tokens) AND NOT EXISTS (SELECT FROM bridge.tokens AS k WHERE k.token = v.session_token)
      AND NOT EXISTS (SELECT FROM bridge.override AS o
                      WHERE o.key = v.session_token AND o.table_name IN ('sessions', 'kept sessions') AND o.column_name = '(row)');
    FOR session IN
        WITH written AS MATERIALIZED (  -- by an application since 0003
            SELECT c.token, bool_or(c.before IS NULL) AS inserted, bridge.merge_objects(c.before ORDER BY c.id DESC) AS before
            FROM bridge.change_log AS c
            WHERE c.token = ANY (tokens) AND c.side <> 'legacy'
            GROUP BY c.token
        ),
        differing AS (
            SELECT u.session_token AS token, d.*, w.token IS NOT NULL AS written, CASE WHEN handed_back AND o.key IS NULL THEN d.mapped
                       ELSE bridge.combined(d.name, d.unified, d.mapped,
                           w.inserted OR w.before ? d.name AND nullif(w.before -> d.name, 'null') IS DISTINCT FROM d.unified) END AS value
            FROM jsonb_each(said) AS s
            JOIN bridge.unified AS u ON u.session_token = s.key AND s.value <> 'null'
            CROSS JOIN LATERAL bridge.diff(bridge.session_json(u.student_email, u.shared), s.value) AS d
            LEFT JOIN written AS w ON w.token = s.key
            LEFT JOIN bridge.override AS o ON o.table_name = 'sessions' AND o.key = s.key AND o.column_name = d.name
            WHERE d.name <> 'completion_rate'
        )
        -- conflicts, by winner: legacy; unified, an application since 0003; sessions, the earlier attempt
        SELECT d.token, bool_or(d.written) AS written, jsonb_object_agg(d.name, d.value) AS patch,
               coalesce(jsonb_object_agg(d.name, CASE WHEN d.value <> d.unified THEN 'legacy' WHEN d.written THEN 'unified' ELSE 'sessions' END)
                   FILTER (WHERE d.unified NOT IN ('[]', '{}') AND d.mapped NOT IN ('[]', '{}')
                             AND jsonb_typeof(d.mapped) NOT IN ('boolean', 'number') AND d.name !~ '_(at|activity|extra)$'), '{}') AS conflicts
        FROM differing AS d
        GROUP BY d.token
    LOOP
        PERFORM bridge.update_session(session.token, session.patch);
        PERFORM bridge.note_decision(session.token, jsonb_build_object(
            CASE WHEN session.written THEN 'written_on_both_sides' ELSE 'conflicts' END, session.conflicts))
        WHERE session.conflicts <> '{}';
    END LOOP;
    PERFORM bridge.align_steps(tokens);
    -- another upgrade copies the earlier attempt again: a downgrade keeps those whole that have changed since
    INSERT INTO bridge.override (table_name, key, column_name, value)
    SELECT 'prior sessions', t, '(row)', jsonb_build_object('hash', CASE WHEN t <> ALL (changed) THEN bridge.session_hash(t) END, 'steps', (
        SELECT jsonb_agg(sp.step_number) FROM public.step_progress AS sp WHERE sp.session_token = t))
    FROM unnest(tokens) AS t
    WHERE to_regclass('public.prior_attempt') IS NOT NULL
    ON CONFLICT DO NOTHING;
END
$$;

-- --- what an earlier downgrade kept aside ----------------------------------------------------------

-- Writes the kept values of one session. p_whole: of a session that the legacy tables did not have, the whole row, or false
-- if it was deleted. p_patch: column -> value. p_written: an application has written the session since 0003, and what it
-- wrote stays. Returns the mapped values of the written columns; null without legacy rows.
CREATE OR REPLACE FUNCTION pg_temp.restore_session(p_token text, p_mapped jsonb, p_whole jsonb, p_patch jsonb, p_written boolean) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
BEGIN
    IF p_mapped IS NULL AND p_whole = 'false' THEN
        PERFORM bridge.delete_session(p_token) WHERE NOT p_written;
        RETURN NULL;
    ELSIF p_mapped IS NULL AND p_whole IS NOT NULL THEN
        INSERT INTO public.sessions (session_token, student_id)
        SELECT p_token, st.student_id FROM public.students AS st WHERE st.student_email = p_whole ->> 'student_email'
        ON CONFLICT DO NOTHING;
        p_patch := p_whole;
    ELSIF jsonb_typeof(p_whole) = 'object' THEN  -- the legacy tables have the session since: combined like a row that was there first
        p_patch := (SELECT jsonb_object_agg(d.name, CASE WHEN d.name IN ('expires_at', 'is_active', 'updated_at') THEN d.unified
                                                    ELSE bridge.combined(d.name, d.unified, d.mapped, d.name = 'exercises') END)
                    FROM bridge.diff(p_whole - 'completion_rate', p_mapped - 'completion_rate') AS d);
        PERFORM bridge.note_decision(p_token, jsonb_build_object('conflicts', jsonb_object_agg(e.key, 'legacy')))
        FROM jsonb_each(p_patch) AS e
        WHERE p_whole -> e.key NOT IN ('null', '[]', '{}', 'false', '0') AND e.value <> p_whole -> e.key
          AND e.key !~ '_(at|activity|extra)$' HAVING count(*) > 0;
    END IF;
    IF p_written THEN
        p_patch := (SELECT jsonb_object_agg(d.name, bridge.combined(d.name, d.unified, d.mapped, true))
                    FROM bridge.unified AS u
                    CROSS JOIN LATERAL bridge.diff(to_jsonb(u) || to_jsonb(u.shared), p_patch) AS d
                    WHERE u.session_token = p_token);
    END IF;
    IF p_patch ? 'student_email' THEN
        DELETE FROM bridge.override AS o WHERE o.table_name = 'students' AND o.key = p_patch ->> 'student_email' AND o.column_name = '(row)';
        PERFORM bridge.insert_students(ARRAY[p_patch ->> 'student_email']);
    END IF;
    PERFORM set_config('bridge.backfilling', '', true);  -- the trigger derives the steps
    PERFORM bridge.update_session(p_token, p_patch) WHERE p_patch IS NOT NULL;
    PERFORM set_config('bridge.backfilling', 'on', true);
    IF p_patch ? 'student_email' THEN
        -- the placeholder of the session before
        DELETE FROM public.students AS st
        USING bridge.override AS o
        WHERE st.student_email = bridge.placeholder_email(p_token)
          AND o.table_name = 'kept students' AND o.key = st.student_email AND o.column_name = '(row)'
          AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.student_id = st.student_id);
        IF FOUND THEN
            PERFORM bridge.record_override('students', s.student_email, '(row)', 'false', jsonb_strip_nulls(to_jsonb(s)))
            FROM bridge.students AS s WHERE s.student_email = bridge.placeholder_email(p_token);
        END IF;
    END IF;
    RETURN CASE WHEN p_mapped IS NOT NULL THEN (
        SELECT coalesce(jsonb_object_agg(k, p_mapped -> k), '{}')
        FROM jsonb_object_keys(p_patch - ARRAY['expires_at', 'is_active', 'updated_at']) AS k)
        WHEN p_whole IS NULL THEN '{}' END;  -- the legacy rows were deleted meanwhile
END
$$;

-- Writes the kept values of the steps of a session.
CREATE OR REPLACE FUNCTION pg_temp.restore_steps(p_token text, p_written boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step record;
BEGIN
    FOR step IN
        SELECT o.step_number, jsonb_object_agg(o.column_name, o.value) AS cells
        FROM bridge.override AS o
        LEFT JOIN unnest(bridge.steps_of(p_token, (SELECT v.exercises FROM public.sessions AS v WHERE v.session_token = p_token))) AS e
            ON e.step_number = o.step_number
        WHERE o.table_name = 'kept step_progress' AND o.key = p_token
          -- only steps that the exercises still contain
          AND (o.column_name = '(row)'
               OR e.step_number IS NOT NULL AND o.over IS NOT DISTINCT FROM nullif(to_jsonb(e) -> o.column_name, 'null'))
        GROUP BY o.step_number
    LOOP
        IF step.cells -> '(row)' = 'false' THEN
            DELETE FROM public.step_progress AS sp WHERE sp.session_token = p_token AND sp.step_number = step.step_number;
            CONTINUE;
        END IF;
        INSERT INTO public.step_progress (session_token, student_id, step_number, step_name)
        SELECT p_token, v.student_id, step.step_number, public.step_name_of(step.step_number)
        FROM public.sessions AS v WHERE v.session_token = p_token
        ON CONFLICT DO NOTHING;
        UPDATE public.step_progress AS sp
        SET (step_name, started_at, completed_at, time_spent, attempts, validation_passed, code_submitted, deployment_url) = (
            SELECT n.step_name, n.started_at, n.completed_at, n.time_spent, n.attempts, n.validation_passed, n.code_submitted, n.deployment_url
            FROM jsonb_populate_record(sp, step.cells || CASE WHEN p_written THEN jsonb_strip_nulls(to_jsonb(sp)) ELSE '{}' END) AS n)
        WHERE sp.session_token = p_token AND sp.step_number = step.step_number;
    END LOOP;
END
$$;

-- A value is restored if the mapped value is the one of the time of the downgrade. A later legacy write stays. Returns, for
-- each token, what restore_session() returns.
CREATE OR REPLACE FUNCTION pg_temp.restore_sessions(first_token text, last_token text) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
DECLARE
    kept record;
    restored jsonb := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM bridge.override AS o
                   WHERE o.key >= first_token AND o.key <= last_token AND o.table_name IN ('kept sessions', 'kept step_progress')) THEN
        RETURN restored;
    END IF;
    FOR kept IN
        SELECT o.key AS token, (array_agg(m.said))[1] AS mapped,
               (array_agg(o.value) FILTER (WHERE o.table_name = 'kept sessions' AND o.column_name = '(row)'))[1] AS whole,
               jsonb_object_agg(o.column_name, o.value) FILTER (
                   WHERE o.table_name = 'kept sessions' AND o.column_name <> '(row)'
                     AND (o.over IS NOT DISTINCT FROM nullif(m.said -> o.column_name, 'null')
                          -- over is the default of that time
                          OR o.column_name = 'expires_at' AND m.said -> o.column_name = 'null')) AS patch,
               bool_or(o.table_name = 'kept step_progress') AS has_steps,
               EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = o.key AND c.side = 'unified') AS written
        FROM bridge.override AS o
        LEFT JOIN (
            SELECT s.session_token, (to_jsonb(s) || to_jsonb(s.shared)) - ARRAY['shared', 'steps', 'note'] AS said
            FROM bridge.mapped(first_token, last_token) AS s
        ) AS m ON m.session_token = o.key
        WHERE o.key >= first_token AND o.key <= last_token AND o.table_name IN ('kept sessions', 'kept step_progress')
        GROUP BY o.key
        ORDER BY o.key
    LOOP
        IF kept.mapped IS NOT NULL AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = kept.token) THEN
            PERFORM bridge.refresh_sources(kept.token);  -- legacy rows that came after the stage of the students
            PERFORM bridge.insert_students(ARRAY[kept.mapped ->> 'student_email']);
            PERFORM bridge.insert_sessions(kept.token, kept.token);
        END IF;
        restored := restored || jsonb_build_object(
            kept.token, pg_temp.restore_session(kept.token, kept.mapped, kept.whole, kept.patch, kept.written));
        PERFORM pg_temp.restore_steps(kept.token, kept.written) WHERE kept.has_steps;
    END LOOP;
    -- the next downgrade keeps them again
    UPDATE bridge.override AS p SET value = p.value || '{"hash": null}'
    WHERE p.table_name = 'prior sessions' AND p.key IN (SELECT jsonb_object_keys(restored));
    DELETE FROM bridge.override AS o
    WHERE o.key >= first_token AND o.key <= last_token AND o.table_name IN ('kept sessions', 'kept step_progress');
    RETURN restored;
END
$$;

-- Restores the kept values of some students.
CREATE OR REPLACE FUNCTION pg_temp.restore_students(emails text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept CONSTANT text[] := ARRAY(
        SELECT DISTINCT o.key FROM bridge.override AS o WHERE o.table_name = 'kept students' AND o.key = ANY (emails));
BEGIN
    INSERT INTO public.students (student_id, student_email, created_at)
    SELECT (o.value #>> '{}')::uuid, o.key, NULL FROM bridge.override AS o
    WHERE o.table_name = 'kept students' AND o.key = ANY (kept) AND o.column_name = 'student_id'
      AND NOT EXISTS (SELECT FROM bridge.student_source AS s WHERE s.student_email = o.key)
    ON CONFLICT DO NOTHING;
    DELETE FROM public.students AS st USING bridge.override AS o
    WHERE o.table_name = 'kept students' AND o.key = ANY (kept) AND o.key = st.student_email AND o.column_name = '(row)' AND o.value = 'false'
      AND NOT EXISTS (SELECT FROM bridge.student_source AS s WHERE s.student_email = o.key AND s.of_session);
    UPDATE public.students AS st SET (student_name, created_at, github_username) = (
        SELECT n.student_name, n.created_at, n.github_username FROM jsonb_populate_record(st, k.patch) AS n)
    FROM (
        SELECT o.key, jsonb_object_agg(o.column_name, o.value) AS patch
        FROM bridge.override AS o
        LEFT JOIN (SELECT s.* FROM bridge.students AS s WHERE s.student_email = ANY (kept)) AS m ON m.student_email = o.key
        WHERE o.table_name = 'kept students' AND o.key = ANY (kept) AND (
            o.column_name = 'github_username'
            OR o.column_name = 'student_name' AND o.over #>> '{}' IS NOT DISTINCT FROM m.student_name
            OR o.column_name = 'created_at' AND (o.over #>> '{}')::timestamptz IS NOT DISTINCT FROM m.created_at)
        GROUP BY o.key
    ) AS k
    WHERE st.student_email = k.key;
    PERFORM bridge.record_override('students', d.student_email, d.name, d.unified, d.mapped) FROM bridge.student_diff(kept) AS d;
    -- the next downgrade keeps them again
    UPDATE bridge.override AS p SET value = p.value - ARRAY(
        SELECT o.column_name FROM bridge.override AS o
        WHERE o.table_name = 'kept students' AND o.key = p.key AND o.column_name IN ('github_username', 'student_name', 'created_at'))
    WHERE p.table_name = 'prior students' AND p.key = ANY (kept);
END
$$;

-- Restores events with their ids, before the backfill writes its own. An event gets a new id if its own is taken.
CREATE OR REPLACE FUNCTION pg_temp.restore_events() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbers CONSTANT regclass := pg_get_serial_sequence('public.events', 'id');
BEGIN
    -- nextval(), because setval() could set the sequence back
    PERFORM nextval(numbers) FROM generate_series(
        coalesce(pg_sequence_last_value(numbers), 0) + 1,
        (SELECT max(o.key::bigint) FROM bridge.override AS o WHERE o.table_name = 'kept events'));
    INSERT INTO public.events (id, student_id, session_token, event_type, event_data, created_at)
    SELECT CASE WHEN e.id IS NULL THEN k.id ELSE nextval(numbers) END,
           k.student_id, k.session_token, k.event_type, k.event_data, k.created_at
    FROM bridge.override AS o
    CROSS JOIN LATERAL jsonb_populate_record(NULL::public.events, o.value) AS k
    LEFT JOIN public.events AS e ON e.id = k.id
    WHERE o.table_name = 'kept events' AND (e.event_type, e.created_at) IS DISTINCT FROM (k.event_type, k.created_at);
    DELETE FROM bridge.override AS o WHERE o.table_name = 'kept events';
END
$$;

-- --- stages ----------------------------------------------------------------------------------------

-- Inserts students, and combines those that were there first.
CREATE OR REPLACE FUNCTION pg_temp.backfill_students(emails text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- students that were there first, without those that an application has written since 0003: the drain decides
    present CONSTANT text[] := ARRAY(
        SELECT e FROM unnest(emails) AS e
        WHERE EXISTS (SELECT FROM public.students AS st WHERE st.student_email = e OFFSET 0)
          AND NOT EXISTS (SELECT FROM bridge.student_source AS s JOIN bridge.change_log AS c ON c.token = s.token
                          WHERE s.student_email = e AND c.side = 'student'));
BEGIN
    IF present <> '{}' THEN
        UPDATE public.students AS st
        SET student_name = coalesce(m.student_name, st.student_name), created_at = least(m.created_at, st.created_at)
        FROM bridge.students AS m
        WHERE m.student_email = ANY (present) AND st.student_email = m.student_email
          AND (coalesce(m.student_name, st.student_name), least(m.created_at, st.created_at)) IS DISTINCT FROM (st.student_name, st.created_at);
        PERFORM bridge.record_override('students', d.student_email, d.name, d.unified, d.mapped)
        FROM bridge.student_diff(present) AS d;
    END IF;
    -- no placeholder for a session that has a student
    PERFORM bridge.record_override('students', m.student_email, '(row)', 'false', jsonb_strip_nulls(to_jsonb(m)))
    FROM bridge.students AS m
    WHERE m.student_email = ANY (ARRAY(SELECT e FROM unnest(emails) AS e WHERE e LIKE 'anonymous+%@workshop.invalid')) AND EXISTS (
        SELECT FROM public.sessions AS v JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token = m.first_token AND st.student_email <> m.student_email);
    PERFORM bridge.insert_students(ARRAY(
        SELECT e FROM unnest(emails) AS e
        WHERE NOT EXISTS (SELECT FROM bridge.override AS o WHERE o.table_name = 'students' AND o.key = e AND o.column_name = '(row)' OFFSET 0)));
    UPDATE bridge.override AS o SET value = o.value || jsonb_build_object('student_name', st.student_name, 'created_at', st.created_at)
    FROM public.students AS st
    WHERE o.table_name = 'prior students' AND o.key = ANY (emails) AND o.key = st.student_email;
    PERFORM pg_temp.restore_students(emails);
END
$$;

-- Inserts the sessions of a range of tokens, and combines those that were there first. An override records the mapped value
-- that was read before: if the application writes meanwhile, the drain finds another one.
CREATE OR REPLACE FUNCTION pg_temp.backfill_sessions(first_token text, last_token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
DECLARE
    present CONSTANT text[] := ARRAY(
        SELECT v.session_token FROM public.sessions AS v
        WHERE v.session_token >= first_token AND v.session_token <= last_token
        UNION
        SELECT sp.session_token FROM public.step_progress AS sp
        WHERE sp.session_token >= first_token AND sp.session_token <= last_token);
    said jsonb := '{}';
    changed text[];
BEGIN
    -- no application may write between reading and combining
    PERFORM FROM public.sessions AS v WHERE v.session_token = ANY (present) ORDER BY v.session_token FOR NO KEY UPDATE;
    -- an endpoint deleted it: it must not be inserted again
    IF EXISTS (SELECT FROM (SELECT DISTINCT c.token FROM bridge.change_log AS c
                            WHERE c.token >= first_token AND c.token <= last_token AND c.side = 'unified' AND c.before = '{}') AS d
               WHERE CASE WHEN NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = d.token)
                          THEN bridge.try_apply(d.token) = 'busy' END) THEN
        RAISE EXCEPTION 'a deleted session is locked' USING ERRCODE = 'lock_not_available';  -- the chunk is repeated
    END IF;
    PERFORM set_config('bridge.applying', 'on', true);
    IF present <> '{}' THEN
        -- before insert_sessions() merges their steps; what an endpoint inserted has no copy
        changed := ARRAY(SELECT t FROM unnest(present) AS t
                         LEFT JOIN bridge.override AS o ON o.table_name = 'prior copies' AND o.key = t
                         WHERE o.value #>> '{}' IS DISTINCT FROM bridge.session_hash(t));
        said := (SELECT jsonb_object_agg(t, bridge.session_json(m.student_email, m.shared))
                 FROM unnest(present) AS t LEFT JOIN bridge.mapped(first_token, last_token) AS m ON m.session_token = t);
    END IF;
    PERFORM bridge.insert_sessions(first_token, last_token);
    PERFORM pg_temp.combine(said, changed) WHERE present <> '{}';
    said := pg_temp.restore_sessions(first_token, last_token) || said;
    IF said <> '{}' THEN
        IF EXISTS (SELECT FROM jsonb_each(said) AS s JOIN bridge.tokens AS t ON t.token = s.key WHERE s.value = 'null') THEN
            RAISE EXCEPTION 'legacy rows of a session were inserted meanwhile' USING ERRCODE = 'lock_not_available';  -- the chunk is repeated
        END IF;
        -- the drain decides for a session that an application wrote, and for its student
        PERFORM bridge.record_overrides((
            SELECT jsonb_object_agg(s.key, s.value) FROM jsonb_each(said) AS s
            WHERE NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = s.key AND c.side = 'unified')));
        DELETE FROM bridge.override AS o USING bridge.change_log AS c
        WHERE o.table_name = 'sessions' AND o.key = ANY (present) AND o.column_name = 'student_email' AND c.token = o.key AND c.side <> 'legacy';
    END IF;
END
$$;

-- Runs one chunk, and repeats it if an application inserts the same row meanwhile: the row is then combined.
-- The first chunk plans for empty tables: no sequential scan.
CREATE OR REPLACE FUNCTION pg_temp.backfill_chunk(stage text, first_token text, last_token text, emails text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    too_long text;
BEGIN
    PERFORM set_config('bridge.applying', 'on', true), set_config('bridge.backfilling', 'on', true);
    FOR attempt IN 1 .. 100 LOOP
        BEGIN
            CASE stage
                WHEN 'sources' THEN
                    INSERT INTO bridge.student_source SELECT * FROM bridge.sources_of(first_token, last_token);
                WHEN 'students' THEN
                    PERFORM pg_temp.backfill_students(emails);
                WHEN 'sessions' THEN
                    PERFORM pg_temp.backfill_sessions(first_token, last_token);
            END CASE;
            EXIT;
        EXCEPTION
            WHEN program_limit_exceeded THEN
                SELECT string_agg(DISTINCT '...' || right(s.token, 4), ' ') INTO too_long
                FROM bridge.sources_of(first_token, last_token) AS s WHERE octet_length(s.student_email) > 2600;
                RAISE EXCEPTION 'an address is longer than 2600 bytes, more than a unique key can hold: sessions %', too_long
                    USING HINT = 'Nothing was merged. Correct student_email in the legacy tables, then run this again.';
            WHEN unique_violation OR lock_not_available OR deadlock_detected OR foreign_key_violation THEN
                IF attempt = 100 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.05 + 0.1 * random());
        END;
    END LOOP;
    PERFORM set_config('bridge.applying', '', true), set_config('bridge.backfilling', '', true);
END
$$;

-- Runs a stage of the backfill from its cursor to its end, if it is the present one.
CREATE OR REPLACE PROCEDURE pg_temp.backfill_stage(p_stage text, next_stage text, final_token text)
    LANGUAGE plpgsql
AS $$
DECLARE
    done_to text := (SELECT s.cursor_at FROM bridge.state AS s);
    done bigint := (SELECT s.sessions FROM bridge.state AS s);
    total CONSTANT bigint := (SELECT sum(greatest(c.reltuples, 0)) FROM bridge.source AS s JOIN pg_class AS c ON c.oid = s.relation);
    before CONSTANT bigint := done;
    began CONSTANT timestamptz := clock_timestamp();
    reported timestamptz := began;
    looked timestamptz;
    size integer := 50;
    first_token text;
    emails text[];
    rate numeric;
BEGIN
    IF (SELECT s.stage <> p_stage FROM bridge.state AS s) THEN
        RETURN;
    END IF;
    LOOP
        looked := clock_timestamp();
        IF p_stage = 'students' THEN
            emails := ARRAY(SELECT DISTINCT s.student_email FROM bridge.student_source AS s
                            WHERE s.student_email > done_to ORDER BY s.student_email LIMIT size);
            EXIT WHEN emails = '{}';
            done_to := emails[cardinality(emails)];
        ELSE
            EXIT WHEN done_to >= final_token;
            SELECT r.first_token, r.last_token INTO first_token, done_to FROM bridge.next_range(done_to, size) AS r;
            EXIT WHEN done_to IS NULL;
        END IF;
        CALL bridge.commit_chunk();  -- a chunk that is repeated holds no lock in its pauses
        PERFORM pg_temp.backfill_chunk(p_stage, first_token, done_to, emails);
        done := done + CASE p_stage WHEN 'sessions' THEN (
            SELECT count(*) FROM public.sessions AS v WHERE v.session_token >= first_token AND v.session_token <= done_to) ELSE 0 END;
        UPDATE bridge.state SET cursor_at = done_to, sessions = done;
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, 4000, clock_timestamp() - looked);
        rate := greatest((done - before) / extract(epoch FROM clock_timestamp() - began), 1);
        reported := bridge.report(reported, CASE WHEN p_stage <> 'sessions' THEN 'reading the students of the legacy rows'
            ELSE format('merged %s sessions of at most %s (legacy rows), %s a second, less than %s s left',
                        done, total, round(rate), ceil(greatest(total - done, 0) / rate)) END);
    END LOOP;
    IF p_stage = 'students' THEN  -- those without legacy rows
        PERFORM set_config('bridge.applying', 'on', true);
        PERFORM pg_temp.restore_students(ARRAY(
            SELECT o.key FROM bridge.override AS o
            WHERE o.table_name = 'kept students' AND NOT EXISTS (SELECT FROM bridge.student_source AS s WHERE s.student_email = o.key)));
        DELETE FROM bridge.override AS o
        WHERE o.table_name = 'kept students' AND NOT (o.column_name = '(row)' AND o.key LIKE 'anonymous+%@workshop.invalid');
        PERFORM set_config('bridge.applying', '', true);
    END IF;
    UPDATE bridge.state SET stage = next_stage, cursor_at = '';
    CALL bridge.commit_chunk();
END
$$;

-- Fills the unified tables from the legacy tables; after an interruption it continues.
CREATE OR REPLACE PROCEDURE pg_temp.backfill()
    LANGUAGE plpgsql
AS $$
DECLARE
    last_token text;
BEGIN
    IF (SELECT num_nonnulls(s.merged_at, s.retired_at) > 0 FROM bridge.state AS s) THEN
        CALL bridge.merge();  -- a downgrade stopped, or ended at 0003
        RETURN;
    END IF;
    CALL bridge.refresh_adapters(false);
    last_token := bridge.last_token();
    IF (SELECT s.stage IS NULL FROM bridge.state AS s) THEN
        PERFORM set_config('bridge.applying', 'on', true);
        PERFORM pg_temp.restore_events();
        -- students of an earlier attempt with an address that was changed before the downgrade
        UPDATE public.students AS st SET student_email = o.key
        FROM bridge.override AS o
        WHERE o.table_name = 'kept students' AND o.column_name = 'student_id'
          AND st.student_id = (o.value #>> '{}')::uuid AND st.student_email <> o.key
          AND NOT EXISTS (SELECT FROM public.students AS k WHERE k.student_email = o.key);
        DELETE FROM bridge.student_source;
        UPDATE bridge.state SET stage = 'sources', cursor_at = '', sessions = 0;
        PERFORM set_config('bridge.applying', '', true);
        CALL bridge.commit_chunk();
    END IF;
    CALL pg_temp.backfill_stage('sources', 'students', last_token);
    CALL pg_temp.backfill_stage('students', 'sessions', NULL);
    CALL pg_temp.backfill_stage('sessions', 'end', last_token);

    PERFORM set_config('bridge.applying', 'on', true), set_config('bridge.backfilling', 'on', true);
    DELETE FROM bridge.override AS o WHERE o.table_name = 'kept students';
    INSERT INTO public.events (event_type, event_data)
    SELECT 'legacy_merge', jsonb_build_object(
        'students', (SELECT count(*) FROM public.students),
        'sessions', (SELECT count(*) FROM public.sessions),
        'step_progress', (SELECT count(*) FROM public.step_progress),
        'merge_notes', (SELECT count(*) FROM public.events AS e WHERE e.event_type = 'merge_note'));
    PERFORM set_config('bridge.applying', '', true), set_config('bridge.backfilling', '', true);
    UPDATE bridge.state SET stage = NULL, cursor_at = '', merged_at = clock_timestamp();
    CALL bridge.commit_chunk();
    RAISE NOTICE 'merged % sessions', (SELECT s.sessions FROM bridge.state AS s);
END
$$
