DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: ACCESS EXCLUSIVE, for the rename
        PERFORM public.retry_locking('SELECT bridge.cut_over()');
    END IF;
END $$
