-- Adapters: whatever columns and types a legacy table really has, bridge.legacy_progress (over
-- workshop_students) and bridge.legacy_config (over student_configs) have these, cleaned, one row
-- for each legacy row. Nothing else in the bridge knows about the history of the legacy schema.
CREATE TYPE bridge.legacy_row AS (
    token text,
    tokenless boolean,
    row_at timestamptz,
    email text,
    student_name text,
    selected_phone_number text,
    selected_voice text,
    tts_provider text,
    call_direction text,
    use_case_description text,
    openai_api_key text,
    system_prompt text,
    ivr_greeting text,
    websocket_url text,
    codespace_url text,
    github_repo_url text,
    railway_url text,
    tools jsonb,
    voice_settings jsonb,
    exercises jsonb,
    bug_reports jsonb,
    twilio_connected boolean,
    openai_connected boolean,
    call_direction_chosen boolean,
    services_ready boolean,
    step4_code_validated boolean,
    step4_committed boolean,
    step4_deployed boolean,
    step5_code_validated boolean,
    step5_committed boolean,
    step5_deployed boolean,
    step6_code_validated boolean,
    step6_committed boolean,
    step6_deployed boolean,
    system_prompt_saved boolean,
    step7_committed boolean,
    step7_deployed boolean,
    tools_configured boolean,
    step8_code_validated boolean,
    step8_committed boolean,
    step8_deployed boolean,
    project_deployed boolean,
    demo_mode boolean,
    current_step integer,
    total_time_spent integer,
    started_at timestamptz,
    last_activity timestamptz,
    created_at timestamptz,
    updated_at timestamptz,
    extra jsonb,
    unreadable jsonb,
    clamped jsonb
);
COMMENT ON TYPE bridge.legacy_row IS
    'Column list of both adapters. Empty text is NULL; JSON is unwrapped, and NULL unless it is of '
    'its type and not empty; row_at is when the row was written; extra holds every value without a '
    'column of its own, unreadable those that their column cannot hold, clamped the numbers that '
    'were out of range.';

CREATE VIEW bridge.legacy_progress AS SELECT (NULL::bridge.legacy_row).* WHERE false;
CREATE VIEW bridge.legacy_config AS SELECT (NULL::bridge.legacy_row).* WHERE false;
CREATE VIEW bridge.legacy_prior AS SELECT (NULL::bridge.legacy_row).* WHERE false;
COMMENT ON VIEW bridge.legacy_progress IS 'Adapter: the rows of workshop_students.';
COMMENT ON VIEW bridge.legacy_config IS 'Adapter: the rows of student_configs.';
COMMENT ON VIEW bridge.legacy_prior IS 'Adapter: sessions of an earlier attempt that was moved aside.';

-- The same, but for whose rows they are, and of when, alone: planning what reads one of the long views takes
-- longer than reading a session.
CREATE TYPE bridge.brief_row AS (
    token text,
    row_at timestamptz,
    email text,
    student_name text,
    started_at timestamptz,
    created_at timestamptz
);
COMMENT ON TYPE bridge.brief_row IS 'Those columns of bridge.legacy_row.';

CREATE VIEW bridge.brief_progress AS SELECT (NULL::bridge.brief_row).* WHERE false;
CREATE VIEW bridge.brief_config AS SELECT (NULL::bridge.brief_row).* WHERE false;
CREATE VIEW bridge.brief_prior AS SELECT (NULL::bridge.brief_row).* WHERE false;
COMMENT ON VIEW bridge.brief_progress IS 'Whose the rows of workshop_students are, and of when.';
COMMENT ON VIEW bridge.brief_config IS 'Whose the rows of student_configs are, and of when.';
COMMENT ON VIEW bridge.brief_prior IS 'Whose the sessions of an earlier attempt are, and of when.';

-- One row for each token; they differ from the first ones only where no key forbids a second one.
CREATE VIEW bridge.token_progress AS SELECT * FROM bridge.legacy_progress;
CREATE VIEW bridge.token_config AS SELECT * FROM bridge.legacy_config;
CREATE VIEW bridge.token_prior AS SELECT * FROM bridge.legacy_prior;
COMMENT ON VIEW bridge.token_progress IS 'legacy_progress with one row for each token.';
COMMENT ON VIEW bridge.token_config IS 'legacy_config with one row for each token.';
COMMENT ON VIEW bridge.token_prior IS 'legacy_prior with one row for each token.';

CREATE AGGREGATE bridge.merge_objects(jsonb) (
    SFUNC = jsonb_concat, STYPE = jsonb, INITCOND = '{}'
);
COMMENT ON AGGREGATE bridge.merge_objects(jsonb) IS 'One object of many; the last value of a key wins.';

