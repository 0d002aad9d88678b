-- Outside of any long transaction, and before anything is locked.
DO $$
DECLARE
    changed boolean;
BEGIN
    IF to_regnamespace('bridge') IS NOT NULL THEN
        changed := EXISTS (SELECT FROM bridge.source AS s
                           WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation));
        IF changed THEN
            CALL bridge.refresh_adapters();
            CALL bridge.merge();
        END IF;
        CALL bridge.drain(strict => false);
        CALL bridge.require_verified();
    END IF;
END
$$
