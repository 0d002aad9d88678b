-- Applies what applications wrote to the unified tables, and keeps aside what the legacy tables cannot hold. In 0003: what
-- they wrote before the backfill; after one, the downgrade of 0004 has done it.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read and written in chunks
        CALL pg_temp.hand_back();
    END IF;
END
$$
