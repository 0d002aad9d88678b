-- pull: brings the unified schema in line with the mapping for some tokens, and writes only what
-- differs, so that a second pull writes nothing. It never deletes a student.

-- Addresses that some sessions touched before the change that brings them here.
CREATE FUNCTION bridge.emails_before(tokens text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT st.student_email
        FROM public.sessions AS v
        JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token = ANY (tokens)
        UNION
        SELECT o.student_email FROM bridge.other_address AS o WHERE o.token = ANY (tokens)
    );
END
$$;
COMMENT ON FUNCTION bridge.emails_before(text[]) IS 'Addresses of these sessions, as the unified schema has them.';

CREATE FUNCTION bridge.emails_of(tokens text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT s.student_email FROM bridge.student_sources(tokens) AS s
        UNION
        SELECT unnest(bridge.emails_before(tokens))
    );
END
$$;
COMMENT ON FUNCTION bridge.emails_of(text[]) IS 'Addresses concerned when these sessions change.';

-- All sessions that describe the students of these addresses.
CREATE FUNCTION bridge.family(tokens text[], emails text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(
        SELECT unnest(tokens)
        UNION
        SELECT v.session_token
        FROM public.students AS st
        JOIN public.sessions AS v ON v.student_id = st.student_id
        WHERE st.student_email = ANY (emails)
        UNION
        SELECT o.token FROM bridge.other_address AS o WHERE o.student_email = ANY (emails)
    );
END
$$;
COMMENT ON FUNCTION bridge.family(text[], text[]) IS 'Sessions of these students.';

-- A student's row is written, and locked, only when something of the student changed: two transactions that
-- each touch two students would deadlock otherwise. family: all sessions of these students; NULL: their
-- sources have been collected. held: those of the students that were there, and locked, before family was
-- looked up; one that came since may have sessions that are not in it.
CREATE FUNCTION bridge.put_students(emails text[], family text[], held text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    collected CONSTANT text[] := CASE WHEN family IS NULL THEN emails ELSE '{}' END;
    stale text[] := '{}';
    inserted bigint := 0;
    updated bigint := 0;
    unequal bigint := 0;
    strangers bigint := 0;
BEGIN
    -- mostly they are there already, as mapped
    IF family IS NULL OR EXISTS (
        SELECT m.student_email, m.student_name, m.created_at FROM bridge.map_students(family) AS m
        WHERE m.student_email IN (SELECT unnest(emails))
        EXCEPT
        SELECT st.student_email, st.student_name, st.created_at FROM public.students AS st WHERE st.student_email = ANY (emails)
    ) OR EXISTS (
        SELECT FROM public.students AS st
        WHERE st.student_email = ANY (emails) AND st.student_email NOT IN (SELECT unnest(held))
    ) THEN
        WITH m AS MATERIALIZED (
            SELECT * FROM bridge.map_students(family, collected)
            WHERE student_email IN (SELECT unnest(emails))
        ),
        missing AS (
            INSERT INTO public.students (student_id, student_email, student_name, created_at, github_username)
            SELECT coalesce(
                       i.student_id,
                       -- taken by the student who had this address before it was changed
                       CASE WHEN 0 < (SELECT count(*) FROM public.students AS o WHERE o.student_id = u.student_id)
                            THEN gen_random_uuid() END,
                       u.student_id),
                   m.student_email, m.student_name, m.created_at, g.github_username
            FROM m
            CROSS JOIN LATERAL (SELECT bridge.student_uuid(m.student_email, m.first_token) AS student_id OFFSET 0) AS u
            -- OFFSET 0 and count(*): looked up for each student, else all students are read for some
            LEFT JOIN LATERAL (
                SELECT (r.value #>> '{}')::uuid AS student_id FROM bridge.remainder AS r
                WHERE r.table_name = 'students' AND r.key = m.student_email AND r.column_name = 'student_id'
                  AND 0 = (SELECT count(*) FROM public.students AS o WHERE o.student_id = (r.value #>> '{}')::uuid)
                OFFSET 0
            ) AS i ON true
            LEFT JOIN LATERAL (
                SELECT r.value #>> '{}' AS github_username FROM bridge.remainder AS r
                WHERE r.table_name = 'students' AND r.key = m.student_email AND r.column_name = 'github_username'
                OFFSET 0
            ) AS g ON true
            WHERE m.student_email NOT IN (SELECT st.student_email FROM public.students AS st
                                          WHERE st.student_email = ANY (emails))
            ON CONFLICT (student_email) DO NOTHING
            RETURNING student_email, student_name, created_at
        ),
        there AS (
            SELECT st.student_email,
                   (st.student_name, st.created_at) IS NOT DISTINCT FROM (m.student_name, m.created_at) AS as_mapped
            FROM m
            JOIN (SELECT s.student_email, s.student_name, s.created_at FROM public.students AS s
                  WHERE s.student_email = ANY (emails)
                  UNION ALL
                  SELECT i.student_email, i.student_name, i.created_at FROM missing AS i) AS st
              ON st.student_email = m.student_email
        )
        SELECT (SELECT count(*) FROM missing),
               (SELECT count(*) FROM m) - (SELECT count(*) FROM there AS t WHERE t.as_mapped),
               ARRAY(SELECT t.student_email FROM there AS t WHERE NOT t.as_mapped),
               (SELECT count(*) FROM public.students AS s
                WHERE family IS NOT NULL AND s.student_email = ANY (emails) AND s.student_email NOT IN (SELECT unnest(held)))
        INTO inserted, unequal, stale, strangers;
    END IF;

    -- not while the first merge goes on: it has not seen all that tells of a student
    IF EXISTS (SELECT FROM bridge.remainder AS r WHERE r.table_name = 'students' AND r.key = ANY (emails))
       AND (SELECT s.merged_at IS NOT NULL FROM bridge.state AS s) THEN
        DELETE FROM bridge.remainder AS r
        USING bridge.map_students(family, collected) AS m
        WHERE r.table_name = 'students' AND r.key = m.student_email AND r.key = ANY (emails)
          AND CASE r.column_name
              WHEN '(row)' THEN true  -- the mapping tells of the student again
              WHEN 'student_name' THEN r.over #>> '{}' IS DISTINCT FROM m.mapped_name
              WHEN 'created_at' THEN (r.over #>> '{}')::timestamptz IS DISTINCT FROM m.mapped_created_at
          END;
    END IF;
    IF stale <> '{}' THEN
        -- looked at again once the lock is held: the row may have changed while waiting for it
        PERFORM FROM public.students WHERE student_email = ANY (stale) ORDER BY student_email
            FOR NO KEY UPDATE;
        UPDATE public.students AS st
        SET student_name = m.student_name, created_at = m.created_at
        FROM bridge.map_students(family, collected) AS m
        WHERE m.student_email IN (SELECT unnest(stale))
          AND st.student_email = m.student_email
          AND (st.student_name, st.created_at) IS DISTINCT FROM (m.student_name, m.created_at);
        GET DIAGNOSTICS updated = ROW_COUNT;
    END IF;
    IF updated < unequal OR strangers > 0 THEN
        -- who inserted it did not know of our sessions, and we did not see theirs: the next look sees both
        RAISE EXCEPTION 'a student was inserted or changed by somebody else meanwhile'
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN inserted + updated;
END
$$;
COMMENT ON FUNCTION bridge.put_students(text[], text[], text[]) IS 'Inserts and updates students: all are as mapped then; rows changed.';

CREATE FUNCTION bridge.pull_students(
    tokens text[],
    OUT changed bigint,
    OUT seen_tokens text[],
    OUT seen_emails text[]
)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    emails text[];
    held text[];
BEGIN
    SELECT array_agg(s.token), array_agg(s.student_email) INTO seen_tokens, seen_emails
    FROM (SELECT DISTINCT o.token, o.student_email FROM bridge.student_sources(tokens) AS o) AS s;
    emails := ARRAY(SELECT unnest(seen_emails) UNION SELECT unnest(bridge.emails_before(tokens)));
    held := ARRAY(SELECT st.student_email FROM public.students AS st WHERE st.student_email = ANY (emails)
                  ORDER BY st.student_email FOR NO KEY UPDATE);
    changed := bridge.put_students(emails, bridge.family(tokens, emails), held);
END
$$;
COMMENT ON FUNCTION bridge.pull_students(text[]) IS
    'Inserts and updates the students of sessions; which addresses it saw for which token.';

CREATE FUNCTION bridge.is_plain(tokens text[]) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM bridge.remainder AS r WHERE r.key = ANY (tokens));
END
$$;
COMMENT ON FUNCTION bridge.is_plain(text[]) IS 'Nothing of these sessions is in the remainder.';

-- What INSERT ... SELECT brings from the mapping is what the mapping says, but for triggers that change a row on its way.
-- Those of 0002 change no mapped value.
CREATE FUNCTION bridge.stores_as_given() RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before_insert_of_a_row CONSTANT integer := 7;
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM pg_trigger AS t
        WHERE t.tgrelid IN ('public.sessions'::regclass, 'public.step_progress'::regclass)
          AND t.tgtype & before_insert_of_a_row = before_insert_of_a_row
          AND t.tgfoid NOT IN ('public.clean_sessions()'::regprocedure, 'public.clean_step_progress()'::regprocedure));
END
$$;
COMMENT ON FUNCTION bridge.stores_as_given() IS 'Whether no foreign trigger changes sessions and steps that are inserted.';

-- pull_sessions and its twin diff_sessions repeat the column lists of two tables several times. They
-- are generated here, once, from the mapping views: a column of the mapping can then be forgotten
-- neither by the merge nor by the verification. Every read of a table is bounded by
-- "= ANY (tokens)": a chunk must not cost more as the tables grow. PL/pgSQL keeps their plans for as
-- long as the connection lives: planning takes many times longer than the work for one session. No ON
-- CONFLICT: a row that somebody else inserts meanwhile is an error, after which the session is combined.
DO $generate$
DECLARE
    -- written with a new row, the unified schema's own afterwards
    initial CONSTANT text[] := ARRAY['expires_at', 'is_active', 'updated_at'];
    -- of bridge.sessions: columns and rows of other tables
    carried CONSTANT text[] := ARRAY['student_email', 'steps', 'note'];
    session_columns text[];
    step_columns text[];
    session_values text[];
    step_values text[];
    lists text[];
    source text;
BEGIN
    SELECT array_agg(name), array_agg(name) FILTER (WHERE name <> ALL (initial || 'session_token'::text))
    INTO session_columns, session_values
    FROM bridge.columns_of('bridge.sessions') WHERE name <> ALL (carried);
    SELECT array_agg(name), array_agg(name) FILTER (WHERE name NOT IN ('session_token', 'step_number'))
    INTO step_columns, step_values
    FROM bridge.columns_of('bridge.step_progress');

    lists := ARRAY[
        (SELECT string_agg(quote_ident(c), ', ') FROM unnest(session_columns) AS c),
        (SELECT string_agg(quote_ident(c), ', ') FROM unnest(session_values) AS c),
        (SELECT string_agg('m.' || quote_ident(c), ', ') FROM unnest(session_values) AS c),
        (SELECT string_agg('v.' || quote_ident(c), ', ') FROM unnest(session_values) AS c),
        (SELECT string_agg(quote_ident(c), ', ') FROM unnest(step_columns) AS c),
        (SELECT string_agg(quote_ident(c), ', ') FROM unnest(step_values) AS c),
        (SELECT string_agg('ms.' || quote_ident(c), ', ') FROM unnest(step_values) AS c),
        (SELECT string_agg('v.' || quote_ident(c), ', ') FROM unnest(step_values) AS c)];

    EXECUTE format(
        $function$
CREATE FUNCTION bridge.pull_sessions(tokens text[], there text[], noted bigint[] DEFAULT '{}') RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
    most CONSTANT integer := 100;
    mapped bridge.sessions[];
    with_notes boolean;
    steps_differ boolean;
    overtaken text[];
    rows bigint;
    changed bigint := 0;
BEGIN
    -- an array has to fit into memory, whatever there is in the old JSON
    IF cardinality(tokens) > most THEN
        FOR i IN 1 .. cardinality(tokens) BY most LOOP
            changed := changed + bridge.pull_sessions(
                tokens[i:i + most - 1],
                ARRAY(SELECT t FROM unnest(there) AS t WHERE t IN (SELECT unnest(tokens[i:i + most - 1]))),
                noted);
        END LOOP;
        RETURN changed;
    END IF;
    SELECT array_agg(s), count(s.note) > 0 INTO mapped, with_notes FROM bridge.sessions_of(tokens) AS s;

    -- a student is missing only where the address changed since pull_students looked: that write is
    -- noted, and brings the session here again
    IF cardinality(there) < cardinality(tokens) THEN
        INSERT INTO public.sessions (%1$s)
        SELECT %1$s FROM unnest(mapped) AS m
        WHERE m.student_id IS NOT NULL AND m.session_token NOT IN (SELECT unnest(there));
        GET DIAGNOSTICS rows = ROW_COUNT;
        changed := changed + rows;
    END IF;

    -- before the sessions, whose exercises follow them
    SELECT bit_xor(k.content) <> 0 INTO steps_differ
    FROM (
        SELECT hash_record_extended(ROW(%5$s), 0) AS content
        FROM (SELECT m.session_token, m.student_id, e.* FROM unnest(mapped) AS m CROSS JOIN LATERAL unnest(m.steps) AS e) AS ms
        UNION ALL
        SELECT hash_record_extended(ROW(%5$s), 0)
        FROM public.step_progress AS v WHERE v.session_token = ANY (tokens)
    ) AS k;
    IF steps_differ THEN
        -- Whatever was there is locked; but before 0005 nothing makes a new step wait for its session. Whose note came
        -- after the look at them would be taken for a step that is not to be there: both sides are merged instead.
        WITH news AS MATERIALIZED (
            SELECT DISTINCT p.token FROM bridge.pending AS p
            WHERE p.token = ANY (tokens) AND p.side = 'unified' AND p.id <> ALL (noted) AND p.xact <> pg_current_xact_id()
        ),
        ms AS MATERIALIZED (
            SELECT m.session_token, m.student_id, e.*
            FROM unnest(mapped) AS m CROSS JOIN LATERAL unnest(m.steps) AS e
            WHERE m.student_id IS NOT NULL AND m.session_token NOT IN (SELECT n.token FROM news AS n)
        ),
        inserted AS (
            INSERT INTO public.step_progress (%5$s)
            SELECT %5$s FROM ms
            WHERE (session_token, step_number) NOT IN (
                SELECT v.session_token, v.step_number FROM public.step_progress AS v
                WHERE v.session_token = ANY (tokens))
            RETURNING 1
        ),
        updated AS (
            UPDATE public.step_progress AS v SET (%6$s) = ROW(%7$s) FROM ms
            WHERE v.session_token = ANY (tokens)
              AND v.session_token = ms.session_token AND v.step_number = ms.step_number
              AND (%8$s) IS DISTINCT FROM (%7$s)
            RETURNING 1
        ),
        deleted AS (
            DELETE FROM public.step_progress AS v
            WHERE v.session_token = ANY (tokens)
              AND v.session_token NOT IN (SELECT m.session_token FROM unnest(mapped) AS m WHERE m.student_id IS NULL)
              AND v.session_token NOT IN (SELECT n.token FROM news AS n)
              AND (v.session_token, v.step_number) NOT IN (SELECT session_token, step_number FROM ms)
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted),
               (SELECT array_agg(n.token) FROM news AS n)
        INTO rows, overtaken;
        changed := changed + rows;
        PERFORM bridge.note('legacy', overtaken);
    END IF;

    UPDATE public.sessions AS v SET (%2$s) = ROW(%3$s)
    FROM unnest(mapped) AS m
    WHERE v.session_token = ANY (tokens) AND v.session_token = m.session_token AND m.student_id IS NOT NULL
      AND (%4$s) IS DISTINCT FROM (%3$s);
    GET DIAGNOSTICS rows = ROW_COUNT;
    changed := changed + rows;
    IF coalesce(cardinality(mapped), 0) < cardinality(tokens) THEN
        WITH deleted AS (
            DELETE FROM public.sessions AS v
            WHERE v.session_token = ANY (tokens)
              AND v.session_token NOT IN (SELECT m.session_token FROM unnest(mapped) AS m)
            RETURNING v.session_token
        ),
        -- before the foreign keys of 0005 nothing else detaches the events of a deleted session
        detached AS (
            UPDATE public.events AS e SET session_token = NULL
            FROM deleted AS d WHERE e.session_token = d.session_token
        )
        SELECT count(*) INTO rows FROM deleted;
        changed := changed + rows;
    END IF;
    IF with_notes THEN
        INSERT INTO public.events (student_id, session_token, event_type, event_data)
        SELECT m.student_id, m.session_token, 'merge_note', m.note FROM unnest(mapped) AS m
        WHERE m.student_id IS NOT NULL AND m.note IS NOT NULL
          AND (m.session_token, m.note) NOT IN (
              SELECT e.session_token, e.event_data FROM public.events AS e
              WHERE e.session_token = ANY (tokens) AND e.event_type = 'merge_note')
        ORDER BY m.session_token;  -- numbered alike whatever the chunks
    END IF;
    RETURN changed;
END
$body$;
COMMENT ON FUNCTION bridge.pull_sessions(text[], text[], bigint[]) IS
    'Makes sessions and step_progress what the mapping says; rows changed. there: sessions not to be inserted; '
    'noted: what is known to have been written to the unified schema.';
        $function$,
        VARIADIC lists);

    FOREACH source IN ARRAY ARRAY['bridge.sessions', 'bridge.plain_sessions'] LOOP
        EXECUTE format(
            $function$
-- The same for sessions of which the unified schema has nothing yet. complete: none of them was left out;
-- versions is what bridge.unified_versions() says of them.
CREATE FUNCTION bridge.insert_%9$s(tokens text[], OUT changed bigint, OUT complete boolean, OUT versions bigint)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_mergejoin = off
    SET enable_memoize = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $body$
#variable_conflict use_column
BEGIN
    WITH m AS MATERIALIZED (
        SELECT * FROM %10$s WHERE session_token = ANY (tokens) AND student_id IS NOT NULL
    ),
    ms AS MATERIALIZED (
        SELECT m.session_token, m.student_id, e.* FROM m CROSS JOIN LATERAL unnest(m.steps) AS e
    ),
    inserted AS (
        INSERT INTO public.sessions (%1$s)
        SELECT %1$s FROM m
        RETURNING hash_record_extended(ROW(ctid, xmin), 1) AS version
    ),
    steps_inserted AS (
        INSERT INTO public.step_progress (%5$s)
        SELECT %5$s FROM ms
        RETURNING hash_record_extended(ROW(ctid, xmin), 2) AS version
    ),
    noted AS (
        INSERT INTO public.events (student_id, session_token, event_type, event_data)
        SELECT m.student_id, m.session_token, 'merge_note', m.note FROM m
        WHERE m.note IS NOT NULL
          AND (m.session_token, m.note) NOT IN (
              SELECT e.session_token, e.event_data FROM public.events AS e
              WHERE e.session_token = ANY (tokens) AND e.event_type = 'merge_note')
    )
    SELECT v.n + sv.n,
           (v.n, sv.n) = (cardinality(tokens), (SELECT count(*) FROM ms)),
           coalesce(v.version, 0) # coalesce(sv.version, 0) # (v.n + sv.n)
    INTO changed, complete, versions
    FROM (SELECT count(*) AS n, bit_xor(version) AS version FROM inserted) AS v,
         (SELECT count(*) AS n, bit_xor(version) AS version FROM steps_inserted) AS sv;
END
$body$;
COMMENT ON FUNCTION bridge.insert_%9$s(text[]) IS
    'Inserts sessions, steps and notes as the mapping says; rows written, and whether those are all.';
            $function$,
            VARIADIC lists || ARRAY[CASE WHEN source ~ 'plain' THEN 'plain_sessions' ELSE 'sessions' END, source]);
    END LOOP;

    EXECUTE format(
        $function$
-- One row for each cell that differs; a missing or surplus row counts as one.
CREATE FUNCTION bridge.diff_sessions(tokens text[])
    RETURNS TABLE (table_name text, column_name text, token text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH m AS MATERIALIZED (
        SELECT true AS here, s.steps, %1$s FROM bridge.sessions_of(tokens) AS s
    ),
    ms AS MATERIALIZED (
        SELECT true AS here, m.session_token, m.student_id, e.*
        FROM m CROSS JOIN LATERAL unnest(m.steps) AS e
    ),
    cells AS (
        SELECT 'sessions' AS table_name, d.column_name, session_token
        FROM (SELECT true AS here, s.* FROM public.sessions AS s WHERE s.session_token = ANY (tokens)) AS v
        FULL JOIN m USING (session_token)
        CROSS JOIN LATERAL (
            SELECT '(row missing)' WHERE v.here IS NULL
            UNION ALL
            SELECT '(row without legacy)' WHERE m.here IS NULL
            UNION ALL
            SELECT c.name FROM (VALUES %9$s) AS c(name, differs) WHERE c.differs AND v.here AND m.here
        ) AS d(column_name)
        WHERE v.here IS NULL OR m.here IS NULL OR (%4$s) IS DISTINCT FROM (%3$s)
        UNION ALL
        SELECT 'step_progress', d.column_name, session_token
        FROM (SELECT true AS here, s.* FROM public.step_progress AS s WHERE s.session_token = ANY (tokens)) AS v
        FULL JOIN ms USING (session_token, step_number)
        CROSS JOIN LATERAL (
            SELECT '(row missing)' WHERE v.here IS NULL
            UNION ALL
            SELECT '(row without legacy)' WHERE ms.here IS NULL
            UNION ALL
            SELECT c.name FROM (VALUES %10$s) AS c(name, differs) WHERE c.differs AND v.here AND ms.here
        ) AS d(column_name)
        WHERE v.here IS NULL OR ms.here IS NULL OR (%8$s) IS DISTINCT FROM (%7$s)
    )
    SELECT c.table_name, c.column_name, c.session_token
    FROM cells AS c
    WHERE NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = c.session_token);
END
$body$;
COMMENT ON FUNCTION bridge.diff_sessions(text[]) IS
    'Where sessions and step_progress are not what the mapping says.';
        $function$,
        VARIADIC lists || ARRAY[
            (SELECT string_agg(format('(%1$L, v.%1$I IS DISTINCT FROM m.%1$I)', c), ', ') FROM unnest(session_values) AS c),
            (SELECT string_agg(format('(%1$L, v.%1$I IS DISTINCT FROM ms.%1$I)', c), ', ') FROM unnest(step_values) AS c)]);
END
$generate$;

-- What the legacy tables have changed since it was kept: they win.
CREATE FUNCTION bridge.forget(tokens text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $$
BEGIN
    tokens := ARRAY(SELECT DISTINCT r.key FROM bridge.remainder AS r WHERE r.key = ANY (tokens));
    IF tokens = '{}' THEN
        RETURN;
    END IF;
    DELETE FROM bridge.remainder AS r
    USING (SELECT p.token FROM bridge.brief_progress AS p WHERE p.token = ANY (tokens)
           UNION
           SELECT c.token FROM bridge.brief_config AS c WHERE c.token = ANY (tokens)) AS legacy
    WHERE r.table_name = 'sessions' AND r.key = legacy.token AND r.column_name = '(row)';
    WITH m AS MATERIALIZED (
        SELECT s.session_token, to_jsonb(s) AS said FROM bridge.mapped(tokens) AS s
    ),
    kept AS (
        SELECT r.key, r.table_name, r.column_name, r.step_number, r.over, CASE
            WHEN r.table_name = 'sessions' THEN nullif(m.said -> r.column_name, 'null')
            WHEN r.column_name = '(row)' THEN e.said
            ELSE nullif(e.said -> r.column_name, 'null') END AS mapped
        FROM bridge.remainder AS r
        JOIN m ON m.session_token = r.key
        LEFT JOIN LATERAL (
            SELECT s AS said FROM jsonb_array_elements(m.said -> 'steps') AS s
            WHERE s ->> 'step_number' = r.step_number::text
        ) AS e ON true
        WHERE r.key = ANY (tokens)
          AND (r.table_name = 'step_progress' OR r.table_name = 'sessions' AND r.column_name <> '(row)')
    )
    DELETE FROM bridge.remainder AS r USING kept AS k
    WHERE r.key = ANY (tokens)
      AND (r.key, r.table_name, r.column_name, r.step_number) = (k.key, k.table_name, k.column_name, k.step_number)
      AND k.over IS DISTINCT FROM k.mapped;
    DELETE FROM bridge.remainder AS r
    WHERE r.table_name IN ('sessions', 'step_progress') AND r.key = ANY (tokens)
      AND r.key NOT IN (SELECT t.token FROM bridge.tokens AS t WHERE t.token = ANY (tokens))
      AND NOT (r.column_name = '(row)' AND r.value = 'false');
END
$$;
COMMENT ON FUNCTION bridge.forget(text[]) IS 'Drops what a later legacy change has overtaken.';

-- An address that was seen for a session and is not where the session went: it lost to another one, or
-- changed between the two looks. It is remembered, so that its student is looked at again when the session
-- comes by again.
CREATE FUNCTION bridge.note_addresses(tokens text[], seen_tokens text[], seen_emails text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM bridge.other_address AS a
    WHERE a.token = ANY (tokens)
      AND (a.token, a.student_email) NOT IN (SELECT * FROM unnest(seen_tokens, seen_emails));
    INSERT INTO bridge.other_address (token, student_email)
    SELECT seen.token, seen.student_email
    FROM unnest(seen_tokens, seen_emails) AS seen(token, student_email)
    LEFT JOIN public.sessions AS v ON v.session_token = seen.token
    LEFT JOIN public.students AS st ON st.student_id = v.student_id
    WHERE st.student_email IS DISTINCT FROM seen.student_email
    ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION bridge.note_addresses(text[], text[], text[]) IS
    'Keeps other_address right for some sessions.';

-- bridge.pulling keeps the triggers of the unified schema from noting what comes from the other side.
CREATE FUNCTION bridge.pull(tokens text[], noted bigint[] DEFAULT '{}') RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- One that comes after this look is inserted once more, which is an error: whoever brought it did not see our
    -- legacy row, and our students were worked out without theirs.
    there CONSTANT text[] := ARRAY(SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens));
    students record;
    changed bigint;
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    PERFORM bridge.forget(tokens);
    students := bridge.pull_students(tokens);
    changed := students.changed + bridge.pull_sessions(tokens, there, noted);
    PERFORM bridge.note_addresses(tokens, students.seen_tokens, students.seen_emails);
    PERFORM set_config('bridge.pulling', '', true);
    RETURN changed;
END
$$;
COMMENT ON FUNCTION bridge.pull(text[], bigint[]) IS
    'Brings the unified schema in line with the legacy tables for these tokens; rows changed. noted: as for pull_sessions().'
