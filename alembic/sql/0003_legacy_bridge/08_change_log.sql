-- The change log: triggers on both sides record, in the writer's own transaction, every session that a statement touches.
-- The trigger functions are SECURITY DEFINER: the application's role needs no grant on the bridge. No sequential scans: a
-- connection may have planned while the unified tables were almost empty.

CREATE FUNCTION bridge.log_changes(p_side text, tokens text[], before jsonb DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $$
BEGIN
    -- An insertion before the backfill: what the legacy tables say now, so that a later legacy write counts column by column.
    IF p_side = 'unified' AND log_changes.before IS NULL AND (SELECT s.merged_at IS NULL FROM bridge.state AS s) THEN
        INSERT INTO bridge.override (table_name, key, column_name, value, over)
        SELECT 'sessions', m.session_token, e.key, 'null', nullif(e.value, 'null')  -- JSON null: no decision was recorded
        FROM unnest(tokens) AS t(token) CROSS JOIN LATERAL bridge.mapped(t.token, t.token) AS m
        CROSS JOIN LATERAL jsonb_each(bridge.session_json(m.student_email, m.shared)) AS e ON CONFLICT DO NOTHING;
    END IF;
    -- a session that the unified tables lack can only have changed on the legacy side
    INSERT INTO bridge.change_log (side, token, before)
    SELECT CASE WHEN v.session_token IS NULL THEN 'legacy' ELSE p_side END, t.token, log_changes.before
    FROM (SELECT DISTINCT unnest(tokens)) AS t(token)
    LEFT JOIN public.sessions AS v ON v.session_token = t.token;
END
$$;
COMMENT ON FUNCTION bridge.log_changes(text, text[], jsonb) IS 'Logs sessions as changed on one side.';

CREATE FUNCTION bridge.capture_legacy() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $$
DECLARE
    token CONSTANT text := (SELECT s.token_expression FROM bridge.source AS s WHERE s.relation = TG_RELID);
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN
            EXECUTE format('INSERT INTO bridge.change_log (side, token) SELECT DISTINCT ''legacy'', %s FROM new_rows AS t', token);
        WHEN 'UPDATE' THEN
            EXECUTE format('INSERT INTO bridge.change_log (side, token) SELECT ''legacy'', %1$s FROM old_rows AS t '
                           'UNION SELECT ''legacy'', %1$s FROM new_rows AS t', token);
        WHEN 'DELETE' THEN
            EXECUTE format('INSERT INTO bridge.change_log (side, token) SELECT DISTINCT ''legacy'', %s FROM old_rows AS t', token);
        WHEN 'TRUNCATE' THEN  -- of a table of either side; that of a unified table is not applied: the rows come back
            INSERT INTO bridge.change_log (side, token)
            SELECT 'legacy', t.token FROM bridge.tokens AS t UNION SELECT 'legacy', v.session_token FROM public.sessions AS v;
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.capture_legacy() IS 'Trigger: logs the sessions that a statement writes in a legacy table.';

CREATE FUNCTION bridge.capture_sessions() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET row_security = off SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
AS $$
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN
            PERFORM bridge.log_changes('unified', ARRAY(SELECT n.session_token FROM new_rows AS n));
            -- a student that no legacy row names was inserted before the session, and not logged then
            PERFORM bridge.log_students('{"student_name": null, "created_at": null}', st.student_id, st.student_email)
            FROM (SELECT DISTINCT n.student_id FROM new_rows AS n) AS n JOIN public.students AS st ON st.student_id = n.student_id
            WHERE (SELECT s.merged_at IS NOT NULL FROM bridge.state AS s)
              AND NOT EXISTS (SELECT FROM bridge.student_source AS s WHERE s.student_email = st.student_email);
        WHEN 'UPDATE' THEN
            INSERT INTO bridge.change_log (side, token, before)
            SELECT 'unified', o.session_token, to_jsonb(o.*) || jsonb_build_object('student_email', st.student_email)
            FROM old_rows AS o
            JOIN new_rows AS n ON n.session_token = o.session_token
            LEFT JOIN public.students AS st ON st.student_id = o.student_id
            WHERE o.* *<> n.*;  -- works for every type
            -- a changed token: a deleted session and an inserted one
            INSERT INTO bridge.change_log (side, token, before)
            SELECT 'unified', o.session_token, '{}'::jsonb FROM old_rows AS o
            WHERE NOT EXISTS (SELECT FROM new_rows AS n WHERE n.session_token = o.session_token)
            UNION ALL
            SELECT 'unified', n.session_token, NULL FROM new_rows AS n
            WHERE NOT EXISTS (SELECT FROM old_rows AS o WHERE o.session_token = n.session_token);
        WHEN 'DELETE' THEN
            INSERT INTO bridge.change_log (side, token, before) SELECT 'unified', o.session_token, '{}'::jsonb FROM old_rows AS o;
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.capture_sessions() IS 'Trigger: logs the sessions that a statement writes in the unified schema.';

CREATE FUNCTION bridge.log_students(before jsonb, p_student_id uuid, p_email text) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $$
    INSERT INTO bridge.change_log (side, token, before)
    SELECT 'student', k.token, jsonb_build_object('student_email', p_email, 'student', log_students.before)
    FROM (SELECT v.session_token AS token FROM public.sessions AS v WHERE v.student_id = p_student_id
          UNION SELECT s.token FROM bridge.student_source AS s WHERE s.student_email = p_email) AS k
$$;
COMMENT ON FUNCTION bridge.log_students(jsonb, uuid, text) IS 'Logs every session of a student.';

CREATE FUNCTION bridge.capture_students() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET row_security = off SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
AS $$
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN
            PERFORM bridge.log_students('{"student_name": null, "created_at": null}', NULL, n.student_email) FROM new_rows AS n;
        WHEN 'UPDATE' THEN
            PERFORM bridge.log_students(to_jsonb(o.*), o.student_id, o.student_email)
            FROM old_rows AS o JOIN new_rows AS n ON n.student_id = o.student_id
            WHERE (o.student_email, o.student_name, o.created_at) IS DISTINCT FROM (n.student_email, n.student_name, n.created_at);
        WHEN 'DELETE' THEN
            PERFORM bridge.log_students(to_jsonb(o.*), NULL, o.student_email) FROM old_rows AS o;
    END CASE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.capture_students() IS 'Trigger: logs the sessions of students that a statement writes.';

-- A refused session must not stop the others. The reason contains no value, because the server's message can.
CREATE FUNCTION bridge.try_apply(p_token text) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    constraint_name text;
BEGIN
    PERFORM bridge.apply(p_token);
    RETURN NULL;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
        RETURN 'busy';
    WHEN insufficient_resources OR operator_intervention OR system_error OR internal_error OR invalid_transaction_state THEN
        RAISE;
    WHEN OTHERS OR assert_failure THEN
        GET STACKED DIAGNOSTICS constraint_name = CONSTRAINT_NAME;
        IF constraint_name IN ('pk_students', 'uq_students_student_email', 'pk_sessions', 'pk_step_progress') THEN
            RETURN 'busy';  -- another transaction has inserted the row
        END IF;
        RETURN concat_ws(', ', 'SQLSTATE ' || SQLSTATE, 'constraint ' || nullif(constraint_name, ''),
            -- no value caused it: the message can be shown
            CASE WHEN SQLSTATE LIKE '42%' OR SQLSTATE LIKE '0A%' THEN SQLERRM END);
END
$$;
COMMENT ON FUNCTION bridge.try_apply(text) IS 'Applies the changes of a session; NULL, busy, or why it was refused.';

-- Runs as the transaction commits. An error never fails the application's write: the changes stay logged. Not under
-- SERIALIZABLE, where it would make the application's transaction fail. jit = off, because the plans are short.
CREATE FUNCTION bridge.sync() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET jit = off
AS $$
DECLARE
    began timestamptz;
    last_id CONSTANT bigint := pg_sequence_last_value('bridge.change_log_id_seq');  -- an upper bound: the planner chooses the index
    next record;
BEGIN
    -- the first change of a transaction applies all of them
    IF NEW.id <= coalesce(nullif(current_setting('bridge.synced', true), ''), '0')::bigint
       OR current_setting('transaction_isolation') = 'serializable'
       OR NOT (SELECT s.sync FROM bridge.state AS s) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('bridge.synced', last_id::text, true);
    BEGIN
        FOR next IN
            (SELECT c.token, interval '100 ms' AS until FROM bridge.change_log AS c
             WHERE c.xact = NEW.xact AND c.id >= NEW.id AND c.id <= last_id GROUP BY c.token ORDER BY min(c.id))
            UNION ALL  -- some older changes, oldest first
            (SELECT c.token, interval '20 ms'
             FROM (SELECT o.token, o.id FROM bridge.change_log AS o WHERE o.xact <> NEW.xact ORDER BY o.id LIMIT 50) AS c
             GROUP BY c.token ORDER BY min(c.id))
        LOOP
            EXIT WHEN clock_timestamp() - began > next.until;  -- the application waits for this
            PERFORM bridge.try_apply(next.token);
            began := coalesce(began, clock_timestamp());  -- the first call of a connection plans its statements
        END LOOP;
    EXCEPTION
        WHEN OTHERS OR assert_failure THEN
            RAISE DEBUG 'left in the log: %', SQLSTATE;
    END;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.sync() IS 'Trigger: applies what a transaction logged, as it commits.';

CREATE CONSTRAINT TRIGGER sync AFTER INSERT ON bridge.change_log
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (current_setting('bridge.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION bridge.sync();

CREATE PROCEDURE bridge.commit_chunk()
    LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('bridge.single_transaction', true) IS DISTINCT FROM 'on' THEN
        COMMIT;
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.commit_chunk() IS 'COMMIT, except in a rehearsal.';

CREATE FUNCTION bridge.report(reported timestamptz, message text) RETURNS timestamptz
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF clock_timestamp() - reported < interval '2 seconds' THEN
        RETURN reported;
    END IF;
    RAISE NOTICE '%', message;
    RETURN clock_timestamp();
END
$$;
COMMENT ON FUNCTION bridge.report(timestamptz, text) IS 'Shows progress every two seconds; returns the time of the last message.';

-- Applies the changes that were logged before the call, in transactions of some 40 ms. It skips a busy session and retries
-- it after a pause. A refused session stays logged, and is named. strict: both raise an error. A procedure with a SET
-- clause could not commit.
CREATE PROCEDURE bridge.drain(strict boolean DEFAULT true, rounds integer DEFAULT 50)
    LANGUAGE plpgsql
AS $$
DECLARE
    last_id CONSTANT bigint := (SELECT max(c.id) FROM bridge.change_log AS c);
    total CONSTANT bigint := (SELECT count(DISTINCT c.token) FROM bridge.change_log AS c);
    began CONSTANT timestamptz := clock_timestamp();
    chunk_began timestamptz;
    reported timestamptz := began;
    tokens text[];
    token text;
    answer text;
    busy text[];
    refused jsonb := '{}';
    done bigint := 0;
    named text;
    tables CONSTANT regclass[] := ARRAY(
        SELECT s.relation FROM bridge.source AS s
        UNION
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n);
BEGIN
    FOR round IN 1 .. rounds LOOP
        tokens := ARRAY(SELECT c.token FROM bridge.change_log AS c WHERE c.id <= last_id AND NOT refused ? c.token
                        GROUP BY c.token ORDER BY min(c.id));
        busy := '{}';
        EXIT WHEN tokens = '{}';
        chunk_began := clock_timestamp();
        PERFORM set_config('lock_timeout', '50ms', true);
        FOREACH token IN ARRAY tokens LOOP
            answer := bridge.try_apply(token);
            IF answer = 'busy' THEN
                busy := busy || token;
            ELSIF answer IS NOT NULL THEN
                refused := refused || jsonb_build_object(token, answer);
            ELSE
                done := done + 1;
            END IF;
            IF clock_timestamp() - chunk_began > interval '40 ms' THEN
                CALL bridge.commit_chunk();
                PERFORM set_config('lock_timeout', '50ms', true);
                chunk_began := clock_timestamp();
            END IF;
            reported := bridge.report(reported, format('applied %s of %s sessions, %s a second', done, total,
                                                       round(done / extract(epoch FROM clock_timestamp() - began))));
        END LOOP;
        CALL bridge.commit_chunk();
        EXIT WHEN busy = '{}';
        IF clock_timestamp() - reported > interval '3 seconds' THEN
            reported := clock_timestamp();
            RAISE NOTICE '% sessions are locked, by: %', cardinality(busy), public.lock_holders(tables, readers => false);
        END IF;
        PERFORM pg_sleep(0.05 + 0.1 * random());
    END LOOP;

    IF refused <> '{}' THEN
        SELECT string_agg(format('...%s (%s)', right(r.key, 4), r.value), ', ' ORDER BY r.key) INTO named
        FROM (SELECT * FROM jsonb_each_text(refused) LIMIT 5) AS r;
        named := format('%s sessions could not be applied, and stay logged: %s%s',
                        (SELECT count(*) FROM jsonb_object_keys(refused)), named,
                        CASE WHEN (SELECT count(*) > 5 FROM jsonb_object_keys(refused)) THEN ', ...' END);
        IF strict THEN
            RAISE EXCEPTION '%', named
                USING HINT = 'All others were applied. Change what is refused in these sessions, or what refuses it, then run this again.';
        END IF;
        RAISE WARNING '%', named;
    END IF;
    IF busy <> '{}' AND strict THEN
        RAISE EXCEPTION '% sessions that have to be applied were locked for too long', cardinality(busy)
            USING ERRCODE = 'lock_not_available',
                  DETAIL = 'Held by: ' || public.lock_holders(tables, readers => false),
                  HINT = 'What was applied so far stays. End the long transactions on the workshop''s tables, then run this again.';
    ELSIF busy <> '{}' THEN
        RAISE NOTICE '% sessions are always busy: they stay logged', cardinality(busy);
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.drain(boolean, integer) IS 'Applies every change that was logged before the call.'
