-- A downgrade of 0004 that was refused or killed has left the unified tables read-only.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        IF bridge.is_read_only() THEN
            -- LEGACY TABLES: as in 0004, if a downgrade stopped half-way
            CALL bridge.merge();
            CALL bridge.finish_merge();
        END IF;
    END IF;
END $$
