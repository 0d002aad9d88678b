-- The way back: everything that was written to the unified schema goes to the legacy tables, or is kept
-- aside. From its first commit on applications cannot write to the unified schema any more, so that
-- nothing can be written to it and then dropped; the old tables stay in use throughout.

CREATE FUNCTION bridge.make_read_only() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['students', 'sessions', 'step_progress', 'events'] LOOP
        EXECUTE format(
            'CREATE TRIGGER read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.%I '
            'FOR EACH STATEMENT WHEN (current_setting(''bridge.pulling'', true) IS DISTINCT FROM ''on'') '
            'EXECUTE FUNCTION public.refuse_write()', name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.make_read_only() IS 'Applications cannot write to the unified schema any more.';

CREATE FUNCTION bridge.is_read_only() RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = to_regclass('public.sessions') AND tgname = 'read_only')
$$;
COMMENT ON FUNCTION bridge.is_read_only() IS 'A downgrade has begun, and nothing has taken it back.';

CREATE FUNCTION bridge.make_writable() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
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
COMMENT ON FUNCTION bridge.make_writable() IS 'Takes make_read_only() back.';

CREATE FUNCTION bridge.collect_second_addresses(after text, chunk integer) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tokens CONSTANT text[] := ARRAY(SELECT DISTINCT o.token FROM bridge.other_address AS o WHERE o.token > after
                                    ORDER BY o.token LIMIT chunk);
BEGIN
    INSERT INTO bridge.collected_source SELECT s.* FROM bridge.student_sources(tokens) AS s;
    RETURN tokens[cardinality(tokens)];
END
$$;
COMMENT ON FUNCTION bridge.collect_second_addresses(text, integer) IS
    'Collects what the next sessions with several addresses say about students; the last token, NULL at the end.';

-- Students: who they are, and what no legacy table has a column for. Of a student without a session no legacy
-- table tells anything. One statement, which reads the new tables in one go; nobody writes to them any more. What
-- the old tables say about second addresses has been collected before.
CREATE FUNCTION bridge.remember_students() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $$
    -- both worlds are in step: the sessions of the unified schema are those that the legacy tables tell of
    WITH known AS MATERIALIZED (
        SELECT
            st.student_email,
            st.student_id,
            st.student_name,
            st.created_at,
            st.github_username,
            least(v.first_token, c.first_token) AS first_token,
            o.here IS TRUE AS prior,
            o.student_id AS prior_id,
            o.student_name AS prior_name,
            o.created_at AS prior_created_at,
            o.github_username AS prior_username
        FROM public.students AS st
        LEFT JOIN (
            SELECT s.student_id, min(s.session_token) AS first_token FROM public.sessions AS s GROUP BY s.student_id
        ) AS v ON v.student_id = st.student_id
        LEFT JOIN (
            SELECT s.student_email, min(s.token) AS first_token FROM bridge.collected_source AS s GROUP BY s.student_email
        ) AS c ON c.student_email = st.student_email
        LEFT JOIN (
            SELECT DISTINCT ON (p.student_email) true AS here, p.*
            FROM bridge.prior_students AS p ORDER BY p.student_email, p.student_id
        ) AS o ON o.student_email = st.student_email
    ),
    wanted AS (
        SELECT k.student_email, 'student_id' AS column_name, to_jsonb(k.student_id) AS value, NULL::jsonb AS over
        FROM known AS k
        WHERE CASE
            WHEN k.first_token IS NULL AND NOT k.prior THEN true
            ELSE k.student_id <> coalesce(
                k.prior_id, bridge.student_uuid(k.student_email, coalesce(k.first_token, k.student_email)))
        END
        UNION ALL
        SELECT k.student_email, 'github_username', to_jsonb(k.github_username), to_jsonb(k.prior_username)
        FROM known AS k
        WHERE k.github_username IS DISTINCT FROM k.prior_username
        UNION ALL
        SELECT k.student_email, 'student_name', to_jsonb(k.student_name), to_jsonb(k.prior_name)
        FROM known AS k
        WHERE k.first_token IS NULL AND NOT (k.prior AND k.student_name IS NOT DISTINCT FROM k.prior_name)
        UNION ALL
        SELECT k.student_email, 'created_at', to_jsonb(k.created_at), to_jsonb(k.prior_created_at)
        FROM known AS k
        WHERE k.first_token IS NULL AND NOT (k.prior AND k.created_at IS NOT DISTINCT FROM k.prior_created_at)
    )
    INSERT INTO bridge.remainder AS r (table_name, key, column_name, value, over)
    SELECT 'students', w.student_email, w.column_name, w.value, w.over FROM wanted AS w
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE
        SET value = excluded.value, over = excluded.over
        WHERE (r.value, r.over) IS DISTINCT FROM (excluded.value, excluded.over)
$$;
COMMENT ON FUNCTION bridge.remember_students() IS 'Keeps what only the unified schema knows of students.';

