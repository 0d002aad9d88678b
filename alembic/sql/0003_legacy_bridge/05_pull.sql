-- pull: brings the unified schema in line with the mapping for some tokens, and writes only what
-- differs, so that a second pull writes nothing. It never deletes a student.

-- All addresses that some sessions touch, in the legacy tables and in the unified schema.
CREATE FUNCTION bridge.emails_of(tokens text[]) RETURNS text[]
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT ARRAY(
        SELECT s.student_email FROM bridge.student_sources AS s WHERE s.token = ANY (tokens)
        UNION
        SELECT st.student_email
        FROM public.sessions AS v
        JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token = ANY (tokens)
    );
END;
COMMENT ON FUNCTION bridge.emails_of(text[]) IS 'Addresses concerned when these sessions change.';

-- All sessions that describe the students of these addresses.
CREATE FUNCTION bridge.family(tokens text[], emails text[]) RETURNS text[]
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT ARRAY(
        SELECT unnest(tokens)
        UNION
        SELECT v.session_token
        FROM public.students AS st
        JOIN public.sessions AS v ON v.student_id = st.student_id
        WHERE st.student_email = ANY (emails)
        UNION
        SELECT o.token FROM bridge.other_address AS o WHERE o.student_email = ANY (emails)
    );
END;
COMMENT ON FUNCTION bridge.family(text[], text[]) IS 'Sessions of these students.';

CREATE FUNCTION bridge.pull_students(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    emails CONSTANT text[] := bridge.emails_of(tokens);
    family CONSTANT text[] := bridge.family(tokens, emails);
    stale text[];
    inserted bigint;
BEGIN
    WITH others AS MATERIALIZED (
        SELECT DISTINCT s.token, s.student_email
        FROM bridge.student_sources AS s
        JOIN bridge.session_emails AS e ON e.token = s.token
        WHERE s.token = ANY (tokens) AND e.token = ANY (tokens) AND s.student_email <> e.student_email
    ),
    gone AS (
        DELETE FROM bridge.other_address AS o
        WHERE o.token = ANY (tokens)
          AND (o.token, o.student_email) NOT IN (SELECT token, student_email FROM others)
    )
    INSERT INTO bridge.other_address SELECT token, student_email FROM others ON CONFLICT DO NOTHING;

    WITH missing AS (
        INSERT INTO public.students (student_id, student_email, student_name, created_at)
        SELECT bridge.student_uuid(m.student_email, m.first_token),
               m.student_email, m.student_name, m.created_at
        FROM bridge.map_students(family) AS m
        WHERE m.student_email = ANY (emails)
          AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = m.student_email)
        ON CONFLICT (student_email) DO NOTHING
        RETURNING student_id
    )
    SELECT count(*) INTO inserted FROM missing;

    -- A student's row is written, and locked, only when something of the student changed: two
    -- transactions that each touch two students would deadlock otherwise. Looked at again once the
    -- lock is held, because the row may have changed while waiting for it.
    stale := ARRAY(
        SELECT m.student_email
        FROM bridge.map_students(family) AS m
        JOIN public.students AS st ON st.student_email = m.student_email
        WHERE m.student_email = ANY (emails)
          AND (st.student_name, st.created_at) IS DISTINCT FROM (m.student_name, m.created_at)
        ORDER BY m.student_email
    );
    IF stale = '{}' THEN
        RETURN inserted;
    END IF;
    PERFORM FROM public.students WHERE student_email = ANY (stale) ORDER BY student_email
        FOR NO KEY UPDATE;
    UPDATE public.students AS st
    SET student_name = m.student_name, created_at = m.created_at
    FROM bridge.map_students(family) AS m
    WHERE m.student_email = ANY (stale)
      AND st.student_email = m.student_email
      AND (st.student_name, st.created_at) IS DISTINCT FROM (m.student_name, m.created_at);
    RETURN inserted + cardinality(stale);
END
$$;
COMMENT ON FUNCTION bridge.pull_students(text[]) IS 'Inserts and updates the students of sessions.';

