-- For the way back: once a downgrade has carried over what was written here, nothing may be added.
CREATE FUNCTION refuse_write() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is read-only: the migration is being taken back', TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction',
              HINT = 'Write to workshop_students and student_configs, or upgrade again.';
END
$$;
COMMENT ON FUNCTION refuse_write() IS 'Trigger: refuses writes to a table that a downgrade will drop.'
