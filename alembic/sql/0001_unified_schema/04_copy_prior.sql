-- Copies rows of an earlier attempt, in the transaction that renamed the tables. It copies only columns that need no
-- conversion, and keeps ids that are uuids already. The backfill fills in the rest: it cleans numbers and JSON,
-- renumbers steps and creates missing students.
DO $$
DECLARE
    prior record;
    has_uuids boolean;
    columns text;
    expressions text;
    links text[];
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    SELECT bool_or(p.original_name = 'students' AND a.atttypid = 'uuid'::regtype) INTO has_uuids
    FROM public.prior_attempt AS p
    JOIN pg_attribute AS a ON a.attrelid = p.relation AND a.attname = 'student_id';

    FOR prior IN
        SELECT * FROM public.prior_attempt
        WHERE original_name = 'events' OR (has_uuids AND original_name <> 'step_progress')
        ORDER BY array_position(ARRAY['students', 'sessions', 'events'], original_name)
    LOOP
        SELECT string_agg(quote_ident(n.attname), ', ' ORDER BY n.attnum),
               string_agg(CASE WHEN n.attnotnull AND d.adbin IS NOT NULL
                               THEN format('coalesce(o.%I, %s)', n.attname, pg_get_expr(d.adbin, d.adrelid))
                               ELSE format('o.%I', n.attname) END, ', ' ORDER BY n.attnum)
        INTO columns, expressions
        FROM pg_attribute AS n
        JOIN pg_attribute AS o ON o.attrelid = prior.relation AND o.attname = n.attname
                              AND NOT o.attisdropped AND (o.atttypid = n.atttypid OR n.atttypid = 'timestamptz'::regtype
                                                          AND o.atttypid IN ('timestamp'::regtype, 'date'::regtype))
        LEFT JOIN pg_attrdef AS d ON d.adrelid = n.attrelid AND d.adnum = n.attnum
        WHERE n.attrelid = to_regclass('public.' || prior.original_name)
          AND n.attnum > 0
          AND n.atttypid NOT IN ('jsonb'::regtype, 'integer'::regtype, 'bigint'::regtype)
          AND n.attname NOT IN ('student_email', 'event_type')
          AND (prior.original_name <> 'events' OR n.attname = 'created_at');

        -- a token or an id of another type: 0003 copies these sessions
        CONTINUE WHEN prior.original_name = 'sessions' AND NOT string_to_array(columns, ', ') @> ARRAY['session_token', 'student_id'];
        IF prior.original_name = 'students' THEN
            EXECUTE format(
                'INSERT INTO public.students (student_email, %1$s) '
                'SELECT DISTINCT ON (e.address) e.address, %2$s FROM %3$s AS o, '
                'LATERAL (SELECT lower(btrim(o.student_email::text, E'' \t\r\n'') COLLATE "C") AS address) AS e '
                'WHERE e.address NOT IN ('''', ''unknown@example.com'') ORDER BY e.address, o.student_id',
                columns, expressions, prior.relation);
        ELSIF prior.original_name = 'sessions' THEN
            EXECUTE format(
                'INSERT INTO public.sessions (%1$s) SELECT %2$s FROM %3$s AS o '
                'WHERE o.session_token <> '''' AND EXISTS ('
                'SELECT FROM public.students AS st WHERE st.student_id = o.student_id)',
                columns, expressions, prior.relation);
        ELSE
            SELECT array_agg(a.attname::text) INTO links
            FROM pg_attribute AS a
            WHERE a.attrelid = prior.relation AND a.attnum > 0 AND NOT a.attisdropped;
            EXECUTE format(
                'INSERT INTO public.events (event_type, event_data, student_id, session_token%1$s) '
                'SELECT o.event_type::text, %2$s, %3$s, %4$s%5$s FROM %6$s AS o ORDER BY %7$s',
                coalesce(', ' || columns, ''),
                CASE WHEN 'event_data' = ANY (links) THEN 'coalesce(to_jsonb(o.event_data), ''{}'')'
                     ELSE '''{}''' END,
                -- two students with one address: the first one stays and gets the events of both
                CASE WHEN has_uuids AND 'student_id' = ANY (links) THEN format(
                    '(SELECT st.student_id FROM %s AS p JOIN public.students AS st '
                    'ON st.student_email = lower(btrim(p.student_email::text, E'' \t\r\n'') COLLATE "C") COLLATE "default" '
                    'WHERE p.student_id::text = o.student_id::text)',
                    (SELECT relation FROM public.prior_attempt WHERE original_name = 'students'))
                    ELSE 'NULL' END,
                -- the backfill may create the session later; 0005 detaches events without a session
                CASE WHEN 'session_token' = ANY (links) THEN 'o.session_token::text' ELSE 'NULL' END,
                coalesce(', ' || expressions, ''),
                prior.relation,
                CASE WHEN 'id' = ANY (links) THEN 'o.id' WHEN 'event_id' = ANY (links) THEN 'o.event_id'
                     ELSE 'o.event_type' END);
        END IF;
    END LOOP;
END
$$
