DROP TRIGGER IF EXISTS follow_step_progress ON step_progress;
DROP TRIGGER IF EXISTS completion_rate ON sessions;
DROP FUNCTION follow_step_progress();
DROP FUNCTION completion_rate();
DROP FUNCTION IF EXISTS passed_steps(text)
