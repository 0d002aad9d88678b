DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        CALL bridge.bring_over();
    END IF;
END
$$
