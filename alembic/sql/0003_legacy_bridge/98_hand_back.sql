-- For rows that an application wrote before the backfill. After a backfill, the downgrade of 0004 has done it.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read and written in chunks
        CALL pg_temp.hand_back();
    END IF;
END
$$
