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

-- Students, from an address on: who they are, and what no legacy table has a column for. Of a student
-- without a session no legacy table tells anything.
CREATE FUNCTION bridge.remember_students(after text, chunk integer) RETURNS text
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
AS $$
DECLARE
    emails CONSTANT text[] := ARRAY(
        SELECT st.student_email FROM public.students AS st WHERE st.student_email > after
        ORDER BY st.student_email LIMIT chunk);
BEGIN
    -- both worlds are in step: the sessions of the unified schema are those that the legacy tables tell of
    WITH m AS MATERIALIZED (
        SELECT k.student_email, min(k.token) AS first_token
        FROM (
            SELECT st.student_email, v.session_token AS token
            FROM public.students AS st JOIN public.sessions AS v USING (student_id)
            WHERE st.student_email = ANY (emails)
            UNION ALL
            SELECT o.student_email, o.token
            FROM bridge.student_sources(ARRAY(
                SELECT a.token FROM bridge.other_address AS a WHERE a.student_email = ANY (emails))) AS o
            WHERE o.student_email = ANY (emails)
        ) AS k
        GROUP BY k.student_email
    ),
    wanted AS MATERIALIZED (
        SELECT st.student_email, w.column_name, w.value, w.over
        FROM public.students AS st
        LEFT JOIN m ON m.student_email = st.student_email
        LEFT JOIN LATERAL (
            SELECT true AS here, o.* FROM bridge.prior_students AS o
            WHERE o.student_email = st.student_email ORDER BY o.student_id LIMIT 1
        ) AS o ON true
        CROSS JOIN LATERAL (
            VALUES ('student_id', to_jsonb(st.student_id), NULL::jsonb,
                    CASE WHEN m.student_email IS NOT NULL
                         THEN st.student_id <> coalesce(o.student_id, bridge.student_uuid(m.student_email, m.first_token))
                         WHEN o.here
                         THEN st.student_id <> coalesce(o.student_id, bridge.student_uuid(st.student_email, st.student_email))
                         ELSE true END),
                   ('github_username', to_jsonb(st.github_username), to_jsonb(o.github_username),
                    st.github_username IS DISTINCT FROM o.github_username),
                   ('student_name', to_jsonb(st.student_name), to_jsonb(o.student_name),
                    m.student_email IS NULL AND (o.here IS NULL OR st.student_name IS DISTINCT FROM o.student_name)),
                   ('created_at', to_jsonb(st.created_at), to_jsonb(o.created_at),
                    m.student_email IS NULL AND (o.here IS NULL OR st.created_at IS DISTINCT FROM o.created_at))
        ) AS w(column_name, value, over, needed)
        WHERE st.student_email = ANY (emails)
          AND w.needed
    )
    INSERT INTO bridge.remainder AS r (table_name, key, column_name, value, over)
    SELECT 'students', w.student_email, w.column_name, w.value, w.over FROM wanted AS w
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE
        SET value = excluded.value, over = excluded.over
        WHERE (r.value, r.over) IS DISTINCT FROM (excluded.value, excluded.over);
    RETURN emails[cardinality(emails)];
END
$$;
COMMENT ON FUNCTION bridge.remember_students(text, integer) IS
    'Keeps what only the unified schema knows of the next students; the last address, NULL at the end.';

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
    size integer := least(chunk, 200);
    looked timestamptz;
    unnoted bigint := 0;
    merged CONSTANT boolean := (SELECT merged_at IS NOT NULL FROM bridge.state);
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
    WHILE merged LOOP
        known := bridge.untouched(false, cursor_at);
        IF known.last IS NOT NULL THEN
            cursor_at := known.last;
        ELSE
            looked := clock_timestamp();
            tokens := bridge.next_tokens(cursor_at, size, unified => true);
            EXIT WHEN tokens IS NULL;
            range := bridge.next_range(false, cursor_at, NULL, tokens);
            WITH n AS (
                INSERT INTO bridge.pending (side, token)
                SELECT DISTINCT CASE WHEN v.session_token IS NULL THEN 'legacy' ELSE 'unified' END, d.token
                FROM bridge.diff(range.keys) AS d
                LEFT JOIN public.sessions AS v ON v.session_token = d.token
                RETURNING 1
            )
            SELECT unnoted + count(*) INTO unnoted FROM n;
            cursor_at := range.last;
            size := bridge.next_size(size, chunk, clock_timestamp() - looked);
        END IF;
        CALL bridge.commit_chunk();
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

    cursor_at := '';
    LOOP
        cursor_at := bridge.remember_students(cursor_at, chunk);
        EXIT WHEN cursor_at IS NULL;
        CALL bridge.commit_chunk();
    END LOOP;
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
