-- Functions that the revisions call.

CREATE FUNCTION public.create_commented(ddl text) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp
AS $$
DECLARE
    kind text;
    relation text;
    line text;
    part text[];
BEGIN
    EXECUTE ddl;
    FOREACH line IN ARRAY regexp_split_to_array(ddl, '\n') LOOP
        part := regexp_match(line, '^CREATE (TABLE|VIEW) ([\w.]+) .*  -- (.*)$');
        IF part IS NOT NULL THEN
            kind := part[1];
            relation := part[2];
            EXECUTE format('COMMENT ON %s %s IS %L', kind, relation, part[3]);
        END IF;
        -- in a table definition the column is the first word of the line, in a view the last one
        part := regexp_match(line, CASE kind WHEN 'TABLE' THEN '^    (\w+) .*  -- (.*)$' ELSE '^    .*\m(\w+),?  -- (.*)$' END);
        IF part IS NOT NULL THEN
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, part[1], part[2]);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION public.create_commented IS 'Creates tables or views; the text behind "  -- " becomes the comment of the table, view or column.';

-- A prepared transaction has no session. It keeps its locks until it is ended by its name.
CREATE FUNCTION public.lock_holders(tables regclass[], readers boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH prepared AS (
        SELECT t.virtualtransaction, x.gid, x.owner, x.prepared
        FROM pg_locks AS t JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
        WHERE t.locktype = 'transactionid' AND t.pid IS NULL
    )
    SELECT coalesce(string_agg(DISTINCT CASE
        WHEN x.gid IS NOT NULL THEN format(
            'prepared transaction %L (user %s, since %s; ROLLBACK PREPARED %1$L or COMMIT PREPARED %1$L ends it)',
            x.gid, x.owner, date_trunc('second', x.prepared))
        ELSE format('pid %s (%s, user %s, %s, since %s)', l.pid, coalesce(nullif(a.application_name, ''), 'no name'),
                    a.usename, coalesce(a.state, 'state unknown'), date_trunc('second', a.xact_start))
        END, '; '), 'no session any more')
    FROM pg_locks AS l
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN prepared AS x ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
    WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.relation = ANY (tables)
      AND (readers OR l.mode <> 'AccessShareLock')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
COMMENT ON FUNCTION public.lock_holders IS 'Names the sessions and prepared transactions that hold locks on tables; readers: includes ACCESS SHARE.';

-- Waits 50 ms for each lock, because new readers queue behind a waiting strong lock. A failed attempt is a
-- subtransaction; its abort frees its locks.
CREATE FUNCTION public.retry_locking(statement text, attempts integer DEFAULT 200) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms'
AS $$
DECLARE
    reason text;
    name regclass;
    said timestamptz := clock_timestamp();
    longer CONSTANT text := format('%sms', 500 + (
        1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::integer);
    tables CONSTANT regclass[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname
              ~ '^(students|sessions|step_progress|events|(workshop_students|student_configs)(_backup_\d{8}(_\d+)?)?)$');
BEGIN
    FOR attempt IN 1 .. attempts LOOP
        BEGIN
            EXECUTE statement;
            RETURN;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
                reason := SQLERRM;
        END;
        IF clock_timestamp() - said > interval '3 seconds' THEN
            said := clock_timestamp();
            RAISE NOTICE 'waiting for a lock, held by: %', public.lock_holders(tables);
        END IF;
        -- PostgreSQL ends an autovacuum after a lock request has waited deadlock_timeout for it. This lock does not
        -- conflict with the applications' statements, and is rolled back at once.
        FOREACH name IN ARRAY tables LOOP
            BEGIN
                PERFORM set_config('lock_timeout', longer, true);
                EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', name);
                RAISE SQLSTATE 'WM001';
            EXCEPTION
                WHEN SQLSTATE 'WM001' OR lock_not_available OR deadlock_detected THEN
                    CONTINUE;
            END;
        END LOOP;
        PERFORM pg_sleep(0.05 + 0.25 * random());
    END LOOP;
    RAISE EXCEPTION 'gave up after % attempts: %', attempts, reason
        USING ERRCODE = 'lock_not_available',
              DETAIL = 'Held by: ' || public.lock_holders(tables),
              HINT = 'This step changed nothing. Run it again at a quieter moment, or end the transaction that holds the lock.';
END
$$;
COMMENT ON FUNCTION public.retry_locking IS 'Executes a statement with short lock waits, retries it, and names the lock holders if it fails.';

-- Locks all four at once, before the first change. A writer that holds one and waits for the next would never free it,
-- and PostgreSQL would abort one transaction as a deadlock victim.
CREATE FUNCTION public.lock_unified_tables(mode text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    there CONSTANT text := (
        SELECT string_agg('public.' || n, ', ') FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n
        WHERE to_regclass('public.' || n) IS NOT NULL);  -- the operator may have dropped some
BEGIN
    PERFORM public.retry_locking(format('LOCK TABLE %s IN %s MODE', there, mode)) WHERE there IS NOT NULL;
END
$$;
COMMENT ON FUNCTION public.lock_unified_tables IS 'Locks students, sessions, step_progress and events, with retries.';

CREATE FUNCTION public.free_dated_name(name text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT candidate
    FROM generate_series(1, 1000) AS n
    CROSS JOIN LATERAL (
        SELECT name || to_char(now() AT TIME ZONE 'UTC', '"_backup_"YYYYMMDD') || coalesce('_' || nullif(n, 1), '') AS candidate
    ) AS c
    WHERE to_regclass(format('public.%I', candidate)) IS NULL AND to_regtype(format('public.%I', candidate)) IS NULL
    ORDER BY n
    LIMIT 1
$$;
COMMENT ON FUNCTION public.free_dated_name IS 'Returns a dated name that is free in schema public: <name>_backup_YYYYMMDD, else with _2, _3 ...';

-- A policy that uses a column is copied if the target table has that column with that type.
CREATE FUNCTION public.copy_row_security(original regclass, stand_in regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp
AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY', stand_in, w.what)
        FROM pg_class AS c
        CROSS JOIN LATERAL (VALUES ('ENABLE', c.relrowsecurity), ('FORCE', c.relforcerowsecurity)) AS w(what, wanted)
        WHERE c.oid = original AND w.wanted
        UNION ALL
        SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, stand_in,
                      CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                      CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                                    ELSE 'ALL' END,
                      (SELECT string_agg(CASE o WHEN 0 THEN 'PUBLIC' ELSE o::regrole::text END, ', ') FROM unnest(p.polroles) AS o),
                      ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                      ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
        FROM pg_policy AS p
        WHERE p.polrelid = original AND NOT EXISTS (
            SELECT FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = p.polrelid AND a.attnum > 0
              AND NOT EXISTS (
                  SELECT FROM pg_attribute AS n
                  WHERE n.attrelid = stand_in AND n.attname = a.attname
                    AND (n.atttypid = a.atttypid OR n.atttypid = 'text'::regtype AND a.atttypid = 'varchar'::regtype)))
    LOOP
        -- the catalog has the present name of a table of an earlier attempt
        EXECUTE regexp_replace(command, '\m(students|sessions|step_progress|events)_prior_backup_\d{8}(_\d+)?\M', '\1', 'g');
    END LOOP;
END
$$;
COMMENT ON FUNCTION public.copy_row_security IS 'Copies row security and policies from one table to the table that replaces it.';

-- After a downgrade has handed back the rows, no statement may add more.
CREATE FUNCTION public.refuse_write() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is read-only: a downgrade is removing the unified tables', TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction',
              HINT = 'Write to workshop_students and student_configs, or upgrade again.';
END
$$;
COMMENT ON FUNCTION public.refuse_write IS 'Trigger: refuses writes to a table that a downgrade drops.';

-- Restricts new objects of schema public; the names are separated by spaces. If a legacy table has row security, the four
-- tables have it, and the reporting views read with the rights of their reader. What default privileges grant stays only if
-- the role has the right on each legacy table. Under row security the role's policies must also check columns of the row.
CREATE FUNCTION public.follow_legacy_rights(names text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    command text;
    created CONSTANT oid[] := ARRAY(SELECT to_regclass(format('public.%I', n)) FROM string_to_table(names, ' ') AS n);
    unified CONSTANT oid[] := ARRAY(
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n);
    legacy CONSTANT oid[] := ARRAY(
        SELECT c.oid FROM pg_class AS c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND c.relname IN ('workshop_students', 'student_configs', 'workshop_step_progress'));
    hidden CONSTANT boolean := EXISTS (SELECT FROM pg_class AS c WHERE c.oid = ANY (legacy) AND c.relrowsecurity);
BEGIN
    FOR command IN
        SELECT format('ALTER TABLE %s %s ROW LEVEL SECURITY', c.oid::regclass, w.what)
        FROM pg_class AS c
        CROSS JOIN LATERAL (
            SELECT 'ENABLE' WHERE hidden AND NOT c.relrowsecurity
            UNION ALL
            SELECT 'FORCE' WHERE NOT c.relforcerowsecurity AND EXISTS (
                SELECT FROM pg_class AS l WHERE l.oid = ANY (legacy) AND l.relforcerowsecurity)
        ) AS w(what)
        WHERE c.oid = ANY (unified)
        UNION ALL
        SELECT format('ALTER VIEW %s SET (security_invoker = true)', c.oid::regclass)
        FROM pg_class AS c
        WHERE c.oid = ANY (created) AND c.relkind = 'v'
          AND (hidden OR EXISTS (SELECT FROM pg_class AS t WHERE t.oid = ANY (unified) AND t.relrowsecurity))
        UNION ALL
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', c.oid::regclass,
                               CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
        WHERE c.oid = ANY (created) AND g.grantee <> c.relowner
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s', g.privilege_type, c.oid::regclass,
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
        WHERE c.oid = ANY (created) AND (c.relkind = 'v' OR c.oid = ANY (unified) OR c.relkind = 'r' AND NOT hidden) AND g.grantee <> c.relowner
          AND NOT EXISTS (SELECT FROM unnest(legacy) AS l WHERE NOT has_table_privilege(g.grantee, l, g.privilege_type))
          AND NOT (hidden AND EXISTS (
              SELECT FROM pg_policy AS p
              WHERE p.polrelid = c.oid AND p.polpermissive AND (g.grantee = 0 OR EXISTS (
                    SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(g.grantee, r, 'USAGE')))
                AND NOT EXISTS (
                    SELECT FROM pg_depend AS d
                    WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0)))
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
COMMENT ON FUNCTION public.follow_legacy_rights IS 'Gives new objects no right, and no less row security, than the legacy tables have.';

-- Only the owner may use schema bridge and what a downgrade keeps of it, whatever default privileges grant. Functions
-- keep the built-in right of PUBLIC: the schema is closed.
CREATE FUNCTION public.restrict_to_owner() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', o.what,
                               CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
        FROM (
            SELECT 'SCHEMA bridge', n.nspowner, n.nspacl FROM pg_namespace AS n WHERE n.nspname = 'bridge'
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner, c.relacl FROM pg_class AS c
            WHERE c.relkind NOT IN ('i', 'I', 'c') AND (
                c.relnamespace = to_regnamespace('bridge') OR c.relnamespace = 'public'::regnamespace
                AND c.relname ~ '^((bridge_remainder|own_columns)_backup_\d{8}(_\d+)?|legacy_tables_dropped)$')
            UNION ALL
            SELECT 'ROUTINE ' || p.oid::regprocedure, p.proowner, p.proacl FROM pg_proc AS p
            WHERE p.pronamespace = to_regnamespace('bridge')
        ) AS o(what, owner, acl)
        CROSS JOIN LATERAL aclexplode(o.acl) AS g
        WHERE g.grantee <> o.owner
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
COMMENT ON FUNCTION public.restrict_to_owner IS 'Revokes what default privileges give on the bridge and on what a downgrade keeps.'
