-- Triggers that clean every write to the four tables. The WHEN conditions spare clean rows the function call. BEFORE
-- triggers fire in the order of their names: clean_..., completion_rate (0004), touch_updated_at.

-- *<> compares columns of every type, json too. A WHEN condition could not compare generated columns.
CREATE FUNCTION public.touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD *<> NEW THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.touch_updated_at() IS 'Trigger: sets updated_at when a statement changes the row and not updated_at.';

CREATE TRIGGER touch_updated_at BEFORE UPDATE ON students FOR EACH ROW
    WHEN (OLD.updated_at IS NOT DISTINCT FROM NEW.updated_at) EXECUTE FUNCTION public.touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON sessions FOR EACH ROW
    WHEN (OLD.updated_at IS NOT DISTINCT FROM NEW.updated_at) EXECUTE FUNCTION public.touch_updated_at();
CREATE TRIGGER touch_updated_at BEFORE UPDATE ON step_progress FOR EACH ROW
    WHEN (OLD.updated_at IS NOT DISTINCT FROM NEW.updated_at) EXECUTE FUNCTION public.touch_updated_at();

CREATE FUNCTION public.refuse_student_id_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'students.student_id is immutable'
        USING ERRCODE = 'integrity_constraint_violation',
              HINT = 'Insert another student and move the sessions instead.';
END
$$;
COMMENT ON FUNCTION public.refuse_student_id_change() IS 'Trigger: refuses a change of student_id.';

CREATE TRIGGER refuse_student_id_change BEFORE UPDATE OF student_id ON students FOR EACH ROW
    WHEN (OLD.student_id IS DISTINCT FROM NEW.student_id) EXECUTE FUNCTION public.refuse_student_id_change();

-- BEFORE triggers run before the conflict check, so the application's ON CONFLICT (student_email) still works.
CREATE FUNCTION public.clean_students() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.student_email := public.clean_email(NEW.student_email);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.clean_students() IS 'Trigger: converts student_email to lower case and trims it.';

CREATE TRIGGER clean_students BEFORE INSERT OR UPDATE ON students FOR EACH ROW
    WHEN (NEW.student_email IS DISTINCT FROM public.clean_email(NEW.student_email)) EXECUTE FUNCTION public.clean_students();

CREATE FUNCTION public.clean_sessions() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.selected_phone_number := nullif(NEW.selected_phone_number, '');
    NEW.selected_voice := nullif(NEW.selected_voice, '');
    NEW.tts_provider := nullif(NEW.tts_provider, '');
    NEW.call_direction := nullif(NEW.call_direction, '');
    NEW.use_case_description := nullif(NEW.use_case_description, '');
    NEW.openai_api_key := nullif(NEW.openai_api_key, '');
    NEW.system_prompt := nullif(NEW.system_prompt, '');
    NEW.ivr_greeting := nullif(NEW.ivr_greeting, '');
    NEW.websocket_url := nullif(NEW.websocket_url, '');
    NEW.codespace_url := nullif(NEW.codespace_url, '');
    NEW.github_repo_url := nullif(NEW.github_repo_url, '');
    NEW.railway_url := nullif(NEW.railway_url, '');
    -- JSON null means "no value", as the default of the column does
    NEW.tools := coalesce(nullif(public.unwrap_json(NEW.tools), 'null'), '[]');
    NEW.voice_settings := coalesce(nullif(public.unwrap_json(NEW.voice_settings), 'null'), '{}');
    NEW.exercises := coalesce(nullif(public.unwrap_json(NEW.exercises), 'null'), '{}');
    NEW.bug_reports := coalesce(nullif(public.unwrap_json(NEW.bug_reports), 'null'), '[]');
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.clean_sessions() IS 'Trigger: replaces empty text by NULL and unwraps JSON.';

CREATE TRIGGER clean_sessions BEFORE INSERT OR UPDATE ON sessions FOR EACH ROW
    WHEN ('' IN (
              NEW.selected_phone_number, NEW.selected_voice, NEW.tts_provider, NEW.call_direction,
              NEW.use_case_description, NEW.openai_api_key, NEW.system_prompt, NEW.ivr_greeting,
              NEW.websocket_url, NEW.codespace_url, NEW.github_repo_url, NEW.railway_url)
          OR jsonb_typeof(NEW.tools) IS DISTINCT FROM 'array'
          OR jsonb_typeof(NEW.voice_settings) IS DISTINCT FROM 'object'
          OR jsonb_typeof(NEW.exercises) IS DISTINCT FROM 'object'
          OR jsonb_typeof(NEW.bug_reports) IS DISTINCT FROM 'array')
    EXECUTE FUNCTION public.clean_sessions();

