-- Constraints and triggers of all four tables go: nobody may be between two of them.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM bridge.lock_new_tables('ACCESS EXCLUSIVE');
    END IF;
END
$$
