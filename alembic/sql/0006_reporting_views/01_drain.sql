-- Applies the writes that were logged before 0005 switched to syncing at once.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: logged sessions are read, and written where endpoints wrote
        CALL bridge.drain(strict => false);
        CALL bridge.drain(strict => false);  -- the writes of the meantime: far fewer
    END IF;
END $$
