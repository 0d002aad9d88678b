-- The merge: pull everything, in key order, chunk by chunk with a commit of its own for each.
--
-- Short transactions, because the old application runs ALTER TABLE on every save: behind one long
-- reader it would queue, and every later reader behind it. The cursor is stored with the data, so
-- that a run that was killed goes on where it was. A second session of the migrator may do a share of the
-- first merge (bridge.help()); nothing depends on it.
--
-- What is written meanwhile is safe: the triggers of this revision note every token that a statement touched, in
-- that statement's own transaction, so that a note is seen if, and only if, its write is. Whoever strikes a note out
-- has read it before the rows. What a write to the old tables can meet:
--
--   committed before the chunk reads    The chunk brings it; the note finds nothing left to do.
--   committed after that                The chunk brings what was there before, the note brings the write.
--   aborted                             Neither row nor note was ever seen.
--   INSERT behind the cursor            The note brings it: no chunk comes by again. Ahead of it: chunk or note.
--   another token for a row             Both are noted. Of the old one the session goes, or becomes what other rows
--                                       still say of it; the new one arrives.
--   DELETE                              The chunk may have brought the session; the note finds no row, and removes it.
--   DELETE, then INSERT again           One token, two notes, taken together: the session becomes the new row.
--   TRUNCATE                            Waits for a chunk that has read, and notes all sessions there are by then; a
--                                       chunk that comes while it is open gives up after 200 ms, and is noted.
--   a transaction that stays open       Nobody waits for it: drain() takes its notes when they can be seen. Those that
--                                       come after the last drain are the triggers', from 0005 on.
--
-- And a write to the new tables, of an endpoint that moved too early:
--
--   of a session that is not there yet  Whoever inserts second meets the unique key. The application waits for the
--                                       chunk; the chunk notes its tokens instead, and drain() merges both.
--   of one that is there                Is noted, passed over by the merge, and carried back by drain().
--   of a student whose sessions arrive  The trigger cannot see them yet, but their sources (bridge.address). A name
--                                       is kept with the note. An address that is changed before the sessions are
--                                       there has lost: they are of the address that the old tables name.

-- Sorting or hashing what is left would read all of it for each chunk: the indexes have it in order.
CREATE FUNCTION bridge.next_tokens(after text, chunk integer, unified boolean DEFAULT false)
    RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_hashagg = off
    SET enable_sort = off
    SET jit = off
AS $$
BEGIN
    RETURN nullif(ARRAY(
        (SELECT DISTINCT t.token FROM bridge.token_source AS t WHERE t.token > after ORDER BY t.token LIMIT chunk)
        UNION
        -- those as well that are not to be there any more
        (SELECT a.token FROM bridge.brief_prior AS a WHERE a.token > after ORDER BY a.token LIMIT chunk)
        UNION
        (SELECT v.session_token FROM public.sessions AS v WHERE unified AND v.session_token > after
         ORDER BY v.session_token LIMIT chunk)
        ORDER BY 1
        LIMIT chunk
    ), '{}');
END
$$;
COMMENT ON FUNCTION bridge.next_tokens(text, integer, boolean) IS
    'The next tokens in key order, NULL at the end; unified: those of the unified schema as well.';

-- Whatever goes through all sessions ends where they ended when it began: applications may give their tokens in key
-- order, and a look at those that come meanwhile would never reach the end. What comes is noted.
CREATE FUNCTION bridge.last_token() RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_sort = off
    SET jit = off
AS $$
BEGIN
    RETURN greatest(
        (SELECT t.token FROM bridge.token_source AS t ORDER BY t.token DESC LIMIT 1),
        (SELECT a.token FROM bridge.brief_prior AS a ORDER BY a.token DESC LIMIT 1),
        (SELECT max(v.session_token) FROM public.sessions AS v),
        (SELECT max(sp.session_token) FROM public.step_progress AS sp));
END
$$;
COMMENT ON FUNCTION bridge.last_token() IS 'The last token of either world in key order.';

CREATE TYPE bridge.counts AS (
    raw_sessions bigint,
    sessions bigint,
    raw_placeholders bigint,
    placeholders bigint,
    raw_keys bigint,
    keys bigint,
    raw_completed bigint,
    completed bigint,
    addresses_without_student bigint,
    steps_without_session bigint
);
COMMENT ON TYPE bridge.counts IS 'What must not shrink, counted in both worlds.';

-- What has been verified, and the versions of the rows that it was read from: of the sessions of a range of
-- tokens, and of the students of a range of addresses. For as long as no row of a range has been written since,
-- nobody has to look at it again. Versions are read before values: whatever is written in between makes them
-- differ later.
CREATE TABLE bridge.verified (
    of_students boolean,
    after text,
    last text NOT NULL,
    versions bigint NOT NULL,
    counts bridge.counts,
    looked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (of_students, after)
);
COMMENT ON TABLE bridge.verified IS 'Ranges that were found to be as the mapping says.';
COMMENT ON COLUMN bridge.verified.of_students IS 'A range of addresses; else of session tokens.';
COMMENT ON COLUMN bridge.verified.after IS 'The range begins behind this key.';
COMMENT ON COLUMN bridge.verified.last IS 'Last key of the range.';
COMMENT ON COLUMN bridge.verified.versions IS 'All row versions in one number.';
COMMENT ON COLUMN bridge.verified.counts IS 'What was counted there; NULL: not yet.';
COMMENT ON COLUMN bridge.verified.looked_at IS 'Begin of the transaction that looked at it last.';

