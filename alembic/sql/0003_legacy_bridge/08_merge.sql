-- The merge: pull everything, in key order, chunk by chunk with a commit of its own for each.
--
-- Short transactions, because the old application runs ALTER TABLE on every save: behind one long
-- reader it would queue, and every later reader behind it. The cursor is stored with the data, so
-- that a run that was killed goes on where it was.
--
-- What the application writes meanwhile is safe: the triggers of this revision note every token that
-- a statement touched, in that statement's own transaction. A chunk may read a row before or after
-- such a write; the note outlives both, and drain() carries the token over again. A session that somebody
-- is writing in the unified schema is left to drain() as well.

CREATE FUNCTION bridge.next_tokens(after text, chunk integer, unified boolean DEFAULT false)
    RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(n.token ORDER BY n.token)
    FROM (
        (SELECT token FROM bridge.legacy_progress WHERE token > after ORDER BY token LIMIT chunk)
        UNION
        (SELECT token FROM bridge.legacy_config WHERE token > after ORDER BY token LIMIT chunk)
        UNION
        (SELECT token FROM bridge.legacy_prior WHERE token > after ORDER BY token LIMIT chunk)
        UNION
        (SELECT key FROM bridge.remainder
         WHERE table_name = 'sessions' AND column_name = '(row)' AND value = 'true' AND key > after
         ORDER BY key LIMIT chunk)
        UNION
        (SELECT session_token FROM public.sessions WHERE unified AND session_token > after
         ORDER BY session_token LIMIT chunk)
        ORDER BY token
        LIMIT chunk
    ) AS n
$$;
COMMENT ON FUNCTION bridge.next_tokens(text, integer, boolean) IS
    'The next tokens in key order; unified: those of the unified schema as well.';

