-- Values of columns that a downgrade kept aside, for the columns that are there again. Without the triggers, as a restore
-- would: updated_at stays, and the bridge has nothing to carry over.
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
        FOR own IN EXECUTE format(
            'SELECT DISTINCT o.table_name, o.name, format_type(a.atttypid, a.atttypmod) AS type, k.key, '
            '    ARRAY(SELECT quote_ident(g.tgname) FROM pg_trigger AS g '
            '          WHERE g.tgrelid = a.attrelid AND NOT g.tgisinternal AND g.tgenabled = ''O'') AS triggers '
            'FROM public.%I AS o '
            'JOIN (VALUES (''students'', ''t.student_id::text''), (''sessions'', ''t.session_token''), '
            '             (''step_progress'', ''t.session_token || '''' '''' || t.step_number''), (''events'', ''t.id::text'')) '
            '  AS k(name, key) ON k.name = o.table_name '
            'JOIN pg_attribute AS a ON a.attrelid = to_regclass(''public.'' || o.table_name) AND a.attname = o.name '
            '                      AND NOT a.attisdropped AND a.attgenerated = '''' '
            'WHERE o.key IS NOT NULL ORDER BY 1, 2', kept)
        LOOP
            BEGIN
                IF own.triggers <> '{}' THEN
                    EXECUTE format('ALTER TABLE public.%I DISABLE TRIGGER %s', own.table_name,
                                   array_to_string(own.triggers, ', DISABLE TRIGGER '));
                END IF;
                EXECUTE format(
                    'WITH taken AS (DELETE FROM public.%1$I AS o USING public.%2$I AS t '
                    'WHERE o.table_name = %2$L AND o.name = %3$L AND o.key = %4$s RETURNING o.key, o.value) '
                    'UPDATE public.%2$I AS t SET %3$I = k.value::%5$s FROM taken AS k WHERE k.key = %4$s',
                    kept, own.table_name, own.name, own.key, own.type);
                GET DIAGNOSTICS found = ROW_COUNT;
                IF own.triggers <> '{}' THEN
                    EXECUTE format('ALTER TABLE public.%I ENABLE TRIGGER %s', own.table_name,
                                   array_to_string(own.triggers, ', ENABLE TRIGGER '));
                END IF;
                RAISE NOTICE '% values of %.% are back from %', found, own.table_name, own.name, kept;
            EXCEPTION
                WHEN syntax_error_or_access_rule_violation OR data_exception OR integrity_constraint_violation THEN
                    RAISE WARNING 'values of %.% do not fit the column (SQLSTATE %); they stay in %',
                        own.table_name, own.name, SQLSTATE, kept;
            END;
        END LOOP;
        EXECUTE format('DELETE FROM public.%1$I AS o WHERE o.key IS NULL AND o.definition ~ ''^ALTER TABLE \S+ ADD COLUMN '' '
                       'AND NOT EXISTS (SELECT FROM public.%1$I AS v WHERE (v.table_name, v.name) = (o.table_name, o.name) '
                       'AND v.key IS NOT NULL) AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attname = o.name '
                       'AND a.attrelid = to_regclass(''public.'' || o.table_name) AND NOT a.attisdropped)', kept);
        EXECUTE format('SELECT string_agg(DISTINCT CASE WHEN o.name ~ '' '' THEN o.name || '' of '' || o.table_name '
                       'ELSE o.table_name || ''.'' || o.name END, '', '') FROM public.%I AS o', kept) INTO others;
        IF others IS NULL THEN
            EXECUTE format('DROP TABLE public.%I', kept);
        ELSE
            RAISE NOTICE '% still holds definitions or values of %: add what you need, then drop it', kept, others;
        END IF;
    END LOOP;
END
$$