-- One plan for all ranges: PostgreSQL takes one for many rows where it does not know the range, and would plan anew for each
-- instead, which takes as long as reading it.
CREATE FUNCTION bridge.legacy_versions(after text, last text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (SELECT coalesce(bit_xor(n.version), 0) # count(*) FROM bridge.legacy_version AS n
            WHERE n.token > after AND n.token <= last);
END
$$;
COMMENT ON FUNCTION bridge.legacy_versions(text, text) IS 'Row versions that the mapping of a range of tokens reads.';

CREATE FUNCTION bridge.unified_versions(after text, last text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (SELECT coalesce(bit_xor(n.version), 0) # count(*) FROM bridge.unified_version AS n
            WHERE n.token > after AND n.token <= last);
END
$$;
COMMENT ON FUNCTION bridge.unified_versions(text, text) IS 'Row versions of sessions and steps of a range of tokens.';

CREATE FUNCTION bridge.student_versions(after text, last text) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (SELECT coalesce(bit_xor(hash_record_extended(ROW(st.ctid, st.xmin), 4)), 0) # count(*)
            FROM public.students AS st WHERE st.student_email > after AND st.student_email <= last);
END
$$;
COMMENT ON FUNCTION bridge.student_versions(text, text) IS 'Row versions of students of a range of addresses.';

CREATE FUNCTION bridge.note_verified(of_students boolean, after text, last text, versions bigint) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM bridge.verified AS v
    WHERE v.of_students = note_verified.of_students AND v.after >= note_verified.after AND v.after < note_verified.last;
    INSERT INTO bridge.verified (of_students, after, last, versions)
    SELECT note_verified.of_students, note_verified.after, note_verified.last, note_verified.versions
    WHERE note_verified.of_students
       OR NOT EXISTS (SELECT FROM bridge.pending AS p
                      WHERE p.token > note_verified.after AND p.token <= note_verified.last)
$$;
COMMENT ON FUNCTION bridge.note_verified(boolean, text, text, bigint) IS
    'Notes that a range is as the mapping says, unless something of it is pending.';

-- The range that begins behind a key, if it has been verified and nothing of it was written since, or until somebody
-- looked since a time. Older tables of steps are not among the versions: where there is one, every look is a new one.
CREATE FUNCTION bridge.untouched(p_of_students boolean, p_after text, since timestamptz DEFAULT NULL)
    RETURNS bridge.verified
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
DECLARE
    known bridge.verified;
    versions bigint;
BEGIN
    SELECT * INTO known FROM bridge.verified AS v WHERE v.of_students = p_of_students AND v.after = p_after;
    IF known.last IS NULL OR EXISTS (SELECT FROM bridge.tracked_steps) THEN
        RETURN NULL;
    END IF;
    IF known.looked_at >= since THEN
        RETURN known;
    END IF;
    versions := CASE
        WHEN p_of_students THEN bridge.student_versions(p_after, known.last)
        ELSE bridge.legacy_versions(p_after, known.last) # bridge.unified_versions(p_after, known.last)
    END;
    RETURN CASE WHEN known.versions = versions THEN known END;
END
$$;
COMMENT ON FUNCTION bridge.untouched(boolean, text, timestamptz) IS 'A verified range that nobody has written to since, else NULL.';

-- A chunk ends where the next verified range begins, or where its block ends.
CREATE FUNCTION bridge.next_range(p_of_students boolean, p_after text, until text, INOUT keys text[], OUT last text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    boundary CONSTANT text := least(until, (
        SELECT min(v.after) FROM bridge.verified AS v WHERE v.of_students = p_of_students AND v.after > p_after));
BEGIN
    last := keys[cardinality(keys)];
    IF last > boundary THEN
        keys := ARRAY(SELECT k FROM unnest(keys) AS k WHERE k <= boundary ORDER BY k);
        last := boundary;
    END IF;
END
$$;
COMMENT ON FUNCTION bridge.next_range(boolean, text, text, text[]) IS
    'Keys cut off at the next verified range; the range''s last.';

-- Not a write, which would have a time: what is noted here loses against whatever somebody writes.
CREATE FUNCTION bridge.look_again(tokens text[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bridge.pending (side, token, at) SELECT 'legacy', t, '-infinity' FROM unnest(tokens) AS t
$$;
COMMENT ON FUNCTION bridge.look_again(text[]) IS 'Notes sessions that could not be merged just now.';

-- A session of which the unified schema has nothing is inserted, and its range is verified with that. One that
-- is there already is compared, and left to drain() while somebody is writing it. Students of the first merge are
-- there, and complete: from the sessions that have arrived so far nobody could tell.
CREATE FUNCTION bridge.merge_chunk(after text, last text, tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '200ms'
AS $$
DECLARE
    first CONSTANT boolean := (SELECT s.merged_at IS NULL FROM bridge.state AS s);
    versions bigint;
    noted text[];
    present text[] := '{}';
    absent text[];
    free text[];
    arrived record;
    changed bigint := 0;
BEGIN
    PERFORM bridge.forget(tokens);
    versions := bridge.legacy_versions(after, last);
    IF NOT first THEN
        -- what comes now changes what students and other_address have to be
        present := tokens;
    ELSIF EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token > after AND v.session_token <= last)
       OR EXISTS (SELECT FROM public.step_progress AS sp WHERE sp.session_token > after AND sp.session_token <= last) THEN
        present := ARRAY(
            SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens)
            UNION SELECT sp.session_token FROM public.step_progress AS sp WHERE sp.session_token = ANY (tokens));
    END IF;
    absent := ARRAY(SELECT t FROM unnest(tokens) AS t WHERE t <> ALL (present));
    noted := ARRAY(SELECT DISTINCT p.token FROM bridge.pending AS p
                   WHERE p.side = 'unified' AND p.token = ANY (present));
    present := ARRAY(SELECT t FROM unnest(present) AS t WHERE t <> ALL (noted));
    PERFORM set_config('bridge.pulling', 'on', true);
    IF bridge.is_plain(absent) THEN
        arrived := bridge.insert_plain_sessions(absent);
    ELSE
        arrived := bridge.insert_sessions(absent);
    END IF;
    PERFORM set_config('bridge.pulling', '', true);
    changed := arrived.changed;

    IF present <> '{}' THEN
        free := bridge.free(present);
        IF first THEN
            PERFORM set_config('bridge.pulling', 'on', true);
            changed := changed + bridge.pull_sessions(free, ARRAY(
                SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (free)));
            PERFORM set_config('bridge.pulling', '', true);
        ELSE
            changed := changed + bridge.pull(free);
        END IF;
        PERFORM bridge.look_again(ARRAY(SELECT t FROM unnest(present) AS t WHERE t <> ALL (free)));
    END IF;
    IF NOT arrived.complete THEN
        -- a student that was not there: written since the students were merged
        PERFORM bridge.look_again(ARRAY(
            SELECT t FROM unnest(tokens) AS t
            WHERE t <> ALL (noted)
              AND t NOT IN (SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens))));
    ELSIF present = '{}' AND noted = '{}' AND bridge.stores_as_given() THEN
        PERFORM bridge.note_verified(false, after, last, versions # arrived.versions);
    END IF;
    RETURN changed;
EXCEPTION
    -- or too large to be pulled together: drain() halves
    WHEN unique_violation OR lock_not_available OR deadlock_detected OR program_limit_exceeded THEN
        PERFORM bridge.look_again(tokens);
        RETURN 0;
END
$$;
COMMENT ON FUNCTION bridge.merge_chunk(text, text, text[]) IS 'Merges some sessions; notes those that are busy.';

CREATE FUNCTION bridge.merge_students_chunk(after text, emails text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '200ms'
AS $$
DECLARE
    last CONSTANT text := emails[cardinality(emails)];
    changed bigint;
BEGIN
    changed := bridge.put_students(emails, NULL, NULL);
    PERFORM bridge.note_verified(true, after, last, bridge.student_versions(after, last));
    RETURN changed;
EXCEPTION
    WHEN unique_violation OR lock_not_available OR deadlock_detected THEN
        PERFORM bridge.look_again(ARRAY(
            SELECT DISTINCT o.token FROM bridge.collected_source AS o WHERE o.student_email = ANY (emails)));
        RETURN 0;
END
$$;
COMMENT ON FUNCTION bridge.merge_students_chunk(text, text[]) IS
    'Merges some students from their collected sources; notes the sessions of those that are busy.';

-- Students without a session: of an earlier attempt, and of the unified schema before a downgrade.
CREATE FUNCTION bridge.adopt_students() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.students (student_id, student_email, student_name, created_at)
    SELECT coalesce((min(r.value #>> '{}'))::uuid, bridge.student_uuid(o.student_email, o.student_email)),
           o.student_email, min(o.student_name), min(o.created_at)
    FROM bridge.prior_students AS o
    LEFT JOIN bridge.remainder AS r
      ON r.table_name = 'students' AND r.key = o.student_email AND r.column_name = 'student_id'
    WHERE o.student_email IS NOT NULL
    GROUP BY o.student_email
    ON CONFLICT DO NOTHING;
    INSERT INTO public.students (student_id, student_email)
    SELECT (r.value #>> '{}')::uuid, r.key FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.column_name = 'student_id'
    ON CONFLICT DO NOTHING;
    DELETE FROM public.students AS st
    USING bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.key = st.student_email AND r.column_name = '(row)'
      AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.student_id = st.student_id);

    UPDATE public.students AS st SET (student_name, created_at) = (
        SELECT p.student_name, p.created_at
        FROM (SELECT jsonb_object_agg(r.column_name, r.value) AS said FROM bridge.remainder AS r
              WHERE r.table_name = 'students' AND r.key = st.student_email) AS k
        CROSS JOIN LATERAL jsonb_populate_record(st, k.said) AS p)
    WHERE st.student_email IN (SELECT r.key FROM bridge.remainder AS r
                               WHERE r.table_name = 'students' AND r.column_name IN ('student_name', 'created_at'))
      AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.student_id = st.student_id)
      -- of those the mapping tells: it weighs what was kept
      AND NOT EXISTS (SELECT FROM bridge.other_address AS a WHERE a.student_email = st.student_email);
    UPDATE public.students AS st SET github_username = r.value #>> '{}'
    FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.key = st.student_email AND r.column_name = 'github_username'
      AND st.github_username IS DISTINCT FROM r.value #>> '{}';
    -- the unified schema's own from here on
    DELETE FROM bridge.remainder
    WHERE table_name = 'students' AND column_name IN ('student_id', 'github_username');
END
$$;
COMMENT ON FUNCTION bridge.adopt_students() IS 'Students that no session tells of.';

-- Columns that are the unified schema's own come with a new row; a row that 0001 copied is there before. First of all,
-- because whatever an application writes is later.
CREATE PROCEDURE bridge.adopt_own_columns(chunk integer)
    LANGUAGE plpgsql
AS $$
DECLARE
    own CONSTANT text[] := ARRAY['expires_at', 'is_active', 'updated_at'];
    tokens text[] := ARRAY[''];
    size integer := least(chunk, 50);
    looked timestamptz;
BEGIN
    LOOP
        looked := clock_timestamp();
        tokens := ARRAY(
            SELECT DISTINCT r.key FROM bridge.remainder AS r
            WHERE r.table_name = 'sessions' AND r.column_name = ANY (own) AND r.key > tokens[cardinality(tokens)]
              AND 0 < (SELECT count(*) FROM bridge.brief_prior AS a WHERE a.token = r.key)
            ORDER BY r.key LIMIT size);
        EXIT WHEN tokens = '{}';
        PERFORM set_config('bridge.pulling', 'on', true);
        UPDATE public.sessions AS v
        SET expires_at = m.expires_at, is_active = m.is_active, updated_at = m.updated_at
        FROM bridge.sessions_of(tokens) AS m
        WHERE v.session_token = ANY (tokens) AND v.session_token = m.session_token
          AND (v.expires_at, v.is_active, v.updated_at)
              IS DISTINCT FROM (m.expires_at, m.is_active, m.updated_at);
        PERFORM set_config('bridge.pulling', '', true);
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, chunk, cardinality(tokens), clock_timestamp() - looked);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.adopt_own_columns(integer) IS
    'expires_at, is_active and updated_at of an earlier attempt as they were before a downgrade.';

CREATE FUNCTION bridge.restore_addresses() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    UPDATE public.students AS st SET student_email = r.key
    FROM bridge.remainder AS r
    WHERE r.table_name = 'students' AND r.column_name = 'student_id'
      AND st.student_id = (r.value #>> '{}')::uuid AND st.student_email <> r.key
      AND NOT EXISTS (SELECT FROM public.students AS o WHERE o.student_email = r.key);
    PERFORM set_config('bridge.pulling', '', true);
END
$$;
COMMENT ON FUNCTION bridge.restore_addresses() IS
    'Students of an earlier attempt whose address was changed before a downgrade.';

-- With their numbers, before the merge writes events of its own; but for those that an application has been given since.
CREATE FUNCTION bridge.restore_events() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbers CONSTANT regclass := pg_get_serial_sequence('public.events', 'id');
BEGIN
    IF NOT EXISTS (SELECT FROM bridge.remainder WHERE table_name = 'events') THEN
        RETURN;
    END IF;
    PERFORM set_config('bridge.pulling', 'on', true);
    -- past them, one by one: to set the sequence could set it back
    PERFORM nextval(numbers) FROM generate_series(
        coalesce(pg_sequence_last_value(numbers), 0) + 1,
        (SELECT max(r.key::bigint) FROM bridge.remainder AS r WHERE r.table_name = 'events'));
    -- after a downgrade to 0003 they are still there
    WITH missing AS (
        SELECT k.* FROM bridge.remainder AS r
        CROSS JOIN LATERAL jsonb_populate_record(NULL::public.events, r.value) AS k
        WHERE r.table_name = 'events'
          AND NOT EXISTS (SELECT FROM public.events AS e
                          WHERE e.id = k.id AND (e.event_type, e.created_at) = (k.event_type, k.created_at))
    ),
    restored AS (
        INSERT INTO public.events (id, student_id, session_token, event_type, event_data, created_at)
        SELECT m.id, m.student_id, m.session_token, m.event_type, m.event_data, m.created_at FROM missing AS m
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    INSERT INTO public.events (student_id, session_token, event_type, event_data, created_at)
    SELECT m.student_id, m.session_token, m.event_type, m.event_data, m.created_at
    FROM missing AS m WHERE m.id NOT IN (SELECT o.id FROM restored AS o);
    DELETE FROM bridge.remainder WHERE table_name = 'events';
    PERFORM set_config('bridge.pulling', '', true);
END
$$;
COMMENT ON FUNCTION bridge.restore_events() IS 'Events that the application wrote before a downgrade.';

-- Chunks by time: as many sessions as take some 45 ms, which is how long the application's ALTER TABLE
-- may have to wait for one; on a busy server three times that. done: of which the last one was; where it was cut
-- short, it says little about more. There it takes that long to begin with a chunk: fewer than 25 sessions would make
-- it no shorter, and there would be no end of chunks.
CREATE FUNCTION bridge.next_size(size integer, most integer, done integer, took interval, aim interval DEFAULT '45 ms')
    RETURNS integer
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN done < size / 4 AND took < aim THEN size
    ELSE least(most, 2 * size, greatest(
        CASE WHEN took < '80 ms' THEN 25 ELSE 5 END,
        (done * extract(epoch FROM aim) / greatest(extract(epoch FROM took), 0.001))::integer))
END;
COMMENT ON FUNCTION bridge.next_size(integer, integer, integer, interval, interval) IS 'Sessions of the next chunk.';

-- The first merge goes block by block, in three stages. Who works on a block holds an advisory lock on its number,
-- which ends with the session, however that ends: whoever finds it free again goes on at the block's cursor.
CREATE TABLE bridge.block (
    stage text,
    number integer,
    after text NOT NULL,
    last text NOT NULL,
    cursor_at text NOT NULL,
    done boolean NOT NULL DEFAULT false,
    sessions bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stage, number)
);
COMMENT ON TABLE bridge.block IS 'Ranges of keys that the first merge goes through; of a later stage, once that begins.';
COMMENT ON COLUMN bridge.block.stage IS
    'sources: what rows say about students is collected, by token; students: by address; sessions: by token.';
COMMENT ON COLUMN bridge.block.number IS 'In key order; negative while not all of them are there.';
COMMENT ON COLUMN bridge.block.after IS 'The block begins behind this key.';
COMMENT ON COLUMN bridge.block.last IS 'Last key of the block.';
COMMENT ON COLUMN bridge.block.cursor_at IS 'Last key, in key order, that has been done.';
COMMENT ON COLUMN bridge.block.done IS 'Done to the end.';
COMMENT ON COLUMN bridge.block.sessions IS 'Sessions merged so far.';
COMMENT ON COLUMN bridge.block.changed IS 'Rows written so far.';

CREATE FUNCTION bridge.block_end(after text, size integer) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_hashagg = off
    SET enable_sort = off
    SET jit = off
AS $$
BEGIN
    RETURN coalesce(
        (SELECT t.token FROM bridge.token_source AS t WHERE t.token > after ORDER BY t.token OFFSET size LIMIT 1),
        (SELECT t.token FROM bridge.token_source AS t WHERE t.token > after ORDER BY t.token DESC LIMIT 1));
END
$$;
COMMENT ON FUNCTION bridge.block_end(text, integer) IS 'The token some rows further on, else the last one.';

CREATE PROCEDURE bridge.make_blocks(size integer)
    LANGUAGE plpgsql
AS $$
DECLARE
    cursor_at text := '';
    next_at text;
    number integer := 0;
BEGIN
    LOOP
        next_at := bridge.block_end(cursor_at, size);
        EXIT WHEN next_at IS NULL;
        number := number + 1;
        -- taken by nobody before all are there
        INSERT INTO bridge.block VALUES ('sources', -number, cursor_at, next_at, cursor_at);
        cursor_at := next_at;
        CALL bridge.commit_chunk();
    END LOOP;
    UPDATE bridge.block AS b SET number = -b.number WHERE b.stage = 'sources';
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.make_blocks(integer) IS 'Cuts the tokens into blocks of so many rows.';

-- A sample says well enough where they end; nobody waits for a look at all addresses.
CREATE FUNCTION bridge.make_student_blocks(size integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH sampled AS (
        SELECT o.student_email, row_number() OVER (ORDER BY o.student_email) AS number
        FROM bridge.collected_source AS o TABLESAMPLE SYSTEM (5) REPEATABLE (0)
    ),
    ends AS (
        SELECT s.student_email AS last FROM sampled AS s WHERE s.number % greatest(size / 20, 1) = 0
        UNION
        SELECT max(o.student_email) FROM bridge.collected_source AS o
    )
    INSERT INTO bridge.block (stage, number, after, last, cursor_at)
    SELECT 'students', row_number() OVER in_order, lag(e.last, 1, '') OVER in_order, e.last,
           lag(e.last, 1, '') OVER in_order
    FROM ends AS e
    WHERE e.last IS NOT NULL
    WINDOW in_order AS (ORDER BY e.last)
$$;
COMMENT ON FUNCTION bridge.make_student_blocks(integer) IS
    'Cuts the addresses that were collected into blocks of about so many rows.';

-- In a rehearsal nobody else can see the blocks.
CREATE FUNCTION bridge.lock_block(number integer) RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
RETURN current_setting('bridge.single_transaction', true) IS NOT DISTINCT FROM 'on'
    OR pg_try_advisory_lock(hashoid('bridge.block'::regclass), number);
COMMENT ON FUNCTION bridge.lock_block(integer) IS 'Takes a block, if nobody else has it.';

CREATE FUNCTION bridge.unlock_block(number integer) RETURNS boolean
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
RETURN current_setting('bridge.single_transaction', true) IS NOT DISTINCT FROM 'on'
    OR pg_advisory_unlock(hashoid('bridge.block'::regclass), number);
COMMENT ON FUNCTION bridge.unlock_block(integer) IS 'Gives a block back.';

-- The first session begins at the beginning, the second one in the middle: keys that come in order, far from those
-- of the other one, are quickest to insert.
CREATE FUNCTION bridge.claim_block(of_stage text, second boolean) RETURNS bridge.block
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    candidate integer;
    mine bridge.block;
BEGIN
    FOR candidate IN
        SELECT b.number FROM bridge.block AS b
        WHERE b.stage = of_stage AND b.number > 0 AND NOT b.done
        ORDER BY second AND b.number <= (SELECT max(h.number) FROM bridge.block AS h WHERE h.stage = of_stage) / 2,
                 b.number
    LOOP
        IF bridge.lock_block(candidate) THEN
            -- somebody may have had it, and done it, since the look
            SELECT * INTO mine FROM bridge.block AS b
            WHERE b.stage = of_stage AND b.number = candidate AND NOT b.done
            FOR NO KEY UPDATE;
            IF FOUND THEN
                RETURN mine;
            END IF;
            PERFORM bridge.unlock_block(candidate);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.claim_block(text, boolean) IS 'Takes a block that is not done.';

-- Of a block that a later run has given up its keys may be nobody's, and what was collected about students is not
-- all there: each chunk holds the row of its block, and whoever deletes the blocks waits for it.
CREATE FUNCTION bridge.holds_block(mine bridge.block) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM bridge.block AS b
    WHERE (b.stage, b.number, b.after, b.last) = (mine.stage, mine.number, mine.after, mine.last)
    FOR NO KEY UPDATE;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION bridge.holds_block(bridge.block) IS 'Whether the block is still there; locks it.';

CREATE FUNCTION bridge.collect(after text, last text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
    INSERT INTO bridge.collected_source
    SELECT s.* FROM bridge.student_sources(ARRAY(
        SELECT DISTINCT t.token FROM bridge.token_source AS t
        WHERE t.token > collect.after AND t.token <= collect.last
        ORDER BY t.token  -- each scan of an index sorts them: quick when they are
    )) AS s
$$;
COMMENT ON FUNCTION bridge.collect(text, text) IS 'Collects what the rows of a range of tokens say about students.';

-- Before any session: its student has to be there. The sources of all sessions are collected first, so that
-- each student is written once, however many sessions there are, and the old tables are read but once for it.
CREATE PROCEDURE bridge.merge_students(mine bridge.block, INOUT size integer, INOUT changed bigint)
    LANGUAGE plpgsql
AS $$
DECLARE
    after text := mine.after;
    last CONSTANT text := mine.last;
    keys text[];
    looked timestamptz;
BEGIN
    LOOP
        EXIT WHEN NOT bridge.holds_block(mine);
        looked := clock_timestamp();
        keys := ARRAY(SELECT DISTINCT o.student_email FROM bridge.collected_source AS o
                      WHERE o.student_email > after AND o.student_email <= last ORDER BY o.student_email LIMIT size);
        EXIT WHEN keys = '{}';
        PERFORM set_config('bridge.pulling', 'on', true);
        changed := changed + bridge.merge_students_chunk(after, keys);
        PERFORM set_config('bridge.pulling', '', true);
        after := keys[cardinality(keys)];
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, 8000, cardinality(keys), clock_timestamp() - looked);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.merge_students(bridge.block, integer, bigint) IS 'Merges the students of a range of addresses.';

-- What was collected about a student and is not where the session went: it lost to another address, or the
-- session was changed or deleted since. That write is noted, and finds the student by this.
CREATE PROCEDURE bridge.remember_addresses()
    LANGUAGE plpgsql
AS $$
BEGIN
    DELETE FROM bridge.other_address AS a
    WHERE NOT EXISTS (SELECT FROM bridge.collected_source AS o
                      WHERE o.student_email = a.student_email AND o.token = a.token);
    -- few, which nobody could estimate: looked up, once they are known
    WITH seen AS MATERIALIZED (
        SELECT DISTINCT o.token, o.student_email
        FROM bridge.collected_source AS o
        WHERE NOT o.is_session_s OR o.token IN (SELECT p.token FROM bridge.pending AS p)
    )
    INSERT INTO bridge.other_address (token, student_email)
    SELECT s.token, s.student_email
    FROM seen AS s
    WHERE s.student_email IS DISTINCT FROM (
        SELECT st.student_email FROM public.sessions AS v JOIN public.students AS st USING (student_id)
        WHERE v.session_token = s.token)
    ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON PROCEDURE bridge.remember_addresses() IS 'Fills other_address at the end of the first merge.';

CREATE FUNCTION bridge.say_merged(sessions bigint, took interval, before bigint DEFAULT 0) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    total CONSTANT bigint := (
        SELECT sum(greatest(c.reltuples, 0))
        FROM bridge.source AS s JOIN pg_class AS c ON c.oid = s.relation);
    rate CONSTANT numeric := greatest((sessions - before) / extract(epoch FROM took), 1);
BEGIN
    RAISE NOTICE 'merged % sessions of at most % (legacy rows), % a second, less than % s left',
        sessions, total, round(rate), ceil(greatest(total - sessions, 0) / rate);
END
$$;
COMMENT ON FUNCTION bridge.say_merged(bigint, interval, bigint) IS
    'Tells of the progress; before: sessions that had been merged when the time began.';

-- A range that has been verified, and that nobody has written to since, is not read again. until NULL: to the
-- end; block NULL: nobody goes on at its cursor.
--
-- What a chunk brought is counted as soon as it is committed: whoever reads the rows first notes in their pages that
-- they are, and a page that a checkpoint has written by then goes into the WAL once more as a whole.
CREATE PROCEDURE bridge.merge_range(
    block bridge.block,
    cursor_at text,
    until text,
    chunk integer,
    INOUT size integer,
    INOUT sessions bigint,
    INOUT changed bigint
)
    LANGUAGE plpgsql
AS $$
DECLARE
    tokens text[];
    known bridge.verified;
    range record;
    from_key text;
    began CONSTANT timestamptz := clock_timestamp();
    looked timestamptz;
    reported timestamptz := began;
BEGIN
    LOOP
        EXIT WHEN cursor_at >= until OR block.number IS NOT NULL AND NOT bridge.holds_block(block);
        known := bridge.untouched(false, cursor_at);
        IF known.last IS NOT NULL THEN
            cursor_at := known.last;
            CALL bridge.commit_chunk();
            CONTINUE;
        END IF;
        looked := clock_timestamp();
        tokens := bridge.next_tokens(cursor_at, size);
        EXIT WHEN tokens IS NULL;
        range := bridge.next_range(false, cursor_at, until, tokens);
        changed := changed + bridge.merge_chunk(cursor_at, range.last, range.keys);
        from_key := cursor_at;
        cursor_at := range.last;
        sessions := sessions + cardinality(range.keys);
        UPDATE bridge.block AS b
        SET cursor_at = merge_range.cursor_at, sessions = merge_range.sessions, changed = merge_range.changed
        WHERE b.stage = 'sessions' AND b.number = block.number;
        CALL bridge.commit_chunk();
        size := bridge.next_size(size, chunk, cardinality(range.keys), clock_timestamp() - looked);
        SELECT * INTO known FROM bridge.verified AS v WHERE NOT v.of_students AND v.after = from_key;
        IF known.last = cursor_at THEN
            PERFORM bridge.look_at(known, NULL);
            CALL bridge.commit_chunk(durable => false);
        END IF;
        IF clock_timestamp() - reported > interval '2 seconds' THEN
            reported := clock_timestamp();
            PERFORM bridge.say_merged(sessions, reported - began);
        END IF;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.merge_range(bridge.block, text, text, integer, integer, bigint, bigint) IS
    'Pulls the sessions of a range of tokens, chunk by chunk.';

-- Comes back when nobody else has a block left that it could have to do.
CREATE PROCEDURE bridge.do_blocks(of_stage text, second boolean, chunk integer)
    LANGUAGE plpgsql
AS $$
DECLARE
    mine bridge.block;
    size integer := least(chunk, 200);
    began CONSTANT timestamptz := clock_timestamp();
    reported timestamptz := began;
    before CONSTANT bigint := (SELECT sum(b.sessions) FROM bridge.block AS b);
BEGIN
    LOOP
        mine := bridge.claim_block(of_stage, second);
        IF mine.number IS NULL THEN
            EXIT WHEN second OR NOT EXISTS (
                SELECT FROM bridge.block AS b WHERE b.stage = of_stage AND NOT b.done);
            CALL bridge.commit_chunk();
            PERFORM pg_sleep(0.01);
            CONTINUE;
        END IF;
        CASE of_stage
            WHEN 'sources' THEN
                PERFORM bridge.collect(mine.after, mine.last);
            WHEN 'students' THEN
                CALL bridge.merge_students(mine, size, mine.changed);
            WHEN 'sessions' THEN
                CALL bridge.merge_range(mine, mine.cursor_at, mine.last, chunk, size, mine.sessions, mine.changed);
        END CASE;
        UPDATE bridge.block AS b SET done = true, changed = mine.changed
        WHERE (b.stage, b.number, b.after, b.last) = (mine.stage, mine.number, mine.after, mine.last);
        CALL bridge.commit_chunk();
        PERFORM bridge.unlock_block(mine.number);
        IF of_stage = 'sessions' AND clock_timestamp() - reported > interval '2 seconds' THEN
            reported := clock_timestamp();
            PERFORM bridge.say_merged((SELECT sum(b.sessions)::bigint FROM bridge.block AS b), reported - began, before);
        END IF;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE bridge.do_blocks(text, boolean, integer) IS
    'Does the blocks of a stage; upwards: and waits for those that somebody else has.';

CREATE PROCEDURE bridge.merge(chunk integer DEFAULT 2000)
    LANGUAGE plpgsql
AS $$
DECLARE
    read bigint := 0;
    changed bigint := 0;
    cursor_at text := '';
    too_long text;
    size integer := least(chunk, 200);
    first CONSTANT boolean := (SELECT merged_at IS NULL FROM bridge.state);
    -- triggers read it: not before all sessions can be seen
    empty_collected CONSTANT text := 'TRUNCATE bridge.collected_source';
BEGIN
    IF NOT first THEN
        IF EXISTS (SELECT FROM bridge.collected_source) THEN
            PERFORM bridge.retry(empty_collected);  -- a run was killed at its very end
        END IF;
    ELSE
        -- a crash of the server empties what was collected
        IF NOT EXISTS (SELECT FROM bridge.block AS b WHERE b.stage = 'sessions')
           OR NOT EXISTS (SELECT FROM bridge.collected_source) THEN
            -- somebody may be in a block of a run that was killed: that one's chunk is waited for, with nothing locked
            DELETE FROM bridge.block;
            CALL bridge.commit_chunk();
            PERFORM bridge.restore_addresses();
            PERFORM bridge.restore_events();
            CALL bridge.adopt_own_columns(chunk);
            PERFORM bridge.retry(empty_collected || '; DROP INDEX IF EXISTS bridge.collected_source_by_email');
            CALL bridge.make_blocks(chunk);
            CALL bridge.do_blocks('sources', false, chunk);
            SELECT string_agg(DISTINCT '...' || right(o.token, 4), ' ') INTO too_long
            FROM bridge.collected_source AS o WHERE octet_length(o.student_email) > 2600;
            IF too_long IS NOT NULL THEN
                RAISE EXCEPTION 'an address is longer than 2600 bytes, more than a unique key can hold: sessions %', too_long
                    USING HINT = 'Nothing was merged. Correct student_email in the old tables, then run this again.';
            END IF;
            CREATE INDEX collected_source_by_email ON bridge.collected_source (student_email);
            PERFORM bridge.make_student_blocks(2 * chunk);
            CALL bridge.commit_chunk();
            CALL bridge.do_blocks('students', false, chunk);
            INSERT INTO bridge.block (stage, number, after, last, cursor_at)
            SELECT 'sessions', b.number, b.after, b.last, b.after FROM bridge.block AS b WHERE b.stage = 'sources';
            CALL bridge.commit_chunk();
        END IF;
        CALL bridge.do_blocks('sessions', false, chunk);
        SELECT coalesce(sum(b.sessions), 0), coalesce(sum(b.changed), 0),
               coalesce(max(b.last) FILTER (WHERE b.stage = 'sessions'), '')
        INTO read, changed, cursor_at
        FROM bridge.block AS b;
    END IF;
    -- again, or what came behind the last block since
    CALL bridge.merge_range(NULL, cursor_at, bridge.last_token(), chunk, size, read, changed);
    UPDATE bridge.state SET adapters_changed = false WHERE adapters_changed;
    IF NOT first AND changed = 0 THEN
        RAISE NOTICE 'merged again: nothing differs';
        RETURN;
    END IF;

    PERFORM set_config('bridge.pulling', 'on', true);
    IF first THEN
        CALL bridge.remember_addresses();
        PERFORM bridge.adopt_students();
        PERFORM bridge.adopt_rest();
    END IF;

    INSERT INTO public.events (event_type, event_data)
    SELECT 'legacy_merge', jsonb_build_object(
        'students', (SELECT count(*) FROM public.students),
        'sessions', (SELECT count(*) FROM public.sessions),
        'step_progress', (SELECT count(*) FROM public.step_progress),
        'merge_notes', (SELECT count(*) FROM public.events WHERE event_type = 'merge_note'));
    PERFORM set_config('bridge.pulling', '', true);
    UPDATE bridge.state SET merged_at = coalesce(merged_at, clock_timestamp());
    DELETE FROM bridge.block;
    CALL bridge.commit_chunk();
    PERFORM bridge.retry(empty_collected);
    CALL bridge.commit_chunk();
    RAISE NOTICE 'merged % sessions, % rows written', read, changed;
END
$$;
COMMENT ON PROCEDURE bridge.merge(integer) IS 'Pulls every session, chunk by chunk; resumable.';

CREATE PROCEDURE bridge.bring_over()
    LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE bridge.state SET retired_at = NULL;
    CALL bridge.refresh_adapters();
    CALL bridge.merge();
    CALL bridge.drain(strict => false);
    CALL bridge.drain(strict => false);  -- what came meanwhile: much less
    CALL bridge.require_verified();
    PERFORM bridge.retry('SELECT bridge.make_writable()');
END
$$;
COMMENT ON PROCEDURE bridge.bring_over() IS
    'Copies, carries over what was written meanwhile, and refuses to go on if anything does not add up.';

-- The old application adds columns while it runs, and a view does not see a column that came later.
CREATE PROCEDURE bridge.refresh_adapters()
    LANGUAGE plpgsql
AS $$
DECLARE
    stale text[];
BEGIN
    SELECT array_agg(s.legacy_name) INTO stale
    FROM bridge.source AS s
    WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation);
    IF stale IS NULL THEN
        RETURN;
    END IF;
    RAISE NOTICE 'columns changed since the adapters were built: %', array_to_string(stale, ', ');
    DELETE FROM bridge.block;
    CALL bridge.commit_chunk();
    PERFORM bridge.retry(format('SELECT bridge.build(%L)', name)) FROM unnest(stale) AS name;
    UPDATE bridge.state SET adapters_changed = true;
    DELETE FROM bridge.verified;
    CALL bridge.commit_chunk();
END
$$;
COMMENT ON PROCEDURE bridge.refresh_adapters() IS
    'Rebuilds the adapters of tables whose columns changed; the next merge then reads everything.'
