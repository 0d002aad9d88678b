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

CREATE FUNCTION bridge.diff_students(tokens text[]) RETURNS TABLE (column_name text, token text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    emails CONSTANT text[] := bridge.emails_of(tokens);
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
      AND m.first_token IN (SELECT unnest(tokens))
      AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = ANY (family));
END
$$;
COMMENT ON FUNCTION bridge.diff_students(text[]) IS 'Where students is not what the mapping says.';

CREATE FUNCTION bridge.diff(tokens text[])
    RETURNS TABLE (table_name text, column_name text, token text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'students', d.column_name, d.token FROM bridge.diff_students(tokens) AS d
    UNION ALL
    SELECT d.table_name, d.column_name, d.token FROM bridge.diff_sessions(tokens) AS d
$$;
COMMENT ON FUNCTION bridge.diff(text[]) IS 'Every cell of these sessions that is not as mapped.';

-- Counts that need one snapshot: an application that goes on writing would shift them otherwise.
CREATE FUNCTION bridge.count_checks()
    RETURNS TABLE (check_name text, expected bigint, actual bigint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- values that the remainder overrides are left out: no raw table knows of them
    WITH kept AS MATERIALIZED (
        SELECT DISTINCT r.table_name, r.key, r.column_name
        FROM bridge.remainder AS r
        WHERE r.column_name IN ('(row)', 'student_email', 'openai_api_key')
    ),
    raw AS MATERIALIZED (
        SELECT
            r.token,
            lower(btrim(r.student_email, E' \t\r\n\f\x0B')) AS address,
            CASE WHEN r.openai_api_key <> '' THEN md5(r.openai_api_key) END AS key_digest,
            r.token IN (SELECT k.key FROM kept AS k
                        WHERE k.table_name = 'sessions' AND k.column_name = 'student_email') AS other_address,
            r.token IN (SELECT k.key FROM kept AS k
                        WHERE k.table_name = 'sessions' AND k.column_name = 'openai_api_key') AS other_key
        FROM bridge.raw AS r
        WHERE NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = r.token)
          AND r.token NOT IN (SELECT k.key FROM kept AS k
                              WHERE k.table_name = 'sessions' AND k.column_name = '(row)')
    ),
    by_token AS MATERIALIZED (
        SELECT
            token,
            array_agg(key_digest) FILTER (WHERE key_digest IS NOT NULL AND NOT other_key) AS key_digests,
            bool_and(coalesce(address, '') IN ('', 'unknown@example.com')) AND NOT bool_or(other_address)
                AS anonymous
        FROM raw
        GROUP BY token
    ),
    addresses AS MATERIALIZED (
        SELECT DISTINCT address FROM raw
        WHERE address NOT IN ('', 'unknown@example.com') AND NOT other_address
          AND address NOT IN (SELECT k.key FROM kept AS k WHERE k.table_name = 'students')
    ),
    unified AS MATERIALIZED (
        SELECT v.session_token, v.student_id, md5(v.openai_api_key) AS key_digest
        FROM public.sessions AS v
        WHERE NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = v.session_token)
          AND v.session_token NOT IN (SELECT k.key FROM kept AS k
                                      WHERE k.table_name = 'sessions' AND k.column_name = '(row)')
    )
    SELECT 'sessions: one for each token of either table',
           (SELECT count(*) FROM by_token),
           (SELECT count(*) FROM unified)
    UNION ALL
    SELECT 'students: every address of either table',
           (SELECT count(*) FROM addresses),
           (SELECT count(*) FROM public.students AS st
            WHERE st.student_email IN (SELECT address FROM addresses))
    UNION ALL
    SELECT 'students: a placeholder for each session without an address',
           (SELECT count(*) FROM by_token WHERE anonymous),
           (SELECT count(*)
            FROM by_token AS b
            JOIN unified AS v ON v.session_token = b.token
            JOIN public.students AS st ON st.student_id = v.student_id
            WHERE b.anonymous AND st.student_email LIKE 'anonymous+%@workshop.invalid')
    UNION ALL
    SELECT 'API keys: byte for byte',
           (SELECT count(*) FROM by_token WHERE key_digests IS NOT NULL),
           (SELECT count(*) FROM by_token AS b
            JOIN unified AS v ON v.session_token = b.token AND v.key_digest = ANY (b.key_digests))
    UNION ALL
    SELECT 'orphans: sessions without a student', 0,
           (SELECT count(*) FROM public.sessions AS v
            WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = v.student_id))
    UNION ALL
    SELECT 'orphans: steps without a session', 0,
           (SELECT count(*) FROM public.step_progress AS sp
            WHERE NOT EXISTS (SELECT FROM public.sessions AS v
                              WHERE v.session_token = sp.session_token
                                AND v.student_id = sp.student_id))
    UNION ALL
    SELECT 'adapters: legacy tables whose columns changed', 0,
           (SELECT count(*) FROM bridge.source AS s
            WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation))
