-- The four tables at once, before anything is done to one of them: a writer that has one and waits for the next would
-- never let go, and one of the two would be chosen to die. Nobody waits for this longer than 50 ms at a time.
DO $$
DECLARE
    tables CONSTANT regclass[] := ARRAY(
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n
        WHERE to_regclass('public.' || n) IS NOT NULL);  -- somebody may have dropped some by hand
    there CONSTANT text := (SELECT string_agg(t::text, ', ') FROM unnest(tables) AS t);
    said timestamptz := clock_timestamp();
    before CONSTANT text := current_setting('lock_timeout');
    longer CONSTANT text := format('%sms', 500 + (
        1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::integer);
BEGIN
    FOR attempt IN 1 .. 200 LOOP
        EXIT WHEN there IS NULL;
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', there);
            EXIT;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                IF attempt = 200 THEN
                    RAISE EXCEPTION 'gave up after 200 attempts to lock %', there
                        USING ERRCODE = 'lock_not_available',
                              DETAIL = 'Held by: ' || public.lock_holders(tables),
                              HINT = 'This step changed nothing. Run it again at a quieter moment, or end the '
                                     'transactions that hold the locks.';
                END IF;
        END;
        IF clock_timestamp() - said > interval '3 seconds' THEN
            said := clock_timestamp();
            RAISE NOTICE 'waiting for a lock, held by: %', public.lock_holders(tables);
        END IF;
        -- an autovacuum gives way to whoever has waited for it that long; applications do not wait for this
        BEGIN
            PERFORM set_config('lock_timeout', longer, true);
            EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', there);
            RAISE SQLSTATE 'WM001';  -- lets go of it
        EXCEPTION
            WHEN SQLSTATE 'WM001' OR lock_not_available OR deadlock_detected THEN
                NULL;  -- whoever holds it then, the next attempt waits for
        END;
        PERFORM pg_sleep(0.05 + 0.25 * random());
    END LOOP;
    PERFORM set_config('lock_timeout', before, true);
END
$$
