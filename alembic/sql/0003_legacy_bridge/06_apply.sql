-- diff and apply: which columns differ between the unified tables and the mapping, and the direction of each.

-- OFFSET 0: a lookup for each session. A join would read all students for each chunk.
CREATE VIEW bridge.unified AS
SELECT
    v.session_token, v.student_id, st.student_email, st.student_name,
    ROW(
        v.session_token, v.selected_phone_number, v.selected_voice, v.tts_provider, v.call_direction, v.use_case_description,
        v.openai_api_key, v.system_prompt, v.ivr_greeting, v.websocket_url, v.codespace_url, v.github_repo_url, v.railway_url,
        v.tools, v.voice_settings, v.exercises, v.bug_reports, v.twilio_connected, v.openai_connected,
        v.call_direction_chosen, v.services_ready, v.step4_code_validated, v.step4_committed, v.step4_deployed,
        v.step5_code_validated, v.step5_committed, v.step5_deployed, v.step6_code_validated, v.step6_committed,
        v.step6_deployed, v.system_prompt_saved, v.step7_committed, v.step7_deployed, v.tools_configured,
        v.step8_code_validated, v.step8_committed, v.step8_deployed, v.project_deployed, v.demo_mode, v.current_step,
        v.completion_rate, v.total_time_spent, v.started_at, v.created_at, v.last_activity, v.legacy_extra
    )::bridge.shared_columns AS shared,
    v.expires_at, v.is_active, v.updated_at
FROM public.sessions AS v
LEFT JOIN LATERAL (SELECT k.* FROM public.students AS k WHERE k.student_id = v.student_id OFFSET 0) AS st ON true;
COMMENT ON VIEW bridge.unified IS 'Sessions of the unified schema, with their student.';

CREATE FUNCTION bridge.session_json(student_email text, shared bridge.shared_columns) RETURNS jsonb
    LANGUAGE sql STABLE
RETURN to_jsonb(shared) || jsonb_build_object('student_email', student_email);
COMMENT ON FUNCTION bridge.session_json(text, bridge.shared_columns) IS 'Column -> value, of either side.';

CREATE FUNCTION bridge.whole_json(
    student_email text, shared bridge.shared_columns, expires_at timestamptz, is_active boolean, updated_at timestamptz)
    RETURNS jsonb
    LANGUAGE sql STABLE
RETURN bridge.session_json(student_email, shared)
    || jsonb_build_object('expires_at', expires_at, 'is_active', is_active, 'updated_at', updated_at);
COMMENT ON FUNCTION bridge.whole_json IS 'session_json(), and the columns that the mapping sets only when it inserts the row.';

CREATE FUNCTION bridge.columns_that_differ(u jsonb, m jsonb) RETURNS TABLE (name text, unified jsonb, mapped jsonb)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.key, nullif(u -> e.key, 'null'), nullif(e.value, 'null')
    FROM jsonb_each(m) AS e
    WHERE e.value IS DISTINCT FROM u -> e.key
$$;
COMMENT ON FUNCTION bridge.columns_that_differ(jsonb, jsonb) IS 'Lists the keys of the second object with another value in the first one.';

-- Compares whole rows first. Only rows that differ become JSON.
CREATE FUNCTION bridge.diff(first_token text, last_token text)
    RETURNS TABLE (token text, name text, unified jsonb, mapped jsonb)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET TimeZone = 'UTC'
    SET DateStyle = 'ISO, YMD'
    SET extra_float_digits = 1
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT u.session_token, d.*
    FROM bridge.mapped(first_token, last_token) AS m
    JOIN bridge.unified AS u ON u.session_token = m.session_token
    CROSS JOIN LATERAL bridge.columns_that_differ(
        bridge.session_json(u.student_email, u.shared), bridge.session_json(m.student_email, m.shared)) AS d
    WHERE u.session_token >= first_token AND u.session_token <= last_token
      AND (u.student_email, u.shared) IS DISTINCT FROM (m.student_email, m.shared);
END
$$;
COMMENT ON FUNCTION bridge.diff(text, text) IS
    'Columns in which unified tables and mapping differ, for a range of tokens, both ends included.';

-- --- writing legacy rows --------------------------------------------------------------------------

CREATE FUNCTION bridge.patch_of(p_legacy_name text, p_token text, p_unified jsonb, p_columns text[]) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(l.legacy_column, CASE
        WHEN v.value = 'null' AND l.instead_of_null IS NOT NULL THEN to_jsonb(l.instead_of_null)
        WHEN l.is_number AND jsonb_typeof(v.value) = 'boolean' THEN to_jsonb(v.value::boolean::integer)
        ELSE v.value END)
    FROM bridge.legacy_column AS l
    CROSS JOIN LATERAL (
        SELECT CASE WHEN l.column_name = 'student_email' AND p_unified ->> 'student_email' = bridge.placeholder_email(p_token)
                    THEN 'null' ELSE p_unified -> l.column_name END AS value
    ) AS v
    WHERE l.legacy_name = p_legacy_name AND (p_columns IS NULL OR l.column_name = ANY (p_columns))
$$;
COMMENT ON FUNCTION bridge.patch_of(text, text, jsonb, text[]) IS 'Legacy column -> value, for some columns of a session; NULL: for all.';

