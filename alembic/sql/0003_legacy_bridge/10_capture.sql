-- Capture: triggers on both sides note which tokens a statement touched, in the writer's own transaction.
-- Until 0005 that is all they do.
CREATE FUNCTION bridge.note(p_side text, touched text[], deleted text[] DEFAULT '{}') RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bridge.pending (side, token, deleted)
    SELECT p_side, t, false FROM unnest(touched) AS t
    UNION ALL
    SELECT p_side, t, true FROM unnest(deleted) AS t
$$;
COMMENT ON FUNCTION bridge.note(text, text[], text[]) IS 'Notes tokens as touched, or as deleted.';

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
            INSERT INTO bridge.pending (side, token)
            SELECT DISTINCT 'legacy', %2$s FROM new_rows AS t;
        WHEN 'UPDATE' THEN
            INSERT INTO bridge.pending (side, token)
            SELECT 'legacy', %2$s FROM old_rows AS t UNION SELECT 'legacy', %2$s FROM new_rows AS t;
        WHEN 'DELETE' THEN
            INSERT INTO bridge.pending (side, token)
            SELECT DISTINCT 'legacy', %2$s FROM old_rows AS t;
        WHEN 'TRUNCATE' THEN
            INSERT INTO bridge.pending (side, token)
            SELECT 'legacy', v.session_token FROM public.sessions AS v;
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
    PERFORM bridge.build_push(p_legacy_name);
    PERFORM bridge.build_capture(p_legacy_name);
    PERFORM bridge.build_unions();
END
$$;
COMMENT ON FUNCTION bridge.build(text) IS 'Builds all that depends on the columns of a legacy table.';

-- The unified schema's. Of a student only what stands in the legacy tables too: address and name. A
-- TRUNCATE is nothing that the application does, and is not carried over: it asks for a fill from the
-- legacy tables.
CREATE FUNCTION bridge.capture_unified() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM bridge.note('legacy', ARRAY(SELECT t.token FROM bridge.tokens AS t));
    ELSIF TG_TABLE_NAME = 'sessions' AND TG_OP <> 'INSERT' THEN
        -- the student that a session leaves has to be found, even where the old tables forget the address meanwhile
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO bridge.other_address (token, student_email)
            SELECT o.session_token, st.student_email
            FROM old_rows AS o
            JOIN new_rows AS n USING (session_token)
            JOIN public.students AS st ON st.student_id = o.student_id
            WHERE o.student_id <> n.student_id
            ON CONFLICT DO NOTHING;
            PERFORM bridge.note('unified', ARRAY(SELECT n.session_token FROM new_rows AS n), ARRAY(
                SELECT o.session_token FROM old_rows AS o
                EXCEPT SELECT n.session_token FROM new_rows AS n));
        ELSE
            INSERT INTO bridge.other_address (token, student_email)
            SELECT o.session_token, st.student_email
            FROM old_rows AS o JOIN public.students AS st ON st.student_id = o.student_id
            ON CONFLICT DO NOTHING;
            PERFORM bridge.note('unified', '{}', ARRAY(SELECT o.session_token FROM old_rows AS o));
        END IF;
    ELSIF TG_TABLE_NAME <> 'students' THEN
        CASE TG_OP
            WHEN 'INSERT' THEN
                PERFORM bridge.note('unified', ARRAY(SELECT DISTINCT t.session_token FROM new_rows AS t));
            WHEN 'UPDATE' THEN
                PERFORM bridge.note('unified', ARRAY(SELECT t.session_token FROM old_rows AS t
                                                     UNION SELECT t.session_token FROM new_rows AS t));
            WHEN 'DELETE' THEN
                PERFORM bridge.note('unified', ARRAY(SELECT DISTINCT t.session_token FROM old_rows AS t));
        END CASE;
    ELSIF TG_OP = 'INSERT' THEN
        -- sessions tell of the address already
        PERFORM bridge.note('unified', ARRAY(
            SELECT DISTINCT a.token FROM new_rows AS n JOIN bridge.address AS a USING (student_email)));
    ELSIF TG_OP = 'UPDATE' THEN
        WITH changed AS (
            SELECT o.student_id, o.student_email, r.*
            FROM old_rows AS o
            JOIN new_rows AS n USING (student_id)
            LEFT JOIN LATERAL (
                SELECT n.student_id AS renamed, n.student_name WHERE o.student_name IS DISTINCT FROM n.student_name
            ) AS r ON true
            WHERE (o.student_email, o.student_name, o.created_at)
                  IS DISTINCT FROM (n.student_email, n.student_name, n.created_at)
        )
        INSERT INTO bridge.pending (side, token, student_id, student_name)
        SELECT 'unified', v.session_token, c.renamed, c.student_name
        FROM changed AS c JOIN public.sessions AS v USING (student_id)
        UNION
        SELECT 'unified', a.token, c.renamed, c.student_name
        FROM changed AS c JOIN bridge.address AS a USING (student_email);
    ELSE
        -- before the foreign keys of 0005 the sessions are still there: the student comes back
        INSERT INTO bridge.pending (side, token, at)
        SELECT 'legacy', v.session_token, '-infinity' FROM old_rows AS o JOIN public.sessions AS v USING (student_id);
        PERFORM bridge.note('unified', ARRAY(
            SELECT DISTINCT a.token FROM old_rows AS o JOIN bridge.address AS a USING (student_email)));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.capture_unified() IS 'Trigger: notes what is written to the unified schema.';

