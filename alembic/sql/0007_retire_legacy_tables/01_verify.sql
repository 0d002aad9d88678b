-- Outside of any long transaction, and before anything is locked.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        CALL bridge.refresh_adapters();
        IF (SELECT adapters_changed FROM bridge.state) THEN
            CALL bridge.merge();
        END IF;
        CALL bridge.drain(strict => false);
        CALL bridge.require_verified();
    END IF;
END
$$
