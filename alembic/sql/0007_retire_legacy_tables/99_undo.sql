-- Not where the tables are gone: dropped by workshop drop-backups, which leaves a marker, or by hand.
DO $$
DECLARE
    gone record;
    missing text;
BEGIN
    IF to_regclass('public.legacy_tables_dropped') IS NOT NULL THEN
        SELECT d.dropped_at, d.dump INTO gone FROM public.legacy_tables_dropped AS d
        ORDER BY d.dump IS NULL, d.dropped_at DESC LIMIT 1;
        RAISE EXCEPTION 'the old tables were dropped on %, and nothing here can bring them back',
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
            RAISE EXCEPTION 'the table behind % was dropped by hand, and nothing here can bring it back', missing
                USING HINT = 'Nothing was changed. Restore a backup into an empty database '
                             '(workshop restore) and run the downgrade there.';
        END IF;
        -- LEGACY TABLES: ACCESS EXCLUSIVE, for the rename
        PERFORM public.retry_locking('SELECT bridge.undo_cut_over()');
        DROP FUNCTION bridge.undo_cut_over();
        DROP FUNCTION bridge.cut_over();
    END IF;
END
$$
