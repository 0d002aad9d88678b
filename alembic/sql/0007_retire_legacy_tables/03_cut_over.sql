DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.retry('SELECT bridge.cut_over()');
    END IF;
END
$$