CREATE FUNCTION bridge.create_triggers(relation regclass, capture text, events text[], condition text)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    event text;
BEGIN
    FOREACH event IN ARRAY events LOOP
        EXECUTE format(
            'CREATE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT WHEN (%s) EXECUTE FUNCTION bridge.%I()',
            'bridge_' || lower(event), event, relation,
            CASE event WHEN 'INSERT' THEN 'REFERENCING NEW TABLE AS new_rows'
                       WHEN 'UPDATE' THEN 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                       WHEN 'DELETE' THEN 'REFERENCING OLD TABLE AS old_rows' ELSE '' END,
            condition, capture);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.create_triggers(regclass, text, text[], text) IS 'Creates capture triggers.';

-- CREATE TRIGGER waits for writers in flight, so that after the commit no write goes unseen. The
-- locks are taken first and together; everything else here is quick.
CREATE FUNCTION bridge.attach() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    src record;
    every CONSTANT text[] := ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'];
    not_ours CONSTANT text := 'current_setting(''bridge.pulling'', true) IS DISTINCT FROM ''on''';
BEGIN
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', src.relation);
    END LOOP;
    FOR src IN SELECT * FROM bridge.source ORDER BY legacy_name LOOP
        PERFORM bridge.build(src.legacy_name);
        PERFORM bridge.create_triggers(src.relation, 'capture_' || src.legacy_name, every, 'true');
    END LOOP;
    PERFORM bridge.create_triggers('public.students', 'capture_unified', every, not_ours);
    PERFORM bridge.create_triggers('public.sessions', 'capture_unified', every, not_ours);
    PERFORM bridge.create_triggers('public.step_progress', 'capture_unified', every, not_ours);
END
$$;
COMMENT ON FUNCTION bridge.attach() IS 'Puts adapters and triggers on the tables of both worlds.';

CREATE FUNCTION bridge.detach() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    attached record;
BEGIN
    FOR attached IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE p.pronamespace = 'bridge'::regnamespace AND t.tgrelid <> 'bridge.pending'::regclass
        ORDER BY t.tgrelid::regclass::text
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', attached.tgname, attached.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.detach() IS 'Takes the triggers off again.';

-- Table grants, column grants and, if asked, the owner, for a relation that stands in for another one. An
-- owner that may create nothing in the schema cannot be given one: it may do with it what it did before.
CREATE FUNCTION bridge.copy_access(original regclass, stand_in regclass, with_owner boolean)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    command text;
    can_become CONSTANT text := CASE WHEN current_setting('server_version_num')::integer < 160000
                                     THEN 'MEMBER' ELSE 'SET' END;
BEGIN
    FOR command IN
        -- what default privileges gave
        SELECT format('REVOKE ALL ON %s FROM %s CASCADE', stand_in,
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM pg_class AS s CROSS JOIN LATERAL aclexplode(s.relacl) AS a
        WHERE s.oid = stand_in AND a.grantee <> s.relowner
        GROUP BY a.grantee
        UNION ALL
        SELECT format(CASE WHEN has_schema_privilege(o.relowner, 'public', 'CREATE')
                                AND pg_has_role(o.relowner, can_become)
                           THEN 'ALTER TABLE %1$s OWNER TO %2$I'
                           ELSE 'GRANT ALL ON %1$s TO %2$I WITH GRANT OPTION' END,
                      stand_in, pg_get_userbyid(o.relowner))
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