CREATE FUNCTION bridge.merge_chunk(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '200ms'
AS $$
DECLARE
    free text[];
    noted text[];
    changed bigint;
BEGIN
    free := bridge.free(tokens);
    noted := ARRAY(SELECT DISTINCT p.token FROM bridge.pending AS p
                   WHERE p.side = 'unified' AND p.token = ANY (free));
    changed := bridge.pull(ARRAY(SELECT t FROM unnest(free) AS t WHERE t <> ALL (noted)));
    IF noted <> '{}' THEN
        changed := changed + bridge.take(noted);
    END IF;
    INSERT INTO bridge.pending (side, token) SELECT 'legacy', t FROM unnest(tokens) AS t WHERE t <> ALL (free);
    RETURN changed;
EXCEPTION
    WHEN unique_violation OR lock_not_available OR deadlock_detected THEN
        INSERT INTO bridge.pending (side, token) SELECT 'legacy', t FROM unnest(tokens) AS t;
        RETURN 0;
END
$$;
COMMENT ON FUNCTION bridge.merge_chunk(text[]) IS 'Pulls some sessions; notes those that are busy.';

-- Students without a session: of an earlier attempt, and of the unified schema before a downgrade.
CREATE FUNCTION bridge.adopt_students() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.students (student_id, student_email, student_name, created_at)
    SELECT coalesce((min(r.value #>> '{}'))::uuid, bridge.student_uuid(o.student_email, o.student_email)),
           o.student_email, min(o.student_name), min(o.created_at)
    FROM bridge.prior_students AS o
    LEFT JOIN bridge.remainder AS r
      ON r.table_name = 'students' AND r.key = o.student_email AND r.column_name = 'student_id'
    WHERE o.student_email IS NOT NULL
    GROUP BY o.student_email
    ON CONFLICT DO NOTHING;
    INSERT INTO public.students (student_id, student_email)
    SELECT (r.value #>> '{}')::uuid, r.key FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.column_name = 'student_id'
    ON CONFLICT DO NOTHING;
    DELETE FROM public.students AS st
    USING bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.key = st.student_email AND r.column_name = '(row)'
      AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.student_id = st.student_id);

    UPDATE public.students AS st SET (student_name, created_at) = (
        SELECT p.student_name, p.created_at
        FROM (SELECT jsonb_object_agg(r.column_name, r.value) AS said FROM bridge.remainder AS r
              WHERE r.table_name = 'students' AND r.key = st.student_email) AS k
        CROSS JOIN LATERAL jsonb_populate_record(st, k.said) AS p)
    WHERE st.student_email IN (SELECT r.key FROM bridge.remainder AS r
                               WHERE r.table_name = 'students' AND r.column_name IN ('student_name', 'created_at'))
      AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.student_id = st.student_id);
    UPDATE public.students AS st SET github_username = r.value #>> '{}'
    FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.key = st.student_email AND r.column_name = 'github_username'
      AND st.github_username IS DISTINCT FROM r.value #>> '{}';
    -- the unified schema's own from here on
    DELETE FROM bridge.remainder
    WHERE table_name = 'students' AND column_name IN ('student_id', 'github_username');
END
$$;
COMMENT ON FUNCTION bridge.adopt_students() IS 'Students that no session tells of.';

-- Columns that are the unified schema's own come with a new row; a row that 0001 copied was there before.
CREATE FUNCTION bridge.adopt_own_columns() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own CONSTANT text[] := ARRAY['expires_at', 'is_active', 'updated_at'];
    tokens CONSTANT text[] := ARRAY(
        SELECT DISTINCT r.key FROM bridge.remainder AS r
        WHERE r.table_name = 'sessions' AND r.column_name = ANY (own));
BEGIN
    UPDATE public.sessions AS v
    SET expires_at = m.expires_at, is_active = m.is_active, updated_at = m.updated_at
    FROM bridge.sessions AS m
    WHERE m.session_token = ANY (tokens) AND v.session_token = m.session_token
      AND (v.expires_at, v.is_active, v.updated_at)
          IS DISTINCT FROM (m.expires_at, m.is_active, m.updated_at);
END
$$;
COMMENT ON FUNCTION bridge.adopt_own_columns() IS
    'expires_at, is_active and updated_at as they were before a downgrade.';

CREATE FUNCTION bridge.restore_addresses() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    UPDATE public.students AS st SET student_email = r.key
    FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.column_name = 'student_id'
      AND st.student_id = (r.value #>> '{}')::uuid AND st.student_email <> r.key
      AND NOT EXISTS (SELECT FROM public.students AS o WHERE o.student_email = r.key);
    PERFORM set_config('bridge.pulling', '', true);
END
$$;
COMMENT ON FUNCTION bridge.restore_addresses() IS
    'Students of an earlier attempt whose address was changed before a downgrade.';

-- With their numbers, before the merge writes events of its own.
CREATE FUNCTION bridge.restore_events() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    -- after a downgrade to 0003 they are still there; a number may have been given to another event since
    WITH kept AS (
        SELECT e.* FROM bridge.remainder AS r
        CROSS JOIN LATERAL jsonb_populate_record(NULL::public.events, r.value) AS e
        WHERE r.table_name = 'events'
    ),
    missing AS (
        SELECT k.*, EXISTS (SELECT FROM public.events AS e WHERE e.id = k.id) AS taken
        FROM kept AS k
        WHERE NOT EXISTS (SELECT FROM public.events AS e
                          WHERE e.id = k.id AND (e.event_type, e.created_at) = (k.event_type, k.created_at))
    ),
    renumbered AS (
        INSERT INTO public.events (student_id, session_token, event_type, event_data, created_at)
        SELECT m.student_id, m.session_token, m.event_type, m.event_data, m.created_at
        FROM missing AS m WHERE m.taken
    )
    INSERT INTO public.events (id, student_id, session_token, event_type, event_data, created_at)
    SELECT m.id, m.student_id, m.session_token, m.event_type, m.event_data, m.created_at
    FROM missing AS m WHERE NOT m.taken;
    IF EXISTS (SELECT FROM bridge.remainder WHERE table_name = 'events') THEN
        PERFORM setval(pg_get_serial_sequence('public.events', 'id'), (SELECT max(id) FROM public.events));
        DELETE FROM bridge.remainder WHERE table_name = 'events';
    END IF;
    PERFORM set_config('bridge.pulling', '', true);
END
$$;
COMMENT ON FUNCTION bridge.restore_events() IS 'Events that the application wrote before a downgrade.';

-- Chunks by time: as many sessions as take some 80 ms, which is how long the application's ALTER TABLE
-- may have to wait for one.
CREATE FUNCTION bridge.next_size(size integer, most integer, took interval) RETURNS integer
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
RETURN least(most, 2 * size, greatest(20, (size * 0.08 / greatest(extract(epoch FROM took), 0.001))::integer));
COMMENT ON FUNCTION bridge.next_size(integer, integer, interval) IS 'Sessions of the next chunk.';

CREATE PROCEDURE bridge.merge(chunk integer DEFAULT 2000)
    LANGUAGE plpgsql
AS $$
DECLARE
    tokens text[];
    done bigint := 0;
    changed bigint := 0;
    began CONSTANT timestamptz := clock_timestamp();
    looked timestamptz := began;
    reported timestamptz := began;
    size integer := least(chunk, 200);
    rate numeric;
    total CONSTANT bigint := (
        SELECT sum(greatest(c.reltuples, 0))
        FROM bridge.source AS s JOIN pg_class AS c ON c.oid = s.relation);
BEGIN
    IF (SELECT merged_at FROM bridge.state) IS NULL THEN
        PERFORM bridge.restore_addresses();
        PERFORM bridge.restore_events();
    END IF;
    LOOP
        tokens := bridge.next_tokens((SELECT merge_cursor FROM bridge.state), size);
        EXIT WHEN tokens IS NULL;
        changed := changed + bridge.merge_chunk(tokens);
        UPDATE bridge.state SET merge_cursor = tokens[cardinality(tokens)];
        CALL bridge.commit_chunk();

        done := done + cardinality(tokens);
        size := bridge.next_size(size, chunk, clock_timestamp() - looked);
        looked := clock_timestamp();
        IF looked - reported > interval '2 seconds' THEN
            reported := looked;
            rate := done / extract(epoch FROM looked - began);
            RAISE NOTICE 'merged % sessions of at most % (legacy rows), % a second, less than % s left',
                done, total, round(rate), ceil(greatest(total - done, 0) / rate);
        END IF;
    END LOOP;

    PERFORM set_config('bridge.pulling', 'on', true);
    IF (SELECT merged_at FROM bridge.state) IS NULL THEN
        PERFORM bridge.adopt_students();
        PERFORM bridge.adopt_rest();
        PERFORM bridge.adopt_own_columns();
    END IF;

    -- events of an earlier attempt may be about what was deleted before
    UPDATE public.events AS e SET session_token = NULL
    WHERE NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = e.session_token)
      AND e.session_token IS NOT NULL;
    UPDATE public.events AS e SET student_id = NULL
    WHERE NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_id = e.student_id)
      AND e.student_id IS NOT NULL;

    INSERT INTO public.events (event_type, event_data)
    SELECT 'legacy_merge', jsonb_build_object(
        'students', (SELECT count(*) FROM public.students),
        'sessions', (SELECT count(*) FROM public.sessions),
        'step_progress', (SELECT count(*) FROM public.step_progress),
        'merge_notes', (SELECT count(*) FROM public.events WHERE event_type = 'merge_note'));
    PERFORM set_config('bridge.pulling', '', true);
    UPDATE bridge.state SET merge_cursor = '', merged_at = clock_timestamp();
    CALL bridge.commit_chunk();
    RAISE NOTICE 'merged % sessions, % rows written', done, changed;
END
$$;
COMMENT ON PROCEDURE bridge.merge(integer) IS 'Pulls every session, chunk by chunk; resumable.';

-- The old application adds columns while it runs, and a view does not see a column that came later.
CREATE PROCEDURE bridge.refresh_adapters()
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
    PERFORM bridge.retry(format('SELECT bridge.build(%L)', name)) FROM unnest(stale) AS name;
    UPDATE bridge.state SET merge_cursor = '';
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.refresh_adapters() IS
    'Rebuilds the adapters of tables whose columns changed; the next merge then reads everything.'
