-- Carries over what was noted before 0005 switched to syncing at once.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        CALL bridge.drain(strict => false);
    END IF;
END
$$