-- The application counts titles from 0 and exercise keys from 1, under one unique key. So the name identifies the step;
-- the number alone does not.
CREATE FUNCTION public.clean_step_progress() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.step_name IS NOT DISTINCT FROM OLD.step_name AND NEW.step_number <> OLD.step_number THEN
        NEW.step_name := public.step_name_of(NEW.step_number);
    ELSE
        NEW.step_number := coalesce(public.step_number_of(NEW.step_name), NEW.step_number);
        NEW.step_name := coalesce(public.step_name_of(public.step_number_of(NEW.step_name)),
                                  NEW.step_name,
                                  public.step_name_of(NEW.step_number));
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.clean_step_progress() IS 'Trigger: sets step_number from a known step_name.';

CREATE TRIGGER clean_step_progress BEFORE INSERT OR UPDATE ON step_progress FOR EACH ROW
    WHEN (NEW.step_name IS DISTINCT FROM public.step_name_of(NEW.step_number)) EXECUTE FUNCTION public.clean_step_progress();

CREATE FUNCTION public.clean_events() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.event_data := coalesce(public.unwrap_json(NEW.event_data), '{}');
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION public.clean_events() IS 'Trigger: unwraps JSON in event_data.';

CREATE TRIGGER clean_events BEFORE INSERT OR UPDATE ON events FOR EACH ROW
    WHEN (jsonb_typeof(NEW.event_data) IS NULL OR jsonb_typeof(NEW.event_data) = 'string') EXECUTE FUNCTION public.clean_events();

-- Cleans the existing rows: copies of an earlier attempt, and rows of endpoints that moved too early. Writers wait
-- until the triggers exist.
DO $$
BEGIN
    PERFORM set_config('bridge.applying', 'on', true);
    UPDATE public.events SET event_data = public.unwrap_json(event_data) WHERE jsonb_typeof(event_data) = 'string';

    -- first, because the updates below set the name from the number; two rows of one step merge as two keys do
    WITH taken AS (
        DELETE FROM public.step_progress AS sp
        WHERE sp.session_token IN (
            SELECT m.session_token FROM public.step_progress AS m
            WHERE public.step_number_of(m.step_name) <> m.step_number
               OR public.step_name_of(public.step_number_of(m.step_name)) <> m.step_name)
        RETURNING *
    )
    INSERT INTO public.step_progress (
        session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts,
        validation_passed, code_submitted, deployment_url, created_at, updated_at)
    SELECT t.session_token, (array_agg(t.student_id))[1], n.number, min(t.step_name), min(t.started_at),
           min(t.completed_at), max(t.time_spent), max(t.attempts), bool_or(t.validation_passed),
           min(t.code_submitted COLLATE "C"), min(t.deployment_url COLLATE "C"), min(t.created_at), max(t.updated_at)
    FROM taken AS t
    CROSS JOIN LATERAL (SELECT coalesce(public.step_number_of(t.step_name), t.step_number) AS number) AS n
    GROUP BY t.session_token, n.number;

    -- several spellings of one address become one student: the clean spelling, else the first one
    WITH spelling AS (
        SELECT st.*, first_value(st.student_id) OVER (
                   PARTITION BY public.clean_email(st.student_email)
                   ORDER BY st.student_email <> public.clean_email(st.student_email), st.created_at, st.student_id) AS stays
        FROM public.students AS st
        WHERE public.clean_email(st.student_email) IS NOT NULL  -- rows without an address are different students
    ),
    surplus AS MATERIALIZED (
        SELECT * FROM spelling AS s WHERE s.student_id <> s.stays
    ),
    moved AS (
        UPDATE public.sessions AS v SET student_id = s.stays FROM surplus AS s WHERE v.student_id = s.student_id
    ),
    moved_steps AS (
        UPDATE public.step_progress AS sp SET student_id = s.stays FROM surplus AS s WHERE sp.student_id = s.student_id
    ),
    moved_events AS (
        UPDATE public.events AS e SET student_id = s.stays FROM surplus AS s WHERE e.student_id = s.student_id
    ),
    deleted AS (
        DELETE FROM public.students AS st USING surplus AS s WHERE st.student_id = s.student_id
    )
    UPDATE public.students AS st
    SET student_name = coalesce(st.student_name, k.student_name),
        github_username = coalesce(st.github_username, k.github_username)
    FROM (SELECT s.stays, min(s.student_name COLLATE "C") AS student_name,
                 min(s.github_username COLLATE "C") AS github_username
          FROM surplus AS s GROUP BY s.stays) AS k
    WHERE st.student_id = k.stays;
    UPDATE public.students SET student_email = public.clean_email(student_email)
    WHERE student_email <> public.clean_email(student_email);

    -- the trigger cleans the rows
    UPDATE public.sessions SET is_active = is_active
    WHERE '' IN (selected_phone_number, selected_voice, tts_provider, call_direction, use_case_description,
                 openai_api_key, system_prompt, ivr_greeting, websocket_url, codespace_url, github_repo_url, railway_url);
    PERFORM set_config('bridge.applying', '', true);
END
$$
