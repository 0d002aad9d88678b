-- Gives the legacy tables their names back.
CREATE FUNCTION pg_temp.undo_cut_over() RETURNS void
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
        RAISE EXCEPTION 'other views depend on the views with the legacy names: %', built_on
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

-- Refuses if the tables were dropped: by workshop drop-backups, which leaves a marker, or by hand.
DO $$
DECLARE
    gone record;
    missing text;
BEGIN
    IF to_regclass('public.legacy_tables_dropped') IS NOT NULL THEN
        SELECT d.dropped_at, d.dump INTO gone FROM public.legacy_tables_dropped AS d
        ORDER BY d.dump IS NULL, d.dropped_at DESC LIMIT 1;
        RAISE EXCEPTION 'the legacy tables were dropped on %: a downgrade cannot restore them',
            to_char(gone.dropped_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
            USING HINT = 'Nothing was changed. ' || coalesce(
                'They are in the dump ' || gone.dump || ': restore it into an empty database '
                '(workshop restore) and run the downgrade there.',
                'No dump of them was named when they were dropped.');
    END IF;
    IF to_regnamespace('bridge') IS NOT NULL THEN
        SELECT string_agg(s.legacy_name, ' and ' ORDER BY s.legacy_name) INTO missing
        FROM bridge.source AS s
        WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = s.relation);
        IF missing IS NOT NULL THEN
            RAISE EXCEPTION 'the table behind % was dropped by hand: a downgrade cannot restore it', missing
                USING HINT = 'Nothing was changed. Restore a backup into an empty database '
                             '(workshop restore) and run the downgrade there.';
        END IF;
        -- LEGACY TABLES: ACCESS EXCLUSIVE, for the rename
        PERFORM public.retry_locking('SELECT pg_temp.undo_cut_over()');
        DROP FUNCTION pg_temp.undo_cut_over();
        DROP FUNCTION bridge.cut_over();
    END IF;
END
$$
