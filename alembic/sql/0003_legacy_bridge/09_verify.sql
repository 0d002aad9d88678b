-- verify: does the unified schema hold what the legacy tables say? Every mapped cell against the
-- mapping, and conservation counted from the raw tables, past adapters and mapping. Tokens that are
-- pending are left out: they are known to differ, and are carried over next.

CREATE VIEW bridge.raw AS
SELECT NULL::text AS source, NULL::text AS token, NULL::text AS student_email,
       NULL::text AS openai_api_key, NULL::text AS exercises
WHERE false;
COMMENT ON VIEW bridge.raw IS 'Legacy rows as they stand, for counts past adapters and mapping.';

CREATE FUNCTION bridge.build_raw() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE (
        SELECT 'CREATE OR REPLACE VIEW bridge.raw AS ' || string_agg(format(
            'SELECT %L::text AS source, %s AS token, %s FROM %s AS t',
            s.legacy_name, s.token, r.columns, s.relation), ' UNION ALL ')
        FROM (
            SELECT o.legacy_name, o.relation, bridge.token_of(o.relation) AS token FROM bridge.source AS o
            UNION ALL
            SELECT 'sessions', r, 't.session_token::text' FROM to_regclass('bridge.prior_sessions') AS r
            WHERE r IS NOT NULL
        ) AS s
        CROSS JOIN LATERAL (
            SELECT string_agg(CASE WHEN c.name IS NULL THEN format('NULL::text AS %I', w.name)
                                   ELSE format('t.%1$I::text AS %1$I', w.name) END, ', ' ORDER BY w.n)
            FROM unnest(ARRAY['student_email', 'openai_api_key', 'exercises'])
                WITH ORDINALITY AS w(name, n)
            LEFT JOIN bridge.columns_of(s.relation) AS c ON c.name = w.name
        ) AS r(columns));
END
$$;
COMMENT ON FUNCTION bridge.build_raw() IS 'Builds bridge.raw for the columns that there are now.';

