-- Copies row security and policies of an earlier attempt to the unified tables, and points foreign keys to them.
DO $$
DECLARE
    command text;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    PERFORM public.copy_row_security(p.relation, to_regclass('public.' || p.original_name)) FROM public.prior_attempt AS p;
    FOR command IN
        -- in one statement, so that the key always holds
        SELECT replace(format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %2$I %s', k.conrelid::regclass, k.conname,
                              pg_get_constraintdef(k.oid)),
                       format('REFERENCES %s(', p.relation), format('REFERENCES %s(', p.original_name))
        FROM pg_constraint AS k JOIN public.prior_attempt AS p ON p.relation = k.confrelid
        WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid NOT IN (SELECT o.relation FROM public.prior_attempt AS o)
        ORDER BY p.original_name
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
