DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        UPDATE bridge.state SET sync = false;
    END IF;
END $$