-- pull_sessions, pull_step_progress and their twins diff_... are the same statement over different
-- columns. They are generated here, once, from the mapping views: a column of the mapping can then
-- be neither forgotten by the merge nor by the verification.
--
-- initial: written with a new row, the unified schema's own afterwards.
DO $generate$
DECLARE
    target text;
    key text[];
    initial CONSTANT text[] := ARRAY['expires_at', 'is_active', 'updated_at'];
    all_columns text[];
    compared text[];
BEGIN
    FOREACH target IN ARRAY ARRAY['sessions', 'step_progress'] LOOP
        key := CASE target WHEN 'sessions' THEN ARRAY['session_token']
                           ELSE ARRAY['session_token', 'step_number'] END;
        SELECT array_agg(quote_ident(name)),
               array_agg(quote_ident(name)) FILTER (WHERE name <> ALL (key || initial))
        INTO all_columns, compared
        FROM bridge.columns_of(('bridge.' || target)::regclass);

        EXECUTE format(
            $function$
CREATE FUNCTION bridge.pull_%1$s(tokens text[]) RETURNS bigint
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $body$
    WITH m AS MATERIALIZED (
        SELECT * FROM bridge.%1$s WHERE session_token = ANY (tokens)
    ),
    inserted AS (
        INSERT INTO public.%1$s (%2$s)
        SELECT %2$s FROM m
        WHERE NOT EXISTS (SELECT FROM public.%1$s AS v WHERE (%5$s) = (%6$s))
        ON CONFLICT DO NOTHING
        RETURNING 1
    ),
    updated AS (
        UPDATE public.%1$s AS v SET (%3$s) = ROW(%4$s) FROM m
        WHERE (%5$s) = (%6$s) AND (%7$s) IS DISTINCT FROM (%4$s)
        RETURNING 1
    ),
    deleted AS (
        DELETE FROM public.%1$s AS v
        WHERE v.session_token = ANY (tokens) AND NOT EXISTS (SELECT FROM m WHERE (%5$s) = (%6$s))
        RETURNING v.session_token
    ),
    -- before the foreign keys of 0005 nothing else detaches the events of a deleted session
    detached AS (
        UPDATE public.events AS e SET session_token = NULL FROM deleted AS d
        WHERE %8$L AND e.session_token = d.session_token
    )
    SELECT (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated)
         + (SELECT count(*) FROM deleted)
$body$
            $function$,
            target,
            array_to_string(all_columns, ', '),
            array_to_string(compared, ', '),
            (SELECT string_agg('m.' || c, ', ' ORDER BY n) FROM unnest(compared) WITH ORDINALITY AS u(c, n)),
            (SELECT string_agg('v.' || c, ', ' ORDER BY n) FROM unnest(key) WITH ORDINALITY AS u(c, n)),
            (SELECT string_agg('m.' || c, ', ' ORDER BY n) FROM unnest(key) WITH ORDINALITY AS u(c, n)),
            (SELECT string_agg('v.' || c, ', ' ORDER BY n) FROM unnest(compared) WITH ORDINALITY AS u(c, n)),
            target = 'sessions');
        EXECUTE format('COMMENT ON FUNCTION bridge.pull_%1$s(text[]) IS ''Makes %1$s what bridge.%1$s says.''',
                       target);

        -- One row for each cell that differs; a missing or surplus row counts as its key.
        EXECUTE format(
            $function$
CREATE FUNCTION bridge.diff_%1$s(tokens text[]) RETURNS TABLE (column_name text, token text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT d.column_name, session_token
    FROM (SELECT true AS here, v.* FROM public.%1$s AS v WHERE v.session_token = ANY (tokens)) AS v
    FULL JOIN (SELECT true AS here, m.* FROM bridge.%1$s AS m WHERE m.session_token = ANY (tokens)) AS m
        USING (%2$s)
    CROSS JOIN LATERAL (
        VALUES ('(row missing)', v.here IS NULL), ('(row without legacy)', m.here IS NULL)
        UNION ALL
        SELECT c.name, c.differs FROM (VALUES %3$s) AS c(name, differs)
        WHERE v.here AND m.here
    ) AS d(column_name, differs)
    WHERE d.differs
      AND (v.here IS NULL OR m.here IS NULL OR (%4$s) IS DISTINCT FROM (%5$s))
      AND NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = session_token)
$body$
            $function$,
            target,
            array_to_string(key, ', '),
            (SELECT string_agg(format('(%L, v.%s IS DISTINCT FROM m.%s)', c, c, c), ', ' ORDER BY n)
             FROM unnest(compared) WITH ORDINALITY AS u(c, n)),
            (SELECT string_agg('v.' || c, ', ' ORDER BY n) FROM unnest(compared) WITH ORDINALITY AS u(c, n)),
            (SELECT string_agg('m.' || c, ', ' ORDER BY n) FROM unnest(compared) WITH ORDINALITY AS u(c, n)));
        EXECUTE format('COMMENT ON FUNCTION bridge.diff_%1$s(text[]) IS ''Where %1$s is not what bridge.%1$s says.''',
                       target);
    END LOOP;
