DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read in chunks; written where endpoints wrote to the unified tables
        CALL bridge.bring_over();
    END IF;
END $$
