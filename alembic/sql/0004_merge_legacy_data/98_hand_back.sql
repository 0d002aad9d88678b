-- Carries back what was written to the unified schema, and keeps aside what the old tables cannot say.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: read and written in chunks
        CALL bridge.hand_back();
    END IF;
END
$$
