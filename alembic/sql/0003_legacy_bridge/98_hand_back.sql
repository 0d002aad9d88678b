-- Of rows that an application wrote to the unified schema before the merge; 0004 has done all of it else.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read and written in chunks
        CALL bridge.hand_back();
    END IF;
END
$$
