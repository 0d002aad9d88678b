-- Drops by exact signature: a legacy function may have a similar name. IF EXISTS, because the operator may have dropped
-- the tables.
DROP TRIGGER IF EXISTS clean_events ON events;
DROP TRIGGER IF EXISTS clean_step_progress ON step_progress;
DROP TRIGGER IF EXISTS clean_sessions ON sessions;
DROP TRIGGER IF EXISTS clean_students ON students;
DROP TRIGGER IF EXISTS refuse_student_id_change ON students;
DROP TRIGGER IF EXISTS touch_updated_at ON step_progress;
DROP TRIGGER IF EXISTS touch_updated_at ON sessions;
DROP TRIGGER IF EXISTS touch_updated_at ON students;
DROP FUNCTION update_session_progress(text);
DROP FUNCTION clean_events();
DROP FUNCTION clean_step_progress();
DROP FUNCTION clean_sessions();
DROP FUNCTION clean_students();
DROP FUNCTION refuse_student_id_change();
DROP FUNCTION touch_updated_at();
DROP FUNCTION session_completion_rate(integer[]);
DROP FUNCTION session_steps_done(
    boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean,
    integer[]
);
DROP FUNCTION exercises_with_step(jsonb, integer, boolean, timestamptz, integer, integer);
DROP FUNCTION exercise_steps(jsonb);
DROP FUNCTION step_name_of(integer);
DROP FUNCTION step_number_of(text);
DROP FUNCTION workshop_steps();
DROP FUNCTION clean_email(text);
DROP FUNCTION parse_done(jsonb);
DROP FUNCTION parse_count(jsonb);
DROP FUNCTION parse_timestamp(text);
DROP FUNCTION read_timestamp(text);
DROP FUNCTION unwrap_json(jsonb)