-- Legacy columns that are read under another name, beside the one that has the adapter's name.
CREATE FUNCTION bridge.synonyms() RETURNS TABLE (legacy_column text, adapter_column text)
    LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    VALUES ('session_token', 'token'),
           ('student_email', 'email'),
           ('voice_handler_deployed', 'step4_deployed'),
           ('websocket_handler_deployed', 'step5_deployed'),
           ('full_deployment_complete', 'project_deployed');
END;
COMMENT ON FUNCTION bridge.synonyms() IS 'Legacy column -> adapter column, where the names differ.';

CREATE FUNCTION bridge.columns_of(relation regclass)
    RETURNS TABLE (name text, type text, not_null boolean, constant_default text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET quote_all_identifiers = off  -- of types as well
AS $$
    SELECT
        a.attname::text,
        format_type(a.atttypid, NULL),
        a.attnotnull,
        -- only a literal can be compared with a stored value; now() and nextval() cannot
        CASE WHEN pg_get_expr(d.adbin, d.adrelid)
                  ~ '^(''([^'']|'''')*''|-?[0-9.]+|true|false)(::[a-z ]+(\([0-9, ]+\))?(\[\])?)?$'
             THEN pg_get_expr(d.adbin, d.adrelid) END
    FROM pg_attribute AS a
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
$$;
COMMENT ON FUNCTION bridge.columns_of(regclass) IS 'Columns of a relation; defaults where constant.';

CREATE FUNCTION bridge.signature_of(relation regclass) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(name || ' ' || type, ', ' ORDER BY name) FROM bridge.columns_of(relation)
$$;
COMMENT ON FUNCTION bridge.signature_of(regclass) IS 'Columns and types, to notice a change.';

-- SQL that reads a legacy column (of alias t) as the type that the adapter needs.
CREATE FUNCTION bridge.read_as(wanted text, column_name text, actual text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(CASE
        WHEN wanted = 'text' THEN 'nullif(t.%I::text, '''')'
        WHEN wanted = 'jsonb' AND actual IN ('json', 'text', 'character varying', 'character')
            THEN 'public.unwrap_json(to_jsonb(t.%I::text))'
        WHEN wanted = 'jsonb' AND actual = 'jsonb'
            THEN 'CASE WHEN jsonb_typeof(t.%1$I) = ''string'' THEN public.unwrap_json(t.%1$I) ELSE t.%1$I END'
        WHEN wanted = 'jsonb' THEN 'public.unwrap_json(to_jsonb(t.%I))'
        -- a view cannot be replaced if a precision comes along: timestamp(3)
        WHEN wanted = actual AND wanted = 'timestamp with time zone'
            THEN 'coalesce(t.%I, NULL::timestamptz)'
        WHEN wanted = actual THEN 't.%I'
        WHEN wanted = 'integer' THEN 'bridge.to_integer(t.%I::text)'
        WHEN wanted = 'boolean' AND actual IN ('smallint', 'integer', 'bigint', 'numeric', 'real', 'double precision')
            THEN '(t.%I <> 0)'
        WHEN wanted = 'boolean' THEN 'bridge.to_boolean(t.%I::text)'
        -- legacy times without a zone are UTC
        WHEN actual IN ('timestamp without time zone', 'date')
            THEN '(t.%I::timestamp AT TIME ZONE ''UTC'')'
        ELSE 'public.parse_timestamp(t.%I::text)'
    END, column_name)
$$;
COMMENT ON FUNCTION bridge.read_as(text, text, text) IS 'How an adapter reads a legacy column.';

-- The token of a legacy row (alias t): the column itself where every row has one, else an
-- expression: a row without a token becomes a session of its own, named after the row's own key.
CREATE FUNCTION bridge.token_of(relation regclass) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    every_row_has_one boolean := EXISTS (
        SELECT FROM bridge.columns_of(relation)
        WHERE name = 'session_token' AND not_null AND type IN ('text', 'character varying'));