-- public enters the path for the statement alone: the application's triggers and defaults run inside. A function that another
-- role creates there must match no other call, so the table's name is qualified as well. If the table refuses a value, the columns are written one by one.
CREATE FUNCTION bridge.update_legacy(p_legacy_name text, p_token text, p_patch jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    src CONSTANT bridge.source := (SELECT s FROM bridge.source AS s WHERE s.legacy_name = p_legacy_name);
    column_name text;
    statement CONSTANT text := (
        SELECT format(
            'UPDATE %s AS t SET (%s) = (SELECT %s FROM pg_catalog.jsonb_populate_record(t.*, $1) AS n) WHERE %s = $2 AND EXISTS ('
            'SELECT FROM pg_catalog.jsonb_each($1) AS e WHERE pg_catalog.to_jsonb(t.*) -> e.key IS DISTINCT FROM e.value)',
            (pg_identify_object('pg_class'::regclass, src.relation, 0)).identity, string_agg(quote_ident(k), ', '), string_agg('n.' || quote_ident(k), ', '),
            src.token_expression)
        FROM jsonb_object_keys(p_patch) AS k);
BEGIN
    BEGIN
        PERFORM set_config('search_path', 'public, pg_temp', true);
        EXECUTE statement USING p_patch, p_token;
        RETURN;
    EXCEPTION
        WHEN data_exception OR integrity_constraint_violation OR with_check_option_violation OR raise_exception OR assert_failure THEN
            RAISE DEBUG '% refused a value: %', p_legacy_name, SQLSTATE;
    END;
    FOR column_name IN SELECT k FROM jsonb_object_keys(p_patch) AS k WHERE p_patch <> jsonb_build_object(k, p_patch -> k) LOOP
        PERFORM bridge.update_legacy(p_legacy_name, p_token, jsonb_build_object(column_name, p_patch -> column_name));
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.update_legacy(text, text, jsonb) IS 'Writes differing columns of legacy rows; skips a value that the table refuses.';

-- Inserts the columns that a row needs. An update writes the others.
CREATE FUNCTION bridge.insert_legacy(p_legacy_name text, p_token text, p_unified jsonb) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    src CONSTANT bridge.source := (SELECT s FROM bridge.source AS s WHERE s.legacy_name = p_legacy_name);
    is_same boolean;
    base CONSTANT jsonb := jsonb_build_object('session_token', p_token) || coalesce(bridge.patch_of(
        p_legacy_name, p_token, p_unified,
        (SELECT array_agg(l.column_name) FROM bridge.legacy_column AS l
         WHERE l.legacy_name = p_legacy_name AND (l.instead_of_null IS NOT NULL OR l.column_name = 'student_email'))), '{}');
    statement CONSTANT text := (
        SELECT format('INSERT INTO %1$s AS t (%2$s) SELECT %2$s FROM pg_catalog.jsonb_populate_record(NULL::%1$s, $1) RETURNING %3$s = $2',
                      (pg_identify_object('pg_class'::regclass, src.relation, 0)).identity, string_agg(quote_ident(k), ', '), src.token_expression)
        FROM jsonb_object_keys(base) AS k);
BEGIN
    IF NOT EXISTS (SELECT FROM bridge.columns_of(src.relation) AS c WHERE c.name = 'session_token') THEN
        RETURN false;
    END IF;
    PERFORM set_config('search_path', 'public, pg_temp', true);
    EXECUTE statement INTO is_same USING base, p_token;
    IF is_same IS NOT TRUE THEN  -- the type has another spelling of the token, or a trigger skips the row
        RAISE data_exception;
    END IF;
    RETURN true;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR with_check_option_violation OR raise_exception OR assert_failure THEN
        RAISE DEBUG '% refused a row: %', p_legacy_name, SQLSTATE;
        RETURN false;
END
$$;
COMMENT ON FUNCTION bridge.insert_legacy(text, text, jsonb) IS 'Inserts a legacy row; false: the table refused it.';

-- Rows of a referencing legacy table are inserted last and deleted first.
CREATE FUNCTION bridge.legacy_refers(p_legacy_name text) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_constraint AS k
        JOIN bridge.source AS s ON s.relation = k.conrelid
        JOIN bridge.source AS o ON o.relation = k.confrelid
        WHERE k.contype = 'f' AND s.legacy_name = p_legacy_name AND o.legacy_name <> p_legacy_name)
$$;
COMMENT ON FUNCTION bridge.legacy_refers(text) IS 'True: this legacy table has a foreign key to the other one.';

