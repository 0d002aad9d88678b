-- Rows of an earlier attempt whose students already have uuids: copied in the transaction that moved
-- them aside, ids kept, as far as a column can be taken as it stands. The merge fills in the rest:
-- numbers and JSON may need cleaning, steps may need renumbering.
DO $$
DECLARE
    prior record;
    columns text;
    expressions text;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (
        SELECT FROM public.prior_attempt AS p
        JOIN pg_attribute AS a ON a.attrelid = p.relation
        WHERE p.original_name = 'students' AND a.attname = 'student_id' AND a.atttypid = 'uuid'::regtype)
    THEN
        RETURN;
    END IF;
    FOR prior IN
        SELECT * FROM public.prior_attempt WHERE original_name <> 'step_progress'
        ORDER BY array_position(ARRAY['students', 'sessions', 'events'], original_name)
    LOOP
        SELECT string_agg(quote_ident(n.attname), ', ' ORDER BY n.attnum),
               string_agg(CASE WHEN n.attnotnull AND d.adbin IS NOT NULL
                               THEN format('coalesce(o.%I, %s)', n.attname, pg_get_expr(d.adbin, d.adrelid))
                               ELSE format('o.%I', n.attname) END, ', ' ORDER BY n.attnum)
        INTO columns, expressions
        FROM pg_attribute AS n
        JOIN pg_attribute AS o ON o.attrelid = prior.relation AND o.attname = n.attname
                              AND o.atttypid = n.atttypid AND NOT o.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = n.attrelid AND d.adnum = n.attnum
        WHERE n.attrelid = to_regclass('public.' || prior.original_name)
          AND n.attnum > 0
          AND n.atttypid NOT IN ('jsonb'::regtype, 'integer'::regtype, 'bigint'::regtype)
          AND (prior.original_name <> 'events' OR n.attname IN ('event_type', 'created_at'))
          AND n.attname <> 'student_email';
        IF prior.original_name = 'students' THEN
            EXECUTE format(
                'INSERT INTO public.students (student_email, %1$s) '
                'SELECT DISTINCT ON (e.address) e.address, %2$s FROM %3$s AS o, '
                'LATERAL (SELECT lower(btrim(o.student_email, E'' \t\r\n'')) AS address) AS e '
                'WHERE e.address <> '''' ORDER BY e.address, o.student_id',
                columns, expressions, prior.relation);
        ELSIF prior.original_name = 'sessions' THEN
            EXECUTE format(
                'INSERT INTO public.sessions (%1$s) SELECT %2$s FROM %3$s AS o '
                'WHERE o.session_token <> '''' AND EXISTS ('
                'SELECT FROM public.students AS st WHERE st.student_id = o.student_id)',
                columns, expressions, prior.relation);
        ELSE
            EXECUTE format(
                'INSERT INTO public.events (%1$s, event_data, student_id, session_token) '
                'SELECT %2$s, coalesce(to_jsonb(o.event_data), ''{}''), st.student_id, s.session_token '
                'FROM %3$s AS o '
                'LEFT JOIN public.students AS st ON st.student_id = o.student_id '
                'LEFT JOIN public.sessions AS s ON s.session_token = o.session_token '
                'ORDER BY o.id', columns, expressions, prior.relation);
        END IF;
    END LOOP;
END
$$
