DROP TRIGGER follow_step_progress ON step_progress;
DROP TRIGGER completion_rate ON sessions;
DROP FUNCTION follow_step_progress();
DROP FUNCTION completion_rate();
DROP FUNCTION passed_steps(text)
