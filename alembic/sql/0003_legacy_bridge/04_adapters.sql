-- Adapters: bridge.legacy_progress (over workshop_students) and bridge.legacy_config (over student_configs) show
-- every legacy table as one fixed list of clean columns. Nothing else knows the history of the legacy schema.

-- The columns that the adapters read, each with the type of the NULL that replaces a missing one.
CREATE TYPE bridge.known_columns AS (
    session_token text, student_email text, student_name text, selected_phone_number text, selected_voice text, tts_provider text,
    call_direction text, use_case_description text, openai_api_key text, system_prompt text, ivr_greeting text,
    websocket_url text, codespace_url text, github_repo_url text, railway_url text, tools jsonb, voice_settings jsonb,
    exercises jsonb, bug_reports jsonb, twilio_connected boolean, openai_connected boolean, call_direction_chosen boolean,
    services_ready boolean, step4_code_validated boolean, step4_committed boolean, step4_deployed boolean,
    step5_code_validated boolean, step5_committed boolean, step5_deployed boolean, step6_code_validated boolean,
    step6_committed boolean, step6_deployed boolean, system_prompt_saved boolean, step7_committed boolean, step7_deployed boolean,
    tools_configured boolean, step8_code_validated boolean, step8_committed boolean, step8_deployed boolean,
    project_deployed boolean, demo_mode boolean, voice_handler_deployed boolean, websocket_handler_deployed boolean,
    full_deployment_complete boolean, current_step integer, total_time_spent integer, completion_rate integer,
    started_at timestamptz, last_activity timestamptz, created_at timestamptz, updated_at timestamptz
);
COMMENT ON TYPE bridge.known_columns IS 'Legacy columns that the adapters read; all others go to legacy_extra.';

