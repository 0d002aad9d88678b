-- Readers for the values that the application writes: JSON inside JSON, time stamps as text,
-- numbers as text. None of them ever raises an error: an unreadable value is NULL or stays as it is.
-- COLLATE "C": letters, digits and blanks are those of ASCII, whatever the locale of database or column.

-- The driver serialises values that the application has already stringified, so a JSON string that
-- holds JSON is the normal case. Unwraps as often as needed; a string that holds none stays.
CREATE FUNCTION unwrap_json(value jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WHILE jsonb_typeof(value) = 'string' LOOP
        value := (value #>> '{}')::jsonb;
    END LOOP;
    RETURN value;
EXCEPTION
    -- not JSON, or JSON that jsonb cannot hold (\u0000): the last readable form is the value
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN value;
END
$$;
COMMENT ON FUNCTION unwrap_json(jsonb) IS 'JSON behind any number of layers of JSON strings.';

-- ISO forms only: PostgreSQL would also read "yesterday" and "infinity", and names of zones.
CREATE FUNCTION read_timestamp(value text) RETURNS timestamptz
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
COMMENT ON FUNCTION read_timestamp(text) IS 'ISO time stamp, UTC where it names no zone; else NULL.';

-- The form that JavaScript writes is all that most databases hold. It is read without a subtransaction where
-- PostgreSQL (from 16 on) can tell beforehand that it is valid.
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
COMMENT ON FUNCTION parse_timestamp(text) IS 'ISO time stamp, UTC where it names no zone; else NULL.';

-- A count of seconds or attempts: a number, or a string that holds one.
CREATE FUNCTION parse_count(value jsonb) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(value) = 'number'
    THEN least(greatest(trunc(value::numeric), 0), 2147483647)::integer
    WHEN length(value #>> '{}') < 400
     AND (value #>> '{}') COLLATE "C" ~ '^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*$'
    THEN least(greatest(trunc((value #>> '{}')::numeric), 0), 2147483647)::integer
    ELSE 0
END;
COMMENT ON FUNCTION parse_count(jsonb) IS 'Whole number from 0 to 2147483647; 0 where there is none.';

CREATE FUNCTION parse_done(value jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(value)
    WHEN 'boolean' THEN value::boolean
    WHEN 'number' THEN value::numeric <> 0
    WHEN 'string' THEN lower(btrim(value #>> '{}', E' \t\r\n') COLLATE "C") IN ('true', '1')
    ELSE false
END;
COMMENT ON FUNCTION parse_done(jsonb) IS 'true, a number other than 0, or "true" or "1" as text.';

CREATE FUNCTION clean_email(value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN nullif(lower(btrim(value, E' \t\r\n\f\x0B') COLLATE "C"), '');
COMMENT ON FUNCTION clean_email(text) IS 'Lower case (ASCII), no surrounding white space; NULL if empty.'
