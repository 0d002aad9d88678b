-- Points foreign keys to the tables of the earlier attempt again. If rows refer to rows that only the unified tables
-- had, the rows stay and the key is not validated.
DO $$
DECLARE
    own CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace
          AND c.relname IN ('students', 'sessions', 'step_progress', 'events'));
    fk record;
    definition text;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    FOR fk IN
        SELECT k.conrelid::regclass AS relation, k.conname, pg_get_constraintdef(k.oid) AS definition,
               k.confrelid::regclass AS refers_to, p.relation AS earlier
        FROM public.prior_attempt AS p
        JOIN pg_constraint AS k ON k.confrelid = to_regclass('public.' || p.original_name)
                               AND k.contype = 'f' AND k.conparentid = 0
        WHERE k.conrelid <> ALL (own)
        ORDER BY 1, 2
    LOOP
        definition := replace(fk.definition, format('REFERENCES %s(', fk.refers_to), format('REFERENCES %s(', fk.earlier));
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', fk.relation, fk.conname);
        BEGIN
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', fk.relation, fk.conname, definition);
        EXCEPTION
            WHEN foreign_key_violation THEN
                EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID', fk.relation, fk.conname, definition);
                RAISE NOTICE 'rows of % refer to rows that the tables of the earlier attempt lack: foreign key % holds for new '
                    'rows only', fk.relation, fk.conname;
        END;
    END LOOP;
END
$$
