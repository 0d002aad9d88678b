-- push: brings the legacy tables in line with the unified schema for some tokens. It writes the legacy
-- columns behind a value that differs, in every legacy table that has them, and inserts a missing row
-- only if no row that is there can hold the value. What the mapping still does not yield afterwards is
-- kept in the remainder, so that pull after push, and push after pull, find nothing to do.

-- What the unified schema says, in the form of the mapping. A legacy table should hold the exercises in line with
-- the steps: for the nine steps step_progress is the truth.
CREATE VIEW bridge.unified AS
SELECT v.*, st.student_email, st.student_name, x.steps
FROM public.sessions AS v
LEFT JOIN public.students AS st ON st.student_id = v.student_id
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT ROW(sp.step_number, sp.step_name, sp.started_at, sp.completed_at, sp.time_spent, sp.attempts,
                   sp.validation_passed, sp.code_submitted, sp.deployment_url)::bridge.step
        FROM public.step_progress AS sp
        WHERE sp.session_token = v.session_token
        ORDER BY sp.step_number) AS steps
    OFFSET 0
) AS x;
COMMENT ON VIEW bridge.unified IS 'Sessions of the unified schema, in the form of the mapping.';

-- Which legacy columns a value of the unified schema can be written to, and how: the expression is
-- over alias u, a row of bridge.unified with exercises_in_line. A type that could not be read back has no entry.
CREATE TABLE bridge.behind (
    legacy_name text,
    legacy_column text,
    column_name text NOT NULL,
    expression text NOT NULL,
    PRIMARY KEY (legacy_name, legacy_column)
);
COMMENT ON TABLE bridge.behind IS 'Legacy columns behind each column of the unified schema.';
COMMENT ON COLUMN bridge.behind.legacy_name IS 'Legacy table.';
COMMENT ON COLUMN bridge.behind.legacy_column IS 'Its column.';
COMMENT ON COLUMN bridge.behind.column_name IS 'Column of sessions, or student_email, student_name.';
COMMENT ON COLUMN bridge.behind.expression IS 'SQL that yields what to write, of bridge.unified AS u.';

CREATE FUNCTION bridge.write_as(value text, mapped text, actual text, not_null boolean) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(%s)::%s', CASE
        WHEN mapped = 'text' THEN CASE WHEN not_null THEN format('coalesce(%s, '''')', value) ELSE value END
        WHEN mapped = 'jsonb' THEN value || '::text'
        WHEN mapped = 'boolean' AND actual IN ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision')
            THEN value || '::integer'
        WHEN actual IN ('timestamp without time zone', 'date') THEN format('%s AT TIME ZONE ''UTC''', value)
        WHEN mapped = 'timestamp with time zone' AND actual <> mapped
            THEN format('to_char(%s AT TIME ZONE ''UTC'', ''YYYY-MM-DD"T"HH24:MI:SS.US"Z"'')', value)
        ELSE value
    END, actual)
    WHERE actual = mapped
       OR CASE mapped
          WHEN 'text' THEN true
          WHEN 'jsonb' THEN actual IN ('json', 'text', 'character varying')
          WHEN 'integer' THEN actual IN ('smallint', 'bigint', 'numeric', 'real', 'double precision', 'text', 'character varying')
          WHEN 'boolean' THEN actual IN ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision', 'text', 'character varying')
          ELSE actual IN ('timestamp without time zone', 'date', 'text', 'character varying')
       END
$$;
COMMENT ON FUNCTION bridge.write_as(text, text, text, boolean) IS
    'SQL that writes a mapped value into a legacy column; NULL where its type cannot say it.';

