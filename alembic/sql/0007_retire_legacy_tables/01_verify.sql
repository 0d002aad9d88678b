-- In short transactions, before any lock.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read in chunks; written where endpoints wrote to the unified tables
        CALL bridge.refresh_adapters(compare => true);
        CALL bridge.drain(strict => false);
        CALL bridge.require_verified(counts => false, every_value => true);
        CALL bridge.drain(strict => false);  -- what was written meanwhile: the cut-over applies only some sessions
    END IF;
END $$
