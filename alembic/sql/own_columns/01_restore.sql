-- Restores the columns that a downgrade kept in own_columns_backup_YYYYMMDD, with their values. Triggers are disabled
-- meanwhile, as in a restore: updated_at stays, and nothing is logged.
DO $$
DECLARE
    kept text;
    own record;
    found bigint;
    others text;
BEGIN
    FOR kept IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^own_columns_backup_\d{8}(_\d+)?$'
        ORDER BY c.oid
    LOOP
        FOR own IN EXECUTE format('SELECT table_name, name, definition FROM public.%I '
                                  'WHERE definition ~ ''^ALTER TABLE \S+ ADD COLUMN '' ORDER BY table_name, name', kept)
        LOOP
            BEGIN
                EXECUTE own.definition;
            EXCEPTION
                WHEN syntax_error_or_access_rule_violation OR feature_not_supported OR data_exception THEN
                    RAISE WARNING 'column %.% could not be added again (%); its values stay in %',
                        own.table_name, own.name, SQLERRM, kept;
            END;
        END LOOP;
        FOR own IN EXECUTE format($query$
            SELECT DISTINCT o.table_name, o.name, format_type(a.atttypid, a.atttypmod) AS type, k.key, g.off, g.on_again
            FROM public.%I AS o
            JOIN (VALUES ('students', 't.student_id::text'), ('sessions', 't.session_token'),
                         ('step_progress', 't.session_token || '' '' || t.step_number'), ('events', 't.id::text'))
              AS k(name, key) ON k.name = o.table_name
            JOIN pg_attribute AS a ON a.attrelid = to_regclass('public.' || o.table_name) AND a.attname = o.name
                                  AND NOT a.attisdropped AND a.attgenerated = ''
            CROSS JOIN LATERAL (
                SELECT 'ALTER TABLE public.' || k.name || string_agg(' DISABLE TRIGGER ' || quote_ident(g.tgname), ',') AS off,
                       'ALTER TABLE public.' || k.name || string_agg(' ENABLE TRIGGER ' || quote_ident(g.tgname), ',') AS on_again
                FROM pg_trigger AS g WHERE g.tgrelid = a.attrelid AND NOT g.tgisinternal AND g.tgenabled = 'O'
            ) AS g
            WHERE o.key IS NOT NULL ORDER BY 1, 2 $query$, kept)
        LOOP
            BEGIN
                EXECUTE coalesce(own.off, 'SELECT');
                EXECUTE format(
                    'WITH taken AS (DELETE FROM public.%1$I AS o USING public.%2$I AS t '
                    'WHERE o.table_name = %2$L AND o.name = %3$L AND o.key = %4$s RETURNING o.key, o.value) '
                    'UPDATE public.%2$I AS t SET %3$I = k.value::%5$s FROM taken AS k WHERE k.key = %4$s',
                    kept, own.table_name, own.name, own.key, own.type);
                GET DIAGNOSTICS found = ROW_COUNT;
                EXECUTE coalesce(own.on_again, 'SELECT');
                RAISE NOTICE '% values of %.% were restored from %', found, own.table_name, own.name, kept;
            EXCEPTION
                WHEN syntax_error_or_access_rule_violation OR data_exception OR integrity_constraint_violation THEN
                    RAISE WARNING 'values of %.% do not fit the column (SQLSTATE %); they stay in %',
                        own.table_name, own.name, SQLSTATE, kept;
            END;
        END LOOP;
        EXECUTE format($query$
            DELETE FROM public.%1$I AS o
            WHERE o.key IS NULL AND o.definition ~ '^ALTER TABLE \S+ ADD COLUMN '
              AND NOT EXISTS (SELECT FROM public.%1$I AS v
                              WHERE (v.table_name, v.name) = (o.table_name, o.name) AND v.key IS NOT NULL)
              AND EXISTS (SELECT FROM pg_attribute AS a
                          WHERE a.attrelid = to_regclass('public.' || o.table_name) AND a.attname = o.name AND NOT a.attisdropped)
            $query$, kept);
        EXECUTE format($query$
            SELECT string_agg(DISTINCT CASE WHEN o.name ~ ' ' THEN o.name || ' of ' || o.table_name
                                            ELSE o.table_name || '.' || o.name END, ', ') FROM public.%I AS o
            $query$, kept) INTO others;
        IF others IS NULL THEN
            EXECUTE format('DROP TABLE public.%I', kept);
        ELSE
            RAISE NOTICE '% still holds definitions or values of %: add what you need, then drop it', kept, others;
        END IF;
    END LOOP;
END
$$