-- What an UPDATE of a legacy table (alias t) sets: the new value where the column is among the differing
-- ones (d.cells: column -> what the mapping said), else the old one. An address that is neither missing
-- nor the session's is another student's, and stays; so does one that the token of its row is made of.
CREATE FUNCTION bridge.new_values(p_legacy_name text, token text)
    RETURNS TABLE (legacy_column text, new_value text, old_comparable text, new_comparable text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.legacy_column, v.expression,
           format('t.%I', b.legacy_column) || c.comparable, format('(%s)', v.expression) || c.comparable
    FROM bridge.behind AS b
    CROSS JOIN LATERAL (
        SELECT format('CASE WHEN d.cells ? %L%s THEN %s ELSE t.%I END', b.column_name,
            CASE WHEN b.column_name = 'student_email' THEN format(
                ' AND coalesce(bridge.known_email(t.%1$I::text) = d.cells ->> ''student_email'', true)%2$s',
                b.legacy_column,
                CASE WHEN token LIKE '%student_email%' THEN (
                    SELECT format(' AND (%s)', coalesce(string_agg(k.condition, ' OR '), 'false'))
                    FROM (VALUES ('%t.session_token::%', 't.session_token <> '''''),
                                 ('%t.id::%', 't.id IS NOT NULL'),
                                 ('%t.student_id::%', 't.student_id IS NOT NULL')) AS k(pattern, condition)
                    WHERE token LIKE k.pattern) END) END,
            b.expression, b.legacy_column) AS expression
    ) AS v
    CROSS JOIN LATERAL (
        -- json has no equality
        SELECT CASE WHEN EXISTS (
            SELECT FROM bridge.columns_of((SELECT relation FROM bridge.source WHERE legacy_name = p_legacy_name)) AS k
            WHERE k.name = b.legacy_column AND k.type = 'json') THEN '::text' ELSE '' END AS comparable
    ) AS c
    WHERE b.legacy_name = p_legacy_name
    ORDER BY b.legacy_column
$$;

-- Fills bridge.behind for a legacy table, and builds the functions that write it: an UPDATE of the named
-- columns alone, an INSERT of no more than a row needs; and the one that locks rows, and names those that
-- somebody else has locked.
CREATE FUNCTION bridge.build_push(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    rel CONSTANT regclass := (SELECT relation FROM bridge.source WHERE legacy_name = p_legacy_name);
    token CONSTANT text := bridge.token_of(rel);
    names CONSTANT text[] := ARRAY(SELECT c.name FROM bridge.columns_of(rel) AS c);
    -- of workshop_students its own column; of student_configs the time of the last save as well: the latest counts
    activity CONSTANT text[] := CASE
        WHEN p_legacy_name = 'student_configs' THEN ARRAY['last_activity', 'updated_at']
        WHEN 'last_activity' = ANY (names) THEN ARRAY['last_activity']
        ELSE ARRAY['updated_at'] END;
BEGIN
    DELETE FROM bridge.behind WHERE legacy_name = p_legacy_name;
    INSERT INTO bridge.behind (legacy_name, legacy_column, column_name, expression)
    SELECT p_legacy_name, c.name, k.name, e.expression
    FROM bridge.columns_of(rel) AS c
    JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = c.name
                          AND a.attgenerated = '' AND a.attidentity = ''
    LEFT JOIN bridge.synonyms() AS s ON s.legacy_column = c.name AND s.adapter_column NOT IN ('token', 'email')
    JOIN bridge.columns_of('bridge.unified') AS k
      ON k.name = CASE WHEN c.name = ANY (activity) THEN 'last_activity'
                       WHEN c.name IN ('last_activity', 'updated_at') THEN NULL
                       ELSE coalesce(s.adapter_column, c.name) END
    CROSS JOIN LATERAL bridge.write_as(
        CASE k.name
            -- the old application's own word where it may not be NULL
            WHEN 'student_email' THEN format('nullif(u.student_email, bridge.placeholder_email(u.session_token))')
            WHEN 'exercises' THEN 'u.exercises_in_line'
            ELSE format('u.%I', k.name) END,
        k.type, c.type, c.not_null) AS e(expression)
    WHERE e.expression IS NOT NULL
      AND k.name NOT IN ('session_token', 'student_id', 'legacy_extra', 'steps',
                         'expires_at', 'is_active', 'updated_at');
    UPDATE bridge.behind
    SET expression = format('coalesce(nullif(%s, ''''), ''unknown@example.com'')', expression)
    WHERE legacy_name = p_legacy_name AND column_name = 'student_email'
      AND (SELECT c.not_null FROM bridge.columns_of(rel) AS c WHERE c.name = 'student_email');

    EXECUTE format(
        $function$
CREATE OR REPLACE FUNCTION bridge.update_%1$s(cells jsonb, tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    UPDATE %2$s AS t SET (%3$s) = ROW(%4$s)
    FROM unnest(tokens) AS k(token)
    CROSS JOIN LATERAL (SELECT update_%1$s.cells -> k.token AS cells) AS d
    CROSS JOIN LATERAL (
        SELECT v.*, CASE WHEN d.cells ? 'exercises'
                         THEN bridge.exercises_in_line(v.exercises, v.steps) END AS exercises_in_line
        FROM bridge.unified AS v WHERE v.session_token = k.token
        OFFSET 0
    ) AS u
    WHERE %5$s = k.token
      AND (%6$s) IS DISTINCT FROM (%7$s);
END
$body$
        $function$,
        p_legacy_name, rel,
        string_agg(quote_ident(v.legacy_column), ', '), string_agg(v.new_value, ', '), token,
        string_agg(v.old_comparable, ', '), string_agg(v.new_comparable, ', '))
    FROM bridge.new_values(p_legacy_name, token) AS v;

    EXECUTE format(
        $function$
CREATE OR REPLACE FUNCTION bridge.busy_%1$s(tokens text[]) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN (
        WITH free AS MATERIALIZED (
            SELECT t.ctid FROM %2$s AS t WHERE %3$s = ANY (tokens) FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT array_agg(%3$s) FROM %2$s AS t
        WHERE %3$s = ANY (tokens) AND t.ctid NOT IN (SELECT f.ctid FROM free AS f));
END
$body$
        $function$,
        p_legacy_name, rel, token);

    EXECUTE format(
        $function$
CREATE OR REPLACE FUNCTION bridge.insert_%1$s(tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO %2$s (%3$s)
    SELECT %4$s
    FROM (SELECT v.*, bridge.exercises_in_line(v.exercises, v.steps) AS exercises_in_line
          FROM bridge.unified AS v WHERE v.session_token = ANY (tokens)) AS u;
END
$body$
        $function$,
        p_legacy_name, rel,
        string_agg(quote_ident(b.legacy_column), ', '), string_agg(b.expression, ', '))
    FROM (
        SELECT 'session_token' AS legacy_column, 'u.session_token' AS expression
        UNION ALL
        SELECT b.legacy_column, b.expression
        FROM bridge.behind AS b JOIN bridge.columns_of(rel) AS c ON c.name = b.legacy_column
        WHERE b.legacy_name = p_legacy_name AND (c.not_null OR b.column_name = 'student_email')
    ) AS b;
END
$build$;
COMMENT ON FUNCTION bridge.build_push(text) IS 'Builds what writes a legacy table, for its columns.';

-- A value that a legacy table refuses (too long, a check, a trigger of the application) must not keep the
-- others from it: all at once, else token by token, else column by column. What is refused even then is
-- found by remember(), and kept in the remainder. Locks are somebody else's business: those errors go up.
CREATE FUNCTION bridge.try_update(p_legacy_name text, cells jsonb, tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one text;
BEGIN
    BEGIN
        EXECUTE format('SELECT bridge.update_%s($1, $2)', p_legacy_name) USING cells, tokens;
        RETURN;
    EXCEPTION
        WHEN lock_not_available OR transaction_rollback OR operator_intervention THEN
            RAISE;
        WHEN OTHERS THEN
            RAISE DEBUG '% refused a value: %', p_legacy_name, SQLERRM;
    END;
    IF cardinality(tokens) > 1 THEN
        FOREACH one IN ARRAY tokens LOOP
            PERFORM bridge.try_update(p_legacy_name, cells, ARRAY[one]);
        END LOOP;
    ELSIF (SELECT count(*) FROM jsonb_object_keys(cells -> tokens[1])) > 1 THEN
        FOR one IN SELECT jsonb_object_keys(cells -> tokens[1]) LOOP
            PERFORM bridge.try_update(p_legacy_name, jsonb_build_object(
                tokens[1], jsonb_build_object(one, cells -> tokens[1] -> one)), tokens);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.try_update(text, jsonb, text[]) IS
    'Writes the differing columns of legacy rows, as far as the table takes them.';

CREATE FUNCTION bridge.try_insert(p_legacy_name text, tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one text;
BEGIN
    BEGIN
        EXECUTE format('SELECT bridge.insert_%s($1)', p_legacy_name) USING tokens;
        RETURN;
    EXCEPTION
        WHEN lock_not_available OR transaction_rollback OR operator_intervention THEN
            RAISE;
        WHEN OTHERS THEN
            RAISE DEBUG '% refused a row: %', p_legacy_name, SQLERRM;
    END;
    IF cardinality(tokens) > 1 THEN
        FOREACH one IN ARRAY tokens LOOP
            PERFORM bridge.try_insert(p_legacy_name, ARRAY[one]);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.try_insert(text, text[]) IS 'Inserts legacy rows, as far as the table takes them.';

-- Cell by cell: what the unified schema holds (value), what the legacy tables say (mapped), and whether it
-- differs from what they say together with the remainder (news). Of a (row), mapped is the whole row.
--
-- Generated, because columns are compared as they are: nearly all are equal, and only the others become JSON.
DO $generate$
BEGIN
    EXECUTE (
        SELECT format(
            $function$
CREATE FUNCTION bridge.cells(tokens text[])
    RETURNS TABLE (
        token text,
        table_name text,
        step_number integer,
        column_name text,
        value jsonb,
        mapped jsonb,
        news boolean
    )
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $body$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH u AS MATERIALIZED (
        SELECT v.* FROM bridge.unified AS v WHERE v.session_token = ANY (tokens)
    ),
    m AS MATERIALIZED (
        SELECT s.* FROM bridge.mapped(tokens) AS s
    ),
    -- nearly all sessions have no remainder: they do not go through a function
    o AS MATERIALIZED (
        SELECT m.* FROM m
        WHERE m.session_token NOT IN (SELECT r.key FROM bridge.remainder AS r WHERE r.key = ANY (tokens))
        UNION ALL
        SELECT w.* FROM m CROSS JOIN LATERAL bridge.with_remainder(m::bridge.mapped_sessions) AS w
        WHERE m.session_token IN (SELECT r.key FROM bridge.remainder AS r WHERE r.key = ANY (tokens))
    ),
    -- [column, unified schema, mapping, mapping with the remainder]
    differing AS MATERIALIZED (
        SELECT u.session_token AS token, m.session_token IS NOT NULL AS told,
               array_remove(ARRAY[%1$s], NULL) AS cells
        FROM u
        LEFT JOIN m USING (session_token)
        LEFT JOIN o USING (session_token)
    ),
    steps AS MATERIALIZED (
        SELECT d.token, n.number, us.said AS value, ms.said AS mapped, ss.said AS said
        FROM differing AS d
        CROSS JOIN LATERAL unnest(d.cells) AS c(said)
        CROSS JOIN generate_series(1, 9) AS n(number)
        LEFT JOIN LATERAL (SELECT e AS said FROM jsonb_array_elements(c.said -> 1) AS e
                           WHERE e ->> 'step_number' = n.number::text) AS us ON true
        LEFT JOIN LATERAL (SELECT e AS said FROM jsonb_array_elements(nullif(c.said -> 2, 'null')) AS e
                           WHERE e ->> 'step_number' = n.number::text) AS ms ON true
        LEFT JOIN LATERAL (SELECT e AS said FROM jsonb_array_elements(nullif(c.said -> 3, 'null')) AS e
                           WHERE e ->> 'step_number' = n.number::text) AS ss ON true
        WHERE c.said ->> 0 = 'steps' AND num_nonnulls(us.said, ms.said, ss.said) > 0
    )
    SELECT c.*
    FROM (
        SELECT d.token, 'sessions' AS table_name, 0 AS step_number, c.said ->> 0 AS column_name, v.value, v.mapped,
               v.value IS DISTINCT FROM v.said AS news
        FROM differing AS d
        CROSS JOIN LATERAL unnest(d.cells) AS c(said)
        CROSS JOIN LATERAL (
            -- what a session without a legacy row says by default
            SELECT CASE jsonb_typeof(c.said -> 1)
                WHEN 'boolean' THEN 'false'::jsonb WHEN 'number' THEN '0'
                WHEN 'array' THEN '[]' WHEN 'object' THEN '{}' END AS nothing
        ) AS n
        CROSS JOIN LATERAL (
            SELECT
                nullif(c.said -> 1, 'null') AS value,
                CASE WHEN d.told THEN nullif(c.said -> 2, 'null') ELSE n.nothing END AS mapped,
                CASE WHEN d.told THEN nullif(c.said -> 3, 'null') ELSE n.nothing END AS said
        ) AS v
        WHERE c.said ->> 0 <> 'steps' AND NOT (c.said ->> 0 = 'student_email' AND v.value IS NULL)
        UNION ALL
        SELECT s.token, 'step_progress', s.number, '(row)', to_jsonb(s.value IS NOT NULL), s.mapped,
               (s.value IS NULL) <> (s.said IS NULL)
        FROM steps AS s
        WHERE (s.value IS NULL) <> (s.mapped IS NULL) OR (s.value IS NULL) <> (s.said IS NULL)
        UNION ALL
        SELECT s.token, 'step_progress', s.number, k.key, v.value, v.mapped, v.value IS DISTINCT FROM v.said
        FROM steps AS s
        CROSS JOIN LATERAL jsonb_each(s.value) AS k
        CROSS JOIN LATERAL (
            SELECT nullif(k.value, 'null') AS value, nullif(s.mapped -> k.key, 'null') AS mapped,
                   nullif(s.said -> k.key, 'null') AS said
        ) AS v
    ) AS c
    WHERE c.value IS DISTINCT FROM c.mapped OR c.news;
END
$body$
            $function$,
            string_agg(format(
                'CASE WHEN u.%1$I IS DISTINCT FROM m.%1$I OR u.%1$I IS DISTINCT FROM o.%1$I OR m.session_token IS NULL'
                ' THEN jsonb_build_array(%1$L, u.%1$I, m.%1$I, o.%1$I) END', k.name), ', '))
        FROM bridge.columns_of('bridge.unified') AS k
        WHERE k.name NOT IN ('session_token', 'student_id', 'student_name'));
END
$generate$;
COMMENT ON FUNCTION bridge.cells(text[]) IS 'Where the unified schema is not what the mapping says.';

-- The remainder of some sessions and their students: all that the mapping does not yield now. emails: addresses
-- that these sessions lead to, and that they led to before a push; a deleted one leads nowhere.
CREATE FUNCTION bridge.remember(tokens text[], emails text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $$
DECLARE
    here CONSTANT text[] := ARRAY(
        SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens));
    told CONSTANT text[] := ARRAY(
        SELECT p.token FROM bridge.brief_progress AS p WHERE p.token = ANY (tokens)
        UNION SELECT c.token FROM bridge.brief_config AS c WHERE c.token = ANY (tokens)
        UNION SELECT a.token FROM bridge.brief_prior AS a WHERE a.token = ANY (tokens));
    family text[];
BEGIN
    -- 1. Sessions that no legacy table can hold, or that an earlier attempt goes on telling of.
    DELETE FROM bridge.remainder AS r
    WHERE r.table_name = 'sessions' AND r.column_name = '(row)' AND r.key = ANY (tokens)
      AND (r.value = 'true') IS DISTINCT FROM (r.key = ANY (here) AND r.key <> ALL (told));
    INSERT INTO bridge.remainder (table_name, key, column_name, value)
    SELECT 'sessions', t, '(row)', to_jsonb(t = ANY (here))
    FROM unnest(tokens) AS t
    WHERE (t = ANY (here)) <> (t = ANY (told))
    ON CONFLICT DO NOTHING;

    -- 2. Their cells, and those of their steps.
    WITH wanted AS MATERIALIZED (
        SELECT c.* FROM bridge.cells(tokens) AS c
        WHERE c.value IS DISTINCT FROM c.mapped AND c.column_name <> 'completion_rate'  -- computed
    ),
    dropped AS (
        DELETE FROM bridge.remainder AS r
        WHERE r.table_name IN ('sessions', 'step_progress') AND r.key = ANY (tokens)
          AND NOT (r.table_name = 'sessions' AND r.column_name = '(row)')
          AND (r.table_name, r.key, r.step_number, r.column_name) NOT IN (
              SELECT w.table_name, w.token, w.step_number, w.column_name FROM wanted AS w)
    )
    INSERT INTO bridge.remainder AS r (table_name, key, step_number, column_name, value, over)
    SELECT w.table_name, w.token, w.step_number, w.column_name, w.value, w.mapped FROM wanted AS w
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE
        SET value = excluded.value, over = excluded.over
        WHERE (r.value, r.over) IS DISTINCT FROM (excluded.value, excluded.over);

    -- 3. Their students.
    family := bridge.family(tokens, emails);
    -- there again: the mapping leaves out those that are gone
    DELETE FROM bridge.remainder AS r
    USING public.students AS st
    WHERE st.student_email = ANY (emails) AND r.key = ANY (emails)
      AND r.table_name = 'students' AND r.key = st.student_email AND r.column_name = '(row)';
    WITH m AS MATERIALIZED (
        SELECT * FROM bridge.map_students(family) AS s WHERE s.student_email = ANY (emails)
    ),
    wanted AS MATERIALIZED (
        SELECT m.student_email, w.column_name, w.value, w.over
        FROM m
        LEFT JOIN public.students AS st ON st.student_email = m.student_email
        CROSS JOIN LATERAL (
            VALUES ('(row)', to_jsonb(false), NULL::jsonb, st.student_id IS NULL),
                   ('student_name', to_jsonb(st.student_name), to_jsonb(m.mapped_name),
                    st.student_id IS NOT NULL AND st.student_name IS DISTINCT FROM m.mapped_name),
                   ('created_at', to_jsonb(st.created_at), to_jsonb(m.mapped_created_at),
                    st.student_id IS NOT NULL AND st.created_at IS DISTINCT FROM m.mapped_created_at)
        ) AS w(column_name, value, over, needed)
        WHERE w.needed
    ),
    dropped AS (
        DELETE FROM bridge.remainder AS r
        USING m
        WHERE r.table_name = 'students' AND r.key = m.student_email AND r.key = ANY (emails)
          AND r.column_name IN ('(row)', 'student_name', 'created_at')
          AND (r.key, r.column_name) NOT IN (SELECT w.student_email, w.column_name FROM wanted AS w)
    )
    INSERT INTO bridge.remainder AS r (table_name, key, column_name, value, over)
    SELECT 'students', w.student_email, w.column_name, w.value, w.over FROM wanted AS w
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE
        SET value = excluded.value, over = excluded.over
        WHERE (r.value, r.over) IS DISTINCT FROM (excluded.value, excluded.over);
END
$$;
COMMENT ON FUNCTION bridge.remember(text[], text[]) IS
    'Keeps what the mapping does not yield of these sessions in the remainder.';

-- Sessions that need a row of a legacy table: a column differs that this table has, and no row that is
-- there has it too.
CREATE FUNCTION bridge.missing_rows(p_legacy_name text, cells jsonb) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tokens CONSTANT text[] := ARRAY(SELECT jsonb_object_keys(cells));
    is_progress CONSTANT boolean := p_legacy_name = 'workshop_students';
    here text[];
    there text[];
    columns text[];
    only_here text[];
BEGIN
    here := CASE WHEN is_progress
        THEN ARRAY(SELECT p.token FROM bridge.brief_progress AS p WHERE p.token = ANY (tokens))
        ELSE ARRAY(SELECT c.token FROM bridge.brief_config AS c WHERE c.token = ANY (tokens)) END;
    IF here @> tokens THEN
        RETURN '{}';
    END IF;
    there := CASE WHEN is_progress
        THEN ARRAY(SELECT c.token FROM bridge.brief_config AS c WHERE c.token = ANY (tokens))
        ELSE ARRAY(SELECT p.token FROM bridge.brief_progress AS p WHERE p.token = ANY (tokens)) END;
    SELECT array_agg(b.column_name) FILTER (WHERE b.legacy_name = p_legacy_name),
           array_agg(b.column_name) FILTER (WHERE b.legacy_name = p_legacy_name AND b.column_name NOT IN (
               SELECT o.column_name FROM bridge.behind AS o WHERE o.legacy_name <> p_legacy_name))
    INTO columns, only_here
    FROM bridge.behind AS b;
    RETURN ARRAY(
        SELECT d.key FROM jsonb_each(cells) AS d
        WHERE d.key <> ALL (here)
          AND d.value ?| CASE WHEN d.key = ANY (there) THEN only_here ELSE columns END);
END
$$;
COMMENT ON FUNCTION bridge.missing_rows(text, jsonb) IS 'Sessions to insert into a legacy table.';

CREATE FUNCTION bridge.push(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_note CONSTANT bigint := coalesce((SELECT max(p.id) FROM bridge.pending AS p), 0);
    here CONSTANT text[] := ARRAY(
        SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens));
    gone CONSTANT text[] := ARRAY(SELECT t FROM unnest(tokens) AS t WHERE t <> ALL (here));
    emails_before CONSTANT text[] := bridge.emails_of(tokens);
    emails text[];
    family text[];
    again text[] := here;
    differing jsonb;
    seen jsonb;
    pushed bigint := 0;
    cells jsonb;
    missing text[];
    concerned text[];
    seen_tokens text[];
    seen_emails text[];
    src record;
BEGIN
    -- 1. What was deleted. Before the foreign keys of 0005 nothing else takes steps and events along.
    IF gone <> '{}' THEN
        PERFORM set_config('bridge.pulling', 'on', true);
        DELETE FROM public.step_progress WHERE session_token = ANY (gone);
        UPDATE public.events SET session_token = NULL WHERE session_token = ANY (gone);
        PERFORM set_config('bridge.pulling', '', true);
        FOR src IN SELECT s.relation, s.token_expression AS token FROM bridge.source AS s LOOP
            EXECUTE format('DELETE FROM %s AS t WHERE %s = ANY ($1)', src.relation, src.token) USING gone;
        END LOOP;
    END IF;

    -- 2. What differs: token -> column -> what the mapping said. Steps are told by the exercises; a
    --    student's name stands in each row.
    emails := ARRAY(SELECT st.student_email FROM public.sessions AS v
                    JOIN public.students AS st ON st.student_id = v.student_id
                    WHERE v.session_token = ANY (here));
    family := bridge.family(here, emails);
    -- Twice where one write can change what follows from it: a step, the current one.
    FOR round IN 1 .. 2 LOOP
        IF round = 2 THEN
            SELECT array_agg(d.key), jsonb_object_agg(d.key, d.value) INTO again, seen
            FROM jsonb_each(seen) AS d
            WHERE jsonb_path_exists(
                d.value, '$.keyvalue() ? (@.key == "exercises" || @.key like_regex "_(deployed|connected|chosen|ready|saved)$")');
            EXIT WHEN again IS NULL;
        END IF;
        WITH c AS MATERIALIZED (
            SELECT * FROM bridge.cells(again) AS c WHERE c.news
        ),
        told AS MATERIALIZED (
            SELECT array_agg(DISTINCT c.token) AS tokens FROM c
            WHERE c.table_name = 'step_progress' OR c.column_name = 'exercises'
        )
        SELECT jsonb_object_agg(d.token, d.cells) INTO differing
        FROM (
            SELECT n.token, jsonb_object_agg(n.column_name, n.mapped) AS cells
            FROM (
                SELECT c.token, c.column_name, c.mapped
                FROM c
                WHERE c.table_name = 'sessions' AND c.column_name <> 'exercises'
                  AND c.column_name IN (SELECT b.column_name FROM bridge.behind AS b)
                UNION
                SELECT u.session_token, 'exercises', m.exercises
                FROM told
                JOIN bridge.unified AS u ON u.session_token = ANY (told.tokens)
                LEFT JOIN LATERAL bridge.mapped(told.tokens) AS m ON m.session_token = u.session_token
                WHERE bridge.exercises_in_line(u.exercises, u.steps) IS DISTINCT FROM coalesce(m.exercises, '{}')
                UNION
                SELECT v.session_token, 'student_name', to_jsonb(s.student_name)
                FROM public.sessions AS v
                JOIN public.students AS st ON st.student_id = v.student_id
                LEFT JOIN bridge.map_students(family) AS s ON s.student_email = st.student_email
                WHERE v.session_token = ANY (again) AND st.student_name IS DISTINCT FROM s.student_name
                UNION
                -- a session that is new, or gone from both tables, is told again
                SELECT v.session_token, 'student_email', NULL
                FROM public.sessions AS v
                WHERE v.session_token = ANY (again)
                  AND v.session_token NOT IN (SELECT t.token FROM bridge.tokens AS t WHERE t.token = ANY (again))
            ) AS n
            GROUP BY n.token
        ) AS d;

        EXIT WHEN differing IS NULL OR differing = seen;
        seen := differing;
        pushed := greatest(pushed, (SELECT count(*) FROM jsonb_object_keys(seen)));

        -- 3. workshop_students first: a row that is missing where no row that is there has the column, then
        --    the columns; a new row is to hold all that it has a column for.
        FOR src IN
            SELECT s.legacy_name, ARRAY(SELECT b.column_name FROM bridge.behind AS b
                                        WHERE b.legacy_name = s.legacy_name) AS columns
            FROM bridge.source AS s ORDER BY s.legacy_name DESC
        LOOP
            cells := differing;
            missing := bridge.missing_rows(src.legacy_name, differing);
            IF missing <> '{}' THEN
                PERFORM bridge.try_insert(src.legacy_name, missing);
                cells := cells || (SELECT jsonb_object_agg(t, (SELECT jsonb_object_agg(c, NULL) FROM unnest(src.columns) AS c))
                                   FROM unnest(missing) AS t);
            END IF;
            concerned := ARRAY(SELECT d.key FROM jsonb_each(cells) AS d WHERE d.value ?| src.columns);
            IF concerned <> '{}' THEN
                PERFORM bridge.try_update(src.legacy_name, cells, concerned);
            END IF;
        END LOOP;
    END LOOP;

    -- 4. What the unified schema derives is put right in it.
    PERFORM set_config('bridge.pulling', 'on', true);
    UPDATE public.step_progress AS sp SET student_id = v.student_id
    FROM public.sessions AS v
    WHERE v.session_token = ANY (here) AND sp.session_token = v.session_token
      AND sp.student_id <> v.student_id;
    UPDATE public.sessions AS v SET completion_rate = r.rate, exercises = r.exercises
    FROM bridge.unified AS u
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN EXISTS (
                SELECT FROM unnest(u.steps) AS e
                LEFT JOIN public.exercise_steps(u.exercises) AS x USING (step_number)
                WHERE (e.validation_passed, CASE WHEN e.validation_passed THEN e.completed_at END, e.time_spent, e.attempts)
                      IS DISTINCT FROM (x.validation_passed, x.completed_at, x.time_spent, x.attempts)
            ) THEN bridge.exercises_with(u.exercises, u.steps) ELSE u.exercises END AS exercises,
            public.session_completion_rate(public.session_steps_done(
                u.twilio_connected, u.openai_connected, u.call_direction_chosen, u.services_ready,
                u.step4_deployed, u.step5_deployed, u.step6_deployed, u.system_prompt_saved,
                u.step8_deployed, u.project_deployed,
                ARRAY(SELECT e.step_number FROM unnest(u.steps) AS e WHERE e.validation_passed))) AS rate
        OFFSET 0
    ) AS r
    WHERE u.session_token = ANY (here) AND v.session_token = u.session_token
      AND (v.completion_rate, v.exercises) <> (r.rate, r.exercises);
    PERFORM set_config('bridge.pulling', '', true);

    -- 5. What the mapping does not yield even now. Notes that the triggers took of all this are struck
    --    out; those of other sessions, which a trigger of the application may have written, are not.
    SELECT array_agg(o.token), array_agg(o.student_email) INTO seen_tokens, seen_emails
    FROM (SELECT DISTINCT r.token, r.student_email FROM bridge.student_sources(tokens) AS r) AS o;
    PERFORM bridge.note_addresses(tokens, seen_tokens, seen_emails);
    PERFORM bridge.remember(tokens, ARRAY(
        SELECT unnest(emails_before) UNION SELECT unnest(seen_emails)
        UNION
        SELECT st.student_email FROM public.sessions AS v
        JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token = ANY (tokens)));
    DELETE FROM bridge.pending AS p
    WHERE p.id > last_note AND p.side = 'legacy' AND p.token = ANY (tokens)
      AND p.xact = pg_current_xact_id();
    RETURN pushed + cardinality(gone);
END
$$;
COMMENT ON FUNCTION bridge.push(text[]) IS
    'Brings the legacy tables in line with the unified schema for these tokens; sessions that differed.'
