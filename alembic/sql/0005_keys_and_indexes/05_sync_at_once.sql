-- From the commit on each transaction applies what it wrote. What is still logged by then is left to the drain of 0006:
-- reading the legacy tables here would hold a lock on them for as long as this revision takes.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        UPDATE bridge.state SET sync = true;
    END IF;
END $$
