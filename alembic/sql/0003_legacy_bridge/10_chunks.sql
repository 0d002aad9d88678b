-- Read-only mode, ranges of tokens, and adapters after a change of columns.

CREATE FUNCTION bridge.is_read_only() RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_trigger AS t
                   WHERE t.tgrelid = to_regclass('public.sessions') AND t.tgname = 'read_only')
$$;
COMMENT ON FUNCTION bridge.is_read_only() IS 'True: a downgrade has made the unified tables read-only.';

-- What is not reached was not compared with the legacy tables yet.
CREATE FUNCTION bridge.reached(p_token text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(s.merged_at IS NOT NULL OR s.stage = 'end' OR s.stage = 'sessions' AND p_token <= s.cursor_at, false)
    FROM bridge.state AS s
$$;
COMMENT ON FUNCTION bridge.reached(text) IS 'True: the backfill has done the sessions up to this token.';

-- Read-only, so that the downgrade drops no write of an application.
CREATE FUNCTION bridge.set_read_only(wanted boolean) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text;
BEGIN
    IF wanted = bridge.is_read_only() THEN
        RETURN;
    END IF;
    FOREACH name IN ARRAY ARRAY['students', 'sessions', 'step_progress', 'events'] LOOP
        EXECUTE format(CASE WHEN wanted THEN
            'CREATE TRIGGER read_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.%I '
            'FOR EACH STATEMENT WHEN (current_setting(''bridge.applying'', true) IS DISTINCT FROM ''on'') '
            'EXECUTE FUNCTION public.refuse_write()'
            ELSE 'DROP TRIGGER read_only ON public.%I' END, name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.set_read_only(boolean) IS 'Refuses writes of applications to the unified tables, or allows them again.';

CREATE FUNCTION bridge.next_range(after text, size integer, OUT first_token text, OUT last_token text, OUT sessions bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(k.token), max(k.token), count(*)
    FROM (
        (SELECT t.token FROM bridge.legacy_progress AS t WHERE t.token > after ORDER BY t.token LIMIT size)
        UNION
        (SELECT t.token FROM bridge.legacy_config AS t WHERE t.token > after ORDER BY t.token LIMIT size)
        UNION
        (SELECT v.session_token FROM public.sessions AS v WHERE v.session_token > after ORDER BY v.session_token LIMIT size)
        UNION  -- not restored yet
        (SELECT DISTINCT o.key FROM bridge.override AS o
         WHERE o.key > after AND o.table_name IN ('kept sessions', 'kept step_progress') ORDER BY o.key LIMIT size)
        ORDER BY token LIMIT size
    ) AS k
$$;
COMMENT ON FUNCTION bridge.next_range(text, integer) IS 'First and last of the next tokens in key order, of both sides and of kept values; NULL at the end.';

-- A pass over all sessions ends at the token that was last when it began: an application may insert greater ones.
CREATE FUNCTION bridge.last_token() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest(
        (SELECT t.token FROM bridge.legacy_progress AS t ORDER BY t.token DESC LIMIT 1),
        (SELECT t.token FROM bridge.legacy_config AS t ORDER BY t.token DESC LIMIT 1),
        (SELECT max(v.session_token) FROM public.sessions AS v),
        (SELECT max(o.key) FROM bridge.override AS o WHERE o.table_name IN ('kept sessions', 'kept step_progress')))
$$;
COMMENT ON FUNCTION bridge.last_token() IS 'The last token in key order, of both sides and of kept values.';

-- A chunk takes some 45 ms, because the application's ALTER TABLE waits for it.
CREATE FUNCTION bridge.next_size(size integer, most integer, took interval) RETURNS integer
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN least(most, 2 * size, greatest(25, (size * 0.045 / greatest(extract(epoch FROM took), 0.001))::integer));
COMMENT ON FUNCTION bridge.next_size(integer, integer, interval) IS 'Sessions of the next chunk, from how long the last one took.';

CREATE FUNCTION bridge.session_hash(p_token text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
    SELECT md5(concat(to_jsonb(u) - 'student_name', (
        SELECT jsonb_agg(to_jsonb(sp) - ARRAY['student_id', 'created_at', 'updated_at'] ORDER BY sp.step_number)
        FROM public.step_progress AS sp WHERE sp.session_token = p_token)))
    FROM bridge.unified AS u WHERE u.session_token = p_token
$$;
COMMENT ON FUNCTION bridge.session_hash(text) IS 'Hash of a session of the unified tables, with its steps.';

-- The application adds columns while it runs. A view does not contain a column that was added later.
CREATE PROCEDURE bridge.refresh_adapters(compare boolean)
    LANGUAGE plpgsql
AS $$
DECLARE
    stale text[];
    built jsonb;
    checks jsonb;
BEGIN
    SELECT array_agg(s.legacy_name) INTO stale
    FROM bridge.source AS s
    WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation);
    IF stale IS NULL THEN
        RETURN;
    END IF;
    RAISE NOTICE 'columns or key changed since the adapters were built: %', array_to_string(stale, ', ');
    PERFORM public.retry_locking(format('SELECT bridge.build_adapter(%L)', n)) FROM unnest(stale) AS n;
    -- stored after the comparison: a repeated call compares again
    built := (SELECT jsonb_object_agg(s.legacy_name, s.signature) FROM bridge.source AS s);
    UPDATE bridge.source AS s SET signature = NULL WHERE compare AND s.legacy_name = ANY (stale);
    CALL bridge.commit_chunk();
    IF compare THEN
        CALL bridge.run_checks(checks, counts => false, log_as => 'legacy');
        UPDATE bridge.source AS s SET signature = built ->> s.legacy_name WHERE s.legacy_name = ANY (stale);
        CALL bridge.commit_chunk();
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.refresh_adapters(boolean) IS
    'Rebuilds the adapters of tables with changed columns or key; compare: also logs the sessions that differ then.'
