-- Adds the columns again that a downgrade to base kept aside; 02_values.sql brings their values.
DO $$
DECLARE
    kept text;
    own record;
BEGIN
    FOR kept IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^own_columns_backup_\d{8}(_\d+)?$'
        ORDER BY c.oid
    LOOP
        FOR own IN EXECUTE format(
            'SELECT table_name, name, definition FROM public.%I WHERE definition ~ ''^ALTER TABLE \S+ ADD COLUMN '' '
            'ORDER BY table_name, name', kept)
        LOOP
            BEGIN
                EXECUTE own.definition;
            EXCEPTION
                WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception THEN
                    RAISE WARNING 'column %.% could not be added again (%); its values stay in %',
                        own.table_name, own.name, SQLERRM, kept;
            END;
        END LOOP;
    END LOOP;
END
$$
