-- The cut-over. retry_locking() runs it: locks first, then only quick statements. The application waits for milliseconds.
DO $do$
BEGIN
    IF to_regnamespace('bridge') IS NULL THEN
        RETURN;
    END IF;

    CREATE FUNCTION bridge.cut_over() RETURNS void
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        src record;
        backup text;
        last_written text[];
    BEGIN
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', src.relation);
            -- readers of the first table wait for the second lock as well
            PERFORM set_config('lock_timeout', '20ms', true);
        END LOOP;
        -- no application can write now: these are the last changes
        last_written := ARRAY(SELECT DISTINCT c.token FROM bridge.change_log AS c);
        IF cardinality(last_written) > 40 THEN  -- the application would wait too long
            RAISE EXCEPTION '% sessions were written a moment ago', cardinality(last_written) USING ERRCODE = 'lock_not_available';
        ELSIF last_written <> '{}' THEN
            PERFORM set_config('bridge.single_transaction', 'on', true);
            CALL bridge.drain(rounds => 3);
            IF EXISTS (SELECT FROM unnest(last_written) AS t CROSS JOIN LATERAL bridge.differences(t, t)) THEN
                RAISE EXCEPTION 'verification failed for the last writes'
                    USING HINT = 'Nothing was renamed. SELECT * FROM bridge.verify() shows what differs.';
            END IF;
        END IF;
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            backup := public.free_dated_name(src.legacy_name);
            EXECUTE format('ALTER TABLE %s RENAME TO %I', src.relation, backup);
            -- security_invoker: the grants and row security of the writer apply. It needs a grant on every column of the
            -- table. So where columns have grants of their own, and there is no row security, the view's grants apply.
            EXECUTE format('CREATE VIEW public.%I WITH (security_invoker = %s) AS SELECT * FROM public.%I',
                           src.legacy_name,
                           (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = src.relation)
                           OR NOT EXISTS (SELECT FROM pg_attribute AS a
                                          WHERE a.attrelid = src.relation AND a.attacl IS NOT NULL),
                           backup);
            EXECUTE format('COMMENT ON VIEW public.%I IS %L', src.legacy_name,
                           'Replaces the table of this name, now ' || backup
                           || '. Triggers apply its writes to the unified tables.');
            PERFORM bridge.copy_access(src.relation, to_regclass(format('public.%I', src.legacy_name)));
            RAISE NOTICE '% is now %, and a view has its name', src.legacy_name, backup;
        END LOOP;
    END
    $$;
    COMMENT ON FUNCTION bridge.cut_over() IS 'Renames the legacy tables and puts views in their place.';
END
$do$