-- Events of the application, and those of conflicts. What 0001 copied from an earlier attempt has the
-- first numbers, and is still there.
CREATE FUNCTION bridge.remember_events() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
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
    DELETE FROM bridge.remainder WHERE table_name = 'events';
    INSERT INTO bridge.remainder (table_name, key, column_name, value)
    SELECT 'events', e.id::text, '(row)', to_jsonb(e)
    FROM public.events AS e
    WHERE e.id > copied
      AND e.event_type <> 'legacy_merge'
      AND (e.event_type <> 'merge_note' OR e.event_data ? 'written_on_both_sides');
END
$$;
COMMENT ON FUNCTION bridge.remember_events() IS 'Keeps the events that no migration wrote.';

CREATE PROCEDURE bridge.retire(chunk integer DEFAULT 2000)
    LANGUAGE plpgsql
AS $$
DECLARE
    tokens text[];
    cursor_at text := '';
    known bridge.verified;
    range record;
    size integer := least(chunk, 50);
    looked timestamptz;
    unnoted bigint := 0;
    began CONSTANT timestamptz := clock_timestamp();
    merged CONSTANT boolean := (SELECT merged_at IS NOT NULL FROM bridge.state);
    last_token text;
BEGIN
    IF (SELECT retired_at IS NOT NULL FROM bridge.state) THEN
        RETURN;
    END IF;
    IF 4 > num_nonnulls(to_regclass('public.students'), to_regclass('public.sessions'),
                        to_regclass('public.step_progress'), to_regclass('public.events')) THEN
        RAISE NOTICE 'tables of the unified schema were dropped by hand: there is nothing to carry back';
        RETURN;
    END IF;
    IF NOT bridge.is_read_only() THEN
        PERFORM bridge.retry('SELECT bridge.make_read_only()');
        CALL bridge.commit_chunk();
    END IF;
    CALL bridge.refresh_adapters();
    -- what a new column holds is told by the old tables alone: nothing of it is a difference to carry back
    IF merged AND (SELECT adapters_changed FROM bridge.state) THEN
        CALL bridge.merge();
    END IF;

    -- what differs though nobody noted it: somebody wrote with the triggers off
    UPDATE bridge.state SET verify_since = began;
    last_token := bridge.last_token();
    CALL bridge.commit_chunk();
    WHILE merged AND cursor_at < last_token LOOP
        known := bridge.untouched(false, cursor_at, began);
        IF known.last IS NOT NULL THEN
            PERFORM bridge.look_at(known, began);
            cursor_at := known.last;
        ELSE
            looked := clock_timestamp();
            tokens := bridge.next_tokens(cursor_at, size, unified => true);
            EXIT WHEN tokens IS NULL;
            range := bridge.next_range(false, cursor_at, last_token, tokens);
            WITH n AS (
                INSERT INTO bridge.pending (side, token)
                SELECT DISTINCT CASE WHEN v.session_token IS NULL THEN 'legacy' ELSE 'unified' END, d.token
                FROM bridge.diff(range.keys) AS d
                LEFT JOIN public.sessions AS v ON v.session_token = d.token
                RETURNING 1
            )
            SELECT unnoted + count(*) INTO unnoted FROM n;
            cursor_at := range.last;
            size := bridge.next_size(size, chunk, cardinality(range.keys), clock_timestamp() - looked);
        END IF;
        CALL bridge.commit_chunk(durable => known.last IS NULL);
    END LOOP;
    IF unnoted > 0 THEN
        RAISE NOTICE '% sessions differ though no trigger noted it: the unified schema''s values are taken', unnoted;
    END IF;

    -- nobody adds to the notes of the unified side any more
    CALL bridge.drain(strict => false);
    IF EXISTS (SELECT FROM bridge.pending WHERE side = 'unified') THEN
        RAISE EXCEPTION 'sessions of the unified schema could not be carried back: they are locked, or were refused'
            USING ERRCODE = 'lock_not_available',
                  HINT = 'The unified schema is read-only, nothing was dropped. End the long transactions on '
                         'the workshop''s tables, change what a warning above names as refused, and run the '
                         'downgrade again; or upgrade again.';
    END IF;
    IF merged THEN
        CALL bridge.require_verified();
    END IF;

    TRUNCATE bridge.collected_source;
    cursor_at := '';
    LOOP
        cursor_at := bridge.collect_second_addresses(cursor_at, 500);
        EXIT WHEN cursor_at IS NULL;
        CALL bridge.commit_chunk();
    END LOOP;
    PERFORM bridge.remember_students();
    TRUNCATE bridge.collected_source;
    -- an earlier attempt goes on telling of students that were deleted
    INSERT INTO bridge.remainder (table_name, key, column_name, value)
    SELECT DISTINCT 'students', o.student_email, '(row)', to_jsonb(false)
    FROM bridge.prior_students AS o
    WHERE merged AND o.student_email IS NOT NULL
      AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = o.student_email)
    ON CONFLICT DO NOTHING;
    PERFORM bridge.remember_events();
    UPDATE bridge.state SET merged_at = NULL, retired_at = clock_timestamp();
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.retire(integer) IS
    'Carries back what was written to the unified schema, keeps the rest aside; resumable.'
