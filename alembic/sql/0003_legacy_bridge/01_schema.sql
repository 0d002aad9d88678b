CREATE SCHEMA bridge;
COMMENT ON SCHEMA bridge IS 'Keeps the legacy tables and the unified schema in step.';

CREATE FUNCTION bridge.report(reported timestamptz, message text) RETURNS timestamptz
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF clock_timestamp() - reported < interval '2 seconds' THEN
        RETURN reported;
    END IF;
    RAISE NOTICE '%', message;
    RETURN clock_timestamp();
END
$$;
COMMENT ON FUNCTION bridge.report(timestamptz, text) IS 'Shows progress every two seconds; returns the time of the last message.'
