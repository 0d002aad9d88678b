-- The cut-over and its reverse. Both run inside retry_locking(): locks first, then nothing that takes
-- time, so that the application waits for milliseconds.
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
        before CONSTANT text := coalesce(current_setting('bridge.single_transaction', true), '');
    BEGIN
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', src.relation);
            -- readers of the first one wait for the second one as well
            PERFORM set_config('lock_timeout', '20ms', true);
        END LOOP;
        -- nobody can write now: what is logged is the last of it
        last_written := ARRAY(SELECT DISTINCT c.token FROM bridge.change_log AS c);
        IF last_written <> '{}' THEN
            PERFORM set_config('bridge.single_transaction', 'on', true);
            CALL bridge.drain(rounds => 3);
            PERFORM set_config('bridge.single_transaction', before, true);
            IF EXISTS (SELECT FROM unnest(last_written) AS t CROSS JOIN LATERAL bridge.differences(t, t)) THEN
                RAISE EXCEPTION 'verification failed for what was written last'
                    USING HINT = 'Nothing was renamed. SELECT * FROM bridge.verify() shows what differs.';
            END IF;
        END IF;
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            backup := public.free_dated_name(src.legacy_name);
            EXECUTE format('ALTER TABLE %s RENAME TO %I', src.relation, backup);
            -- security_invoker: the writer's own grants and row security go on to apply. It asks for every column
            -- of the table, though: grants of single columns would no longer do. Where there are some, and no row
            -- security, those of the view stand in for the table's.
            EXECUTE format('CREATE VIEW public.%I WITH (security_invoker = %s) AS SELECT * FROM public.%I',
                           src.legacy_name,
                           (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = src.relation)
                           OR NOT EXISTS (SELECT FROM pg_attribute AS a
                                          WHERE a.attrelid = src.relation AND a.attacl IS NOT NULL),
                           backup);
            EXECUTE format('COMMENT ON VIEW public.%I IS %L', src.legacy_name,
                           'Stands in for the table of this name, now ' || backup
                           || '; what is written here reaches the unified schema.');
            PERFORM bridge.copy_access(src.relation, to_regclass(format('public.%I', src.legacy_name)), true);
            RAISE NOTICE '% is now %, and a view under its old name', src.legacy_name, backup;
        END LOOP;
    END
    $$;
    COMMENT ON FUNCTION bridge.cut_over() IS 'Renames the legacy tables and puts views in their place.';

    CREATE FUNCTION bridge.undo_cut_over() RETURNS void
        LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        src record;
        built_on text;
    BEGIN
        SELECT string_agg(DISTINCT format('%s (on %s)', v.oid::regclass, s.legacy_name), ', ')
        INTO built_on
        FROM bridge.source AS s
        JOIN pg_depend AS d ON d.refobjid = to_regclass(format('public.%I', s.legacy_name))
                           AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite AS r ON r.oid = d.objid
        JOIN pg_class AS v ON v.oid = r.ev_class AND v.oid <> d.refobjid;
        IF built_on IS NOT NULL THEN
            RAISE EXCEPTION 'views were built on the stand-in views: %', built_on
                USING HINT = 'Nothing was changed. Drop them, run the downgrade, create them again.';
        END IF;
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', src.relation);
            PERFORM set_config('lock_timeout', '20ms', true);
        END LOOP;
        FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
            EXECUTE format('DROP VIEW public.%I', src.legacy_name);
            EXECUTE format('ALTER TABLE %s RENAME TO %I', src.relation, src.legacy_name);
        END LOOP;
    END
    $$;
    COMMENT ON FUNCTION bridge.undo_cut_over() IS 'Drops the views and gives the tables their names back.';
END
$do$
