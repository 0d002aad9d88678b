-- Adapters: bridge.legacy_progress (over workshop_students) and bridge.legacy_config (over student_configs) show
-- every legacy table as one fixed list of clean columns. No other code depends on the shape of a legacy table.

-- The columns that the adapters read. A missing column is a NULL of this type.
CREATE TYPE bridge.known_columns AS (
    session_token text, student_email text, student_name text, openai_api_key text, system_prompt text,
    ivr_greeting text, use_case_description text, call_direction text, tts_provider text, selected_voice text,
    selected_phone_number text, websocket_url text, codespace_url text, github_repo_url text, railway_url text,
    tools jsonb, voice_settings jsonb, exercises jsonb, bug_reports jsonb, twilio_connected boolean,
    openai_connected boolean, call_direction_chosen boolean, services_ready boolean, step4_code_validated boolean,
    step4_committed boolean, step4_deployed boolean, step5_code_validated boolean, step5_committed boolean,
    step5_deployed boolean, step6_code_validated boolean, step6_committed boolean, step6_deployed boolean,
    system_prompt_saved boolean, step7_committed boolean, step7_deployed boolean, tools_configured boolean,
    step8_code_validated boolean, step8_committed boolean, step8_deployed boolean, project_deployed boolean,
    demo_mode boolean, voice_handler_deployed boolean, websocket_handler_deployed boolean,
    full_deployment_complete boolean, current_step integer, total_time_spent integer, completion_rate integer,
    started_at timestamptz, last_activity timestamptz, created_at timestamptz, updated_at timestamptz
);
COMMENT ON TYPE bridge.known_columns IS 'Legacy columns that the adapters read; all others go to legacy_extra.';