$$;
COMMENT ON FUNCTION bridge.count_checks() IS 'The guide''s counts, reconciled, and what must not shrink.';

-- Completed exercises of some sessions, counted in the text of both worlds: layers of JSON strings
-- only add backslashes.
CREATE FUNCTION bridge.completed_in(tokens text[], OUT expected bigint, OUT actual bigint)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH raw AS (
        -- of rows that share a token any may be the one that counts
        SELECT DISTINCT ON (r.token)
            r.token,
            min(regexp_count(replace(r.exercises, '\', ''), '"completed"\s*:\s*true')) AS completed
        FROM bridge.raw AS r
        WHERE r.token = ANY (tokens)
          AND r.exercises ~ 'completed'
          AND NOT EXISTS (SELECT FROM bridge.remainder AS k
                          WHERE k.key = r.token AND k.table_name IN ('sessions', 'step_progress')
                            AND k.column_name IN ('(row)', 'exercises', 'completed_at', 'validation_passed'))
          AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = r.token)
        GROUP BY r.token, r.source
        ORDER BY r.token, r.source DESC
    )
    SELECT sum(raw.completed),
           sum(regexp_count(replace(v.exercises::text || v.legacy_extra::text, '\', ''),
                            '"completed"\s*:\s*true'))
    FROM raw
    LEFT JOIN public.sessions AS v ON v.session_token = raw.token
$$;
COMMENT ON FUNCTION bridge.completed_in(text[]) IS 'Completed exercises in both worlds.';

-- The whole verification, chunk by chunk with commits; the result is a JSON array of checks.
CREATE PROCEDURE bridge.run_checks(INOUT result jsonb, chunk integer DEFAULT 500)
    LANGUAGE plpgsql
AS $$
DECLARE
    tokens text[];
    cursor_at text := '';
    compared bigint := 0;
    suspects text[];
    cells jsonb := '{}';
    completed record;
    completed_expected bigint := 0;
    completed_actual bigint := 0;
BEGIN
    result := (
        SELECT jsonb_agg(jsonb_build_object('check_name', c.check_name, 'expected', c.expected,
                                            'actual', c.actual, 'ok', c.expected = c.actual))
        FROM bridge.count_checks() AS c);
    CALL bridge.commit_chunk();

    LOOP
        tokens := bridge.next_tokens(cursor_at, chunk, unified => true);
        EXIT WHEN tokens IS NULL;
        -- A writer may commit between two statements of one look: what differs is looked at twice.
        suspects := ARRAY(SELECT DISTINCT d.token FROM bridge.diff(tokens) AS d);
        IF suspects <> '{}' THEN
            SELECT jsonb_object_agg(
                       f.cell,
                       jsonb_build_object(
                           'count', f.n + coalesce((cells -> f.cell ->> 'count')::bigint, 0),
                           'tails', coalesce(cells -> f.cell -> 'tails', '[]') || f.tails))
                   || cells - array_agg(f.cell)
            INTO cells
            FROM (
                SELECT d.table_name || '.' || d.column_name AS cell, count(*) AS n,
                       jsonb_agg('...' || right(d.token, 4)) AS tails
                FROM bridge.diff(suspects) AS d
                GROUP BY 1
            ) AS f
            HAVING count(*) > 0;
            cells := coalesce(cells, '{}');
        END IF;
        completed := bridge.completed_in(tokens);
        completed_expected := completed_expected + coalesce(completed.expected, 0);
        completed_actual := completed_actual + coalesce(completed.actual, 0);
        compared := compared + cardinality(tokens);
        cursor_at := tokens[cardinality(tokens)];
        CALL bridge.commit_chunk();
    END LOOP;

    result := result
        || jsonb_build_object('check_name', 'exercises: completed ones, counted as text',
                              'expected', completed_expected, 'actual', completed_actual,
                              'ok', completed_expected <= completed_actual)
        || jsonb_build_object('check_name', 'cells: sessions with every mapped value as mapped',
                              'expected', compared,
                              'actual', compared - coalesce((
                                  SELECT max((c.value ->> 'count')::bigint) FROM jsonb_each(cells) AS c), 0),
                              'ok', cells = '{}')
        || coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'check_name', format('cells: %s differs (sessions %s)', c.key, (
                    SELECT string_agg(t.tail, ' ')
                    FROM (SELECT jsonb_array_elements_text(c.value -> 'tails') AS tail LIMIT 5) AS t)),
                'expected', 0, 'actual', c.value -> 'count', 'ok', false) ORDER BY c.key)
            FROM jsonb_each(cells) AS c), '[]');
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