CREATE FUNCTION bridge.columns_of(relation regclass)
    RETURNS TABLE (name text, type text, not_null boolean, is_number boolean, constant_default text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
    SELECT
        a.attname::text,
        format_type(a.atttypid, NULL),
        a.attnotnull,
        t.typcategory = 'N',
        -- only a literal can be compared with a stored value; now() and nextval() cannot
        CASE WHEN pg_get_expr(d.adbin, d.adrelid)
                  ~ '^(''([^'']|'''')*''|-?[0-9.]+|true|false)(::[a-z ]+(\([0-9, ]+\))?(\[\])?)?$'
             THEN pg_get_expr(d.adbin, d.adrelid) END
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
$$;
COMMENT ON FUNCTION bridge.columns_of(regclass) IS 'Columns of a relation; defaults where constant.';

CREATE FUNCTION bridge.token_index(relation regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(CASE WHEN i.indisunique AND i.indnkeyatts = 1 THEN 'unique' ELSE 'indexed' END)
    FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = relation AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'session_token'
$$;
COMMENT ON FUNCTION bridge.token_index(regclass) IS 'How the table finds a token: unique, indexed or NULL.';

CREATE FUNCTION bridge.signature_of(relation regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(', token ', string_agg(c.name || ' ' || c.type, ', ' ORDER BY c.name), bridge.token_index(relation))
    FROM bridge.columns_of(relation) AS c
$$;
COMMENT ON FUNCTION bridge.signature_of(regclass) IS 'Columns, types and key, to notice a change.';

-- One SELECT for every shape of a legacy table. A column name that the table lacks resolves to "absent"; its type
-- chooses the reader. Lists of columns come from bridge.known_columns, and the unknown ones from the table.
CREATE FUNCTION bridge.create_adapter(stem text, rel regclass, token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    unknown record;
    known record;
    early CONSTANT jsonb := '{"step4_deployed": "voice_handler_deployed", "step5_deployed": "websocket_handler_deployed",
                              "project_deployed": "full_deployment_complete"}';  -- names that these flags had before
    containers CONSTANT jsonb := '{"tools": "array", "voice_settings": "object", "exercises": "object", "bug_reports": "array"}';
BEGIN
    SELECT string_agg(format('nullif(%1$I::text, '''') COLLATE "default" AS %1$I', k.name), ', ' ORDER BY k.place)
               FILTER (WHERE k.type = 'text' AND k.name NOT IN ('session_token', 'student_email')) AS texts,
           string_agg(format('coalesce(bridge.as_bool(%1$I), false) %2$s AS %1$I', k.name,
                             'OR coalesce(bridge.as_bool(' || (early ->> k.name) || '), false)'), ', ' ORDER BY k.place)
               FILTER (WHERE k.type = 'boolean' AND k.name NOT IN (SELECT e.value FROM jsonb_each_text(early) AS e)) AS flags,
           string_agg(format('CASE WHEN jsonb_typeof(j.%1$I) = %2$L AND j.%1$I NOT IN (''[]'', ''{}'') THEN j.%1$I END AS %1$I',
                             k.name, containers ->> k.name), ', ' ORDER BY k.place) FILTER (WHERE k.type = 'jsonb') AS objects,
           string_agg(CASE k.type WHEN 'jsonb' THEN
               format('CASE WHEN jsonb_typeof(i.%1$I) <> %2$L AND i.%1$I NOT IN (''null'', ''""'', ''[]'', ''{}'') THEN %1$L END',
                      k.name, containers ->> k.name)
               ELSE format('CASE WHEN bridge.as_%2$s(%1$I) IS NULL AND btrim(%1$I::text COLLATE "C", E'' \t\r\n\f\x0B'') <> '''' THEN %1$L END',
                           k.name, CASE k.type WHEN 'boolean' THEN 'bool' WHEN 'integer' THEN 'int' ELSE 'time' END) END, ', ')
               FILTER (WHERE k.type <> 'text' AND k.name <> 'completion_rate') AS unread
    INTO known
    FROM bridge.columns_of('bridge.known_columns') WITH ORDINALITY AS k(name, type, not_null, is_number, constant_default, place);
    SELECT coalesce(string_agg(k.says, ' OR '), 'false') AS says,
           coalesce(string_agg(format('CASE WHEN %s THEN jsonb_build_object(%L, t.%I) ELSE ''{}'' END', k.says, k.name, k.name),
                               ' || ' ORDER BY k.name), '''{}''::jsonb') AS content
    INTO unknown
    FROM (
        SELECT c.name, CASE WHEN c.constant_default IS NULL THEN format('t.%I IS NOT NULL', c.name)
                            WHEN c.type IN ('boolean', 'integer') THEN format('t.%I <> (%s)', c.name, c.constant_default)
                            ELSE format('t.%I::text COLLATE "C" <> (%s)::text', c.name, c.constant_default) END AS says
        FROM bridge.columns_of(rel) AS c
        WHERE c.name NOT IN (SELECT o.name FROM bridge.columns_of('bridge.known_columns') AS o)
    ) AS k;

    EXECUTE format($view$
CREATE OR REPLACE VIEW bridge.%1$I AS
SELECT r.*
FROM (SELECT (NULL::bridge.known_columns).*) AS absent
CROSS JOIN LATERAL (
    SELECT
        (%2$s) COLLATE "default" AS token,
        coalesce(session_token::text, '') = '' AS tokenless,
        coalesce(bridge.as_time(updated_at), bridge.as_time(last_activity), bridge.as_time(created_at)) AS row_at,
        bridge.known_email(student_email::text) COLLATE "default" AS email,
        %6$s,
        %9$s,
        %7$s,
        CASE WHEN j.step IS NOT NULL THEN least(greatest(j.step, 0), 9) END AS current_step,
        CASE WHEN j.spent IS NOT NULL THEN greatest(j.spent, 0) END AS total_time_spent,
        bridge.as_time(started_at) AS started_at,
        bridge.as_time(last_activity) AS last_activity,
        bridge.as_time(created_at) AS created_at,
        bridge.as_time(updated_at) AS updated_at,
        CASE WHEN j.unreadable <> '{}' OR %3$s THEN %4$s || coalesce((
            SELECT jsonb_object_agg(u.name, to_jsonb(t.*) -> u.name) FROM unnest(j.unreadable) AS u(name)), '{}')
        ELSE '{}' END AS extra,
        j.unreadable,
        CASE WHEN j.step NOT BETWEEN 0 AND 9 THEN jsonb_build_object('current_step', j.step) ELSE '{}' END
            || CASE WHEN j.spent < 0 THEN jsonb_build_object('total_time_spent', j.spent) ELSE '{}' END
            AS clamped
    FROM %5$s AS t
    -- OFFSET 0: each value is read once, however often it is used
    CROSS JOIN LATERAL (
        SELECT i.*, array_remove(ARRAY[%8$s], NULL) AS unreadable
        FROM (
            SELECT bridge.as_json(l.tools) AS tools, bridge.as_json(l.voice_settings) AS voice_settings,
                   bridge.as_json(l.exercises) AS exercises, bridge.as_json(l.bug_reports) AS bug_reports,
                   l.step, l.spent
            FROM (
                SELECT bridge.peel(tools) AS tools, bridge.peel(voice_settings) AS voice_settings,
                       bridge.peel(exercises) AS exercises, bridge.peel(bug_reports) AS bug_reports,
                       bridge.as_int(current_step) AS step, bridge.as_int(total_time_spent) AS spent
                OFFSET 0
            ) AS l
            OFFSET 0
        ) AS i
        OFFSET 0
    ) AS j
) AS r
    $view$, 'legacy_' || stem, token, unknown.says, unknown.content, rel, known.texts, known.flags, known.unread, known.objects);
END
$build$;
COMMENT ON FUNCTION bridge.create_adapter(text, regclass, text) IS 'Creates or replaces bridge.legacy_<stem> over a relation.';

-- Stubs, so that the mapping can be created before a legacy table is touched.
CREATE VIEW bridge.no_legacy_table AS SELECT (NULL::bridge.known_columns).* WHERE false;
COMMENT ON VIEW bridge.no_legacy_table IS 'Replaces a legacy table until its adapter is built.';
SELECT bridge.create_adapter(n, 'bridge.no_legacy_table', 't.session_token') FROM unnest(ARRAY['progress', 'config']) AS n;

CREATE AGGREGATE bridge.merge_objects(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb, INITCOND = '{}');
COMMENT ON AGGREGATE bridge.merge_objects(jsonb) IS 'One object of many; the last value of a key wins.';

-- One row for each token, also without a unique key: flags by OR, the earliest start, the greatest numbers and times.
-- Everything else comes from the newest row that has a value.
DO $merged$
DECLARE
    stem text;
BEGIN
    FOREACH stem IN ARRAY ARRAY['progress', 'config'] LOOP
        EXECUTE format($view$
CREATE VIEW bridge.merged_%1$s AS
SELECT
    r.token,
    bool_and(r.tokenless) AS tokenless,
    max(r.row_at) AS row_at,
    %2$s,
    max(r.current_step) AS current_step, max(r.total_time_spent) AS total_time_spent, min(r.started_at) AS started_at,
    max(r.last_activity) AS last_activity, min(r.created_at) AS created_at, max(r.updated_at) AS updated_at,
    bridge.merge_objects(r.extra ORDER BY r.row_at NULLS FIRST, r.extra) AS extra,
    array_remove(string_to_array(string_agg(array_to_string(r.unreadable, ','), ','), ','), '') AS unreadable,
    bridge.merge_objects(r.clamped ORDER BY r.row_at NULLS FIRST, r.clamped) AS clamped
FROM bridge.legacy_%1$s AS r
GROUP BY r.token;
CREATE VIEW bridge.token_%1$s AS SELECT * FROM bridge.legacy_%1$s
        $view$, stem, (
            SELECT string_agg(CASE c.type WHEN 'boolean' THEN format('bool_or(r.%1$I) AS %1$I', c.name)
                                  ELSE format('(array_agg(r.%1$I ORDER BY r.row_at DESC NULLS LAST, r.%1$I) FILTER (WHERE r.%1$I IS NOT NULL))[1] AS %1$I', c.name)
                              END, ', ' ORDER BY c.place)
            FROM bridge.columns_of('bridge.legacy_progress')
                WITH ORDINALITY AS c(name, type, not_null, is_number, constant_default, place)
            WHERE c.type IN ('text', 'jsonb', 'boolean') AND c.name NOT IN ('token', 'tokenless', 'extra', 'clamped')));
    END LOOP;
END
$merged$;
COMMENT ON VIEW bridge.legacy_progress IS 'Adapter: the rows of workshop_students, in clean columns.';
COMMENT ON VIEW bridge.legacy_config IS 'Adapter: the rows of student_configs, in clean columns.';
COMMENT ON VIEW bridge.merged_progress IS 'legacy_progress, rows that share a token merged.';
COMMENT ON VIEW bridge.merged_config IS 'legacy_config, rows that share a token merged.';
COMMENT ON VIEW bridge.token_progress IS 'legacy_progress with one row for each token.';
COMMENT ON VIEW bridge.token_config IS 'legacy_config with one row for each token.';

-- If no key of the table serves a lookup by token, an index of the bridge does; rows may then share a token.
CREATE FUNCTION bridge.build_adapter(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel CONSTANT regclass := (SELECT s.relation FROM bridge.source AS s WHERE s.legacy_name = p_legacy_name);
    stem CONSTANT text := CASE p_legacy_name WHEN 'workshop_students' THEN 'progress' ELSE 'config' END;
    index_name CONSTANT text := 'bridge_token_of_' || p_legacy_name;
    token text := 't.session_token::text';
    key text;
    has_token boolean := EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = rel AND a.attname = 'session_token' AND a.attnotnull
          AND a.atttypid IN ('text'::regtype, 'character varying'::regtype) AND a.attcollation = 'pg_catalog."default"'::regcollation);
BEGIN
    -- The column itself where every row has a token, so that an index serves it. Else a row without a token becomes a
    -- session of its own, named after the key of the row. Built-in functions only, because an index of the bridge
    -- evaluates this in the application's statement.
    IF has_token THEN
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s WHERE session_token = %L)', rel, '') INTO has_token;
    END IF;
    IF has_token THEN
        key := bridge.token_index(rel);
    ELSE
        SELECT concat(
            'coalesce(',
            max('nullif(t.session_token::text COLLATE "default", ''''), ') FILTER (WHERE c.name = 'session_token'),
            '''legacy-'' || md5(coalesce(',
            max('t.id::text, ') FILTER (WHERE c.name = 'id'),
            max('t.student_id::text, ') FILTER (WHERE c.name = 'student_id'),
            max('nullif(nullif(lower(btrim(t.student_email::text COLLATE "C", E'' \t\r\n\f\x0B'')), ''''), ''unknown@example.com''), ')
                FILTER (WHERE c.name = 'student_email'),
            ''''')) COLLATE "default")')
        INTO token FROM bridge.columns_of(rel) AS c;
    END IF;
    PERFORM bridge.create_adapter(stem, rel, token);
    EXECUTE format('CREATE OR REPLACE VIEW bridge.token_%1$s AS SELECT * FROM bridge.%2$s_%1$s',
                   stem, CASE key WHEN 'unique' THEN 'legacy' ELSE 'merged' END);
    IF key IS NULL AND (to_regclass('public.' || index_name) IS NULL OR token IS DISTINCT FROM (
        SELECT s.token_expression FROM bridge.source AS s WHERE s.legacy_name = p_legacy_name)) THEN
        EXECUTE format('DROP INDEX IF EXISTS public.%I', index_name);
        EXECUTE format('CREATE INDEX %I ON %s ((%s))', index_name, rel, replace(token, 't.', ''));
    END IF;
    UPDATE bridge.source AS s SET signature = bridge.signature_of(rel), token_expression = token
    WHERE s.legacy_name = p_legacy_name;

    DELETE FROM bridge.legacy_column AS l WHERE l.legacy_name = p_legacy_name;
    INSERT INTO bridge.legacy_column (legacy_name, legacy_column, column_name, is_number, instead_of_null)
    SELECT p_legacy_name, c.name, k.column_name, c.is_number,
           CASE WHEN c.not_null AND k.column_name = 'student_email' THEN 'unknown@example.com' WHEN c.not_null THEN '' END
    FROM bridge.columns_of(rel) AS c
    JOIN pg_attribute AS a ON a.attrelid = rel AND a.attname = c.name AND a.attgenerated = '' AND a.attidentity = ''
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.name = 'voice_handler_deployed' THEN 'step4_deployed'
            WHEN c.name = 'websocket_handler_deployed' THEN 'step5_deployed'
            WHEN c.name = 'full_deployment_complete' THEN 'project_deployed'
            -- the latest of these counts as the last activity
            WHEN c.name = 'updated_at' AND (p_legacy_name = 'student_configs' OR NOT EXISTS (
                SELECT FROM bridge.columns_of(rel) AS o WHERE o.name = 'last_activity')) THEN 'last_activity'
            WHEN c.name <> 'updated_at' THEN c.name
        END AS column_name
    ) AS k
    WHERE k.column_name IN (SELECT o.name FROM bridge.columns_of('bridge.known_columns') AS o)
      AND k.column_name <> 'session_token'
      -- the token of a row without one may be made of its address
      AND NOT (c.name = 'student_email' AND token LIKE '%student_email%' AND token NOT LIKE '%t.id::%' AND token NOT LIKE '%t.student_id::%');
END
$$;
COMMENT ON FUNCTION bridge.build_adapter(text) IS 'Builds the adapter of a legacy table for the columns that it has now.'
