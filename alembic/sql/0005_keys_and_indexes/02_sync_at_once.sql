-- What was noted until now is carried over; from the commit on the triggers do it themselves.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        PERFORM set_config('bridge.single_transaction', 'on', true);
        CALL bridge.drain(leave => 20);
        UPDATE bridge.state SET sync = true;
        PERFORM set_config('bridge.single_transaction', '', true);
    END IF;
END
$$
