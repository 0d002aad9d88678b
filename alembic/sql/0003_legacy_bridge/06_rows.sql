-- Rows of both sides: in which columns they differ, and how they are written.

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

CREATE FUNCTION bridge.diff(u jsonb, m jsonb) RETURNS TABLE (name text, unified jsonb, mapped jsonb)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT e.key, nullif(u -> e.key, 'null'), nullif(e.value, 'null')
    FROM jsonb_each(m) AS e
    WHERE e.value IS DISTINCT FROM u -> e.key
$$;
COMMENT ON FUNCTION bridge.diff(jsonb, jsonb) IS 'Columns of the mapped session with another value in the unified one.';

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

-- public enters the path for the statement alone: the application's triggers and defaults run inside. The table's name is
-- qualified, of a temporary table too (a dry run). If the table refuses a value, the columns are written one by one.
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
            (pg_identify_object('pg_class'::regclass, src.relation, 0)).identity, string_agg(quote_ident(k), ', '),
            string_agg('n.' || quote_ident(k), ', '), src.token_expression)
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
        RAISE data_exception;  -- handled below
    END IF;
    RETURN true;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR with_check_option_violation OR raise_exception OR assert_failure THEN
        IF SQLSTATE = '23505' AND current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
            -- the row is there, but this snapshot cannot see it
            RAISE EXCEPTION 'another transaction has inserted the row' USING ERRCODE = 'serialization_failure';
        END IF;
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
    FOREACH statement IN ARRAY ARRAY(
        SELECT format('DELETE FROM %s AS t WHERE %s = $1', (pg_identify_object('pg_class'::regclass, s.relation, 0)).identity, s.token_expression)
        FROM bridge.source AS s ORDER BY bridge.legacy_refers(s.legacy_name) DESC, s.legacy_name) LOOP
        PERFORM pg_catalog.set_config('search_path', 'public, pg_temp', true);
        EXECUTE statement USING p_token;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.delete_legacy(text) IS 'Deletes the legacy rows of a session.';

-- Inserts a missing row only if no existing row has one of the columns. old_email: the address of the session before.
CREATE FUNCTION bridge.write_legacy(p_token text, p_columns text[], old_email text DEFAULT NULL) RETURNS void
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
    -- completion_rate is computed: it goes along with other columns, never alone
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
                WHERE s.token = p_token AND s.legacy_name = name AND NOT s.of_session AND s.student_email IS DISTINCT FROM old_email));
        patch := bridge.patch_of(name, p_token, unified, CASE WHEN name <> ALL (inserted) THEN columns END);
        PERFORM bridge.update_legacy(name, p_token, patch) WHERE patch IS NOT NULL;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.write_legacy IS 'Writes columns of a session to the legacy tables.';

-- --- writing unified rows -------------------------------------------------------------------------

-- OFFSET 0: a lookup by key. A join would read the whole table for each chunk. COLLATE "default" lets the index serve it.
-- No sequential scan: the first chunk plans for tables that are almost empty.
CREATE FUNCTION bridge.insert_sessions(first_token text, last_token text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
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

-- Steps and exercises are merged like two keys of one exercise.
CREATE FUNCTION bridge.align_steps(tokens text[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO public.step_progress AS sp (
        session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts, validation_passed)
    SELECT v.session_token, v.student_id, e.step_number, public.step_name_of(e.step_number), NULL, e.completed_at, e.time_spent,
           e.attempts, e.validation_passed
    FROM public.sessions AS v CROSS JOIN LATERAL public.exercise_steps(v.exercises) AS e
    WHERE v.session_token = ANY (tokens)
    ON CONFLICT (session_token, step_number) DO UPDATE SET
        completed_at = least(sp.completed_at, excluded.completed_at), time_spent = greatest(sp.time_spent, excluded.time_spent),
        attempts = greatest(sp.attempts, excluded.attempts), validation_passed = sp.validation_passed OR excluded.validation_passed;
    UPDATE public.step_progress AS sp
    SET student_id = v.student_id,
        step_name = CASE WHEN public.step_number_of(sp.step_name) <> sp.step_number THEN public.step_name_of(sp.step_number)
                         ELSE sp.step_name END
    FROM public.sessions AS v
    WHERE v.session_token = ANY (tokens) AND sp.session_token = v.session_token
      AND (sp.student_id <> v.student_id OR public.step_number_of(sp.step_name) <> sp.step_number);
    UPDATE public.sessions AS v SET exercises = x.exercises, completion_rate = x.rate
    FROM (
        SELECT o.session_token, bridge.exercises_with(o.exercises, s.steps) AS exercises,
               public.session_completion_rate(public.session_steps_done(
                   o.twilio_connected, o.openai_connected, o.call_direction_chosen, o.services_ready, o.step4_deployed,
                   o.step5_deployed, o.step6_deployed, o.system_prompt_saved, o.step8_deployed, o.project_deployed,
                   ARRAY(SELECT e.step_number FROM unnest(s.steps) AS e WHERE e.validation_passed))) AS rate
        FROM public.sessions AS o
        CROSS JOIN LATERAL (
            SELECT ARRAY(
                SELECT ROW(sp.step_number, sp.step_name, sp.started_at, sp.completed_at, sp.time_spent, sp.attempts,
                           sp.validation_passed, sp.code_submitted, sp.deployment_url)::bridge.step
                FROM public.step_progress AS sp WHERE sp.session_token = o.session_token) AS steps
        ) AS s
        WHERE o.session_token = ANY (tokens)
    ) AS x
    WHERE v.session_token = x.session_token AND (v.exercises, v.completion_rate) IS DISTINCT FROM (x.exercises, x.rate)
$$;
COMMENT ON FUNCTION bridge.align_steps(text[]) IS 'Merges steps and exercises of sessions.'
