-- Readers go on, writers of the new tables wait until the commit.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.lock_new_tables('SHARE ROW EXCLUSIVE');
    END IF;
END
$$
