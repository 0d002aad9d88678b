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
DROP FUNCTION public.update_session_progress(text);
DROP FUNCTION public.clean_events();
DROP FUNCTION public.clean_step_progress();
DROP FUNCTION public.clean_sessions();
DROP FUNCTION public.clean_students();
DROP FUNCTION public.refuse_student_id_change();
DROP FUNCTION public.touch_updated_at();
DROP FUNCTION public.session_completion_rate(integer[]);
DROP FUNCTION public.session_steps_done(
    boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean, boolean,
    integer[]
);
DROP FUNCTION public.exercises_with_step(jsonb, integer, boolean, timestamptz, integer, integer);
DROP FUNCTION public.exercise_steps(jsonb);
DROP FUNCTION public.step_name_of(integer);
DROP FUNCTION public.step_number_of(text);
DROP FUNCTION public.workshop_steps();
DROP FUNCTION public.clean_email(text);
DROP FUNCTION public.parse_done(jsonb);
DROP FUNCTION public.parse_count(jsonb);
DROP FUNCTION public.parse_timestamp(text);
DROP FUNCTION public.read_timestamp(text);
DROP FUNCTION public.unwrap_json(jsonb)
