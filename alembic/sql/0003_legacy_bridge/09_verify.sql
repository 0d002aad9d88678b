-- verify: does the unified schema hold what the legacy tables say? Every mapped cell against the
-- mapping, and conservation counted from the raw tables, past adapters and mapping. Tokens that are
-- pending are left out: they are known to differ, and are carried over next.

CREATE FUNCTION bridge.diff_students(emails text[], tokens text[] DEFAULT '{}') RETURNS TABLE (column_name text, token text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
DECLARE
    family CONSTANT text[] := bridge.family(tokens, emails);
BEGIN
    RETURN QUERY
    SELECT d.name, m.first_token
    FROM bridge.map_students(family) AS m
    LEFT JOIN public.students AS st ON st.student_email = m.student_email
    CROSS JOIN LATERAL (
        VALUES ('(row missing)', st.student_id IS NULL),
               ('student_name', st.student_name IS DISTINCT FROM m.student_name AND st.student_id IS NOT NULL),
               ('created_at', st.created_at IS DISTINCT FROM m.created_at AND st.student_id IS NOT NULL)
    ) AS d(name, differs)
    WHERE m.student_email IN (SELECT unnest(emails))
      AND d.differs
      AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = ANY (family));
END
$$;
COMMENT ON FUNCTION bridge.diff_students(text[], text[]) IS 'Where students is not what the mapping says.';