CREATE FUNCTION bridge.unread(name text, raw text, missing boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN missing AND btrim(raw COLLATE "C", E' \t\r\n\f\x0B') <> '' THEN name END;
COMMENT ON FUNCTION bridge.unread(text, text, boolean) IS 'Name of a column whose value could not be read, else NULL.';

CREATE FUNCTION bridge.columns_of(relation regclass)
    RETURNS TABLE (name text, type text, not_null boolean, is_number boolean, constant_default text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
    SELECT
        a.attname::text,
        format_type(a.atttypid, NULL),
        a.attnotnull,
        t.typcategory = 'N',
        -- only a literal can be compared with a stored value, not now() or nextval()
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

CREATE FUNCTION bridge.signature_of(relation regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(c.name || ' ' || c.type, ', ' ORDER BY c.name) FROM bridge.columns_of(relation) AS c
$$;
COMMENT ON FUNCTION bridge.signature_of(regclass) IS 'Columns and types, to notice a change.';

-- Returns the column itself where every row has a token, so that an index serves it. Else a row without a token becomes
-- a session named after the key of the row. An index evaluates the expression in the application's statement: it
-- contains built-in functions only.
CREATE FUNCTION bridge.token_of(relation regclass) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_token boolean := EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attname = 'session_token' AND a.attnotnull
          AND a.atttypid IN ('text'::regtype, 'character varying'::regtype) AND a.attcollation = 'pg_catalog."default"'::regcollation);
BEGIN
    IF has_token THEN
        EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s WHERE session_token = %L)', relation, '') INTO has_token;
    END IF;
    IF has_token THEN
        RETURN 't.session_token::text';
    END IF;
    RETURN (
        SELECT concat(
            'coalesce(',
            max('nullif(t.session_token::text COLLATE "default", ''''), ') FILTER (WHERE c.name = 'session_token'),
            '''legacy-'' || md5(coalesce(',
            max('t.id::text, ') FILTER (WHERE c.name = 'id'),
            max('t.student_id::text, ') FILTER (WHERE c.name = 'student_id'),
            max('nullif(nullif(lower(btrim(t.student_email::text COLLATE "C", E'' \t\r\n\f\x0B'')), ''''), ''unknown@example.com''), ')
                FILTER (WHERE c.name = 'student_email'),
            ''''')) COLLATE "default")')
        FROM bridge.columns_of(relation) AS c);
END
$$;
COMMENT ON FUNCTION bridge.token_of(regclass) IS 'SQL expression for the token of a legacy row, alias t.';

-- One SELECT for every shape of a legacy table. The name of a missing column resolves to "absent". The type of a column
-- chooses the reader. Two expressions come from the catalog: the token, and the unknown columns.
CREATE FUNCTION bridge.create_adapter(stem text, rel regclass, token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $build$
DECLARE
    unknown record;
BEGIN
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
        nullif(student_name::text, '') COLLATE "default" AS student_name,
        nullif(selected_phone_number::text, '') COLLATE "default" AS selected_phone_number,
        nullif(selected_voice::text, '') COLLATE "default" AS selected_voice,
        nullif(tts_provider::text, '') COLLATE "default" AS tts_provider,
        nullif(call_direction::text, '') COLLATE "default" AS call_direction,
        nullif(use_case_description::text, '') COLLATE "default" AS use_case_description,
        nullif(openai_api_key::text, '') COLLATE "default" AS openai_api_key,
        nullif(system_prompt::text, '') COLLATE "default" AS system_prompt,
        nullif(ivr_greeting::text, '') COLLATE "default" AS ivr_greeting,
        nullif(websocket_url::text, '') COLLATE "default" AS websocket_url,
        nullif(codespace_url::text, '') COLLATE "default" AS codespace_url,
        nullif(github_repo_url::text, '') COLLATE "default" AS github_repo_url,
        nullif(railway_url::text, '') COLLATE "default" AS railway_url,
        bridge.json_of(j.tools, 'array') AS tools, bridge.json_of(j.voice_settings, 'object') AS voice_settings,
        bridge.json_of(j.exercises, 'object') AS exercises, bridge.json_of(j.bug_reports, 'array') AS bug_reports,
        coalesce(bridge.as_bool(twilio_connected), false) AS twilio_connected,
        coalesce(bridge.as_bool(openai_connected), false) AS openai_connected,
        coalesce(bridge.as_bool(call_direction_chosen), false) AS call_direction_chosen,
        coalesce(bridge.as_bool(services_ready), false) AS services_ready,
        coalesce(bridge.as_bool(step4_code_validated), false) AS step4_code_validated,
        coalesce(bridge.as_bool(step4_committed), false) AS step4_committed,
        coalesce(bridge.as_bool(step4_deployed), false) OR coalesce(bridge.as_bool(voice_handler_deployed), false) AS step4_deployed,
        coalesce(bridge.as_bool(step5_code_validated), false) AS step5_code_validated,
        coalesce(bridge.as_bool(step5_committed), false) AS step5_committed,
        coalesce(bridge.as_bool(step5_deployed), false) OR coalesce(bridge.as_bool(websocket_handler_deployed), false) AS step5_deployed,
        coalesce(bridge.as_bool(step6_code_validated), false) AS step6_code_validated,
        coalesce(bridge.as_bool(step6_committed), false) AS step6_committed,
        coalesce(bridge.as_bool(step6_deployed), false) AS step6_deployed,
        coalesce(bridge.as_bool(system_prompt_saved), false) AS system_prompt_saved,
        coalesce(bridge.as_bool(step7_committed), false) AS step7_committed,
        coalesce(bridge.as_bool(step7_deployed), false) AS step7_deployed,
        coalesce(bridge.as_bool(tools_configured), false) AS tools_configured,
        coalesce(bridge.as_bool(step8_code_validated), false) AS step8_code_validated,
        coalesce(bridge.as_bool(step8_committed), false) AS step8_committed,
        coalesce(bridge.as_bool(step8_deployed), false) AS step8_deployed,
        coalesce(bridge.as_bool(project_deployed), false) OR coalesce(bridge.as_bool(full_deployment_complete), false) AS project_deployed,
        coalesce(bridge.as_bool(demo_mode), false) AS demo_mode,
        CASE WHEN j.step IS NOT NULL THEN least(greatest(j.step, 0), 9) END AS current_step,
        CASE WHEN j.spent IS NOT NULL THEN greatest(j.spent, 0) END AS total_time_spent,
        bridge.as_time(started_at) AS started_at, bridge.as_time(last_activity) AS last_activity,
        bridge.as_time(created_at) AS created_at, bridge.as_time(updated_at) AS updated_at,
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
        SELECT i.*, array_remove(ARRAY[
            CASE WHEN jsonb_typeof(i.tools) <> 'array' AND i.tools NOT IN ('null', '""', '{}') THEN 'tools' END,
            CASE WHEN jsonb_typeof(i.voice_settings) <> 'object' AND i.voice_settings NOT IN ('null', '""', '[]') THEN 'voice_settings' END,
            CASE WHEN jsonb_typeof(i.exercises) <> 'object' AND i.exercises NOT IN ('null', '""', '[]') THEN 'exercises' END,
            CASE WHEN jsonb_typeof(i.bug_reports) <> 'array' AND i.bug_reports NOT IN ('null', '""', '{}') THEN 'bug_reports' END,
            bridge.unread('twilio_connected', twilio_connected::text, bridge.as_bool(twilio_connected) IS NULL),
            bridge.unread('openai_connected', openai_connected::text, bridge.as_bool(openai_connected) IS NULL),
            bridge.unread('call_direction_chosen', call_direction_chosen::text, bridge.as_bool(call_direction_chosen) IS NULL),
            bridge.unread('services_ready', services_ready::text, bridge.as_bool(services_ready) IS NULL),
            bridge.unread('step4_code_validated', step4_code_validated::text, bridge.as_bool(step4_code_validated) IS NULL),
            bridge.unread('step4_committed', step4_committed::text, bridge.as_bool(step4_committed) IS NULL),
            bridge.unread('step4_deployed', step4_deployed::text, bridge.as_bool(step4_deployed) IS NULL),
            bridge.unread('step5_code_validated', step5_code_validated::text, bridge.as_bool(step5_code_validated) IS NULL),
            bridge.unread('step5_committed', step5_committed::text, bridge.as_bool(step5_committed) IS NULL),
            bridge.unread('step5_deployed', step5_deployed::text, bridge.as_bool(step5_deployed) IS NULL),
            bridge.unread('step6_code_validated', step6_code_validated::text, bridge.as_bool(step6_code_validated) IS NULL),
            bridge.unread('step6_committed', step6_committed::text, bridge.as_bool(step6_committed) IS NULL),
            bridge.unread('step6_deployed', step6_deployed::text, bridge.as_bool(step6_deployed) IS NULL),
            bridge.unread('system_prompt_saved', system_prompt_saved::text, bridge.as_bool(system_prompt_saved) IS NULL),
            bridge.unread('step7_committed', step7_committed::text, bridge.as_bool(step7_committed) IS NULL),
            bridge.unread('step7_deployed', step7_deployed::text, bridge.as_bool(step7_deployed) IS NULL),
            bridge.unread('tools_configured', tools_configured::text, bridge.as_bool(tools_configured) IS NULL),
            bridge.unread('step8_code_validated', step8_code_validated::text, bridge.as_bool(step8_code_validated) IS NULL),
            bridge.unread('step8_committed', step8_committed::text, bridge.as_bool(step8_committed) IS NULL),
            bridge.unread('step8_deployed', step8_deployed::text, bridge.as_bool(step8_deployed) IS NULL),
            bridge.unread('project_deployed', project_deployed::text, bridge.as_bool(project_deployed) IS NULL),
            bridge.unread('demo_mode', demo_mode::text, bridge.as_bool(demo_mode) IS NULL),
            bridge.unread('voice_handler_deployed', voice_handler_deployed::text, bridge.as_bool(voice_handler_deployed) IS NULL),
            bridge.unread('websocket_handler_deployed', websocket_handler_deployed::text, bridge.as_bool(websocket_handler_deployed) IS NULL),
            bridge.unread('full_deployment_complete', full_deployment_complete::text, bridge.as_bool(full_deployment_complete) IS NULL),
            bridge.unread('current_step', current_step::text, i.step IS NULL),
            bridge.unread('total_time_spent', total_time_spent::text, i.spent IS NULL),
            bridge.unread('started_at', started_at::text, bridge.as_time(started_at) IS NULL),
            bridge.unread('last_activity', last_activity::text, bridge.as_time(last_activity) IS NULL),
            bridge.unread('created_at', created_at::text, bridge.as_time(created_at) IS NULL),
            bridge.unread('updated_at', updated_at::text, bridge.as_time(updated_at) IS NULL)
        ], NULL) AS unreadable
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
    $view$, 'legacy_' || stem, token, unknown.says, unknown.content, rel);

END
$build$;
COMMENT ON FUNCTION bridge.create_adapter(text, regclass, text) IS 'Creates or replaces bridge.legacy_<stem> over a relation.';

-- Stubs: the mapping can be created before the migrator locks a legacy table.
CREATE VIEW bridge.no_legacy_table AS SELECT (NULL::bridge.known_columns).* WHERE false;
COMMENT ON VIEW bridge.no_legacy_table IS 'Replaces a legacy table until its adapter is built.';
SELECT bridge.create_adapter(n, 'bridge.no_legacy_table', 't.session_token') FROM unnest(ARRAY['progress', 'config']) AS n;

CREATE FUNCTION bridge.keep_first(kept anyelement, next anyelement) RETURNS anyelement
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS 'SELECT kept';
CREATE AGGREGATE bridge.first(anyelement) (SFUNC = bridge.keep_first, STYPE = anyelement);
COMMENT ON AGGREGATE bridge.first(anyelement) IS 'First value that is not NULL.';

CREATE AGGREGATE bridge.merge_objects(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb, INITCOND = '{}');
COMMENT ON AGGREGATE bridge.merge_objects(jsonb) IS 'One object of many; the last value of a key wins.';

-- Merges rows that share a token, where no key forbids them: flags by OR, the earliest start, the greatest numbers and
-- times, everything else from the newest row that has a value.
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
    bridge.first(r.email ORDER BY r.row_at DESC NULLS LAST, r.email) AS email,
    bridge.first(r.student_name ORDER BY r.row_at DESC NULLS LAST, r.student_name) AS student_name,
    bridge.first(r.selected_phone_number ORDER BY r.row_at DESC NULLS LAST, r.selected_phone_number) AS selected_phone_number,
    bridge.first(r.selected_voice ORDER BY r.row_at DESC NULLS LAST, r.selected_voice) AS selected_voice,
    bridge.first(r.tts_provider ORDER BY r.row_at DESC NULLS LAST, r.tts_provider) AS tts_provider,
    bridge.first(r.call_direction ORDER BY r.row_at DESC NULLS LAST, r.call_direction) AS call_direction,
    bridge.first(r.use_case_description ORDER BY r.row_at DESC NULLS LAST, r.use_case_description) AS use_case_description,
    bridge.first(r.openai_api_key ORDER BY r.row_at DESC NULLS LAST, r.openai_api_key) AS openai_api_key,
    bridge.first(r.system_prompt ORDER BY r.row_at DESC NULLS LAST, r.system_prompt) AS system_prompt,
    bridge.first(r.ivr_greeting ORDER BY r.row_at DESC NULLS LAST, r.ivr_greeting) AS ivr_greeting,
    bridge.first(r.websocket_url ORDER BY r.row_at DESC NULLS LAST, r.websocket_url) AS websocket_url,
    bridge.first(r.codespace_url ORDER BY r.row_at DESC NULLS LAST, r.codespace_url) AS codespace_url,
    bridge.first(r.github_repo_url ORDER BY r.row_at DESC NULLS LAST, r.github_repo_url) AS github_repo_url,
    bridge.first(r.railway_url ORDER BY r.row_at DESC NULLS LAST, r.railway_url) AS railway_url,
    bridge.first(r.tools ORDER BY r.row_at DESC NULLS LAST, r.tools) AS tools,
    bridge.first(r.voice_settings ORDER BY r.row_at DESC NULLS LAST, r.voice_settings) AS voice_settings,
    bridge.first(r.exercises ORDER BY r.row_at DESC NULLS LAST, r.exercises) AS exercises,
    bridge.first(r.bug_reports ORDER BY r.row_at DESC NULLS LAST, r.bug_reports) AS bug_reports,
    bool_or(r.twilio_connected) AS twilio_connected, bool_or(r.openai_connected) AS openai_connected,
    bool_or(r.call_direction_chosen) AS call_direction_chosen, bool_or(r.services_ready) AS services_ready,
    bool_or(r.step4_code_validated) AS step4_code_validated, bool_or(r.step4_committed) AS step4_committed,
    bool_or(r.step4_deployed) AS step4_deployed, bool_or(r.step5_code_validated) AS step5_code_validated,
    bool_or(r.step5_committed) AS step5_committed, bool_or(r.step5_deployed) AS step5_deployed,
    bool_or(r.step6_code_validated) AS step6_code_validated, bool_or(r.step6_committed) AS step6_committed,
    bool_or(r.step6_deployed) AS step6_deployed, bool_or(r.system_prompt_saved) AS system_prompt_saved,
    bool_or(r.step7_committed) AS step7_committed, bool_or(r.step7_deployed) AS step7_deployed,
    bool_or(r.tools_configured) AS tools_configured, bool_or(r.step8_code_validated) AS step8_code_validated,
    bool_or(r.step8_committed) AS step8_committed, bool_or(r.step8_deployed) AS step8_deployed,
    bool_or(r.project_deployed) AS project_deployed, bool_or(r.demo_mode) AS demo_mode, max(r.current_step) AS current_step,
    max(r.total_time_spent) AS total_time_spent, min(r.started_at) AS started_at, max(r.last_activity) AS last_activity,
    min(r.created_at) AS created_at, max(r.updated_at) AS updated_at,
    bridge.merge_objects(r.extra ORDER BY r.row_at NULLS FIRST, r.extra) AS extra,
    array_remove(string_to_array(string_agg(array_to_string(r.unreadable, ','), ','), ','), '') AS unreadable,
    bridge.merge_objects(r.clamped ORDER BY r.row_at NULLS FIRST, r.clamped) AS clamped
FROM bridge.legacy_%1$s AS r
GROUP BY r.token;
CREATE VIEW bridge.token_%1$s AS SELECT * FROM bridge.legacy_%1$s
        $view$, stem);
    END LOOP;
END
$merged$;
COMMENT ON VIEW bridge.legacy_progress IS 'Adapter: the rows of workshop_students, in clean columns.';
COMMENT ON VIEW bridge.legacy_config IS 'Adapter: the rows of student_configs, in clean columns.';
COMMENT ON VIEW bridge.merged_progress IS 'legacy_progress, rows that share a token merged.';
COMMENT ON VIEW bridge.merged_config IS 'legacy_config, rows that share a token merged.';
COMMENT ON VIEW bridge.token_progress IS 'legacy_progress with one row for each token.';
COMMENT ON VIEW bridge.token_config IS 'legacy_config with one row for each token.';

-- The bridge creates an index where no key of the table serves a lookup by token. Rows may then share a token.
CREATE FUNCTION bridge.build_adapter(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rel CONSTANT regclass := (SELECT s.relation FROM bridge.source AS s WHERE s.legacy_name = p_legacy_name);
    stem CONSTANT text := CASE p_legacy_name WHEN 'workshop_students' THEN 'progress' ELSE 'config' END;
    token CONSTANT text := bridge.token_of(rel);
    index_name CONSTANT text := 'bridge_token_of_' || p_legacy_name;
    has_key boolean;
    is_unique boolean;
BEGIN
    PERFORM bridge.create_adapter(stem, rel, token);
    SELECT count(*) > 0, count(*) FILTER (WHERE i.indisunique AND i.indnkeyatts = 1) > 0 INTO has_key, is_unique
    FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = rel AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'session_token'
      AND token = 't.session_token::text';
    EXECUTE format('CREATE OR REPLACE VIEW bridge.token_%1$s AS SELECT * FROM bridge.%2$s_%1$s',
                   stem, CASE WHEN is_unique THEN 'legacy' ELSE 'merged' END);
    IF NOT has_key THEN
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
            -- the mapping takes the latest of these as the last activity
            WHEN c.name = 'updated_at' AND (p_legacy_name = 'student_configs' OR NOT EXISTS (
                SELECT FROM bridge.columns_of(rel) AS o WHERE o.name = 'last_activity')) THEN 'last_activity'
            WHEN c.name <> 'updated_at' THEN c.name
        END AS column_name
    ) AS k
    WHERE k.column_name IN (SELECT o.name FROM bridge.columns_of('bridge.known_columns') AS o)
      AND k.column_name <> 'session_token'
      -- the token expression of a row without a token may contain its address
      AND NOT (c.name = 'student_email' AND token LIKE '%student_email%' AND token NOT LIKE '%t.id::%' AND token NOT LIKE '%t.student_id::%');
END
$$;
COMMENT ON FUNCTION bridge.build_adapter(text) IS 'Builds the adapter of a legacy table for the columns that it has now.'
