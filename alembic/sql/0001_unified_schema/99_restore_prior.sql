DO $$
DECLARE
    prior record;
BEGIN
    IF to_regclass('public.prior_attempt') IS NOT NULL THEN
        FOR prior IN SELECT * FROM public.prior_attempt ORDER BY original_name LOOP
            EXECUTE format('ALTER TABLE %s RENAME TO %I', prior.relation, prior.original_name);
        END LOOP;
        DROP TABLE public.prior_attempt;
    END IF;
END
$$