CREATE FUNCTION bridge.delete_legacy(p_token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN SELECT format('DELETE FROM %s AS t WHERE %s = $1', (pg_identify_object('pg_class'::regclass, s.relation, 0)).identity, s.token_expression)
                     FROM bridge.source AS s ORDER BY bridge.legacy_refers(s.legacy_name) DESC, s.legacy_name LOOP
        PERFORM pg_catalog.set_config('search_path', 'public, pg_temp', true);
        EXECUTE statement USING p_token;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.delete_legacy(text) IS 'Deletes the legacy rows of a session.';

-- Inserts a missing row only if no existing row has one of the columns.
CREATE FUNCTION bridge.write_legacy(p_token text, p_columns text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present text[] := ARRAY(SELECT DISTINCT s.legacy_name FROM bridge.student_source AS s WHERE s.token = p_token);
    inserted text[] := '{}';
    unified CONSTANT jsonb := (
        SELECT bridge.session_json(u.student_email, u.shared) || jsonb_build_object('student_name', u.student_name)
        FROM bridge.unified AS u WHERE u.session_token = p_token);
    name text;
    missing text;
    columns text[];
    patch jsonb;
BEGIN
    -- completion_rate is computed: it alone is not written
    p_columns := ARRAY(SELECT c FROM unnest(p_columns) AS c WHERE EXISTS (
        SELECT FROM bridge.legacy_column AS l WHERE l.column_name = c AND c <> 'completion_rate'));
    IF p_columns = '{}' THEN
        RETURN;
    END IF;
    p_columns := p_columns || 'completion_rate'::text;
    FOREACH name IN ARRAY ARRAY['workshop_students', 'student_configs'] LOOP
        CONTINUE WHEN name = ANY (present) OR NOT EXISTS (
            SELECT FROM bridge.legacy_column AS l
            WHERE l.legacy_name = name AND l.column_name = ANY (p_columns) AND l.column_name <> 'completion_rate' AND NOT EXISTS (
                SELECT FROM bridge.legacy_column AS o
                WHERE o.column_name = l.column_name AND o.legacy_name = ANY (present)));
        FOR missing IN
            SELECT s.legacy_name FROM bridge.source AS s
            WHERE s.legacy_name <> ALL (present) AND (s.legacy_name = name OR bridge.legacy_refers(name))
            ORDER BY s.legacy_name = name
        LOOP
            IF bridge.insert_legacy(missing, p_token, unified) THEN
                present := present || missing;
                inserted := inserted || missing;
            END IF;
        END LOOP;
    END LOOP;
    FOREACH name IN ARRAY present LOOP
        -- a row with another address belongs to another student: its address and name stay
        columns := ARRAY(
            SELECT c FROM unnest(p_columns) AS c
            WHERE c NOT IN ('student_email', 'student_name') OR name = ANY (inserted) OR NOT EXISTS (
                SELECT FROM bridge.student_source AS s
                WHERE s.token = p_token AND s.legacy_name = name AND NOT s.of_session));
        patch := bridge.patch_of(name, p_token, unified, CASE WHEN name <> ALL (inserted) THEN columns END);
        PERFORM bridge.update_legacy(name, p_token, patch) WHERE patch IS NOT NULL;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.write_legacy(text, text[]) IS 'Writes columns of a session to the legacy tables.';

-- --- writing unified rows -------------------------------------------------------------------------

-- OFFSET 0: a lookup by key. A join would read the whole table for each chunk. COLLATE "default" lets the index serve it.
CREATE FUNCTION bridge.insert_sessions(first_token text, last_token text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    rows bigint;
BEGIN
    WITH m AS MATERIALIZED (
        SELECT o.*, st.student_id
        FROM bridge.mapped(first_token, last_token) AS o
        CROSS JOIN LATERAL (
            SELECT k.student_id FROM public.students AS k WHERE k.student_email = o.student_email OFFSET 0) AS st
    ),
    inserted AS (
        INSERT INTO public.sessions (
            session_token, selected_phone_number, selected_voice, tts_provider, call_direction, use_case_description,
            openai_api_key, system_prompt, ivr_greeting, websocket_url, codespace_url, github_repo_url, railway_url, tools,
            voice_settings, exercises, bug_reports, twilio_connected, openai_connected, call_direction_chosen, services_ready,
            step4_code_validated, step4_committed, step4_deployed, step5_code_validated, step5_committed, step5_deployed,
            step6_code_validated, step6_committed, step6_deployed, system_prompt_saved, step7_committed, step7_deployed,
            tools_configured, step8_code_validated, step8_committed, step8_deployed, project_deployed, demo_mode, current_step,
            completion_rate, total_time_spent, started_at, created_at, last_activity, legacy_extra,
            student_id, expires_at, is_active, updated_at)
        SELECT (m.shared).*, m.student_id, coalesce(m.expires_at, now() + interval '30 days'), m.is_active, coalesce(m.updated_at, now())
        FROM m
        WHERE NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = m.session_token OFFSET 0)
        RETURNING session_token
    ),
    steps AS (
        INSERT INTO public.step_progress AS sp (
            session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts,
            validation_passed, code_submitted, deployment_url)
        SELECT m.session_token, m.student_id, e.*
        FROM m CROSS JOIN LATERAL unnest(m.steps) AS e
        -- an endpoint may have written the step before its session: merged like two keys of one exercise
        ON CONFLICT (session_token, step_number) DO UPDATE SET
            student_id = excluded.student_id,
            started_at = least(sp.started_at, excluded.started_at),
            completed_at = least(sp.completed_at, excluded.completed_at),
            time_spent = greatest(sp.time_spent, excluded.time_spent),
            attempts = greatest(sp.attempts, excluded.attempts),
            validation_passed = sp.validation_passed OR excluded.validation_passed,
            code_submitted = coalesce(sp.code_submitted, excluded.code_submitted),
            deployment_url = coalesce(sp.deployment_url, excluded.deployment_url)
    ),
    noted AS (
        INSERT INTO public.events (student_id, session_token, event_type, event_data)
        SELECT m.student_id, m.session_token, 'merge_note', m.note
        FROM m
        WHERE m.note IS NOT NULL AND NOT EXISTS (
            SELECT FROM public.events AS e
            WHERE e.session_token = m.session_token AND e.event_type = 'merge_note' AND e.event_data = m.note OFFSET 0)
        ORDER BY m.session_token
    )
    SELECT count(*) INTO rows FROM inserted;
    RETURN rows;
END
$$;
COMMENT ON FUNCTION bridge.insert_sessions(text, text) IS
    'Inserts the sessions of a range of tokens that the unified schema lacks, with steps and merge decisions; returns how many.';

-- The triggers of 0004 write completion_rate and steps.
CREATE FUNCTION bridge.update_session(p_token text, p_patch jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    patch CONSTANT jsonb := p_patch - ARRAY['student_email', 'completion_rate'] || coalesce((
        SELECT jsonb_build_object('student_id', st.student_id) FROM public.students AS st
        WHERE st.student_email = p_patch ->> 'student_email'), '{}');
BEGIN
    IF patch <> '{}' THEN
        EXECUTE (
            SELECT format('UPDATE public.sessions AS v SET (%s) = (SELECT %s FROM jsonb_populate_record(v, $1) AS n) WHERE v.session_token = $2',
                          string_agg(quote_ident(k), ', ' ORDER BY k), string_agg('n.' || quote_ident(k), ', ' ORDER BY k))
            FROM jsonb_object_keys(patch) AS k) USING patch, p_token;
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.update_session(text, jsonb) IS 'Writes columns of a session: name -> value, student_email among them.';

CREATE FUNCTION bridge.delete_session(p_token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- from 0005 on the foreign keys do the same
    DELETE FROM public.step_progress AS sp WHERE sp.session_token = p_token;
    UPDATE public.events AS e SET session_token = NULL WHERE e.session_token = p_token;
    DELETE FROM public.sessions AS v WHERE v.session_token = p_token;
END
$$;
COMMENT ON FUNCTION bridge.delete_session(text) IS 'Deletes a session with its steps; its events stay.';

-- --- students -------------------------------------------------------------------------------------

CREATE FUNCTION bridge.refresh_sources(p_token text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sources CONSTANT bridge.student_source[] := ARRAY(
        SELECT s FROM bridge.sources_of(p_token, p_token) AS s ORDER BY s);
BEGIN
    IF sources = ARRAY(SELECT s FROM bridge.student_source AS s WHERE s.token = p_token ORDER BY s) THEN
        RETURN false;
    END IF;
    DELETE FROM bridge.student_source AS s WHERE s.token = p_token;
    INSERT INTO bridge.student_source SELECT s.* FROM unnest(sources) AS s;
    RETURN true;
END
$$;
COMMENT ON FUNCTION bridge.refresh_sources(text) IS 'Stores the student sources of a session; false: nothing changed.';

CREATE FUNCTION bridge.insert_students(emails text[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rows bigint;
BEGIN
    INSERT INTO public.students (student_id, student_email, student_name, created_at, github_username)
    -- another id, where a student with a changed address has this one, or is restored with it
    SELECT CASE WHEN EXISTS (SELECT FROM public.students AS o WHERE o.student_id = i.student_id OFFSET 0)
                     OR k.student_id IS NULL AND current_setting('bridge.backfilling', true) = 'on' AND EXISTS (
                         SELECT FROM bridge.override AS o
                         WHERE o.table_name = 'kept students' AND o.column_name = 'student_id' AND o.value #>> '{}' = i.student_id::text
                         OFFSET 0)
                THEN gen_random_uuid() ELSE i.student_id END,
           m.student_email, m.student_name, m.created_at, k.github_username
    FROM bridge.students AS m
    CROSS JOIN LATERAL (
        SELECT (max(o.value #>> '{}') FILTER (WHERE o.column_name = 'student_id'))::uuid AS student_id,
               max(o.value #>> '{}') FILTER (WHERE o.column_name = 'github_username') AS github_username
        FROM bridge.override AS o WHERE o.table_name = 'kept students' AND o.key = m.student_email
    ) AS k
    CROSS JOIN LATERAL (
        SELECT coalesce(k.student_id, bridge.student_uuid(m.student_email, m.first_token)) AS student_id
    ) AS i
    WHERE m.student_email = ANY (emails)
      AND NOT EXISTS (SELECT FROM public.students AS st WHERE st.student_email = m.student_email COLLATE "default" OFFSET 0);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN rows;
END
$$;
COMMENT ON FUNCTION bridge.insert_students(text[]) IS 'Inserts the missing students of these addresses; returns how many.';

-- The decision table, for one column in which the two sides differ:
--
--   logged on     column                                        goes
--   legacy only   the mapped value is the override's            nowhere: the unified value stays
--   legacy only   else                                          to the unified schema
--   unified only  any                                           to the legacy tables
--   both          changed on one side only                      to where it did not change
--   both          changed on both sides                         the later change wins
--   both          changed on neither: an override               nowhere
--   neither       the bridge itself changed the mapping         nowhere
CREATE FUNCTION bridge.direction(legacy_id bigint, unified_id bigint, legacy_changed boolean, unified_changed boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN unified_id IS NULL THEN CASE WHEN legacy_id IS NOT NULL AND legacy_changed THEN 'unified' ELSE 'nowhere' END
    WHEN legacy_id IS NULL THEN 'legacy'
    WHEN unified_changed AND legacy_changed THEN CASE WHEN unified_id > legacy_id THEN 'legacy' ELSE 'unified' END
    WHEN unified_changed THEN 'legacy'
    WHEN legacy_changed THEN 'unified'
    ELSE 'nowhere'
END;
COMMENT ON FUNCTION bridge.direction(bigint, bigint, boolean, boolean) IS
    'Side that a column is written to: unified, legacy or nowhere. The ids are of the last change on each side.';

-- A legacy column changed if the mapped value is not the override's; without an override, if it is not the value before.
CREATE FUNCTION bridge.has_changed(kept bridge.override, before jsonb, name text, value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (kept).key IS NOT NULL THEN (kept).over IS DISTINCT FROM value
            WHEN before ? name THEN nullif(before -> name, 'null') IS DISTINCT FROM value
            ELSE true END;
COMMENT ON FUNCTION bridge.has_changed(bridge.override, jsonb, text, jsonb) IS
    'True: the value is not the recorded one, or not the one before.';

CREATE FUNCTION bridge.record_override(p_table text, p_key text, p_column text, p_value jsonb, p_over jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bridge.override AS o (table_name, key, column_name, value, over)
    VALUES (p_table, p_key, p_column, p_value, p_over)
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE SET value = excluded.value, over = excluded.over
    WHERE (o.value, o.over) IS DISTINCT FROM (excluded.value, excluded.over)
$$;
COMMENT ON FUNCTION bridge.record_override(text, text, text, jsonb, jsonb) IS 'Inserts or updates one override.';

-- Existence, name and created_at of a student. All logged changes of the student's sessions decide together, and those of
-- p_token, which may have belonged to the student until now. p_last_id is the last change that counts; 0 after a write
-- of the bridge. needed: a session belongs to the student. Returns true if the unified name goes to the legacy tables.
CREATE FUNCTION bridge.apply_student(p_email text, p_token text, p_last_id bigint, needed boolean) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
DECLARE
    st jsonb;
    m jsonb;
    logged record;
    name text;
    kept bridge.override;
    goes text;
    to_unified jsonb := '{}';
    name_goes_back boolean := false;
BEGIN
    -- lock first, then read the sources: another transaction of this student is busy until this one commits
    SELECT jsonb_strip_nulls(to_jsonb(s)) INTO st FROM public.students AS s WHERE s.student_email = p_email FOR NO KEY UPDATE NOWAIT;
    SELECT jsonb_strip_nulls(to_jsonb(s)) INTO m FROM bridge.students AS s WHERE s.student_email = p_email;
    IF m IS NULL OR (m -> 'student_name', m -> 'created_at', true)
                    IS NOT DISTINCT FROM (st -> 'student_name', st -> 'created_at', st IS NOT NULL) THEN
        DELETE FROM bridge.override AS o
        WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name IN ('(row)', 'student_name', 'created_at');
        -- another session of the student may have been applied first: the rows of this one still have the name before
        RETURN EXISTS (SELECT FROM bridge.change_log AS c
                       WHERE c.token = p_token AND c.id <= p_last_id AND c.before #>> '{student,student_id}' = st ->> 'student_id'
                         AND nullif(c.before #> '{student,student_name}', 'null') IS DISTINCT FROM st -> 'student_name');
    END IF;
    SELECT max(c.id) FILTER (WHERE c.side = 'legacy') AS legacy,
           max(c.id) FILTER (WHERE c.before ? 'student') AS unified,
           (array_agg(c.before -> 'student' ORDER BY c.id) FILTER (WHERE c.before ? 'student'))[1] AS before
    INTO logged
    FROM bridge.change_log AS c
    WHERE c.token IN (SELECT s.token FROM bridge.student_source AS s WHERE s.student_email = p_email
                      UNION SELECT v.session_token FROM public.sessions AS v WHERE v.student_id = (st ->> 'student_id')::uuid
                      UNION SELECT p_token)
      AND c.id <= p_last_id
      AND (c.side = 'legacy' OR c.before ->> 'student_email' = p_email
           OR c.before #>> '{student,student_id}' = st ->> 'student_id');

    IF st IS NULL THEN
        SELECT * INTO kept FROM bridge.override AS o
        WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = '(row)';
        IF needed OR 'unified' = bridge.direction(logged.legacy, logged.unified, kept.over IS DISTINCT FROM m, true) THEN
            IF bridge.insert_students(ARRAY[p_email]) = 0 THEN
                RAISE EXCEPTION 'the student was inserted meanwhile' USING ERRCODE = 'serialization_failure';
            END IF;
            DELETE FROM bridge.override AS o WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = '(row)';
        ELSE
            PERFORM bridge.record_override('students', p_email, '(row)', 'false', m);
        END IF;
        RETURN false;
    END IF;

    DELETE FROM bridge.override AS o WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = '(row)';
    FOREACH name IN ARRAY ARRAY['student_name', 'created_at'] LOOP
        SELECT * INTO kept FROM bridge.override AS o
        WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = name;
        goes := CASE WHEN st -> name IS DISTINCT FROM m -> name THEN bridge.direction(
            logged.legacy, logged.unified,
            legacy_changed => bridge.has_changed(kept, logged.before, name, m -> name),
            unified_changed => bridge.has_changed(NULL, logged.before, name, st -> name)) END;
        IF name = 'created_at' AND goes = 'unified' AND (st ->> name)::timestamptz < (m ->> name)::timestamptz AND EXISTS (
            SELECT FROM bridge.override AS p WHERE p.table_name = 'prior students' AND p.value ->> 'student_id' = st ->> 'student_id') THEN
            goes := 'nowhere';  -- an earlier attempt knows the earlier time
        ELSIF goes = 'unified' THEN
            to_unified := to_unified || jsonb_build_object(name, m -> name);
        END IF;
        IF goes IS NULL OR goes = 'unified' THEN
            DELETE FROM bridge.override AS o WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = name;
        ELSE
            name_goes_back := name_goes_back OR goes = 'legacy' AND name = 'student_name';
            PERFORM bridge.record_override('students', p_email, name, st -> name, m -> name);
        END IF;
    END LOOP;
    IF to_unified <> '{}' THEN
        UPDATE public.students AS s SET (student_name, created_at) = (
            SELECT n.student_name, n.created_at FROM jsonb_populate_record(s, to_unified) AS n)
        WHERE s.student_email = p_email;
    END IF;
    RETURN name_goes_back;
END
$$;
COMMENT ON FUNCTION bridge.apply_student(text, text, bigint, boolean) IS 'Decides existence, name and created_at of a student.';

-- --- apply ----------------------------------------------------------------------------------------

-- Copies each key that changed on one side only. The later change wins for a key that changed on both sides.
CREATE FUNCTION bridge.merge_keys(before jsonb, unified jsonb, mapped jsonb, unified_wins boolean) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(k.key, k.value) FILTER (WHERE k.value IS NOT NULL), '{}')
    FROM (
        SELECT o.key, CASE
            WHEN unified -> o.key IS NOT DISTINCT FROM before -> o.key THEN mapped -> o.key
            WHEN mapped -> o.key IS NOT DISTINCT FROM before -> o.key OR unified_wins THEN unified -> o.key
            ELSE mapped -> o.key END AS value
        FROM (SELECT jsonb_object_keys(unified) UNION SELECT jsonb_object_keys(mapped)) AS o(key)
    ) AS k
$$;
COMMENT ON FUNCTION bridge.merge_keys(jsonb, jsonb, jsonb, boolean) IS 'Merges two versions of an object key by key.';

CREATE FUNCTION bridge.note_decision(p_token text, p_note jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO public.events (student_id, session_token, event_type, event_data)
    SELECT v.student_id, p_token, 'merge_note', p_note
    FROM public.sessions AS v
    WHERE v.session_token = p_token AND NOT EXISTS (
        SELECT FROM public.events AS e
        WHERE e.session_token = p_token AND e.event_type = 'merge_note' AND e.event_data = p_note)
$$;
COMMENT ON FUNCTION bridge.note_decision(text, jsonb) IS 'Records merge decisions of a session as an event, once.';

CREATE FUNCTION bridge.record_overrides(tokens text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM bridge.override AS o WHERE o.table_name = 'sessions' AND o.key = ANY (tokens);
    INSERT INTO bridge.override (table_name, key, column_name, value, over)
    SELECT 'sessions', d.token, d.name, d.unified, d.mapped
    FROM bridge.diff((SELECT min(t) FROM unnest(tokens) AS t), (SELECT max(t) FROM unnest(tokens) AS t)) AS d
    WHERE d.token = ANY (tokens) AND d.name <> 'completion_rate'  -- computed
    UNION ALL
    SELECT 'sessions', v.session_token, '(row)', 'true', NULL FROM public.sessions AS v
    WHERE v.session_token = ANY (tokens) AND NOT EXISTS (SELECT FROM bridge.tokens AS t WHERE t.token = v.session_token OFFSET 0);
END
$$;
COMMENT ON FUNCTION bridge.record_overrides(text[]) IS 'Records the differing columns of sessions.';

-- The decision table, for each column that differs. session_id: the last change of the session itself; a change of its
-- student changes no other column than student_email. Conflicts: columns that changed on both sides, and the side that won.
CREATE FUNCTION bridge.decide_columns(
    p_token text, unified jsonb, mapped jsonb, before jsonb, inserted boolean, legacy_id bigint, unified_id bigint,
    session_id bigint, OUT to_unified jsonb, OUT to_legacy text[], OUT conflicts jsonb)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    d record;
    kept bridge.override;
    goes text;
    written_id bigint;
    legacy_changed boolean;
    unified_changed boolean;
BEGIN
    to_unified := '{}';
    to_legacy := '{}';
    conflicts := '{}';
    FOR d IN SELECT * FROM bridge.columns_that_differ(unified, mapped) LOOP
        SELECT * INTO kept FROM bridge.override AS o
        WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = d.name;
        legacy_changed := bridge.has_changed(kept, before, d.name, d.mapped);
        unified_changed := bridge.has_changed(NULL, before, d.name, d.unified);
        written_id := CASE d.name WHEN 'student_email' THEN unified_id ELSE session_id END;
        goes := bridge.direction(legacy_id, written_id, legacy_changed, unified_changed);
        IF d.name = 'student_email' AND d.unified IS NULL THEN
            goes := 'unified';  -- the student was deleted
        ELSIF inserted AND d.name <> 'exercises' THEN  -- columns that the insertion left at their defaults
            goes := CASE WHEN d.mapped IS DISTINCT FROM bridge.combined(d.name, d.unified, d.mapped, goes = 'legacy') THEN 'legacy' ELSE 'unified' END;
        END IF;
        IF goes = 'legacy' THEN
            -- recorded: the legacy tables refused it, or have no column for it
            CONTINUE WHEN kept.key IS NOT NULL AND (kept.value, kept.over) IS NOT DISTINCT FROM (d.unified, d.mapped);
            to_legacy := to_legacy || d.name;
        ELSIF goes = 'unified' THEN
            to_unified := to_unified || jsonb_build_object(d.name, d.mapped);
        END IF;
        CONTINUE WHEN NOT (legacy_changed AND unified_changed AND num_nulls(legacy_id, written_id) = 0 OR inserted AND d.name = 'exercises');
        IF d.name = 'exercises' THEN
            to_unified := to_unified || jsonb_build_object('exercises', bridge.merge_keys(
                before -> 'exercises', d.unified, d.mapped, goes = 'legacy'));
            to_legacy := to_legacy || d.name;
        ELSIF jsonb_typeof(coalesce(d.unified, d.mapped)) <> 'number' AND d.name NOT IN ('started_at', 'created_at', 'last_activity') THEN
            conflicts := conflicts || jsonb_build_object(d.name, CASE goes WHEN 'legacy' THEN 'unified' ELSE 'legacy' END);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.decide_columns IS 'Decides a direction for each differing column of a session.';

-- Applies the logged changes of one session. It reads the log before the rows, and deletes only the changes that it read.
-- A change committed in between raises an error at the end. It waits for no lock of the unified tables, and 50 ms for one of
-- a legacy row. The caller catches errors, and the session stays logged.
CREATE FUNCTION bridge.apply(p_token text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET row_security = off  -- a hidden row is an error, not a deleted row
    SET TimeZone = 'UTC'
    SET DateStyle = 'ISO, YMD'
    SET IntervalStyle = 'postgres'
    SET extra_float_digits = 1
    SET bytea_output = 'hex'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    last_id CONSTANT bigint := (SELECT max(c.id) FROM bridge.change_log AS c);
    merged_at CONSTANT timestamptz := (SELECT s.merged_at FROM bridge.state AS s);
    logged record;
    before jsonb;
    u bridge.unified;
    m bridge.mapped_session;
    emails text[];
    email text;
    kept bridge.override;
    goes text;
    to_unified jsonb := '{}';
    to_legacy text[] := '{}';
    conflicts jsonb := '{}';
BEGIN
    SELECT array_agg(c.id) AS ids,
           max(c.id) FILTER (WHERE c.side = 'legacy') AS legacy,
           max(c.id) FILTER (WHERE c.side = 'unified') AS unified,
           max(c.id) FILTER (WHERE c.side = 'unified' AND (c.before ? 'student') IS NOT TRUE) AS session,
           max(c.id) FILTER (WHERE c.side = 'unified' AND c.before = '{}') AS deleted,
           bool_or(c.side = 'unified' AND (c.at < merged_at) IS NOT FALSE) AS early,
           -- the session before the first change: the first logged value of each column; an inserted session has none
           bridge.merge_objects(c.before ORDER BY c.id DESC) AS before,
           coalesce((array_agg(c.before IS NULL ORDER BY c.id) FILTER (WHERE c.side = 'unified' AND (c.before ? 'student') IS NOT TRUE))[1], false) AS inserted
    INTO logged
    FROM bridge.change_log AS c
    WHERE c.token = p_token;
    IF logged.ids IS NULL THEN
        RETURN;
    END IF;
    before := CASE WHEN NOT logged.inserted THEN logged.before END;
    PERFORM set_config('bridge.applying', 'on', true);
    -- a constraint that refuses a legacy row at the commit would fail the application's transaction
    EXECUTE (SELECT coalesce('SET CONSTRAINTS ' || string_agg(format('%s.%I', k.connamespace::regnamespace, k.conname), ', ') || ' IMMEDIATE', '')
             FROM pg_constraint AS k JOIN bridge.source AS s ON s.relation IN (k.conrelid, k.confrelid) WHERE k.condeferrable);

    -- 1. Lock the session, and the students of its legacy rows before and now. An advisory lock stands for a missing
    -- session; its number is a hash, so that a rehearsal does not fill the server's lock table.
    IF NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p_token)
       AND NOT pg_try_advisory_xact_lock('bridge.change_log'::regclass::oid::integer, hashtext(p_token) % 1000) THEN
        RAISE EXCEPTION 'the session is being applied' USING ERRCODE = 'lock_not_available';
    END IF;
    PERFORM FROM public.sessions AS v WHERE v.session_token = p_token FOR NO KEY UPDATE NOWAIT;
    emails := ARRAY(SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = p_token);
    PERFORM bridge.refresh_sources(p_token);
    emails := ARRAY(
        SELECT unnest(emails)
        UNION SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = p_token
        UNION SELECT o.student_email FROM bridge.unified AS o WHERE o.session_token = p_token AND o.student_email IS NOT NULL
        UNION SELECT before ->> 'student_email' WHERE before ->> 'student_email' IS NOT NULL
        ORDER BY 1);
    PERFORM FROM public.students AS st WHERE st.student_email = ANY (emails) ORDER BY st.student_email FOR NO KEY UPDATE NOWAIT;
    SELECT * INTO u FROM bridge.unified AS o WHERE o.session_token = p_token;
    SELECT * INTO m FROM bridge.mapped(p_token, p_token);

    -- 2. One side lacks the session: the later of deletion and write wins.
    IF u.session_token IS NULL AND m.session_token IS NOT NULL AND logged.deleted > coalesce(logged.legacy, 0)
       AND NOT (logged.early AND logged.inserted) THEN
        PERFORM bridge.delete_legacy(p_token);
        PERFORM bridge.refresh_sources(p_token);
        IF EXISTS (SELECT FROM bridge.student_source AS s WHERE s.token = p_token) THEN
            RAISE EXCEPTION 'a trigger of the legacy tables keeps the row' USING ERRCODE = 'feature_not_supported';
        END IF;
        m := NULL;
        PERFORM bridge.delete_session(p_token);  -- its steps
    ELSIF u.session_token IS NULL AND m.session_token IS NULL THEN
        PERFORM bridge.delete_session(p_token);
    ELSIF u.session_token IS NOT NULL AND m.session_token IS NULL AND logged.legacy > coalesce(logged.session, 0) AND NOT EXISTS (
        SELECT FROM bridge.override AS o WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = '(row)') THEN
        PERFORM bridge.delete_session(p_token);
        u := NULL;
    ELSIF u.session_token IS NOT NULL AND m.session_token IS NULL AND logged.unified IS NOT NULL THEN
        PERFORM bridge.write_legacy(p_token, ARRAY(SELECT DISTINCT l.column_name FROM bridge.legacy_column AS l));
        PERFORM bridge.refresh_sources(p_token);
        SELECT * INTO m FROM bridge.mapped(p_token, p_token);
    END IF;

    -- 3. Students.
    emails := ARRAY(SELECT unnest(emails) UNION SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = p_token);
    SELECT * INTO kept FROM bridge.override AS o
    WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = 'student_email';
    goes := CASE
        WHEN u.session_token IS NULL OR u.student_email IS NULL THEN 'unified'
        WHEN u.student_email IS DISTINCT FROM m.student_email THEN bridge.direction(
            logged.legacy, logged.unified,
            bridge.has_changed(kept, before, 'student_email', to_jsonb(m.student_email)),
            bridge.has_changed(NULL, before, 'student_email', to_jsonb(u.student_email)))
    END;
    FOREACH email IN ARRAY emails LOOP
        IF bridge.apply_student(email, p_token, last_id, needed => email = m.student_email AND goes = 'unified') AND email = coalesce(u.student_email, m.student_email) THEN
            to_legacy := to_legacy || 'student_name'::text;
        END IF;
    END LOOP;

    -- 4. The session, column by column.
    IF u.session_token IS NULL AND m.session_token IS NOT NULL THEN
        PERFORM bridge.insert_sessions(p_token, p_token);
    ELSIF m.session_token IS NOT NULL THEN
        SELECT c.patch, to_legacy || c.columns, c.conflicting INTO to_unified, to_legacy, conflicts
        FROM bridge.decide_columns(p_token, bridge.session_json(u.student_email, u.shared), bridge.session_json(m.student_email, m.shared),
                                   before, logged.inserted, logged.legacy, logged.unified, logged.session) AS c(patch, columns, conflicting);
        IF to_unified - 'completion_rate' <> '{}' THEN
            PERFORM bridge.update_session(p_token, to_unified);
            PERFORM bridge.note_decision(p_token, m.note) WHERE m.note IS NOT NULL;
        END IF;
        IF conflicts <> '{}' THEN
            INSERT INTO public.events (student_id, session_token, event_type, event_data)
            SELECT v.student_id, p_token, 'merge_note', jsonb_build_object('written_on_both_sides', conflicts)
            FROM public.sessions AS v WHERE v.session_token = p_token;
        END IF;
    END IF;
    IF to_legacy <> '{}' THEN
        PERFORM bridge.write_legacy(p_token, to_legacy || CASE WHEN 'student_email' = ANY (to_legacy)
            THEN ARRAY['student_name'] ELSE '{}' END);
        IF bridge.refresh_sources(p_token) THEN
            PERFORM bridge.apply_student(s.student_email, p_token, 0, needed => false)
            FROM (SELECT unnest(emails) UNION SELECT o.student_email FROM bridge.student_source AS o WHERE o.token = p_token)
                AS s(student_email);
        END IF;
    END IF;

    UPDATE public.step_progress AS sp SET student_id = v.student_id
    FROM public.sessions AS v
    WHERE v.session_token = p_token AND sp.session_token = p_token AND sp.student_id <> v.student_id;

    -- 5. Record what still differs.
    IF to_legacy <> '{}' OR (u.session_token IS NULL) <> (m.session_token IS NULL)
       OR EXISTS (SELECT FROM bridge.override AS o WHERE o.table_name = 'sessions' AND o.key = p_token) THEN
        PERFORM bridge.record_overrides(ARRAY[p_token]);
    END IF;

    -- 6. Check the log again, and delete the changes that were read.
    IF EXISTS (SELECT FROM bridge.change_log AS c
               WHERE c.token = p_token AND c.id <> ALL (logged.ids) AND c.xact <> pg_current_xact_id()) THEN
        RAISE EXCEPTION 'the session was changed meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
    DELETE FROM bridge.change_log AS c
    WHERE c.id = ANY (logged.ids)
       OR c.token = p_token AND c.side = 'legacy' AND c.id > last_id AND c.xact = pg_current_xact_id();
    PERFORM set_config('bridge.applying', '', true);
END
$$;
COMMENT ON FUNCTION bridge.apply(text) IS 'Applies the logged changes of a session to the side that was not written.'
