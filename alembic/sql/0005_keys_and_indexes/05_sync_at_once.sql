-- From the commit on the triggers carry over what they note. What is pending by then is left to 0006:
-- reading the legacy tables in here would hold a lock on them for as long as this revision takes.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        UPDATE bridge.state SET sync = true, one_by_one = true;
    END IF;
END
$$