END
$generate$;

CREATE FUNCTION bridge.pull(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed bigint;
BEGIN
    -- In a statement of its own, before the mapping is read: whoever wrote the row last has
    -- committed by then, and the mapping below sees what that transaction saw or later.
    PERFORM FROM public.sessions WHERE session_token = ANY (tokens) ORDER BY session_token
        FOR NO KEY UPDATE;
    changed := bridge.pull_students(tokens);
    changed := changed + bridge.pull_sessions(tokens);
    changed := changed + bridge.pull_step_progress(tokens);

    INSERT INTO public.events (student_id, session_token, event_type, event_data)
    SELECT v.student_id, n.token, 'merge_note', n.note
    FROM bridge.notes AS n
    JOIN public.sessions AS v ON v.session_token = n.token
    WHERE n.token = ANY (tokens)
      AND NOT EXISTS (
          SELECT FROM public.events AS e
          WHERE e.session_token = n.token AND e.event_type = 'merge_note' AND e.event_data = n.note);
    RETURN changed;
END
$$;
COMMENT ON FUNCTION bridge.pull(text[]) IS
    'Brings the unified schema in line with the legacy tables for these tokens; rows changed.';

-- Notes are removed in the statement's own snapshot, by id: a note of a transaction that is still
-- open is not seen, stays, and is carried over later.
CREATE FUNCTION bridge.take(ids bigint[], tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    changed bigint;
BEGIN
    changed := bridge.pull(tokens);
    DELETE FROM bridge.pending WHERE id = ANY (ids);
    RETURN changed;
END
$$;
COMMENT ON FUNCTION bridge.take(bigint[], text[]) IS 'Carries pending tokens over and strikes them out.';

-- Inside a caller's transaction (a rehearsal) nothing is committed; the work is the same.
CREATE PROCEDURE bridge.commit_chunk()
    LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('bridge.single_transaction', true) IS DISTINCT FROM 'on' THEN
        COMMIT;
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.commit_chunk() IS 'COMMIT, except in a rehearsal.';

-- Carries over what was noted, in batches with their own commits, until only a handful is left that
-- arrived meanwhile. No SET clause here and in the procedures below: it would forbid COMMIT.
CREATE PROCEDURE bridge.drain(batch integer DEFAULT 2000, leave integer DEFAULT 0)
    LANGUAGE plpgsql
AS $$
DECLARE
    ids bigint[];
    tokens text[];
BEGIN
    FOR round IN 1 .. 10000 LOOP
        SELECT array_agg(n.id), array_agg(DISTINCT n.token)
        INTO ids, tokens
        FROM (SELECT p.id, p.token FROM bridge.pending AS p ORDER BY p.id LIMIT batch) AS n;
        EXIT WHEN ids IS NULL;
        PERFORM bridge.take(ids, tokens);
        CALL bridge.commit_chunk();
        EXIT WHEN cardinality(ids) <= leave;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.drain(integer, integer) IS 'Carries over every pending token.'
