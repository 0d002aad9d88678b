DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: ACCESS EXCLUSIVE, for the rename
        PERFORM bridge.retry('SELECT bridge.cut_over()');
    END IF;
END
$$
