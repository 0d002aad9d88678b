DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read in chunks; written where endpoints wrote to the unified tables
        CALL pg_temp.backfill();
        CALL bridge.finish_merge();
    END IF;
END $$
