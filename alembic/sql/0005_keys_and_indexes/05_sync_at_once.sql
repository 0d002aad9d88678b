-- From this commit on each transaction applies its own writes. The drain of 0006 applies what is logged by then: here it
-- would lock the legacy tables until this revision ends.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN UPDATE bridge.state SET sync = true; END IF;
END $$
