-- Carries over what was noted before 0005 switched to syncing at once, and what connections have left since that were
-- waiting for their turn to begin with it.
DO $$
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        CALL bridge.drain(strict => false);
        -- what came meanwhile: connections that sync take others' notes along, and are to find few
        CALL bridge.drain(strict => false);
        UPDATE bridge.state SET one_by_one = false;
        CALL bridge.commit_chunk();
        CALL bridge.drain(strict => false);
    END IF;
END
$$
