-- Readers for the values that the application writes: JSON inside JSON, time stamps and numbers as text. They never
-- raise an error: an unreadable value becomes NULL or stays unchanged. COLLATE "C" restricts letters, digits and blanks
-- to ASCII in every locale.

-- The application stringifies values and the driver serialises them again, so a JSON string that holds JSON is common.
CREATE FUNCTION public.unwrap_json(value jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WHILE jsonb_typeof(value) = 'string' LOOP
        value := (value #>> '{}')::jsonb;
    END LOOP;
    RETURN value;
EXCEPTION
    -- not JSON, or JSON that jsonb cannot hold (\u0000): returns the last readable form
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN value;
END
$$;
COMMENT ON FUNCTION public.unwrap_json(jsonb) IS 'Unwraps JSON from any number of layers of JSON strings.';

-- Accepts ISO forms only. PostgreSQL would also read "yesterday", "infinity" and names of zones.
CREATE FUNCTION public.read_timestamp(value text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value COLLATE "C" ~* '^\d{4,5}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?\s*(Z|UTC|GMT|[-+]\d\d(:?\d\d(:?\d\d)?)?)\s*$' THEN
        RETURN value::timestamptz;
    ELSIF value COLLATE "C" ~* '^\d{4,5}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?\s*$' THEN
        RETURN value::timestamp AT TIME ZONE 'UTC';
    END IF;
    RETURN NULL;
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END
$$;
COMMENT ON FUNCTION public.read_timestamp(text) IS 'Reads an ISO time stamp, as UTC if it names no zone; else NULL.';

-- Most time stamps have the form that JavaScript writes. From PostgreSQL 16 on they are validated first, which needs no
-- subtransaction.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION public.parse_timestamp(value text) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL UNSAFE RETURN %s',
        CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN
            'CASE WHEN value COLLATE "C" LIKE ''20__-__-__T__:__:__.___Z'' AND value COLLATE "C" ~ ''^[-0-9T:.Z]+$'''
            ' AND pg_input_is_valid(value, ''timestamp with time zone'')'
            ' THEN value::timestamptz ELSE public.read_timestamp(value) END'
        ELSE 'public.read_timestamp(value)' END);
END
$$;
COMMENT ON FUNCTION public.parse_timestamp(text) IS 'Reads an ISO time stamp, as UTC if it names no zone; else NULL.';

CREATE FUNCTION public.parse_count(value jsonb) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(value) = 'number'
    THEN least(greatest(trunc(value::numeric), 0), 2147483647)::integer
    WHEN length(value #>> '{}') < 400
     AND (value #>> '{}') COLLATE "C" ~ '^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*$'
    THEN least(greatest(trunc((value #>> '{}')::numeric), 0), 2147483647)::integer
    ELSE 0
END;
COMMENT ON FUNCTION public.parse_count(jsonb) IS 'Reads a count from a number or from text: 0 to 2147483647; 0 if there is none.';

CREATE FUNCTION public.parse_done(value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(value)
    WHEN 'boolean' THEN value::boolean
    WHEN 'number' THEN value::numeric <> 0
    WHEN 'string' THEN lower(btrim(value #>> '{}', E' \t\r\n') COLLATE "C") IN ('true', '1')
    ELSE false
END;
COMMENT ON FUNCTION public.parse_done(jsonb) IS 'Returns true for true, for a number other than 0, and for the text "true" or "1".';

CREATE FUNCTION public.clean_email(value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN nullif(lower(btrim(value, E' \t\r\n\f\x0B') COLLATE "C"), '');
COMMENT ON FUNCTION public.clean_email(text) IS 'Converts an address to lower case (ASCII) and trims it; NULL if empty.'
