-- apply: decides a direction for each column in which the unified tables and the mapping differ.

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
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off  -- as in insert_sessions()
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

CREATE FUNCTION bridge.student_diff(emails text[])
    RETURNS TABLE (student_email text, first_token text, name text, unified jsonb, mapped jsonb)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
    SELECT m.student_email, m.first_token, o.name, o.unified, o.mapped
    FROM bridge.students AS m
    LEFT JOIN LATERAL (
        SELECT k.* FROM public.students AS k WHERE k.student_email = m.student_email COLLATE "default" OFFSET 0) AS st ON true
    CROSS JOIN LATERAL (
        VALUES ('(row)', st.student_id IS NULL, 'false'::jsonb, jsonb_strip_nulls(to_jsonb(m))),
               ('student_name', st.student_id IS NOT NULL AND st.student_name IS DISTINCT FROM m.student_name,
                    to_jsonb(st.student_name), to_jsonb(m.student_name)),
               ('created_at', st.student_id IS NOT NULL AND st.created_at IS DISTINCT FROM m.created_at,
                    to_jsonb(st.created_at), to_jsonb(m.created_at))
    ) AS o(name, differs, unified, mapped)
    WHERE m.student_email = ANY (emails) AND o.differs
$$;
COMMENT ON FUNCTION bridge.student_diff(text[]) IS 'Columns in which students and mapping differ; (row): the student is missing.';

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
COMMENT ON FUNCTION bridge.direction IS 'Side that a column is written to: unified, legacy or nowhere. The ids are of the last change on each side.';

