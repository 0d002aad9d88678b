-- For the way back: once a downgrade has carried over what was written here, nothing may be added.
CREATE FUNCTION refuse_write() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% is read-only: the migration is being taken back', TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction',
              HINT = 'Write to workshop_students and student_configs, or upgrade again.';
END
$$;
COMMENT ON FUNCTION refuse_write() IS 'Trigger: refuses writes to a table that a downgrade will drop.';

-- A prepared transaction has no session, and keeps its locks until somebody ends it by its name.
CREATE FUNCTION lock_holders(tables regclass[], readers boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
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
        END, '; '), 'nobody any more')
    FROM pg_locks AS l
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    LEFT JOIN prepared AS x ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
    WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.relation = ANY (tables)
      AND (readers OR l.mode <> 'AccessShareLock')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
COMMENT ON FUNCTION lock_holders(regclass[], boolean) IS
    'Names sessions and prepared transactions that hold locks on tables; readers: those that only read as well.'
