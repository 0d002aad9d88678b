-- The bridge carries everything back before it goes (0003). Rows that were written while it was not there
-- are nowhere else: they are not dropped without being asked to.
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
            -- copies of an earlier attempt, which is about to get its names back
            EXECUTE coalesce((SELECT format('SELECT count(*) FROM %s', p.relation) FROM public.prior_attempt AS p
                              WHERE p.original_name = name), 'SELECT 0') INTO copied;
        END IF;
        IF rows > copied THEN
            problems := problems || format(' %s rows of %s', rows - copied, name);
        END IF;
    END LOOP;
    IF problems <> '' THEN
        RAISE EXCEPTION 'this would drop what no other table holds:%', problems
            USING HINT = 'Nothing was changed. With legacy tables: upgrade to 0003, then downgrade: they take '
                         'it over. To drop it: alembic -x drop_existing=true downgrade base.';
    END IF;
END
$$