-- A legacy column changed if the mapped value is not the override's; without an override, if it is not the value before.
CREATE FUNCTION bridge.has_changed(kept bridge.override, before jsonb, name text, value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (kept).key IS NOT NULL THEN (kept).over IS DISTINCT FROM value
            WHEN before ? name THEN nullif(before -> name, 'null') IS DISTINCT FROM value
            ELSE true END;
COMMENT ON FUNCTION bridge.has_changed IS 'True: the value is not the recorded one, or not the one before.';

CREATE FUNCTION bridge.record_override(p_table text, p_key text, p_column text, p_value jsonb, p_over jsonb) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bridge.override AS o (table_name, key, column_name, value, over)
    VALUES (p_table, p_key, p_column, p_value, p_over)
    ON CONFLICT (key, table_name, column_name, step_number) DO UPDATE SET value = excluded.value, over = excluded.over
    WHERE (o.value, o.over) IS DISTINCT FROM (excluded.value, excluded.over)
$$;
COMMENT ON FUNCTION bridge.record_override(text, text, text, jsonb, jsonb) IS 'Inserts or updates one override.';

-- An advisory lock stands for a missing session; its number is a hash, so that a rehearsal does not fill the lock table.
CREATE FUNCTION bridge.lock_session(p_token text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p_token)
       AND NOT pg_try_advisory_xact_lock('bridge.change_log'::regclass::oid::integer, hashtext(p_token) % 1000) THEN
        RAISE EXCEPTION 'the session is being applied' USING ERRCODE = 'lock_not_available';
    END IF;
    PERFORM FROM public.sessions AS v WHERE v.session_token = p_token FOR NO KEY UPDATE NOWAIT;
END
$$;
COMMENT ON FUNCTION bridge.lock_session(text) IS 'Locks a session without waiting.';

-- Names in legacy rows of other sessions count, if a legacy write to them is logged: their sources are stale. After the change
-- p_last_id nothing counts: a newer write is decided when its own session is applied.
CREATE FUNCTION bridge.refresh_siblings(p_email text, p_token text, p_last_id bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sibling text;
    refreshed boolean := false;
BEGIN
    FOR sibling IN
        SELECT DISTINCT k.token FROM bridge.student_source AS k
        WHERE k.student_email = p_email AND k.token <> p_token
          AND (SELECT max(o.id) FROM bridge.change_log AS o WHERE o.token = k.token AND o.side = 'legacy') <= p_last_id
    LOOP
        -- not a session that loses another address: that one is decided when the session is applied
        CONTINUE WHEN EXISTS (SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = sibling AND s.student_email <> p_email
                              EXCEPT SELECT s.student_email FROM bridge.sources_of(sibling, sibling) AS s);
        -- nor one that apply() has stored under a new address, which its rows do not have yet
        CONTINUE WHEN EXISTS (SELECT FROM bridge.change_log AS c JOIN bridge.sources_of(sibling, sibling) AS s ON s.student_email = c.before ->> 'student_email'
                              WHERE c.token = sibling AND c.side = 'student' AND s.student_email <> p_email);
        PERFORM bridge.lock_session(sibling);
        refreshed := bridge.refresh_sources(sibling) OR refreshed;
    END LOOP;
    RETURN refreshed;
END
$$;
COMMENT ON FUNCTION bridge.refresh_siblings IS 'Stores the sources of other sessions of a student, if their legacy writes are logged; false: nothing changed.';

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
    legacy_changed boolean;
    unified_changed boolean;
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
           max(c.id) FILTER (WHERE c.side = 'student') AS unified, min(c.at) AS since,
           (array_agg(c.before -> 'student' ORDER BY c.id) FILTER (WHERE c.side = 'student'))[1] AS before
    INTO logged
    FROM (SELECT s.token FROM bridge.student_source AS s WHERE s.student_email = p_email
          UNION SELECT v.session_token FROM public.sessions AS v WHERE v.student_id = (st ->> 'student_id')::uuid
          UNION SELECT p_token) AS t
    -- OFFSET 0: a lookup for each token. A join would read the whole log.
    CROSS JOIN LATERAL (SELECT o.* FROM bridge.change_log AS o WHERE o.token = t.token AND o.id <= p_last_id OFFSET 0) AS c
    WHERE (c.side = 'legacy' OR c.before ->> 'student_email' = p_email
           OR c.before #>> '{student,student_id}' = st ->> 'student_id');
    IF num_nulls(logged.legacy, logged.unified) = 0 AND bridge.refresh_siblings(p_email, p_token, p_last_id) THEN
        RETURN bridge.apply_student(p_email, p_token, p_last_id, needed);
    END IF;

    IF st IS NULL THEN
        SELECT * INTO kept FROM bridge.override AS o
        WHERE o.table_name = 'students' AND o.key = p_email AND o.column_name = '(row)';
        IF needed OR p_email NOT LIKE 'anonymous+%@workshop.invalid' AND 'unified' = bridge.direction(logged.legacy, logged.unified, kept.over IS DISTINCT FROM m, true)
                     -- the student has another address now
                     AND NOT EXISTS (SELECT FROM public.students AS s WHERE s.student_id = (logged.before ->> 'student_id')::uuid) THEN
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
        legacy_changed := bridge.has_changed(kept, logged.before, name, m -> name);
        unified_changed := bridge.has_changed(NULL, logged.before, name, st -> name);
        goes := CASE WHEN st -> name IS DISTINCT FROM m -> name
                     THEN bridge.direction(logged.legacy, logged.unified, legacy_changed, unified_changed) END;
        IF name = 'student_name' AND goes IS NOT NULL AND legacy_changed AND unified_changed AND num_nulls(logged.legacy, logged.unified) = 0 THEN
            PERFORM bridge.note_decision(p_token, n.note)
            FROM (SELECT jsonb_build_object('written_on_both_sides', jsonb_build_object(
                name, CASE goes WHEN 'legacy' THEN 'unified' ELSE 'legacy' END)) AS note) AS n
            -- not for each session of the student
            WHERE NOT EXISTS (SELECT FROM public.events AS e
                              WHERE e.student_id = (st ->> 'student_id')::uuid AND e.created_at >= logged.since AND e.event_data = n.note);
        END IF;
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
    WHERE v.session_token = p_token AND (p_note ? 'written_on_both_sides' OR NOT EXISTS (
        SELECT FROM public.events AS e
        WHERE e.session_token = p_token AND e.event_type = 'merge_note' AND e.event_data = p_note))
$$;
COMMENT ON FUNCTION bridge.note_decision(text, jsonb) IS 'Records decisions about a session as an event; those of the mapping once.';

-- said: token -> column -> mapped value, where an application may have written since it was read; null without legacy rows.
CREATE FUNCTION bridge.record_overrides(said jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
BEGIN
    DELETE FROM bridge.override AS o
    WHERE o.table_name = 'sessions' AND o.key = ANY (ARRAY(SELECT jsonb_object_keys(said)));
    INSERT INTO bridge.override (table_name, key, column_name, value, over)
    SELECT 'sessions', u.session_token, d.name, d.unified, d.mapped
    FROM jsonb_each(said) AS s
    JOIN bridge.unified AS u ON u.session_token = s.key
    CROSS JOIN LATERAL (
        SELECT e.* FROM bridge.diff(bridge.session_json(u.student_email, u.shared), s.value) AS e
        WHERE s.value <> 'null' AND e.name <> 'completion_rate'  -- computed
        UNION ALL
        SELECT '(row)', 'true', NULL WHERE s.value = 'null'
    ) AS d;
END
$$;
COMMENT ON FUNCTION bridge.record_overrides(jsonb) IS 'Records the differing columns of sessions.';

-- A session of an earlier attempt, or of an endpoint that moved early, is combined once. The mapped value wins, else the
-- value of the row. Flags are combined by OR. The greater number, the later activity and the earlier start win. A value that an
-- application has written since 0003 stays, and the drain applies it to the legacy tables.
CREATE FUNCTION bridge.combined(name text, unified jsonb, mapped jsonb, written boolean) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
AS $$
    SELECT CASE
        WHEN unified IS NULL OR unified IN ('[]', '{}') THEN mapped
        WHEN mapped IS NULL OR mapped IN ('[]', '{}') THEN unified
        WHEN name IN ('started_at', 'created_at') THEN to_jsonb(least((unified #>> '{}')::timestamptz, (mapped #>> '{}')::timestamptz))
        WHEN name = 'last_activity' THEN to_jsonb(greatest((unified #>> '{}')::timestamptz, (mapped #>> '{}')::timestamptz))
        WHEN name = 'legacy_extra' THEN unified || mapped
        WHEN name = 'exercises' AND written THEN mapped || unified
        WHEN jsonb_typeof(unified) = 'boolean' THEN 'true'
        WHEN jsonb_typeof(unified) = 'number' THEN greatest(unified, mapped)
        WHEN name = 'student_email' AND mapped #>> '{}' LIKE 'anonymous+%@workshop.invalid' THEN unified
        WHEN written AND NOT (name = 'student_email' AND unified #>> '{}' LIKE 'anonymous+%@workshop.invalid') THEN unified
        ELSE mapped
    END
$$;
COMMENT ON FUNCTION bridge.combined(text, jsonb, jsonb, boolean) IS 'Value of a column of a row that was there first.';

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
    both_changed boolean;
    merged jsonb;
BEGIN
    to_unified := '{}';
    to_legacy := '{}';
    conflicts := '{}';
    FOR d IN SELECT * FROM bridge.diff(unified, mapped) LOOP
        SELECT * INTO kept FROM bridge.override AS o
        WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = d.name;
        legacy_changed := bridge.has_changed(kept, before, d.name, d.mapped);
        unified_changed := bridge.has_changed(NULL, before, d.name, d.unified);
        written_id := CASE d.name WHEN 'student_email' THEN unified_id ELSE session_id END;
        both_changed := legacy_changed AND unified_changed AND num_nulls(legacy_id, written_id) = 0;
        goes := bridge.direction(legacy_id, written_id, legacy_changed, unified_changed);
        IF d.name = 'student_email' AND d.unified IS NULL THEN
            goes := 'unified';  -- the student was deleted
        ELSIF inserted AND d.name <> 'exercises' THEN  -- columns that the insertion left at their defaults
            goes := CASE WHEN d.mapped IS DISTINCT FROM bridge.combined(d.name, d.unified, d.mapped, goes = 'legacy') THEN 'legacy' ELSE 'unified' END;
        END IF;
        IF inserted AND d.name = 'legacy_extra' AND goes = 'legacy' THEN
            to_unified := to_unified || jsonb_build_object(d.name, d.unified || d.mapped);
        END IF;
        IF goes = 'legacy' THEN
            -- recorded: the legacy tables refused it, or have no column for it
            CONTINUE WHEN kept.key IS NOT NULL AND (kept.value, kept.over) IS NOT DISTINCT FROM (d.unified, d.mapped);
            to_legacy := to_legacy || d.name;
        ELSIF goes = 'unified' THEN
            to_unified := to_unified || jsonb_build_object(d.name, CASE WHEN d.name = 'legacy_extra' AND kept.key IS NOT NULL AND NOT inserted THEN (
                SELECT jsonb_object_agg(t, CASE jsonb_typeof(coalesce(d.unified -> t, '{}')) WHEN 'object' THEN
                           bridge.merge_keys(kept.over -> t, d.unified -> t, d.mapped -> t, false) ELSE d.unified -> t END)
                FROM jsonb_object_keys(d.unified || d.mapped) AS t) ELSE d.mapped END);
        END IF;
        -- not if the session was deleted and inserted again: then there is no value before
        IF d.name = 'exercises' AND (inserted OR both_changed AND before ? 'exercises') THEN
            merged := bridge.merge_keys(before -> 'exercises', d.unified, d.mapped, goes = 'legacy');
            IF inserted THEN  -- merged like two keys of one exercise
                merged := bridge.exercises_with(merged, ARRAY(
                    SELECT ROW(s.step_number, NULL, NULL, min(s.completed_at), max(s.time_spent), max(s.attempts), bool_or(s.validation_passed), NULL, NULL)::bridge.step
                    FROM (SELECT * FROM public.exercise_steps(d.unified) UNION ALL SELECT * FROM public.exercise_steps(d.mapped)) AS s
                    GROUP BY s.step_number));
            ELSIF merged <> bridge.merge_keys(before -> 'exercises', d.unified, d.mapped, goes <> 'legacy') THEN
                conflicts := conflicts || jsonb_build_object(d.name, CASE goes WHEN 'legacy' THEN 'unified' ELSE 'legacy' END);
            END IF;
            to_unified := to_unified || jsonb_build_object(d.name, merged);
            to_legacy := to_legacy || d.name;
        ELSIF both_changed AND jsonb_typeof(coalesce(d.unified, d.mapped)) <> 'number' AND d.name NOT IN ('started_at', 'created_at', 'last_activity') THEN
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
    last_id CONSTANT bigint := pg_sequence_last_value('bridge.change_log_id_seq');  -- max(id) reads every deleted row since a VACUUM
    merged_at CONSTANT timestamptz := (SELECT s.merged_at FROM bridge.state AS s);
    student CONSTANT text := (SELECT v.student_id FROM public.sessions AS v WHERE v.session_token = p_token);
    students CONSTANT text[] := student || ARRAY(  -- of the session, now and before
        SELECT c.before ->> 'student_id' FROM bridge.change_log AS c WHERE c.token = p_token AND c.side = 'unified');
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
           max(c.id) FILTER (WHERE c.side = 'unified' OR c.before #>> '{student,student_id}' = ANY (students)) AS unified,
           max(c.id) FILTER (WHERE c.side = 'unified') AS session,
           max(c.id) FILTER (WHERE c.side = 'unified' AND c.before = '{}') AS deleted,
           bool_or(c.side <> 'legacy' AND (c.at < merged_at) IS NOT FALSE) AS early,  -- before the backfill had ended
           -- the session before its first change, and the student's columns before theirs; an inserted session has none
           bridge.merge_objects(c.before ORDER BY c.id DESC)
               FILTER (WHERE c.side = 'unified' AND c.place = 1 OR c.before #>> '{student,student_id}' = ANY (students)) AS before,
           coalesce(bool_or(c.side = 'unified' AND c.place = 1 AND c.before IS NULL), false) AS inserted
    INTO logged
    FROM (SELECT o.*, row_number() OVER (PARTITION BY o.side ORDER BY o.id) AS place
          FROM bridge.change_log AS o WHERE o.token = p_token) AS c;
    IF logged.ids IS NULL THEN
        RETURN;
    END IF;
    -- The change stays logged: a handed-back session keeps its overrides, and the backfill inserts what it has not reached.
    IF merged_at IS NULL AND ((SELECT s.retired_at IS NOT NULL FROM bridge.state AS s) OR NOT logged.early AND NOT bridge.reached(p_token)
       AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = p_token)) THEN
        RETURN;
    END IF;
    -- legacy rows of a session that had none: inserted as well
    logged.inserted := logged.inserted OR logged.legacy IS NOT NULL AND student IS NOT NULL AND EXISTS (
        SELECT FROM bridge.override AS o WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = '(row)');
    before := CASE WHEN NOT logged.inserted THEN logged.before END;
    PERFORM set_config('bridge.applying', 'on', true);
    -- a constraint that refuses a legacy row at the commit would fail the application's transaction
    EXECUTE (SELECT coalesce('SET CONSTRAINTS ' || string_agg(format('%s.%I', k.connamespace::regnamespace, k.conname), ', ') || ' IMMEDIATE', '')
             FROM pg_constraint AS k JOIN bridge.source AS s ON s.relation IN (k.conrelid, k.confrelid) WHERE k.condeferrable);

    -- 1. Lock the session, and the students of its legacy rows before and now.
    PERFORM bridge.lock_session(p_token);
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
        -- the deletion lost: what the new rows cannot hold is no legacy change
        PERFORM bridge.apply_student(u.student_email, p_token, 0, needed => false);
        logged.legacy := NULL;
    END IF;

    -- 3. Students.
    emails := ARRAY(SELECT unnest(emails) UNION SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = p_token);
    SELECT * INTO kept FROM bridge.override AS o
    WHERE o.table_name = 'sessions' AND o.key = p_token AND o.column_name = 'student_email';
    goes := CASE
        WHEN u.session_token IS NULL OR u.student_email IS NULL THEN 'unified'
        WHEN logged.inserted AND m.student_email LIKE 'anonymous+%@workshop.invalid' THEN 'legacy'
        WHEN u.student_email IS DISTINCT FROM m.student_email THEN bridge.direction(
            logged.legacy, logged.unified,
            bridge.has_changed(kept, before, 'student_email', to_jsonb(m.student_email)),
            bridge.has_changed(NULL, before, 'student_email', to_jsonb(u.student_email)))
    END;
    -- Only the student's address has changed: the legacy rows of all its sessions belong to the new one, and the names in them.
    -- They are written later: a trigger may date them.
    IF goes = 'legacy' AND before ? 'student' AND coalesce(before ->> 'student_id', student) = student
       AND NOT bridge.has_changed(kept, before, 'student_email', to_jsonb(m.student_email)) THEN
        PERFORM bridge.refresh_siblings(m.student_email, p_token, last_id);
        UPDATE bridge.student_source AS s SET student_email = u.student_email
        WHERE s.student_email = m.student_email AND s.of_session
          AND s.token IN (SELECT v.session_token FROM public.sessions AS v WHERE v.student_id = u.student_id);
        to_legacy := ARRAY['student_email'];
    END IF;
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
        PERFORM bridge.note_decision(p_token, jsonb_build_object('written_on_both_sides', conflicts)) WHERE conflicts <> '{}';
        IF merged_at IS NULL THEN  -- before 0004 no trigger keeps steps and exercises in line
            PERFORM bridge.align_steps(ARRAY[p_token]);
            to_legacy := to_legacy || 'exercises'::text;
        END IF;
    END IF;
    IF to_legacy <> '{}' THEN
        -- a trigger may date the written rows, and the name in them: first decide about names that are logged for other sessions
        IF (before ? 'student') IS NOT TRUE AND bridge.refresh_siblings(u.student_email, p_token, last_id)
           AND bridge.apply_student(u.student_email, p_token, last_id, needed => false) THEN
            to_legacy := to_legacy || 'student_name'::text;
        END IF;
        PERFORM bridge.write_legacy(p_token, to_legacy || CASE WHEN 'student_email' = ANY (to_legacy)
            THEN ARRAY['student_name'] ELSE '{}' END, before ->> 'student_email');
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
        PERFORM bridge.record_overrides(jsonb_build_object(p_token, (
            SELECT bridge.session_json(n.student_email, n.shared) FROM bridge.mapped(p_token, p_token) AS n)));
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
