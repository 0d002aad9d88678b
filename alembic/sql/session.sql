-- Settings of the migrating session: UTF-8, names in schema public, times in UTC, short lock waits. PostgreSQL frees
-- the locks at once when the client dies.
SET client_encoding = 'UTF8';
-- public may not hide a function or operator of PostgreSQL: the types of a call choose, not the path.
SET search_path = pg_catalog, pg_temp;
DO $$
DECLARE
    found CONSTANT text := (
        SELECT string_agg(DISTINCT pg_describe_object(o.class, o.id, 0), ', ')
        FROM (SELECT 'pg_proc'::regclass, p.oid, p.proname, p.pronamespace, p.proowner FROM pg_proc AS p UNION ALL
              SELECT 'pg_operator'::regclass, p.oid, p.oprname, p.oprnamespace, p.oprowner FROM pg_operator AS p) AS o(class, id, name, schema, owner)
        JOIN pg_roles AS r ON r.oid = o.owner AND NOT r.rolsuper AND r.rolname <> current_user
        WHERE o.schema = to_regnamespace('public') AND o.name IN (
                  SELECT b.proname FROM pg_proc AS b WHERE b.pronamespace = 'pg_catalog'::regnamespace UNION ALL
                  SELECT b.oprname FROM pg_operator AS b WHERE b.oprnamespace = 'pg_catalog'::regnamespace)
          AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = o.class AND d.objid = o.id AND d.deptype = 'e'));
BEGIN
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'another role hides functions or operators of PostgreSQL: %', found
            USING HINT = 'Nothing was changed. Drop or rename them, or let this role own them; then run this again.';
    END IF;
END $$;
SET search_path = public;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET lock_timeout = '5s';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_connection_check_interval = '500ms';
SET client_min_messages = notice;
SET default_transaction_isolation = 'read committed';
SET default_transaction_read_only = off;
SET standard_conforming_strings = on;
SET quote_all_identifiers = off;
SET plpgsql.extra_errors = '';
SET plpgsql.extra_warnings = '';
SET jit = off;
SET row_security = off;  -- a hidden row is an error, not a missing row
-- Lists what each revision creates in schema public. An upgrade checks that the names are free, a downgrade that no
-- other object depends on them.
SET bridge.creates = '
0001 table students sessions step_progress events
0001 relation prior_attempt pk_students uq_students_student_email pk_sessions pk_step_progress pk_events
0001 function create_commented(text) lock_holders(regclass[],boolean) retry_locking(text,integer) refuse_write()
0001 function lock_unified_tables(text) free_dated_name(text) copy_row_security(regclass,regclass)
0001 function follow_legacy_rights(text) restrict_to_owner()
0002 function unwrap_json(jsonb) read_timestamp(text) parse_timestamp(text) parse_count(jsonb) parse_done(jsonb)
0002 function clean_email(text) workshop_steps() step_number_of(text) step_name_of(integer) exercise_steps(jsonb)
0002 function exercises_with_step(jsonb,integer,boolean,timestamptz,integer,integer) session_completion_rate(integer[])
0002 function session_steps_done(boolean,boolean,boolean,boolean,boolean,boolean,boolean,boolean,boolean,boolean,integer[])
0002 function touch_updated_at() refuse_student_id_change() clean_students() clean_sessions() clean_step_progress()
0002 function clean_events() update_session_progress(text)
0003 relation ix_sessions_student_id ix_events_session_token
0003 relation bridge_token_of_workshop_students bridge_token_of_student_configs
0004 function completion_rate() follow_step_progress() steps_follow_exercises()
0005 relation ix_events_event_type ix_events_student_id ix_sessions_is_active_expires_at ix_sessions_last_activity
0005 relation ix_step_progress_student_id
0006 relation session_overview student_overview step_funnel progress_by_day stuck_sessions
0007 table workshop_students student_configs
'