BEGIN
    IF every_row_has_one THEN
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s WHERE session_token = %L)', relation, '')
        INTO every_row_has_one;
    END IF;
    IF every_row_has_one THEN
        RETURN 't.session_token::text';
    END IF;
    RETURN (
        SELECT concat(
            'coalesce(',
            max('nullif(t.session_token::text, ''''), ') FILTER (WHERE name = 'session_token'),
            '''legacy-'' || md5(coalesce(',
            max('t.id::text, ') FILTER (WHERE name = 'id'),
            max('t.student_id::text, ') FILTER (WHERE name = 'student_id'),
            max('bridge.known_email(t.student_email::text), ') FILTER (WHERE name = 'student_email'),
            ''''')))')
        FROM bridge.columns_of(relation));
END
$$;
COMMENT ON FUNCTION bridge.token_of(regclass) IS 'SQL that yields the token of a legacy row.';

-- JSON of the type that its column is for, and not empty; NULL for the rest.
CREATE FUNCTION bridge.json_of(value jsonb, type text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(value) = type AND value NOT IN ('[]', '{}') THEN value END;
COMMENT ON FUNCTION bridge.json_of(jsonb, text) IS 'The value if it is of that type and not empty.';

CREATE FUNCTION bridge.json_left_over(value jsonb, type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(value) <> type AND value NOT IN ('null', '""', '[]', '{}');
COMMENT ON FUNCTION bridge.json_left_over(jsonb, text) IS 'It says something, but is of another type.';

-- Parts of an object, put together only where one of the conditions holds, which is seldom.
CREATE FUNCTION bridge.when_any(conditions text[], parts text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN parts = '{}' THEN '''{}''::jsonb'
                ELSE format('CASE WHEN %s THEN %s ELSE ''{}'' END',
                            array_to_string(conditions, ' OR '), array_to_string(parts, ' || ')) END
$$;
COMMENT ON FUNCTION bridge.when_any(text[], text[]) IS 'SQL of an object that is mostly empty.';

CREATE FUNCTION bridge.build_adapter_over(
    rel regclass,
    stem text,
    token text,
    tables regclass[]  -- whose columns these are: a view has no defaults of its own
)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    json_types CONSTANT jsonb := '{"tools": "array", "bug_reports": "array",
                                   "voice_settings": "object", "exercises": "object"}';
    in_brief CONSTANT text[] := ARRAY(SELECT b.name FROM bridge.columns_of('bridge.brief_row') AS b);
    ranges CONSTANT jsonb := '{"current_step": "0, 9", "total_time_spent": "0, 2147483647"}';
    -- looked up once: the tables are locked meanwhile
    names CONSTANT text[] := ARRAY(SELECT c.name FROM bridge.columns_of(rel) AS c);
    types CONSTANT text[] := ARRAY(SELECT c.type FROM bridge.columns_of(rel) AS c);
    tokenless text := 'true';
    one_row_a_token boolean;
    wanted record;
    attribute record;
    reads text[];
    outputs text[] := '{}';
    brief text[] := '{}';
    json_reads text[] := '{}';
    json_layers text[] := '{}';
    jsonb_column text;
    clamps text[] := '{}';
    out_of_range text[] := '{}';
    extras text[] := '{}';
    unreadables text[] := '{}';
    conditions text[] := '{}';
    odd text[] := '{}';
    merges text[] := '{}';
    condition text;
BEGIN
    -- 1. Every column of the adapter: from the legacy column of that name, from a synonym, or NULL.
    FOR wanted IN
        SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.oid = 'bridge.legacy_row'::regclass AND a.attnum > 0
          AND a.attname NOT IN ('token', 'tokenless', 'extra', 'unreadable', 'clamped')
        ORDER BY a.attnum
    LOOP
        SELECT array_agg(bridge.read_as(wanted.type, c.name, c.type) ORDER BY c.name),
               min(format('t.%I', c.name)) FILTER (WHERE c.type = 'jsonb')
        INTO reads, jsonb_column
        FROM unnest(names, types) AS c(name, type)
        WHERE c.name = CASE WHEN wanted.name IN ('row_at', 'email') THEN NULL ELSE wanted.name END
           OR (c.name, wanted.name) IN (SELECT s.legacy_column, s.adapter_column FROM bridge.synonyms() AS s);

        IF wanted.name = 'row_at' THEN
            SELECT array_agg(bridge.read_as(wanted.type, c.name, c.type)
                             ORDER BY array_position(times, c.name))
            INTO reads
            FROM unnest(names, types) AS c(name, type),
                 (SELECT ARRAY['updated_at', 'last_activity', 'created_at']) AS t(times)
            WHERE c.name = ANY (times);
            reads := ARRAY['coalesce(' || array_to_string(reads, ', ') || ')'];
        ELSIF wanted.name = 'email' THEN
            reads[1] := 'bridge.known_email(' || reads[1] || ')';
        ELSIF json_types ? wanted.name AND reads IS NOT NULL THEN
            IF jsonb_column IS NOT NULL AND current_setting('server_version_num')::integer >= 170000 THEN
                json_layers := json_layers || format(
                    -- nesting that is too deep for the stack is no error that JSON_QUERY could catch
                    'CASE WHEN jsonb_typeof(%1$s) = ''string'' AND octet_length(%1$s #>> ''{}'') < 8000 THEN coalesce('
                    'json_query(%1$s, ''$'' RETURNING jsonb OMIT QUOTES NULL ON ERROR), %1$s) ELSE %1$s END AS %2$I',
                    jsonb_column, wanted.name);
                reads[1] := format(
                    'CASE WHEN jsonb_typeof(l.%1$I) = ''string'' THEN public.unwrap_json(l.%1$I) ELSE l.%1$I END',
                    wanted.name);
            END IF;
            json_reads := json_reads || format('%s AS %I', reads[1], wanted.name);
            reads[1] := format('bridge.json_of(j.%I, %L)', wanted.name, json_types ->> wanted.name);
        ELSIF wanted.type = 'boolean' AND reads IS NOT NULL THEN
            SELECT ARRAY[string_agg(format('coalesce(%s, false)', r), ' OR ')] INTO reads
            FROM unnest(reads) AS r;
        ELSIF ranges ? wanted.name AND reads IS NOT NULL THEN
            condition := format('%s NOT BETWEEN %s', reads[1], replace(ranges ->> wanted.name, ', ', ' AND '));
            out_of_range := out_of_range || condition;
            clamps := clamps || format('CASE WHEN %s THEN jsonb_build_object(%L, %s) ELSE ''{}'' END',
                                       condition, wanted.name, reads[1]);
            reads[1] := format('CASE WHEN %1$s IS NOT NULL THEN least(greatest(%1$s, %2$s), %3$s) END',
                               reads[1], split_part(ranges ->> wanted.name, ', ', 1),
                               split_part(ranges ->> wanted.name, ', ', 2));
        END IF;
        outputs := outputs || format('%s AS %I', coalesce(reads[1], 'NULL::' || wanted.type), wanted.name);
        IF wanted.name = ANY (in_brief) THEN
            brief := brief || outputs[cardinality(outputs)];
        END IF;

        -- rows that share a token are further sources, the latest first
        merges := merges || format(CASE
            WHEN wanted.type = 'boolean' THEN 'bool_or(r.%1$I) AS %1$I'
            WHEN wanted.name IN ('started_at', 'created_at') THEN 'min(r.%1$I) AS %1$I'
            WHEN wanted.type IN ('integer', 'timestamp with time zone') THEN 'max(r.%1$I) AS %1$I'
            ELSE '(array_agg(r.%1$I ORDER BY r.row_at DESC NULLS LAST, r::text)'
                 ' FILTER (WHERE r.%1$I IS NOT NULL))[1] AS %1$I'
        END, wanted.name);
    END LOOP;

    -- 2. Values that none of these columns can say: of a column that the adapter does not have, unless
    --    it is the column's default; and of one whose type or content cannot be read as wanted.
    FOR attribute IN
        SELECT c.name, c.type, w.type AS wanted_type, d.constant_default
        FROM unnest(names, types) AS c(name, type)
        LEFT JOIN (SELECT k.name, max(k.constant_default) AS constant_default
                   FROM unnest(tables) AS t, bridge.columns_of(t) AS k GROUP BY k.name) AS d ON d.name = c.name
        LEFT JOIN bridge.synonyms() AS s ON s.legacy_column = c.name
        LEFT JOIN bridge.columns_of('bridge.legacy_row') AS w
          ON w.name = coalesce(s.adapter_column, c.name)
         AND (s.adapter_column IS NOT NULL
              OR w.name NOT IN ('token', 'tokenless', 'row_at', 'email', 'extra', 'unreadable', 'clamped'))
        WHERE c.name <> 'completion_rate'  -- computed
        ORDER BY c.name
    LOOP
        IF attribute.name = 'session_token' THEN
            tokenless := 'coalesce(t.session_token::text, '''') = ''''';
        END IF;
        condition := CASE
            WHEN attribute.wanted_type IS NULL AND attribute.constant_default IS NULL
                THEN format('t.%I IS NOT NULL', attribute.name)
            WHEN attribute.wanted_type IS NULL
                THEN format(CASE WHEN attribute.type IN ('boolean', 'integer') THEN 't.%I <> (%s)'
                                 ELSE 't.%I::text <> (%s)::text' END, attribute.name, attribute.constant_default)
            WHEN attribute.wanted_type = 'jsonb'
                THEN format('bridge.json_left_over(j.%I, %L)', attribute.name, json_types ->> attribute.name)
            -- always readable
            WHEN attribute.wanted_type = 'timestamp with time zone' AND attribute.type IN ('timestamp without time zone', 'date')
                THEN NULL
            WHEN attribute.wanted_type <> attribute.type AND attribute.wanted_type <> 'text'
                THEN format('t.%I::text <> '''' AND %s IS NULL', attribute.name,
                            bridge.read_as(attribute.wanted_type, attribute.name, attribute.type))
        END;
        CONTINUE WHEN condition IS NULL;
        conditions := conditions || condition;
        extras := extras || format('CASE WHEN %s THEN jsonb_build_object(%L, t.%I) ELSE ''{}'' END',
                                   condition, attribute.name, attribute.name);
        IF attribute.wanted_type IS NOT NULL THEN
            odd := odd || condition;
            unreadables := unreadables || format('CASE WHEN %s THEN jsonb_build_object(%L, true) ELSE ''{}'' END',
                                                 condition, attribute.name);
        END IF;
    END LOOP;
    outputs := outputs || ARRAY[
        bridge.when_any(conditions, extras) || ' AS extra',
        bridge.when_any(odd, unreadables) || ' AS unreadable',
        bridge.when_any(out_of_range, clamps) || ' AS clamped'];

    -- 3. The views. JSON is unwrapped once for each row: OFFSET 0 keeps the planner from copying the
    --    call to every place that uses the value. From PostgreSQL 17 on the first layer, mostly the only one, needs
    --    no subtransaction to survive what is not JSON.
    EXECUTE format(
        'CREATE OR REPLACE VIEW bridge.%I AS SELECT %s AS token, %s AS tokenless, %s FROM %s AS t%s',
        'legacy_' || stem, token, tokenless, array_to_string(outputs, ', '), rel,
        CASE WHEN json_reads <> '{}'
             -- one inside the other: a query that uses none of it evaluates neither
             THEN format(' CROSS JOIN LATERAL (SELECT %s%s OFFSET 0) AS j', array_to_string(json_reads, ', '),
                         CASE WHEN json_layers <> '{}'
                              THEN format(' FROM (SELECT %s OFFSET 0) AS l', array_to_string(json_layers, ', ')) END)
        END);

    EXECUTE format('CREATE OR REPLACE VIEW bridge.%I AS SELECT %s AS token, %s FROM %s AS t',
                   'brief_' || stem, token, array_to_string(brief, ', '), rel);

    one_row_a_token := EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = rel AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1
          AND i.indpred IS NULL AND a.attname = 'session_token' AND token = 't.session_token::text');
    EXECUTE CASE WHEN one_row_a_token
        THEN format('CREATE OR REPLACE VIEW bridge.%I AS SELECT * FROM bridge.%I',
                    'token_' || stem, 'legacy_' || stem)
        ELSE format('CREATE OR REPLACE VIEW bridge.%I AS SELECT r.token, bool_and(r.tokenless) AS tokenless, %s,'
                    ' bridge.merge_objects(r.extra ORDER BY r.row_at NULLS FIRST, r::text) AS extra,'
                    ' bridge.merge_objects(r.unreadable) AS unreadable,'
                    ' bridge.merge_objects(r.clamped ORDER BY r.row_at NULLS FIRST, r::text) AS clamped'
                    ' FROM bridge.%I AS r GROUP BY r.token',
                    'token_' || stem, array_to_string(merges, ', '), 'legacy_' || stem)
    END;
END
$build$;
COMMENT ON FUNCTION bridge.build_adapter_over(regclass, text, text, regclass[]) IS
    'Builds the adapter views legacy_<stem>, brief_<stem> and token_<stem> over a relation, for its columns.';

CREATE FUNCTION bridge.build_adapter(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel CONSTANT regclass := (SELECT relation FROM bridge.source WHERE legacy_name = p_legacy_name);
BEGIN
    PERFORM bridge.build_adapter_over(
        rel, CASE p_legacy_name WHEN 'workshop_students' THEN 'progress' ELSE 'config' END,
        bridge.token_of(rel), ARRAY[rel]);
    UPDATE bridge.source SET signature = bridge.signature_of(rel), token_expression = bridge.token_of(rel)
    WHERE legacy_name = p_legacy_name;
END
$$;
COMMENT ON FUNCTION bridge.build_adapter(text) IS
    'Builds the adapter of a legacy table for the columns that it has now.';

-- Steps that a table of steps tells, beside those in exercises: of an earlier attempt (step_progress)
-- and of the earliest application (workshop_step_progress, by student_id).
CREATE TYPE bridge.step AS (
    step_number integer,
    step_name text,
    started_at timestamptz,
    completed_at timestamptz,
    time_spent integer,
    attempts integer,
    validation_passed boolean,
    code_submitted text,
    deployment_url text
);
COMMENT ON TYPE bridge.step IS 'One step of a session, as step_progress holds it.';

CREATE VIEW bridge.tracked_steps AS SELECT NULL::text AS token, (NULL::bridge.step).* WHERE false;
COMMENT ON VIEW bridge.tracked_steps IS 'Rows of older tables of steps, by session token.';

-- The name says which step it is: the application counts its titles from 0, its keys from 1.
CREATE FUNCTION bridge.steps_query(rel regclass, token text, joined text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format(
        'SELECT %s AS token, n.number AS step_number, public.step_name_of(n.number) AS step_name, %s '
        'FROM %s AS t%s CROSS JOIN LATERAL (SELECT coalesce(public.step_number_of(%s), t.step_number::integer) '
        'AS number) AS n WHERE n.number BETWEEN 1 AND 9',
        token,
        (SELECT string_agg(
                    CASE w.type
                        WHEN 'boolean' THEN format('coalesce(%s, false)', coalesce(e.expression, 'NULL'))
                        WHEN 'integer' THEN format('greatest(coalesce(%s, 0), 0)', coalesce(e.expression, 'NULL'))
                        ELSE coalesce(e.expression, 'NULL::' || w.type)
                    END || format(' AS %I', w.name), ', ' ORDER BY w.n)
         FROM bridge.columns_of('bridge.step') WITH ORDINALITY AS w(name, type, not_null, constant_default, n)
         LEFT JOIN LATERAL (
             SELECT bridge.read_as(w.type, c.name, c.type) AS expression
             FROM bridge.columns_of(rel) AS c WHERE c.name = w.name
         ) AS e ON true
         WHERE w.name NOT IN ('step_number', 'step_name')),
        rel, joined,
        coalesce((SELECT 't.step_name::text' FROM bridge.columns_of(rel) AS c WHERE c.name = 'step_name'),
                 'NULL::text'))
$$;
COMMENT ON FUNCTION bridge.steps_query(regclass, text, text) IS 'SQL that reads a table of steps.';

CREATE FUNCTION bridge.build_prior() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    students regclass;
    sessions regclass;
    steps regclass;
    early_steps CONSTANT regclass := to_regclass('public.workshop_step_progress');
    early_students CONSTANT regclass := (
        SELECT s.relation FROM bridge.source AS s, bridge.columns_of(s.relation) AS c
        WHERE s.legacy_name = 'workshop_students' AND c.name = 'student_id');
    link text;
    branches text[] := '{}';
BEGIN
    IF to_regclass('public.prior_attempt') IS NOT NULL THEN
        SELECT max(p.relation::oid) FILTER (WHERE p.original_name = 'students'),
               max(p.relation::oid) FILTER (WHERE p.original_name = 'sessions'),
               max(p.relation::oid) FILTER (WHERE p.original_name = 'step_progress')
        INTO students, sessions, steps
        FROM public.prior_attempt AS p;
    END IF;

    IF sessions IS NOT NULL THEN
        -- by the column that both have
        SELECT format('st.%1$I::text = s.%1$I::text', max(c.name)) INTO link
        FROM bridge.columns_of(sessions) AS c
        JOIN bridge.columns_of(students) AS k ON k.name = c.name
        WHERE c.name IN ('student_email', 'student_id')
        HAVING count(*) > 0;
        EXECUTE format(
            'CREATE VIEW bridge.prior_sessions AS SELECT %s FROM %s AS s%s',
            (SELECT string_agg(format('s.%I', c.name), ', ') FROM bridge.columns_of(sessions) AS c
             WHERE c.name NOT IN ('student_id', 'expires_at', 'is_active')
               AND (link IS NULL OR c.name NOT IN ('student_email', 'student_name')))
            || coalesce((
                SELECT ', ' || string_agg(format('st.%I', c.name), ', ')
                FROM bridge.columns_of(students) AS c
                WHERE link IS NOT NULL
                  AND c.name NOT IN ('student_id', 'github_username', 'created_at', 'updated_at')
                  AND (c.name IN ('student_email', 'student_name')
                       OR c.name NOT IN (SELECT k.name FROM bridge.columns_of(sessions) AS k))), ''),
            sessions,
            CASE WHEN link IS NOT NULL THEN format(' LEFT JOIN %s AS st ON %s', students, link) ELSE '' END);
        PERFORM bridge.build_adapter_over(
            'bridge.prior_sessions', 'prior', 't.session_token::text', ARRAY[sessions, students]);
    END IF;

    IF students IS NOT NULL THEN
        EXECUTE (
            SELECT format(
                'CREATE OR REPLACE VIEW bridge.prior_students AS SELECT '
                'bridge.known_email(t.student_email::text) AS student_email, %s AS student_name, '
                '%s AS created_at, coalesce(%s, %s) AS row_at, %s AS student_id, %s AS github_username '
                'FROM %s AS t',
                coalesce(max(bridge.read_as('text', c.name, c.type)) FILTER (WHERE c.name = 'student_name'),
                         'NULL::text'),
                coalesce(max(c.time) FILTER (WHERE c.name = 'created_at'), 'NULL::timestamptz'),
                coalesce(max(c.time) FILTER (WHERE c.name = 'updated_at'), 'NULL::timestamptz'),
                coalesce(max(c.time) FILTER (WHERE c.name = 'created_at'), 'NULL::timestamptz'),
                coalesce(max('t.student_id') FILTER (WHERE c.name = 'student_id' AND c.type = 'uuid'), 'NULL::uuid'),
                coalesce(max('t.github_username') FILTER (WHERE c.name = 'github_username' AND c.type = 'text'),
                         'NULL::text'),
                students)
            FROM (SELECT k.name, k.type, bridge.read_as('timestamp with time zone', k.name, k.type) AS time
                  FROM bridge.columns_of(students) AS k) AS c);
    END IF;

    IF steps IS NOT NULL THEN
        branches := branches || bridge.steps_query(steps, 't.session_token::text', '');
    END IF;
    IF early_steps IS NOT NULL AND early_students IS NOT NULL THEN
        branches := branches || bridge.steps_query(
            early_steps, 'w.token', format(
                ' JOIN (SELECT %s AS token, t.student_id::text AS student FROM %s AS t) AS w'
                ' ON w.student = t.student_id::text', bridge.token_of(early_students), early_students));
    END IF;
    IF branches <> '{}' THEN
        EXECUTE 'CREATE OR REPLACE VIEW bridge.tracked_steps AS ' || array_to_string(branches, ' UNION ALL ');
    END IF;
END
$build$;
COMMENT ON FUNCTION bridge.build_prior() IS
    'Builds the adapters of an earlier attempt and of older tables of steps, where there are any.';

-- What only an earlier attempt knows, and 0001 could not copy for want of uuids: taken over once, with
-- the first merge, because it is the unified schema's own afterwards.
CREATE FUNCTION bridge.adopt_rest() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    prior record;
BEGIN
    IF to_regclass('public.prior_attempt') IS NULL THEN
        RETURN;
    END IF;
    FOR prior IN
        SELECT p.original_name, p.relation, c.name, c.type
        FROM public.prior_attempt AS p
        CROSS JOIN LATERAL bridge.columns_of(p.relation) AS c
        JOIN (VALUES ('students', 'github_username', 'text'),
                     ('sessions', 'expires_at', 'timestamp with time zone'),
                     ('sessions', 'is_active', 'boolean')) AS w(table_name, name, type)
          ON w.table_name = p.original_name AND w.name = c.name AND w.type = c.type
    LOOP
        EXECUTE format(
            'UPDATE public.%1$I AS v SET %2$I = o.%2$I FROM %3$s AS o '
            'WHERE %4$s AND o.%2$I IS NOT NULL AND v.%2$I IS DISTINCT FROM o.%2$I',
            prior.original_name, prior.name, prior.relation,
            CASE prior.original_name
                WHEN 'students' THEN 'v.github_username IS NULL AND v.student_email = bridge.known_email(o.student_email::text)'
                ELSE format('v.session_token = o.session_token::text AND NOT EXISTS ('
                            'SELECT FROM bridge.remainder AS r WHERE r.table_name = ''sessions'' '
                            'AND r.key = v.session_token AND r.column_name = %L)', prior.name) END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.adopt_rest() IS 'Columns of an earlier attempt that legacy tables do not have.';

-- Students of an earlier attempt: those without a session are in no other source.
CREATE VIEW bridge.prior_students AS
SELECT NULL::text AS student_email, NULL::text AS student_name, NULL::timestamptz AS created_at,
       NULL::timestamptz AS row_at, NULL::uuid AS student_id, NULL::text AS github_username
WHERE false;
COMMENT ON VIEW bridge.prior_students IS 'Students of an earlier attempt, by clean address.';

-- Every lookup is by token: where no key of the table serves it, an index of the bridge does.
CREATE FUNCTION bridge.build_index(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel CONSTANT regclass := (SELECT relation FROM bridge.source WHERE legacy_name = p_legacy_name);
    token CONSTANT text := bridge.token_of(rel);
    index_name CONSTANT text := 'bridge_token_of_' || p_legacy_name;
BEGIN
    IF token = 't.session_token::text' AND EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = rel AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'session_token')
    THEN
        RETURN;
    END IF;
    EXECUTE format('DROP INDEX IF EXISTS public.%I', index_name);
    EXECUTE format('CREATE INDEX %I ON %s ((%s))', index_name, rel, replace(token, 't.', ''));
END
$$;
COMMENT ON FUNCTION bridge.build_index(text) IS 'Adds an index on the token where no key serves it.';

-- All sources in one view each: tokens as they stand, raw values for counts past adapters and mapping,
-- and row versions. A row that is written gets another place (ctid) or another writer (xmin).
CREATE VIEW bridge.token_source AS SELECT NULL::text AS token WHERE false;
COMMENT ON VIEW bridge.token_source IS 'Tokens of every source, some of them several times.';

CREATE VIEW bridge.raw AS
SELECT NULL::text AS source, NULL::text AS token, NULL::text AS student_email,
       NULL::text AS openai_api_key, NULL::text AS exercises
WHERE false;
COMMENT ON VIEW bridge.raw IS 'Legacy rows as they stand, for counts past adapters and mapping.';

CREATE VIEW bridge.legacy_version AS SELECT NULL::text AS token, NULL::bigint AS version WHERE false;
COMMENT ON VIEW bridge.legacy_version IS 'A number for each row that the mapping reads, by token.';

CREATE VIEW bridge.unified_version AS
SELECT v.session_token AS token, hash_record_extended(ROW(v.ctid, v.xmin), 1) AS version FROM public.sessions AS v
UNION ALL
SELECT sp.session_token, hash_record_extended(ROW(sp.ctid, sp.xmin), 2) FROM public.step_progress AS sp;
COMMENT ON VIEW bridge.unified_version IS 'A number for each row of sessions and step_progress, by token.';

CREATE FUNCTION bridge.build_unions() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    prior CONSTANT regclass := to_regclass('bridge.prior_sessions');
BEGIN
    -- An earlier attempt cannot be written to: that one of its sessions was deleted is in the remainder,
    -- and so is a session that no legacy table can hold.
    EXECUTE (
        SELECT 'CREATE OR REPLACE VIEW bridge.token_source AS '
            || string_agg(format('SELECT %s AS token FROM %s AS t', bridge.token_of(s.relation), s.relation), ' UNION ALL ')
            || CASE WHEN prior IS NOT NULL THEN
                   ' UNION ALL SELECT a.token FROM bridge.brief_prior AS a WHERE NOT EXISTS ('
                   'SELECT FROM bridge.remainder AS r WHERE r.table_name = ''sessions'' AND r.key = a.token '
                   'AND r.column_name = ''(row)'' AND r.value = ''false'')' ELSE '' END
            || ' UNION ALL SELECT r.key FROM bridge.remainder AS r WHERE r.table_name = ''sessions'' '
               'AND r.column_name = ''(row)'' AND r.value = ''true'''
        FROM bridge.source AS s);
    EXECUTE (
        SELECT 'CREATE OR REPLACE VIEW bridge.raw AS ' || string_agg(format(
            'SELECT %L::text AS source, %s AS token, %s FROM %s AS t',
            s.legacy_name, s.token, r.columns, s.relation), ' UNION ALL ')
        FROM (
            SELECT o.legacy_name, o.relation, bridge.token_of(o.relation) AS token FROM bridge.source AS o
            UNION ALL
            SELECT 'sessions', prior, 't.session_token::text' WHERE prior IS NOT NULL
        ) AS s
        CROSS JOIN LATERAL (
            SELECT string_agg(CASE WHEN c.name IS NULL THEN format('NULL::text AS %I', w.name)
                                   -- of a JSON string its content, with one layer of backslashes less
                                   WHEN c.type = 'jsonb' THEN format('t.%1$I #>> ''{}'' AS %1$I', w.name)
                                   ELSE format('t.%1$I::text AS %1$I', w.name) END, ', ' ORDER BY w.n)
            FROM unnest(ARRAY['student_email', 'openai_api_key', 'exercises'])
                WITH ORDINALITY AS w(name, n)
            LEFT JOIN bridge.columns_of(s.relation) AS c ON c.name = w.name
        ) AS r(columns));
    EXECUTE (
        SELECT 'CREATE OR REPLACE VIEW bridge.legacy_version AS '
            || string_agg(format('SELECT %s AS token, hash_record_extended(ROW(t.ctid, t.xmin), %s) AS version FROM %s AS t',
                                 bridge.token_of(s.relation), 10 + s.n, s.relation), ' UNION ALL ')
            || ' UNION ALL SELECT r.key, hash_record_extended(ROW(r.ctid, r.xmin), 3) FROM bridge.remainder AS r'
        FROM (SELECT o.relation, row_number() OVER (ORDER BY o.legacy_name) AS n FROM bridge.source AS o) AS s);
END
$$;
COMMENT ON FUNCTION bridge.build_unions() IS 'Builds these views for the tables and columns that there are now.'
