-- Readers: the type of a legacy column decides which overload reads it. Each returns NULL for a value that
-- it cannot read; none raises an error. Overloads for the right type are inlined to nothing.

CREATE FUNCTION bridge.as_bool(v boolean) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v;
CREATE FUNCTION bridge.as_bool(v double precision) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v <> 0;
CREATE FUNCTION bridge.as_bool(v anyelement) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN lower(btrim(v::text COLLATE "C")) IN ('t', 'tr', 'tru', 'true', 'y', 'ye', 'yes', 'on', '1') THEN true
                WHEN lower(btrim(v::text COLLATE "C")) IN ('f', 'fa', 'fal', 'fals', 'false', 'n', 'no', 'of', 'off', '0') THEN false END
$$;

-- Numbers are clamped to the range of integer.
CREATE FUNCTION bridge.as_int(v integer) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v;
CREATE FUNCTION bridge.as_int(v numeric) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN v <> 'NaN' THEN least(greatest(trunc(v), -2147483648), 2147483647)::integer END;
CREATE FUNCTION bridge.as_int(v double precision) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN v <> 'NaN' THEN least(greatest(trunc(v), -2147483648), 2147483647)::integer END;
CREATE FUNCTION bridge.as_int(v anyelement) RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(v::text) < 400 AND v::text COLLATE "C" ~ '^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?\s*$'
                THEN least(greatest(trunc(v::text::numeric), -2147483648), 2147483647)::integer
                WHEN lower(v::text COLLATE "C") = 'infinity' THEN 2147483647
                WHEN lower(v::text COLLATE "C") = '-infinity' THEN -2147483648 END
$$;

-- A time without a zone is UTC.
CREATE FUNCTION bridge.as_time(v timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v;
CREATE FUNCTION bridge.as_time(v timestamp) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v AT TIME ZONE 'UTC';
CREATE FUNCTION bridge.as_time(v date) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN v::timestamp AT TIME ZONE 'UTC';
CREATE FUNCTION bridge.as_time(v anyelement) RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT public.parse_timestamp(v::text)';

-- Removes the first layer of JSON strings. From PostgreSQL 17 on this needs no subtransaction. The length is limited,
-- because JSON_QUERY cannot catch the error for nesting that is too deep.
DO $$
BEGIN
    EXECUTE format('CREATE FUNCTION bridge.peel(v jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %s',
        CASE WHEN current_setting('server_version_num')::integer >= 170000 THEN
            'CASE WHEN jsonb_typeof(v) = ''string'' AND octet_length(v #>> ''{}'') < 8000 THEN '
            'coalesce(json_query(v, ''$'' RETURNING jsonb OMIT QUOTES NULL ON ERROR), v) ELSE v END'
        ELSE 'v' END);
END
$$;
CREATE FUNCTION bridge.peel(v json) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN to_jsonb(v::text);
CREATE FUNCTION bridge.peel(v anyelement) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT to_jsonb(v)';

CREATE FUNCTION bridge.as_json(peeled jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(peeled) = 'string' THEN public.unwrap_json(peeled) ELSE peeled END;
COMMENT ON FUNCTION bridge.as_json(jsonb) IS 'Removes the remaining layers of JSON strings.';

-- The application stores unknown@example.com for an unknown address.
CREATE FUNCTION bridge.known_email(v text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN nullif(public.clean_email(v) COLLATE "C", 'unknown@example.com');
COMMENT ON FUNCTION bridge.known_email(text) IS 'Clean e-mail address; NULL where it is missing.';

-- STABLE, here and below: PostgreSQL does not inline an IMMUTABLE function that calls convert_to(), which is STABLE.
CREATE FUNCTION bridge.placeholder_email(token text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
RETURN 'anonymous+' || left(encode(sha256(convert_to(token, 'UTF8')), 'hex'), 16) || '@workshop.invalid';
COMMENT ON FUNCTION bridge.placeholder_email IS 'Stands for the unknown address of a session. The token, a secret, cannot be derived from it.';

-- UUID version 8: 122 bits of a SHA-256. The session token makes it hard to guess. The same input gives the same id.
CREATE FUNCTION bridge.student_uuid(student_email text, first_token text) RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
RETURN overlay(overlay(
        left(encode(sha256(convert_to(student_email || E'\n' || first_token, 'UTF8')), 'hex'), 32)
        PLACING '8' FROM 13)
        PLACING substr('89ab', 1 + get_byte(sha256(convert_to(first_token, 'UTF8')), 0) % 4, 1) FROM 17
    )::uuid;
COMMENT ON FUNCTION bridge.student_uuid(text, text) IS 'Identity of a student that the migration creates.'
