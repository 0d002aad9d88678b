-- Capture: triggers on the legacy tables note which tokens a statement touched, in the writer's own
-- transaction. Once 0005 has set state.sync they also carry them over at once, as far as nobody
-- else is writing the same sessions. An error in here never fails the application's write: what
-- could not be taken stays pending, for the next trigger, revision or drain.

-- lock_timeout: two writers of the same new token meet in its unique key, two writers of one
-- student in the student's row; whoever would have to wait leaves the note instead. Generic plans:
-- planning for each write would take many times longer than the work.
CREATE FUNCTION bridge.note(touched text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '50ms'
    SET plan_cache_mode = force_generic_plan
    SET jit = off
AS $$
DECLARE
    noted bigint[];
    older bigint[];
BEGIN
    IF touched IS NULL OR touched = '{}' THEN
        RETURN;
    END IF;
    WITH n AS (
        INSERT INTO bridge.pending (side, token) SELECT 'legacy', t FROM unnest(touched) AS t
        RETURNING id
    )
    SELECT array_agg(id) INTO noted FROM n;

    -- a statement over more than a chunk is left to drain(): the application waits for this one
    IF cardinality(touched) > 2000 OR NOT (SELECT sync FROM bridge.state) THEN
        RETURN;
    END IF;
    BEGIN
        PERFORM bridge.take_free(noted);
    EXCEPTION
        WHEN OTHERS THEN
            RAISE DEBUG 'left pending: %', SQLERRM;
            RETURN;
    END;
    BEGIN
        SELECT array_agg(p.id) INTO older
        FROM (SELECT id FROM bridge.pending WHERE id <> ALL (noted)
              ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED) AS p;
        PERFORM bridge.take_free(older);
    EXCEPTION
        WHEN OTHERS THEN
            RAISE DEBUG 'left pending: %', SQLERRM;
    END;
END
$$;
COMMENT ON FUNCTION bridge.note(text[]) IS 'Notes tokens as touched, and carries over what is free.';

-- A locked session or student is being written by a transaction whose changes cannot be seen yet:
-- its tokens are left alone, and nobody waits.
CREATE FUNCTION bridge.take_free(ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    touched CONSTANT text[] := ARRAY(SELECT DISTINCT p.token FROM bridge.pending AS p WHERE p.id = ANY (ids));
    emails CONSTANT text[] := bridge.emails_of(touched);
    locked_sessions text[];
    locked_students text[];
    free text[];
BEGIN
    SELECT array_agg(v.session_token) INTO locked_sessions
    FROM (SELECT s.session_token FROM public.sessions AS s WHERE s.session_token = ANY (touched)
          FOR NO KEY UPDATE SKIP LOCKED) AS v;
    SELECT array_agg(v.student_email) INTO locked_students
    FROM (SELECT st.student_email FROM public.students AS st WHERE st.student_email = ANY (emails)
          FOR NO KEY UPDATE SKIP LOCKED) AS v;

    free := ARRAY(
        SELECT t FROM unnest(touched) AS t
        WHERE t = ANY (locked_sessions)
           OR NOT EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = t));
    IF EXISTS (SELECT FROM public.students AS st
               WHERE st.student_email = ANY (emails) AND (st.student_email = ANY (locked_students)) IS NOT TRUE)
    THEN
        free := ARRAY(
            SELECT t FROM unnest(free) AS t
            WHERE NOT EXISTS (
                SELECT FROM public.students AS st
                WHERE st.student_email = ANY (bridge.emails_of(ARRAY[t]))
                  AND (st.student_email = ANY (locked_students)) IS NOT TRUE));
    END IF;
    IF free <> '{}' THEN
        PERFORM bridge.take(
            ARRAY(SELECT p.id FROM bridge.pending AS p WHERE p.id = ANY (ids) AND p.token = ANY (free)),
            free);
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.take_free(bigint[]) IS 'Carries over what nobody else is writing.';

-- One trigger function for each table, because the token is an expression over its columns.
-- SECURITY DEFINER: the application's role knows nothing of the bridge.
CREATE FUNCTION bridge.build_capture(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $build$
BEGIN
    EXECUTE format(
        $function$
CREATE OR REPLACE FUNCTION bridge.capture_%1$s() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    CASE TG_OP
        WHEN 'INSERT' THEN
            PERFORM bridge.note(ARRAY(SELECT DISTINCT %2$s FROM new_rows AS t));
        WHEN 'UPDATE' THEN
            PERFORM bridge.note(ARRAY(SELECT %2$s FROM old_rows AS t
                                      UNION SELECT %2$s FROM new_rows AS t));
        WHEN 'DELETE' THEN
            PERFORM bridge.note(ARRAY(SELECT DISTINCT %2$s FROM old_rows AS t));
        WHEN 'TRUNCATE' THEN
            PERFORM bridge.note(ARRAY(SELECT session_token FROM public.sessions));
    END CASE;
    RETURN NULL;
END
$body$
        $function$,
        p_legacy_name,
        (SELECT bridge.token_of(relation) FROM bridge.source WHERE legacy_name = p_legacy_name));
END
$build$;
COMMENT ON FUNCTION bridge.build_capture(text) IS 'Builds the trigger function of a legacy table.';

CREATE FUNCTION bridge.build(p_legacy_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM bridge.build_adapter(p_legacy_name);
    PERFORM bridge.build_index(p_legacy_name);
    PERFORM bridge.build_capture(p_legacy_name);
    PERFORM bridge.build_raw();
END
$$;
COMMENT ON FUNCTION bridge.build(text) IS 'Builds all that depends on the columns of a legacy table.';

-- CREATE TRIGGER waits for writers in flight, so that after the commit no write goes unseen. The
-- locks are taken first and together; everything else here is quick.
CREATE FUNCTION bridge.attach() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    src record;
BEGIN
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', src.relation);
    END LOOP;
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        PERFORM bridge.build(src.legacy_name);
        EXECUTE format(
            'CREATE TRIGGER bridge_insert AFTER INSERT ON %1$s REFERENCING NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_%2$s(); '
            'CREATE TRIGGER bridge_update AFTER UPDATE ON %1$s '
            'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_%2$s(); '
            'CREATE TRIGGER bridge_delete AFTER DELETE ON %1$s REFERENCING OLD TABLE AS old_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_%2$s(); '
            'CREATE TRIGGER bridge_truncate AFTER TRUNCATE ON %1$s '
            'FOR EACH STATEMENT EXECUTE FUNCTION bridge.capture_%2$s()',
            src.relation, src.legacy_name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.attach() IS 'Puts adapters and triggers on the legacy tables.';

CREATE FUNCTION bridge.detach() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    src record;
BEGIN
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', src.relation);
    END LOOP;
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        EXECUTE format(
            'DROP TRIGGER bridge_insert ON %1$s; DROP TRIGGER bridge_update ON %1$s; '
            'DROP TRIGGER bridge_delete ON %1$s; DROP TRIGGER bridge_truncate ON %1$s',
            src.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.detach() IS 'Takes the triggers off the legacy tables.';

-- Table grants, column grants and, if asked, the owner, for a relation that stands in for another one.
CREATE FUNCTION bridge.copy_access(original regclass, stand_in regclass, with_owner boolean)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s OWNER TO %I', stand_in, pg_get_userbyid(o.relowner))
        FROM pg_class AS o JOIN pg_class AS s ON s.oid = stand_in
        WHERE with_owner AND o.oid = original AND o.relowner <> s.relowner
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                      CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class AS o
        CROSS JOIN LATERAL aclexplode(o.relacl) AS a
        WHERE o.oid = original AND a.grantee <> o.relowner
        UNION ALL
        SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, c.attname, stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_attribute AS c
        CROSS JOIN LATERAL aclexplode(c.attacl) AS a
        WHERE c.attrelid = original AND NOT c.attisdropped
          AND EXISTS (SELECT FROM bridge.columns_of(stand_in) AS k WHERE k.name = c.attname)
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.copy_access(regclass, regclass, boolean) IS 'Copies grants and owner.'
