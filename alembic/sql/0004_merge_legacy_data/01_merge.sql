-- Copies, carries over what was written meanwhile, and refuses to go on if anything does not add up.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        UPDATE bridge.state SET retired_at = NULL;
        CALL bridge.refresh_adapters();
        CALL bridge.merge();
        CALL bridge.drain(strict => false);
        CALL bridge.drain(strict => false);  -- what came meanwhile: much less
        CALL bridge.require_verified();
        PERFORM bridge.retry('SELECT bridge.make_writable()');
    END IF;
END
$$