CREATE FUNCTION bridge.elsewhere(emails text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
BEGIN
    RETURN ARRAY(
        SELECT s.token
        FROM bridge.student_sources(bridge.family('{}', emails)) AS s
        CROSS JOIN LATERAL (
            SELECT st.student_email
            FROM public.sessions AS v JOIN public.students AS st ON st.student_id = v.student_id
            WHERE v.session_token = s.token
            OFFSET 0
        ) AS v
        WHERE s.is_session_s AND s.student_email <> v.student_email);
END
$$;
COMMENT ON FUNCTION bridge.elsewhere(text[]) IS
    'Sessions of these students, or that tell of them, of which the legacy tables name another student.';

CREATE FUNCTION bridge.diff(tokens text[])
    RETURNS TABLE (table_name text, column_name text, token text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
    SELECT 'students', d.column_name, d.token FROM bridge.diff_students(bridge.emails_of(tokens), tokens) AS d
    UNION ALL
    SELECT d.table_name, d.column_name, d.token FROM bridge.diff_sessions(tokens) AS d
$$;
COMMENT ON FUNCTION bridge.diff(text[]) IS 'Every cell of these sessions that is not as mapped.';

-- Layers of JSON strings only add backslashes.
CREATE FUNCTION bridge.count_completed(exercises text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(cardinality(string_to_array(
    replace(replace(replace(replace(replace(exercises, '\', ''), ' ', ''), E'\n', ''), E'\t', ''), E'\r', ''),
    '"completed":true')) - 1, 0);
COMMENT ON FUNCTION bridge.count_completed(text) IS 'Completed exercises, counted as text.';

-- Conservation, counted from the raw tables for a range of tokens: one statement, because an application that
-- goes on writing would shift one count against the other. Values that the remainder overrides are left out:
-- no raw table knows of them.
--
-- One plan for all ranges, made when the new tables may still be empty: what is looked up from them is hashed (NOT IN),
-- however few rows they are thought to have. With a plan for each range those were quadratic of which statistics knew no row.
CREATE FUNCTION bridge.count_range(after text, last text) RETURNS bridge.counts
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET max_parallel_workers_per_gather = 0
    SET plan_cache_mode = force_generic_plan
    SET enable_mergejoin = off
    SET jit = off
AS $$
DECLARE
    result bridge.counts;
    pending CONSTANT text[] := ARRAY(
        SELECT DISTINCT p.token FROM bridge.pending AS p WHERE p.token > after AND p.token <= last);
BEGIN
    WITH kept AS MATERIALIZED (
        SELECT
            r.key,
            bool_or(r.table_name = 'sessions' AND r.column_name = '(row)') AS whole_row,
            bool_or(r.table_name = 'sessions' AND r.column_name = 'student_email') AS address,
            bool_or(r.table_name = 'sessions' AND r.column_name = 'openai_api_key') AS api_key,
            bool_or(r.column_name IN ('(row)', 'exercises', 'completed_at', 'validation_passed')) AS steps
        FROM bridge.remainder AS r
        WHERE r.key > after AND r.key <= last AND r.table_name IN ('sessions', 'step_progress')
        GROUP BY r.key
    ),
    raw AS MATERIALIZED (
        SELECT
            r.token,
            r.source,
            lower(btrim(r.student_email, E' \t\r\n\f\x0B') COLLATE "C") COLLATE "default" AS address,
            coalesce(k.address, false) AS other_address,
            CASE WHEN r.openai_api_key <> '' AND k.api_key IS NOT TRUE THEN r.openai_api_key END AS api_key,
            CASE WHEN r.exercises LIKE '%completed%' AND k.steps IS NOT TRUE
                 THEN bridge.count_completed(r.exercises) END AS completed
        FROM bridge.raw AS r
        LEFT JOIN kept AS k ON k.key = r.token
        WHERE r.token > after AND r.token <= last AND r.token NOT IN (SELECT unnest(pending)) AND k.whole_row IS NOT TRUE
    ),
    unified AS MATERIALIZED (
        SELECT
            v.session_token AS token,
            v.student_id,
            v.session_token IN (SELECT k.key FROM kept AS k WHERE k.whole_row) AS apart,
            v.openai_api_key AS api_key,
            -- jsonb is written in one way only, but for strings of JSON in it
            CASE WHEN position('\' IN e.told) > 0 THEN bridge.count_completed(e.told)
                 ELSE (octet_length(e.told) - octet_length(replace(e.told, '"completed": true', ''))) / 17
            END AS completed
        FROM public.sessions AS v
        CROSS JOIN LATERAL (
            SELECT v.exercises::text || CASE WHEN v.legacy_extra = '{}' THEN '' ELSE v.legacy_extra::text END AS told
            OFFSET 0
        ) AS e
        WHERE v.session_token > after AND v.session_token <= last AND v.session_token NOT IN (SELECT unnest(pending))
    ),
    by_token AS (
        SELECT
            bool_or(r.api_key IS NOT NULL) AS has_key,
            bool_or(r.api_key = v.api_key) AS key_arrived,
            CASE WHEN bool_and(coalesce(r.address, '') IN ('', 'unknown@example.com') AND NOT r.other_address)
                 THEN coalesce((SELECT st.student_email LIKE 'anonymous+%@workshop.invalid'
                                FROM public.students AS st WHERE st.student_id = v.student_id), false) END AS placeholder,
            -- of rows that share a token any may be the one that counts
            coalesce(min(r.completed) FILTER (WHERE r.source = 'workshop_students'),
                     min(r.completed) FILTER (WHERE r.source = 'student_configs'),
                     min(r.completed) FILTER (WHERE r.source = 'sessions')) AS completed,
            min(v.completed) AS unified_completed
        FROM raw AS r
        LEFT JOIN unified AS v ON v.token = r.token
        GROUP BY r.token, v.student_id
    ),
    addresses AS MATERIALIZED (
        SELECT DISTINCT r.address FROM raw AS r
        WHERE r.address NOT IN ('', 'unknown@example.com') AND NOT r.other_address
    )
    SELECT
        count(*),
        (SELECT count(*) FROM unified AS v WHERE NOT v.apart),
        count(b.placeholder),
        count(*) FILTER (WHERE b.placeholder),
        count(*) FILTER (WHERE b.has_key),
        count(*) FILTER (WHERE b.key_arrived),
        coalesce(sum(b.completed), 0),
        coalesce(sum(b.unified_completed) FILTER (WHERE b.completed IS NOT NULL), 0),
        (SELECT count(*)
         FROM addresses AS a
         WHERE a.address NOT IN (SELECT st.student_email FROM public.students AS st
                                 WHERE st.student_email = ANY (ARRAY(SELECT k.address FROM addresses AS k)))
           -- deleted, though a second address goes on telling of it
           AND 0 = (SELECT count(*) FROM bridge.remainder AS o
                    WHERE o.table_name = 'students' AND o.key = a.address AND o.column_name = '(row)')),
        (SELECT count(*)
         FROM public.step_progress AS sp
         WHERE sp.session_token > after AND sp.session_token <= last AND sp.session_token NOT IN (SELECT unnest(pending))
           AND (sp.session_token, sp.student_id) NOT IN (SELECT v.token, v.student_id FROM unified AS v))
    INTO result
    FROM by_token AS b;
    RETURN result;
END
$$;
COMMENT ON FUNCTION bridge.count_range(text, text) IS 'What must not shrink, counted for a range of tokens.';

-- Cells that differ, added to those found before: cell -> how many, and the ends of the tokens. A writer may
-- commit between two statements of one look: what differed is looked at twice.
CREATE FUNCTION bridge.add_cells(cells jsonb, suspects text[], of_students boolean) RETURNS jsonb
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN cells || coalesce((
        SELECT jsonb_object_agg(
                   f.cell,
                   jsonb_build_object(
                       'count', f.n + coalesce((cells -> f.cell ->> 'count')::bigint, 0),
                       'tails', coalesce(cells -> f.cell -> 'tails', '[]') || f.tails))
        FROM (
            SELECT d.table_name || '.' || d.column_name AS cell, count(*) AS n,
                   jsonb_agg('...' || right(d.token, 4)) AS tails
            FROM bridge.diff(suspects) AS d
            WHERE suspects <> '{}'
              AND (d.table_name = 'students' AND d.column_name <> '(row missing)') = of_students
            GROUP BY 1
        ) AS f), '{}');
END
$$;
COMMENT ON FUNCTION bridge.add_cells(jsonb, text[], boolean) IS 'Adds the cells of some sessions that differ.';

CREATE FUNCTION bridge.add(a bridge.counts, b bridge.counts) RETURNS bridge.counts
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
RETURN ROW(
    a.raw_sessions + b.raw_sessions, a.sessions + b.sessions,
    a.raw_placeholders + b.raw_placeholders, a.placeholders + b.placeholders,
    a.raw_keys + b.raw_keys, a.keys + b.keys,
    a.raw_completed + b.raw_completed, a.completed + b.completed,
    a.addresses_without_student + b.addresses_without_student,
    a.steps_without_session + b.steps_without_session)::bridge.counts;
COMMENT ON FUNCTION bridge.add(bridge.counts, bridge.counts) IS 'The counts of two ranges together.';

CREATE FUNCTION bridge.hold(n bridge.counts) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
RETURN n.raw_sessions = n.sessions AND n.raw_placeholders = n.placeholders AND n.raw_keys = n.keys
   AND n.raw_completed <= n.completed AND n.addresses_without_student = 0 AND n.steps_without_session = 0;
COMMENT ON FUNCTION bridge.hold(bridge.counts) IS 'Nothing has shrunk.';

-- Counts a range that has been verified, unless that has been done, and notes it; and the look itself, where it is one of
-- the verification that began then.
CREATE FUNCTION bridge.look_at(range bridge.verified, since timestamptz) RETURNS bridge.counts
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n CONSTANT bridge.counts := coalesce(range.counts, bridge.count_range(range.after, range.last));
BEGIN
    IF bridge.hold(n) AND (range.counts IS NULL OR range.looked_at < since)
       AND current_setting('transaction_read_only') = 'off' THEN
        UPDATE bridge.verified AS v
        SET counts = n, looked_at = CASE WHEN range.looked_at < since THEN now() ELSE v.looked_at END
        WHERE NOT v.of_students
          AND (v.after, v.last, v.versions, v.looked_at) = (range.after, range.last, range.versions, range.looked_at);
    END IF;
    RETURN n;
END
$$;
COMMENT ON FUNCTION bridge.look_at(bridge.verified, timestamptz) IS 'The counts of a range that is untouched, noted with it.';

-- Ranges that have been verified are counted, and looked at again, before the verification comes to them, from the
-- end. Those that somebody has written to are left to it.
CREATE PROCEDURE bridge.look_ahead()
    LANGUAGE plpgsql
AS $$
DECLARE
    since timestamptz;
    range bridge.verified;
BEGIN
    LOOP
        since := (SELECT s.verify_since FROM bridge.state AS s);
        SELECT * INTO range FROM bridge.verified AS v
        WHERE NOT v.of_students AND (v.counts IS NULL OR v.looked_at < since) AND (v.after < range.after) IS NOT FALSE
        ORDER BY v.after DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        IF since IS NULL OR (bridge.untouched(false, range.after)).last IS NOT NULL THEN
            PERFORM bridge.look_at(range, since);
        ELSE
            -- nor does anybody else have to find that out: this is called again and again
            DELETE FROM bridge.verified AS v
            WHERE NOT v.of_students AND (v.after, v.last, v.versions) = (range.after, range.last, range.versions);
        END IF;
        CALL bridge.commit_chunk(durable => false);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.look_ahead() IS 'Looks at ranges that the verification has still to come to.';

-- Does what there is to do, and comes back: the first session decides when the merge is over, and does whatever
-- this one leaves.
CREATE PROCEDURE bridge.help()
    LANGUAGE plpgsql
AS $$
BEGIN
    CALL bridge.do_blocks('sources', true, 2000);
    CALL bridge.do_blocks('students', true, 2000);
    CALL bridge.do_blocks('sessions', true, 2000);
    CALL bridge.look_ahead();
END
$$;
COMMENT ON PROCEDURE bridge.help() IS 'A share of a merge and a verification, for a second session of the migrator.';

-- The whole verification, range by range with commits; the result is a JSON array of checks. Ranges that were
-- verified before, and that nobody has written to since, are not compared again; everything: they are. since: and
-- those that somebody has looked at since then are not looked at again.
CREATE PROCEDURE bridge.run_checks(
    INOUT result jsonb,
    chunk integer DEFAULT 2000,
    everything boolean DEFAULT false,
    since timestamptz DEFAULT NULL
)
    LANGUAGE plpgsql
AS $$
DECLARE
    writable CONSTANT boolean := current_setting('transaction_read_only') = 'off';
    -- else each student is looked at once, however many sessions there are
    students_known CONSTANT boolean := NOT everything AND EXISTS (SELECT FROM bridge.verified AS v WHERE v.of_students);
    -- what no adapter shows would lie behind the last token that one shows
    last_token CONSTANT text := greatest(bridge.last_token(), (SELECT max(r.token) FROM bridge.raw AS r));
    last_email CONSTANT text := (SELECT max(st.student_email) FROM public.students AS st);
    keys text[];
    suspects text[];
    cursor_at text := '';
    known bridge.verified;
    range record;
    versions bigint;
    n bridge.counts;
    total bridge.counts := ROW(0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    cells jsonb := '{}';
    began CONSTANT timestamptz := clock_timestamp();
    looked timestamptz;
    reported timestamptz := began;
    size integer := least(chunk, 50);
    orphans bigint;
    lost bigint;
BEGIN
    CALL bridge.commit_chunk(durable => false);  -- the first range has plans to make
    WHILE cursor_at < last_token LOOP
        known := CASE WHEN NOT everything THEN bridge.untouched(false, cursor_at, since) END;
        looked := clock_timestamp();
        IF known.last IS NOT NULL THEN
            n := bridge.look_at(known, since);
            cursor_at := known.last;
        ELSE
            keys := bridge.next_tokens(cursor_at, size, unified => true);
            EXIT WHEN keys IS NULL;
            range := bridge.next_range(false, cursor_at, last_token, keys);
            versions := bridge.legacy_versions(cursor_at, range.last) # bridge.unified_versions(cursor_at, range.last);
            IF students_known THEN
                suspects := ARRAY(SELECT DISTINCT d.token FROM bridge.diff(range.keys) AS d);
                cells := bridge.add_cells(cells, suspects, true);
            ELSE
                suspects := ARRAY(SELECT DISTINCT d.token FROM bridge.diff_sessions(range.keys) AS d);
            END IF;
            cells := bridge.add_cells(cells, suspects, false);
            n := bridge.count_range(cursor_at, range.last);
            IF writable AND suspects = '{}' AND bridge.hold(n) THEN
                PERFORM bridge.note_verified(false, cursor_at, range.last, versions);
                UPDATE bridge.verified AS v SET counts = n WHERE NOT v.of_students AND v.after = cursor_at;
            END IF;
            cursor_at := range.last;
            -- what differs is looked at twice: room for that
            size := bridge.next_size(size, chunk, cardinality(range.keys), clock_timestamp() - looked, aim => '30 ms');
        END IF;
        total := bridge.add(total, n);
        CALL bridge.commit_chunk(durable => false);
        IF clock_timestamp() - reported > interval '2 seconds' THEN
            reported := clock_timestamp();
            RAISE NOTICE 'verified % sessions, % a second', total.sessions,
                round(total.sessions / extract(epoch FROM reported - began));
        END IF;
    END LOOP;

    total := bridge.add(total, bridge.count_range(cursor_at, last_token));

    cursor_at := '';
    size := least(chunk, 50);
    WHILE cursor_at < last_email LOOP
        known := CASE WHEN NOT everything THEN bridge.untouched(true, cursor_at, since) END;
        looked := clock_timestamp();
        IF known.last IS NOT NULL THEN
            cursor_at := known.last;
        ELSE
            keys := ARRAY(SELECT st.student_email FROM public.students AS st
                          WHERE st.student_email > cursor_at AND st.student_email <= last_email
                          ORDER BY st.student_email LIMIT size);
            EXIT WHEN keys = '{}';
            range := bridge.next_range(true, cursor_at, NULL, keys);
            versions := bridge.student_versions(cursor_at, range.last);
            suspects := ARRAY(SELECT DISTINCT d.token FROM bridge.diff_students(range.keys) AS d);
            cells := bridge.add_cells(cells, suspects, true);
            IF students_known THEN
                -- an address that was changed: the sessions themselves are untouched
                suspects := suspects || bridge.elsewhere(range.keys);
                cells := bridge.add_cells(cells, suspects, false);
            END IF;
            IF writable AND suspects = '{}' THEN
                PERFORM bridge.note_verified(true, cursor_at, range.last, versions);
            END IF;
            cursor_at := range.last;
            size := bridge.next_size(size, chunk, cardinality(range.keys), clock_timestamp() - looked);
        END IF;
        CALL bridge.commit_chunk();
    END LOOP;

    SELECT count(*), (array_agg(v.session_token))[:100] INTO orphans, suspects
    FROM public.sessions AS v
    WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = v.student_id)
      AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = v.session_token);
    IF students_known AND orphans > 0 THEN
        -- a student that was deleted: the sessions themselves are untouched
        cells := bridge.add_cells(cells, suspects, false);
    END IF;
    -- the same where no session leads there
    SELECT count(*) INTO lost
    FROM (SELECT DISTINCT a.student_email FROM bridge.other_address AS a
          WHERE NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = a.token)) AS a
    WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = a.student_email)
      AND NOT EXISTS (SELECT FROM bridge.remainder AS r
                      WHERE r.table_name = 'students' AND r.key = a.student_email AND r.column_name = '(row)');
    lost := greatest(lost, total.addresses_without_student);
    IF lost > 0 AND NOT cells ? 'students.(row missing)' THEN
        cells := cells || jsonb_build_object('students.(row missing)', jsonb_build_object(
            'count', lost, 'tails', '[]'::jsonb));
    END IF;

    SELECT jsonb_agg(jsonb_build_object('check_name', c.check_name, 'expected', c.expected, 'actual', c.actual,
                                        'ok', coalesce(c.holds, c.expected = c.actual)))
    INTO result
    FROM (
        VALUES
            ('sessions: one for each token of either table', total.raw_sessions, total.sessions, NULL::boolean),
            ('students: addresses of either table without one', 0, lost, NULL),
            ('students: a placeholder for each session without an address', total.raw_placeholders, total.placeholders, NULL),
            ('API keys: byte for byte', total.raw_keys, total.keys, NULL),
            ('orphans: sessions without a student', 0, orphans, NULL),
            ('orphans: steps without a session', 0, total.steps_without_session, NULL),
            ('adapters: legacy tables whose columns changed', 0, (
                SELECT count(*) FROM bridge.source AS s
                WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation)), NULL),
            ('exercises: completed ones, counted as text', total.raw_completed, total.completed,
             total.raw_completed <= total.completed),
            ('cells: sessions with every mapped value as mapped', total.sessions, total.sessions - coalesce((
                SELECT max((c.value ->> 'count')::bigint) FROM jsonb_each(cells) AS c), 0), cells = '{}')
    ) AS c(check_name, expected, actual, holds);
    result := result || coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'check_name', format('cells: %s differs (sessions %s)', c.key, coalesce((
                SELECT string_agg(t.tail, ' ')
                FROM (SELECT jsonb_array_elements_text(c.value -> 'tails') AS tail LIMIT 5) AS t), 'none')),
            'expected', 0, 'actual', c.value -> 'count', 'ok', false) ORDER BY c.key)
        FROM jsonb_each(cells) AS c), '[]');
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.run_checks(jsonb, integer, boolean, timestamptz) IS
    'Runs every check, in short transactions.';

CREATE FUNCTION bridge.verify()
    RETURNS TABLE (check_name text, expected bigint, actual bigint, ok boolean)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb;
    before CONSTANT text := coalesce(current_setting('bridge.single_transaction', true), '');
BEGIN
    PERFORM set_config('bridge.single_transaction', 'on', true);
    CALL bridge.run_checks(result);
    PERFORM set_config('bridge.single_transaction', before, true);
    RETURN QUERY
    SELECT r.check_name, r.expected, r.actual, r.ok
    FROM jsonb_to_recordset(result)
        AS r(check_name text, expected bigint, actual bigint, ok boolean);
END
$$;
COMMENT ON FUNCTION bridge.verify() IS 'All checks, in the caller''s transaction.';

CREATE PROCEDURE bridge.require_verified()
    LANGUAGE plpgsql
AS $$
DECLARE
    since CONSTANT timestamptz := clock_timestamp();
    result jsonb;
    failed text;
BEGIN
    UPDATE bridge.state SET verify_since = since;
    CALL bridge.commit_chunk();
    CALL bridge.run_checks(result, since => since);
    UPDATE bridge.state SET verify_since = NULL;
    CALL bridge.commit_chunk();
    SELECT string_agg(format('%s: expected %s, found %s', r.check_name, r.expected, r.actual), '; ')
    INTO failed
    FROM jsonb_to_recordset(result) AS r(check_name text, expected bigint, actual bigint, ok boolean)
    WHERE r.ok IS NOT TRUE;
    IF failed IS NOT NULL THEN
        RAISE EXCEPTION 'verification failed: %', failed
            USING HINT = 'The legacy tables are untouched and in use. '
                         'SELECT * FROM bridge.verify() shows every check.';
    END IF;
    RAISE NOTICE 'verified: % checks', jsonb_array_length(result);
END
$$;
COMMENT ON PROCEDURE bridge.require_verified() IS 'Raises unless every check holds.'
