CREATE SCHEMA bridge;
COMMENT ON SCHEMA bridge IS 'Keeps the legacy tables and the unified schema in step.';

CREATE FUNCTION bridge.report(reported timestamptz, message text) RETURNS timestamptz
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF clock_timestamp() - reported < interval '2 seconds' THEN
        RETURN reported;
    END IF;
    RAISE NOTICE '%', message;
    RETURN clock_timestamp();
END
$$;
COMMENT ON FUNCTION bridge.report(timestamptz, text) IS 'Shows progress every two seconds; returns the time of the last message.';

-- PostgreSQL cancels an autovacuum only for a waiter of deadlock_timeout, and retry() waits for 50 ms. So this function
-- requests, and frees at once, a lock that conflicts with autovacuum but not with the application.
CREATE FUNCTION bridge.end_autovacuum() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = 0
AS $$
DECLARE
    name regclass;
BEGIN
    PERFORM set_config('lock_timeout', format('%sms', 500 + (
        1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::integer), true);
    FOR name IN
        SELECT c.oid FROM pg_class AS c
        WHERE c.oid IN (SELECT s.relation FROM bridge.source AS s)
           OR c.oid IN (SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n)
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', name);
            RAISE SQLSTATE 'WM001';  -- frees the lock
        EXCEPTION
            WHEN SQLSTATE 'WM001' OR lock_not_available OR deadlock_detected THEN
                CONTINUE;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.end_autovacuum() IS 'Ends an autovacuum of a table that is to be locked.';

-- Runs a statement that needs a strong lock. It waits 50 ms for each lock, because every new reader queues behind a
-- waiting strong lock. A failed attempt is a subtransaction: its abort frees its locks.
CREATE FUNCTION bridge.retry(statement text, attempts integer DEFAULT 200) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS $$
DECLARE
    reason text;
    tables CONSTANT regclass[] := ARRAY(
        SELECT s.relation FROM bridge.source AS s
        UNION
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n);
    said timestamptz := clock_timestamp();
BEGIN
    FOR attempt IN 1 .. attempts LOOP
        BEGIN
            EXECUTE statement;
            RETURN;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
                reason := SQLERRM;
        END;
        IF clock_timestamp() - said > interval '3 seconds' THEN
            said := clock_timestamp();
            RAISE NOTICE 'waiting for a lock, held by: %', public.lock_holders(tables);
        END IF;
        PERFORM bridge.end_autovacuum();
        PERFORM pg_sleep(0.05 + 0.25 * random());
    END LOOP;

    RAISE EXCEPTION 'gave up after % attempts: %', attempts, reason
        USING ERRCODE = 'lock_not_available',
              DETAIL = 'Held by: ' || public.lock_holders(tables),
              HINT = 'This step changed nothing. End the transaction that holds the lock, or wait; then run it again.';
END
$$;
COMMENT ON FUNCTION bridge.retry(text, integer) IS
    'Executes a statement with short lock waits, again and again, and names the holder at the end.';

-- Locks the unified tables together. Locked one by one, a writer that holds one and waits for the next would be a
-- deadlock, and PostgreSQL would abort one of the two.
CREATE FUNCTION bridge.lock_new_tables(mode text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    there CONSTANT text := (
        SELECT string_agg('public.' || n, ', ') FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n
        WHERE to_regclass('public.' || n) IS NOT NULL);  -- an operator may have dropped some
BEGIN
    PERFORM bridge.retry(format('LOCK TABLE %s IN %s MODE', there, mode)) WHERE there IS NOT NULL;
END
$$;
COMMENT ON FUNCTION bridge.lock_new_tables(text) IS 'Locks students, sessions, step_progress and events, with retries.';

-- Returns the first free name of the form <name>_backup_YYYYMMDD, _2, _3 ... in public.
CREATE FUNCTION bridge.free_backup_name(name text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT candidate
    FROM generate_series(1, 1000) AS n
    CROSS JOIN LATERAL (
        SELECT name || '_backup_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
            || CASE WHEN n > 1 THEN '_' || n ELSE '' END AS candidate
    ) AS c
    WHERE to_regclass(format('public.%I', candidate)) IS NULL
    ORDER BY n
    LIMIT 1
$$;
COMMENT ON FUNCTION bridge.free_backup_name(text) IS 'Returns a dated name that is free in public.'
