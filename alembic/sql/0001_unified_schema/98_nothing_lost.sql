-- The downgrade of 0003 handed all rows back. Rows written since then are in no other table: the downgrade drops them
-- only with drop_existing.
DO $$
DECLARE
    name text;
    rows bigint;
    copied bigint;
    problems text := '';
BEGIN
    IF current_setting('bridge.drop_existing', true) = 'on' OR EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = to_regclass('public.sessions') AND tgname = 'read_only')
    THEN
        RETURN;
    END IF;
    FOREACH name IN ARRAY ARRAY['students', 'sessions', 'step_progress', 'events'] LOOP
        CONTINUE WHEN to_regclass('public.' || name) IS NULL;  -- dropped by hand
        EXECUTE format('SELECT count(*) FROM public.%I', name) INTO rows;
        copied := 0;
        IF to_regclass('public.prior_attempt') IS NOT NULL AND rows > 0 THEN
            -- copies of an earlier attempt; its tables get their names back below
            EXECUTE coalesce((SELECT format('SELECT count(*) FROM %s', p.relation) FROM public.prior_attempt AS p
                              WHERE p.original_name = name), 'SELECT 0') INTO copied;
        END IF;
        IF rows > copied THEN
            problems := problems || format(' %s rows of %s', rows - copied, name);
        END IF;
    END LOOP;
    IF problems <> '' THEN
        RAISE EXCEPTION 'this downgrade would drop rows that no other table holds:%', problems
            USING HINT = 'Nothing was changed. If there are legacy tables: upgrade to 0003, then downgrade. '
                         'This copies the rows there. To drop the rows: alembic -x drop_existing=true downgrade base.';
    END IF;
END
$$
