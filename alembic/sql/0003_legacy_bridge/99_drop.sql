-- Refuses if a view outside of the bridge reads it: DROP SCHEMA would drop the view.
DO $$
DECLARE
    dependents text;
    created record;
    in_use boolean;
    leftovers text[] := '{}';
    leftover text;
    kept text;
BEGIN
    IF to_regnamespace('bridge') IS NULL THEN
        RETURN;  -- a fresh install has none
    END IF;
    SELECT string_agg(DISTINCT v.oid::regclass::text, ', ') INTO dependents
    FROM pg_depend AS d
    JOIN pg_rewrite AS r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_class AS v ON v.oid = r.ev_class
    JOIN pg_class AS used ON used.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
    WHERE used.relnamespace = 'bridge'::regnamespace AND v.relnamespace <> 'bridge'::regnamespace;
    IF dependents IS NOT NULL THEN
        RAISE EXCEPTION 'views outside of the bridge read it: %', dependents
            USING HINT = 'Nothing was changed. Drop them, then run the downgrade again.';
    END IF;

    -- LEGACY TABLES: ACCESS EXCLUSIVE, while triggers are dropped
    -- an upgrade that died in 0004 left the triggers of 0004
    PERFORM public.retry_locking(
        'SET LOCAL client_min_messages = warning; '
        'DROP FUNCTION bridge.capture_legacy, bridge.capture_sessions, bridge.capture_students CASCADE; '
        'SET LOCAL client_min_messages = notice; '
        'DROP FUNCTION IF EXISTS public.completion_rate(), public.follow_step_progress(), public.steps_follow_exercises() CASCADE');
    FOR created IN SELECT * FROM bridge.source WHERE created_here LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', created.relation) INTO in_use;
        IF in_use THEN
            RAISE NOTICE '% did not exist before, but the application has used it since: it stays',
                created.legacy_name;
        ELSE
            leftovers := leftovers || format('DROP TABLE %s', created.relation);
        END IF;
    END LOOP;

    -- another upgrade copies unchanged sessions of an earlier attempt again
    DELETE FROM bridge.override AS o USING bridge.override AS p
    WHERE o.table_name IN ('sessions', 'step_progress') AND p.table_name = 'prior sessions' AND p.key = o.key
      AND p.value ->> 'hash' = bridge.session_hash(p.key);
    DELETE FROM bridge.override AS o WHERE o.table_name LIKE 'prior %';
    -- not restored yet; a newer value of the same column wins
    DELETE FROM bridge.override AS k USING bridge.override AS o
    WHERE k.table_name = 'kept ' || o.table_name AND (k.key, k.column_name, k.step_number) = (o.key, o.column_name, o.step_number);
    UPDATE bridge.override AS o SET table_name = substr(o.table_name, 6) WHERE o.table_name LIKE 'kept %';
    IF EXISTS (SELECT FROM bridge.override) THEN
        kept := public.free_dated_name('bridge_remainder');
        EXECUTE format('ALTER TABLE bridge.override RENAME TO %I', kept);
        EXECUTE format('ALTER TABLE bridge.%I SET SCHEMA public', kept);
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC', kept);
        RAISE NOTICE 'values that the legacy tables cannot hold are in %: a later upgrade restores them', kept;
    END IF;

    -- without a notice for each object
    PERFORM set_config('client_min_messages', 'warning', true);
    DROP SCHEMA bridge CASCADE;
    DROP INDEX IF EXISTS public.bridge_token_of_workshop_students;
    DROP INDEX IF EXISTS public.bridge_token_of_student_configs;
    PERFORM set_config('client_min_messages', 'notice', true);
    FOREACH leftover IN ARRAY leftovers LOOP
        BEGIN
            EXECUTE leftover;
        EXCEPTION
            WHEN dependent_objects_still_exist THEN
                RAISE NOTICE 'it did not exist before, but other objects depend on it, and it stays: %', SQLERRM;
        END;
    END LOOP;
END
$$