CREATE FUNCTION bridge.diff_students(emails text[], tokens text[] DEFAULT '{}') RETURNS TABLE (column_name text, token text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
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

CREATE FUNCTION bridge.diff(tokens text[])
    RETURNS TABLE (table_name text, column_name text, token text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
    SELECT 'students', d.column_name, d.token FROM bridge.diff_students(bridge.emails_of(tokens), tokens) AS d
    UNION ALL
    SELECT d.table_name, d.column_name, d.token FROM bridge.diff_sessions(tokens) AS d
$$;
COMMENT ON FUNCTION bridge.diff(text[]) IS 'Every cell of these sessions that is not as mapped.';

-- Conservation, counted from the raw tables for a range of tokens: each count is one statement, because an
-- application that goes on writing would shift it otherwise. Values that the remainder overrides are left
-- out: no raw table knows of them. addresses are for the caller to count once each.
CREATE FUNCTION bridge.count_range(
    after text,
    last text,
    OUT raw_sessions bigint,
    OUT sessions bigint,
    OUT raw_placeholders bigint,
    OUT placeholders bigint,
    OUT raw_keys bigint,
    OUT keys bigint,
    OUT raw_completed bigint,
    OUT completed bigint,
    OUT addresses text[]
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
BEGIN
    WITH kept AS MATERIALIZED (
        SELECT DISTINCT r.table_name, r.key, r.column_name
        FROM bridge.remainder AS r
        WHERE r.key > after AND r.key <= last
    ),
    raw AS MATERIALIZED (
        SELECT
            r.token,
            r.source,
            lower(btrim(r.student_email, E' \t\r\n\f\x0B')) AS address,
            CASE WHEN r.openai_api_key <> '' THEN md5(r.openai_api_key) END AS key_digest,
            -- layers of JSON strings only add backslashes
            CASE WHEN r.exercises ~ 'completed' THEN
                regexp_count(replace(r.exercises, '\', ''), '"completed"\s*:\s*true') END AS completed,
            EXISTS (SELECT FROM kept AS k WHERE k.table_name = 'sessions' AND k.key = r.token
                                            AND k.column_name = 'student_email') AS other_address,
            EXISTS (SELECT FROM kept AS k WHERE k.table_name = 'sessions' AND k.key = r.token
                                            AND k.column_name = 'openai_api_key') AS other_key,
            EXISTS (SELECT FROM kept AS k WHERE k.table_name IN ('sessions', 'step_progress') AND k.key = r.token
                        AND k.column_name IN ('(row)', 'exercises', 'completed_at', 'validation_passed'))
                AS other_steps
        FROM bridge.raw AS r
        WHERE r.token > after AND r.token <= last
          AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = r.token)
          AND NOT EXISTS (SELECT FROM kept AS k WHERE k.table_name = 'sessions' AND k.key = r.token
                                                  AND k.column_name = '(row)')
    ),
    -- of rows that share a token any may be the one that counts
    by_source AS (
        SELECT r.token, r.source, min(r.completed) AS completed FROM raw AS r
        WHERE NOT r.other_steps AND r.completed IS NOT NULL
        GROUP BY r.token, r.source
    ),
    by_token AS MATERIALIZED (
        SELECT
            r.token,
            array_agg(r.key_digest) FILTER (WHERE r.key_digest IS NOT NULL AND NOT r.other_key) AS key_digests,
            bool_and(coalesce(r.address, '') IN ('', 'unknown@example.com')) AND NOT bool_or(r.other_address)
                AS anonymous,
            (SELECT o.completed FROM by_source AS o WHERE o.token = r.token
             ORDER BY o.source DESC LIMIT 1) AS completed
        FROM raw AS r
        GROUP BY r.token
    ),
    unified AS MATERIALIZED (
        SELECT
            v.session_token AS token,
            md5(v.openai_api_key) AS key_digest,
            st.student_email LIKE 'anonymous+%@workshop.invalid' AS anonymous,
            regexp_count(replace(v.exercises::text || v.legacy_extra::text, '\', ''),
                         '"completed"\s*:\s*true') AS completed
        FROM public.sessions AS v
        LEFT JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token > after AND v.session_token <= last
          AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = v.session_token)
          AND NOT EXISTS (SELECT FROM kept AS k WHERE k.table_name = 'sessions' AND k.key = v.session_token
                                                  AND k.column_name = '(row)')
    )
    SELECT
        count(b.token),
        count(v.token),
        count(*) FILTER (WHERE b.anonymous),
        count(*) FILTER (WHERE b.anonymous AND v.anonymous),
        count(b.key_digests),
        count(*) FILTER (WHERE v.key_digest = ANY (b.key_digests)),
        coalesce(sum(b.completed), 0),
        coalesce(sum(v.completed) FILTER (WHERE b.completed IS NOT NULL), 0),
        ARRAY(SELECT DISTINCT r.address FROM raw AS r
              WHERE r.address NOT IN ('', 'unknown@example.com') AND NOT r.other_address)
    INTO raw_sessions, sessions, raw_placeholders, placeholders, raw_keys, keys, raw_completed, completed,
         addresses
    FROM by_token AS b
    FULL JOIN unified AS v ON v.token = b.token;
END
$$;
COMMENT ON FUNCTION bridge.count_range(text, text) IS 'What must not shrink, counted in both worlds.';

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

-- The whole verification, chunk by chunk with commits; the result is a JSON array of checks. Addresses
-- are counted once each across the chunks, hence the temporary table.
CREATE PROCEDURE bridge.run_checks(INOUT result jsonb, chunk integer DEFAULT 2000)
    LANGUAGE plpgsql
AS $$
DECLARE
    tokens text[];
    cursor_at text := '';
    compared bigint := 0;
    began CONSTANT timestamptz := clock_timestamp();
    looked timestamptz := began;
    reported timestamptz := began;
    size integer := least(chunk, 200);
    emails text[];
    cells jsonb := '{}';
    n record;
    raw_sessions bigint := 0;
    sessions bigint := 0;
    raw_placeholders bigint := 0;
    placeholders bigint := 0;
    raw_keys bigint := 0;
    keys bigint := 0;
    raw_completed bigint := 0;
    completed bigint := 0;
    addresses bigint;
    students bigint;
BEGIN
    IF to_regclass('pg_temp.verified_address') IS NOT NULL THEN
        DROP TABLE pg_temp.verified_address;
    END IF;
    CREATE TEMPORARY TABLE verified_address (address text PRIMARY KEY);
    LOOP
        tokens := bridge.next_tokens(cursor_at, size, unified => true);
        EXIT WHEN tokens IS NULL;
        cells := bridge.add_cells(
            cells, ARRAY(SELECT DISTINCT d.token FROM bridge.diff_sessions(tokens) AS d), false);
        n := bridge.count_range(cursor_at, tokens[cardinality(tokens)]);
        raw_sessions := raw_sessions + n.raw_sessions;
        sessions := sessions + n.sessions;
        raw_placeholders := raw_placeholders + n.raw_placeholders;
        placeholders := placeholders + n.placeholders;
        raw_keys := raw_keys + n.raw_keys;
        keys := keys + n.keys;
        raw_completed := raw_completed + n.raw_completed;
        completed := completed + n.completed;
        INSERT INTO pg_temp.verified_address SELECT unnest(n.addresses) ON CONFLICT DO NOTHING;
        compared := compared + cardinality(tokens);
        cursor_at := tokens[cardinality(tokens)];
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, chunk, clock_timestamp() - looked);
        looked := clock_timestamp();
        IF looked - reported > interval '2 seconds' THEN
            reported := looked;
            RAISE NOTICE 'verified % sessions, % a second', compared,
                round(compared / extract(epoch FROM looked - began));
        END IF;
    END LOOP;

    -- what no adapter shows would lie behind the last token
    n := bridge.count_range(cursor_at, (SELECT max(r.token) FROM bridge.raw AS r));
    raw_sessions := raw_sessions + n.raw_sessions;

    -- students once each, however many sessions they have; those that are missing are counted by address
    cursor_at := '';
    size := least(chunk, 200);
    LOOP
        emails := ARRAY(SELECT st.student_email FROM public.students AS st WHERE st.student_email > cursor_at
                        ORDER BY st.student_email LIMIT size);
        EXIT WHEN emails = '{}';
        cells := bridge.add_cells(
            cells, ARRAY(SELECT DISTINCT d.token FROM bridge.diff_students(emails) AS d), true);
        cursor_at := emails[cardinality(emails)];
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, chunk, clock_timestamp() - looked);
        looked := clock_timestamp();
    END LOOP;

    -- a student that the unified schema deleted, though a second address goes on telling of it
    SELECT count(*), count(st.student_id) INTO addresses, students
    FROM pg_temp.verified_address AS a
    LEFT JOIN public.students AS st ON st.student_email = a.address
    WHERE NOT EXISTS (SELECT FROM bridge.remainder AS r
                      WHERE r.table_name = 'students' AND r.key = a.address AND r.column_name = '(row)');
    -- one that was changed since it was counted
    IF addresses > students THEN
        SELECT addresses - count(*) INTO addresses
        FROM pg_temp.verified_address AS a
        WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = a.address)
          AND NOT EXISTS (SELECT FROM bridge.remainder AS r
                          WHERE r.table_name = 'students' AND r.key = a.address AND r.column_name = '(row)')
          AND NOT EXISTS (
              SELECT FROM bridge.raw AS r
              WHERE lower(btrim(r.student_email, E' \t\r\n\f\x0B')) = a.address
                AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = r.token)
                AND NOT EXISTS (SELECT FROM bridge.remainder AS o
                                WHERE o.table_name = 'sessions' AND o.key = r.token
                                  AND o.column_name IN ('(row)', 'student_email')));
    END IF;
    DROP TABLE pg_temp.verified_address;
    IF addresses > students AND NOT cells ? 'students.(row missing)' THEN
        cells := cells || jsonb_build_object('students.(row missing)', jsonb_build_object(
            'count', addresses - students, 'tails', '[]'::jsonb));
    END IF;

    SELECT jsonb_agg(jsonb_build_object('check_name', c.check_name, 'expected', c.expected, 'actual', c.actual,
                                        'ok', coalesce(c.holds, c.expected = c.actual)))
    INTO result
    FROM (
        VALUES
            ('sessions: one for each token of either table', raw_sessions, sessions, NULL::boolean),
            ('students: every address of either table', addresses, students, NULL),
            ('students: a placeholder for each session without an address', raw_placeholders, placeholders, NULL),
            ('API keys: byte for byte', raw_keys, keys, NULL),
            ('orphans: sessions without a student', 0, (
                SELECT count(*) FROM public.sessions AS v
                WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = v.student_id)
                  AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = v.session_token)), NULL),
            ('orphans: steps without a session', 0, (
                SELECT count(*) FROM public.step_progress AS sp
                WHERE NOT EXISTS (SELECT FROM public.sessions AS v
                                  WHERE v.session_token = sp.session_token
                                    AND v.student_id = sp.student_id)
                  AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = sp.session_token)), NULL),
            ('adapters: legacy tables whose columns changed', 0, (
                SELECT count(*) FROM bridge.source AS s
                WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation)), NULL),
            ('exercises: completed ones, counted as text', raw_completed, completed, raw_completed <= completed),
            ('cells: sessions with every mapped value as mapped', compared, compared - coalesce((
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
COMMENT ON PROCEDURE bridge.run_checks(jsonb, integer) IS 'Runs every check, in short transactions.';

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
    result jsonb;
    failed text;
BEGIN
    CALL bridge.run_checks(result);
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
