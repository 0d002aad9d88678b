-- In a separate file, because it commits: a query of several statements cannot.
DO $$ BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        -- LEGACY TABLES: logged sessions are read, and written where endpoints wrote
        CALL bridge.drain(strict => false);
    END IF;
    PERFORM pg_temp.refuse_orphans();
END $$
