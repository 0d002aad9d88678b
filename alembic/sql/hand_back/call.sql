-- Applies what applications wrote to the unified tables, and keeps aside what the legacy tables cannot hold. The downgrade of
-- 0003 does it for rows that were written before any backfill.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read and written in chunks
        CALL pg_temp.hand_back();
    END IF;
END
$$
