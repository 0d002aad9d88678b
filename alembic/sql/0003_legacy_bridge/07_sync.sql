-- Which way, and when. A token noted on the legacy side is pulled, one noted on the unified side pushed.
-- One noted on both sides was written in both worlds before either could follow: the values of the
-- later one win, what it does not say is taken from the other (combine), and the session gets a merge
-- note. A deletion against a write: the later one.
--
-- A session that was in the unified schema before the merge came to it has never been in step: nothing
-- of it is a deletion or an erasure. It is combined by the merge rules, second in precedence.

-- prefer: the side whose text wins; NULL: student_configs, the unified schema, workshop_students.
DO $generate$
BEGIN
    EXECUTE (
        SELECT format(
            $function$
CREATE FUNCTION bridge.combine_sessions(tokens text[], mapped bridge.sessions[], prefer text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    WITH said AS MATERIALIZED (
        SELECT v.session_token, v.student_id, %1$s,
               jsonb_strip_nulls(jsonb_build_object(%2$s)) AS conflicts
        FROM unnest(mapped) AS m
        JOIN public.sessions AS v USING (session_token)
        LEFT JOIN LATERAL (SELECT * FROM bridge.token_progress WHERE token = v.session_token OFFSET 0) AS p ON true
        LEFT JOIN LATERAL (SELECT * FROM bridge.token_config WHERE token = v.session_token OFFSET 0) AS c ON true
        WHERE v.session_token = ANY (tokens)
    ),
    noted AS (
        INSERT INTO public.events (student_id, session_token, event_type, event_data)
        SELECT s.student_id, s.session_token, 'merge_note',
               jsonb_build_object('written_on_both_sides', s.conflicts)
        FROM said AS s
        WHERE s.conflicts <> '{}' OR prefer IS NOT NULL
    )
    UPDATE public.sessions AS v SET (%3$s) = ROW(%4$s)
    FROM said AS s
    WHERE v.session_token = ANY (tokens) AND v.session_token = s.session_token AND (%5$s) IS DISTINCT FROM (%4$s);
END
$body$
            $function$,
            string_agg(format(CASE
                WHEN k.type = 'boolean' THEN 'v.%1$I OR m.%1$I'
                WHEN k.type = 'integer' OR k.name = 'last_activity' THEN 'greatest(v.%1$I, m.%1$I)'
                WHEN k.type = 'timestamp with time zone' THEN 'least(v.%1$I, m.%1$I)'
                WHEN k.name = 'legacy_extra' THEN 'v.%1$I || m.%1$I'
                ELSE 'coalesce(CASE prefer WHEN ''unified'' THEN %2$s WHEN ''legacy'' THEN %3$s ELSE %4$s END,'
                     ' %2$s, m.%1$I)'
                END || ' AS %1$I', k.name, e.unified, e.mapped, e.first), ', '),
            string_agg(format(
                '%1$L, CASE WHEN %2$s <> %3$s THEN coalesce(prefer, CASE WHEN %4$s IS NULL THEN ''unified'' '
                'ELSE ''legacy'' END) END', k.name, e.unified, e.mapped, e.first), ', ')
                FILTER (WHERE k.type IN ('text', 'jsonb') AND k.name <> 'legacy_extra'),
            string_agg(quote_ident(k.name), ', '),
            string_agg('s.' || quote_ident(k.name), ', '),
            string_agg('v.' || quote_ident(k.name), ', '))
        FROM bridge.columns_of('bridge.sessions') AS k
        CROSS JOIN LATERAL (
            -- an empty array or object says nothing
            SELECT CASE k.name
                       WHEN 'tools' THEN '[]' WHEN 'bug_reports' THEN '[]'
                       WHEN 'voice_settings' THEN '{}' WHEN 'exercises' THEN '{}' END AS nothing
        ) AS n
        CROSS JOIN LATERAL (
            SELECT format(CASE WHEN n.nothing IS NULL THEN 'v.%1$I' ELSE 'nullif(v.%1$I, %2$L)' END,
                          k.name, n.nothing) AS unified,
                   format(CASE WHEN n.nothing IS NULL THEN 'm.%1$I' ELSE 'nullif(m.%1$I, %2$L)' END,
                          k.name, n.nothing) AS mapped,
                   format(CASE WHEN k.name IN ('exercises', 'bug_reports') THEN 'p.%I' ELSE 'c.%I' END,
                          k.name) AS first
        ) AS e
        WHERE k.name NOT IN ('session_token', 'student_id', 'student_email', 'steps', 'note', 'completion_rate',
                             'expires_at', 'is_active', 'updated_at'));
END
$generate$;
COMMENT ON FUNCTION bridge.combine_sessions(text[], bridge.sessions[], text) IS
    'Sessions of the unified schema := the merge of both worlds.';

CREATE FUNCTION bridge.combine(tokens text[], prefer text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mapped bridge.sessions[];
BEGIN
    IF tokens IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('bridge.pulling', 'on', true);
    PERFORM bridge.pull_students(tokens);
    mapped := ARRAY(SELECT s FROM bridge.sessions_of(tokens) AS s);
    -- whose session it is: a placeholder does not say, nor does a student that is not there, or was made for it
    UPDATE public.sessions AS v SET student_id = m.student_id
    FROM unnest(mapped) AS m
    WHERE v.session_token = ANY (tokens) AND v.session_token = m.session_token
      AND v.student_id <> m.student_id
      AND m.student_email <> bridge.placeholder_email(v.session_token)
      AND (prefer = 'legacy' OR NOT EXISTS (
          SELECT FROM public.students AS st
          WHERE st.student_id = v.student_id AND st.student_email <> bridge.placeholder_email(v.session_token)
            AND st.student_email NOT LIKE 'orphan+%@workshop.invalid'));

    -- one step told in both worlds merges as two keys do
    INSERT INTO public.step_progress AS v (
        session_token, student_id, step_number, step_name, started_at, completed_at, time_spent, attempts,
        validation_passed, code_submitted, deployment_url)
    SELECT s.session_token, s.student_id, e.step_number, e.step_name, e.started_at, e.completed_at,
           e.time_spent, e.attempts, e.validation_passed, e.code_submitted, e.deployment_url
    FROM unnest(mapped) AS m
    JOIN public.sessions AS s USING (session_token)
    CROSS JOIN LATERAL unnest(m.steps) AS e
    WHERE s.session_token = ANY (tokens)
    ON CONFLICT (session_token, step_number) DO UPDATE SET
        started_at = least(v.started_at, excluded.started_at),
        completed_at = least(v.completed_at, excluded.completed_at),
        time_spent = greatest(v.time_spent, excluded.time_spent),
        attempts = greatest(v.attempts, excluded.attempts),
        validation_passed = v.validation_passed OR excluded.validation_passed,
        code_submitted = coalesce(v.code_submitted, excluded.code_submitted),
        deployment_url = coalesce(v.deployment_url, excluded.deployment_url);
    PERFORM bridge.combine_sessions(tokens, mapped, prefer);
    UPDATE public.sessions AS v SET exercises = x.exercises
    FROM bridge.unified AS u
    CROSS JOIN LATERAL (SELECT bridge.exercises_with(u.exercises, u.steps) AS exercises OFFSET 0) AS x
    WHERE u.session_token = ANY (tokens) AND v.session_token = u.session_token
      AND v.exercises <> x.exercises;
    PERFORM set_config('bridge.pulling', '', true);
END
$$;
COMMENT ON FUNCTION bridge.combine(text[], text) IS
    'Merges what both worlds say into the unified schema; a push then carries it back.';

-- Which name of a student is the newer one the old tables cannot always tell: a pull of another session takes theirs.
-- A session that has left its student was not noted when that one was given another name since.
CREATE FUNCTION bridge.keep_names(tokens text[]) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept boolean;
BEGIN
    PERFORM set_config('bridge.pulling', 'on', true);
    UPDATE public.students AS st SET student_name = k.student_name
    FROM (
        SELECT DISTINCT ON (p.student_id) p.student_id, p.student_name, p.at
        FROM bridge.pending AS p
        JOIN public.students AS s ON s.student_id = p.student_id
        WHERE p.token = ANY (tokens)
          AND ((p.token, p.student_id) IN (SELECT v.session_token, v.student_id FROM public.sessions AS v
                                           WHERE v.session_token = ANY (tokens))
               OR (p.token, s.student_email) IN (SELECT a.token, a.student_email FROM bridge.other_address AS a
                                                 WHERE a.token = ANY (tokens)))
        ORDER BY p.student_id, p.id DESC
    ) AS k
    CROSS JOIN bridge.state AS i
    WHERE st.student_id = k.student_id AND st.student_name IS DISTINCT FROM k.student_name
      -- what has never been in step erases nothing
      AND (k.student_name IS NOT NULL OR k.at > i.merged_at)
      AND NOT EXISTS (SELECT FROM bridge.pending AS l
                      WHERE l.token = ANY (tokens) AND l.side = 'legacy' AND l.at > k.at
                        AND l.token IN (SELECT n.token FROM bridge.pending AS n
                                        WHERE n.token = ANY (tokens) AND n.student_id = k.student_id))
      AND NOT EXISTS (SELECT FROM bridge.student_sources(bridge.family('{}', ARRAY[st.student_email])) AS s
                      WHERE s.student_email = st.student_email AND s.row_at > k.at
                        AND public.clean_email(s.student_name) IS NOT NULL);
    kept := FOUND;
    PERFORM set_config('bridge.pulling', '', true);
    RETURN kept;
END
$$;
COMMENT ON FUNCTION bridge.keep_names(text[]) IS
    'Names that the unified schema gave its students, unless the old tables have said another one since; whether any differed.';

-- Notes are struck out by id: that of a transaction which is still open is not seen, stays, and is
-- carried over later. They are read before anything else, so that what they are about is seen.
CREATE FUNCTION bridge.take(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    noted bigint[];
    pulled text[];
    pushed text[];
    combined text[];
    unified_first text[];
    legacy_first text[];
    overtaken text[] := '{}';
    unified boolean;
    renamed boolean;
    changed bigint := 0;
BEGIN
    -- mostly nobody but the old application has written
    SELECT array_agg(p.id), array_agg(DISTINCT p.token), bool_or(p.side = 'unified'), count(p.student_id) > 0
    INTO noted, pulled, unified, renamed
    FROM bridge.pending AS p
    WHERE p.token = ANY (tokens);
    IF NOT unified THEN
        changed := bridge.pull(pulled, noted);
        DELETE FROM bridge.pending AS p WHERE p.id = ANY (noted);
        RETURN changed;
    END IF;

    WITH notes AS (
        SELECT p.token, array_agg(p.id) AS ids,
               max(p.at) FILTER (WHERE p.side = 'legacy' AND p.at > '-infinity') AS legacy_at,
               max(p.at) FILTER (WHERE p.side = 'unified') AS unified_at,
               max(p.at) FILTER (WHERE p.deleted) AS deleted_at
        FROM bridge.pending AS p
        WHERE p.token = ANY (tokens)
        GROUP BY p.token
    ),
    found AS (
        -- bounded by tokens: an EXISTS may be planned as one look at all tokens there are
        SELECT n.*,
               n.token IN (SELECT v.session_token FROM public.sessions AS v
                           WHERE v.session_token = ANY (tokens)) AS in_unified,
               n.token IN (SELECT t.token FROM bridge.tokens AS t WHERE t.token = ANY (tokens)) AS in_legacy,
               n.unified_at < s.merged_at IS NOT FALSE AS never_in_step
        FROM notes AS n CROSS JOIN bridge.state AS s
    ),
    decided AS (
        SELECT f.token, f.ids, CASE
            WHEN f.unified_at IS NULL THEN 'pull'
            -- a step or an event of a session that has not arrived yet is no deletion of it
            WHEN NOT f.in_unified AND (f.never_in_step OR f.deleted_at IS NULL OR f.deleted_at < f.legacy_at) THEN 'pull'
            WHEN f.never_in_step AND f.in_legacy THEN 'combine'
            WHEN f.legacy_at IS NULL OR NOT f.in_legacy AND f.never_in_step THEN 'push'
            WHEN f.in_unified AND f.in_legacy AND f.unified_at > f.legacy_at THEN 'unified'
            WHEN f.in_unified AND f.in_legacy THEN 'legacy'
            WHEN f.unified_at > f.legacy_at THEN 'push'
            ELSE 'pull'
        END AS way
        FROM found AS f
    )
    SELECT array_agg(d.token) FILTER (WHERE d.way = 'pull'),
           array_agg(d.token) FILTER (WHERE d.way <> 'pull'),
           array_agg(d.token) FILTER (WHERE d.way = 'combine'),
           array_agg(d.token) FILTER (WHERE d.way = 'unified'),
           array_agg(d.token) FILTER (WHERE d.way = 'legacy'),
           (SELECT array_agg(i) FROM decided AS k CROSS JOIN LATERAL unnest(k.ids) AS i)
    INTO pulled, pushed, combined, unified_first, legacy_first, noted
    FROM decided AS d;

    IF pulled IS NOT NULL THEN
        changed := bridge.pull(pulled, noted);
        IF renamed AND bridge.keep_names(pulled) THEN
            -- one that has not arrived was not deleted: a push would take it for that
            pushed := pushed || ARRAY(
                SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (pulled));
        END IF;
    END IF;
    IF pushed IS NOT NULL THEN
        PERFORM bridge.combine(combined, NULL), bridge.combine(unified_first, 'unified'),
                bridge.combine(legacy_first, 'legacy');
        IF renamed THEN
            PERFORM bridge.keep_names(pushed);
        END IF;
        changed := changed + bridge.push(pushed);
        -- Written in the legacy tables meanwhile, and committed before the remainder was worked out: it would keep
        -- our values over theirs. Both notes stay: the next look combines.
        overtaken := ARRAY(
            SELECT DISTINCT p.token FROM bridge.pending AS p
            WHERE p.token = ANY (pushed) AND p.side = 'legacy' AND p.id <> ALL (noted)
              AND p.xact <> pg_current_xact_id());
        DELETE FROM bridge.remainder AS r
        WHERE r.table_name IN ('sessions', 'step_progress') AND r.key = ANY (overtaken);
        -- or what they say of a student, with whatever session: the next look says which one is the later
        DELETE FROM bridge.remainder AS r
        WHERE r.table_name = 'students' AND r.column_name IN ('student_name', 'created_at')
          AND r.key = ANY (bridge.emails_before(pushed))
          AND EXISTS (SELECT FROM bridge.pending AS p
                      WHERE p.token = ANY (bridge.family('{}', ARRAY[r.key])) AND p.side = 'legacy'
                        AND p.id <> ALL (noted) AND p.xact <> pg_current_xact_id());
    END IF;
    DELETE FROM bridge.pending AS p WHERE p.id = ANY (noted) AND p.token <> ALL (overtaken);
    RETURN changed;
END
$$;
COMMENT ON FUNCTION bridge.take(text[]) IS 'Carries noted tokens over and strikes the notes out.';

-- Whoever carries a session over holds its notes: a session that is not there yet has no row to lock, and one that
-- somebody is about to insert must not be taken for done by whoever deletes its last legacy row meanwhile.
-- A locked row of a session, its steps, its student or its legacy tables is being written by a
-- transaction whose changes cannot be seen yet: its token is left alone, and nobody waits. Students as
-- well, even where nothing of them changes: of two transactions that each remove a session of a student
-- neither sees the other. Locks and look are statements of their own: the look has to see what the last
-- writer has committed.
CREATE FUNCTION bridge.free(tokens text[]) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named text[];
    emails text[];
    busy text[];
BEGIN
    WITH free AS MATERIALIZED (
        SELECT p.id FROM bridge.pending AS p WHERE p.token = ANY (tokens) FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(p.token) INTO busy
    FROM bridge.pending AS p
    WHERE p.token = ANY (tokens) AND p.id NOT IN (SELECT f.id FROM free AS f);
    IF busy IS NOT NULL THEN
        tokens := ARRAY(SELECT t FROM unnest(tokens) AS t WHERE t <> ALL (busy));
    END IF;
    WITH free AS MATERIALIZED (
        SELECT v.session_token FROM public.sessions AS v WHERE v.session_token = ANY (tokens)
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    free_steps AS MATERIALIZED (
        SELECT sp.session_token, sp.step_number FROM public.step_progress AS sp
        WHERE sp.session_token = ANY (tokens)
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT ARRAY(
        SELECT v.session_token FROM public.sessions AS v
        WHERE v.session_token = ANY (tokens) AND v.session_token NOT IN (SELECT f.session_token FROM free AS f)
        UNION
        SELECT sp.session_token FROM public.step_progress AS sp
        WHERE sp.session_token = ANY (tokens)
          AND (sp.session_token, sp.step_number) NOT IN (SELECT f.session_token, f.step_number FROM free_steps AS f))
    INTO busy;
    -- a pull reads the legacy rows, and does so again when whoever is writing them has committed
    IF EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = ANY (tokens) AND p.side = 'unified') THEN
        busy := busy || bridge.busy_workshop_students(tokens) || bridge.busy_student_configs(tokens);
    END IF;
    tokens := ARRAY(SELECT t FROM unnest(tokens) AS t WHERE t <> ALL (busy));

    SELECT array_agg(o.token), array_agg(o.student_email) INTO named, emails
    FROM (
        SELECT s.token, s.student_email FROM bridge.student_sources(tokens) AS s
        UNION ALL
        SELECT v.session_token, st.student_email
        FROM public.sessions AS v JOIN public.students AS st ON st.student_id = v.student_id
        WHERE v.session_token = ANY (tokens)
        UNION ALL
        SELECT a.token, a.student_email FROM bridge.other_address AS a WHERE a.token = ANY (tokens)
    ) AS o;
    WITH free AS MATERIALIZED (
        SELECT st.student_id FROM public.students AS st WHERE st.student_email = ANY (emails)
        FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT array_agg(st.student_email) INTO busy
    FROM public.students AS st
    WHERE st.student_email = ANY (emails) AND st.student_id NOT IN (SELECT f.student_id FROM free AS f);
    IF busy IS NULL THEN
        RETURN tokens;
    END IF;
    RETURN ARRAY(
        SELECT t FROM unnest(tokens) AS t
        WHERE t NOT IN (SELECT n.token FROM unnest(named, emails) AS n(token, student_email)
                        WHERE n.student_email = ANY (busy)));
END
$$;
COMMENT ON FUNCTION bridge.free(text[]) IS 'Those of the sessions that nobody else is writing, locked.';

-- Generic plans: planning the statements over the mapping takes many times longer than carrying a
-- session over. enable_seqscan: a plan that was made while a table was small must not outlive that.
CREATE FUNCTION bridge.take_free(tokens text[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET plan_cache_mode = force_generic_plan
    SET jit = off
AS $$
DECLARE
    free CONSTANT text[] := bridge.free(tokens);
BEGIN
    RETURN CASE WHEN free = '{}' THEN 0 ELSE bridge.take(free) END;
EXCEPTION
    -- somebody inserted the same session, or waits for us: both are noted, and the next look sees both
    WHEN unique_violation OR lock_not_available OR deadlock_detected OR serialization_failure THEN
        RETURN 0;
END
$$;
COMMENT ON FUNCTION bridge.take_free(text[]) IS 'Carries over what nobody else is writing; rows changed.';

-- One session whose values a table refuses must not keep the others of its batch from being carried over: halves
-- of halves find it. What is no session's fault (the server, a missing privilege) goes up. A reason may be shown
-- anywhere: not the server's message, which can have a value in it.
CREATE FUNCTION bridge.take_each(tokens text[]) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    half CONSTANT integer := cardinality(tokens) / 2;
    code text;
    constraint_name text;
BEGIN
    BEGIN
        PERFORM bridge.take_free(tokens);
        RETURN '{}';
    EXCEPTION
        WHEN insufficient_resources OR operator_intervention OR system_error OR internal_error
             OR invalid_transaction_state OR syntax_error_or_access_rule_violation THEN
            RAISE;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, constraint_name = CONSTRAINT_NAME;
    END;
    IF half > 0 THEN
        RETURN bridge.take_each(tokens[:half]) || bridge.take_each(tokens[half + 1:]);
    END IF;
    RETURN jsonb_build_object(
        tokens[1], concat_ws(', ', 'SQLSTATE ' || code, 'constraint ' || nullif(constraint_name, '')));
END
$$;
COMMENT ON FUNCTION bridge.take_each(text[]) IS
    'Carries over what nobody else is writing; sessions that are refused, with the reasons.';

-- Once 0005 has set state.sync, a transaction syncs what it noted as it commits: then it waits for
-- nothing any more that somebody who waits for it could hold, which is why nobody deadlocks. An error in
-- here never fails the application's write: what could not be taken stays pending, for the next
-- transaction, revision or drain.
--
-- lock_timeout: two writers of the same new token meet in its unique key; whoever would have to wait
-- leaves the note instead. SECURITY DEFINER: the application's role knows nothing of the bridge.
CREATE FUNCTION bridge.sync() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '50ms'
AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    state bridge.state;
    tokens text[];
    older text[];
    last_note bigint;
BEGIN
    -- under an old snapshot it would miss what others have committed since, and strike its own notes out
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN NULL;
    END IF;
    -- the first note of a transaction takes them all
    IF NEW.id <= coalesce(nullif(current_setting('bridge.synced', true), ''), '0')::bigint THEN
        RETURN NULL;
    END IF;
    SELECT * INTO state FROM bridge.state;
    IF NOT state.sync THEN
        RETURN NULL;
    END IF;
    -- The plans of a connection's first sync take some 50 ms of processor time. Where all connections would make
    -- theirs at the same moment, they take turns; meanwhile the others leave their notes to the drain of 0006.
    IF state.one_by_one AND current_setting('bridge.has_plans', true) IS DISTINCT FROM 'on' THEN
        IF NOT pg_try_advisory_xact_lock(hashoid('bridge.pending'::regclass), 0) THEN
            RETURN NULL;
        END IF;
        PERFORM set_config('bridge.has_plans', 'on', false);
    END IF;
    SELECT array_agg(DISTINCT p.token), max(p.id) INTO tokens, last_note
    FROM bridge.pending AS p
    WHERE p.id >= NEW.id AND p.xact = NEW.xact;
    PERFORM set_config('bridge.synced', last_note::text, true);

    -- more than a chunk is left to drain(): the application waits for this one
    IF tokens IS NULL OR cardinality(tokens) > 2000 THEN
        RETURN NULL;
    END IF;
    BEGIN
        PERFORM bridge.take_free(tokens);
    EXCEPTION
        WHEN OTHERS THEN
            RAISE DEBUG 'left pending: %', SQLERRM;
            RETURN NULL;
    END;
    -- others' notes as well, unless the application has waited long already, or a drain is to come
    IF state.one_by_one OR clock_timestamp() - began > interval '100 ms'
       OR NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.xact <> NEW.xact) THEN
        RETURN NULL;
    END IF;
    BEGIN
        -- from anywhere: what is refused again and again would be the oldest for good
        SELECT array_agg(DISTINCT p.token) INTO older
        FROM (SELECT n.token FROM bridge.pending AS n
              WHERE n.xact <> NEW.xact
                AND n.id >= (SELECT (min(k.id) + random() * (max(k.id) - min(k.id)))::bigint FROM bridge.pending AS k)
              ORDER BY n.id LIMIT 3 FOR UPDATE SKIP LOCKED) AS p;
        IF older IS NOT NULL THEN
            PERFORM bridge.take_each(older);
        END IF;
    EXCEPTION
        WHEN OTHERS THEN
            RAISE DEBUG 'left pending: %', SQLERRM;
    END;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION bridge.sync() IS 'Trigger: carries over what a transaction noted, as it commits.';

CREATE CONSTRAINT TRIGGER sync AFTER INSERT ON bridge.pending
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION bridge.sync();

-- Inside a caller's transaction (a rehearsal) nothing is committed; the work is the same. durable false: without
-- waiting for the disk, where a crash of the server would take nothing with it but a look.
CREATE PROCEDURE bridge.commit_chunk(durable boolean DEFAULT true)
    LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('bridge.single_transaction', true) IS DISTINCT FROM 'on' THEN
        IF NOT durable THEN
            PERFORM set_config('synchronous_commit', 'off', true);
        END IF;
        COMMIT;
    END IF;
END
$$;
COMMENT ON PROCEDURE bridge.commit_chunk(boolean) IS 'COMMIT, except in a rehearsal.';

-- Pushing a session takes several times longer than pulling one, and holds locks on the legacy tables: a batch
-- is of one kind.
CREATE FUNCTION bridge.next_noted(after text, horizon bigint, unified boolean, refused jsonb, size integer)
    RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_hashagg = off
    SET jit = off
AS $$
BEGIN
    RETURN ARRAY(
        SELECT p.token FROM bridge.pending AS p
        WHERE p.token >= coalesce(after, '') AND p.token IS DISTINCT FROM after AND NOT refused ? p.token
        GROUP BY p.token
        HAVING min(p.id) <= horizon AND bool_or(p.side = 'unified') = unified
        ORDER BY p.token
        LIMIT size);
END
$$;
COMMENT ON FUNCTION bridge.next_noted(text, bigint, boolean, jsonb, integer) IS
    'The next noted tokens in key order: those with a note of the unified side, or the others.';

-- Some connection that has its turn to make the plans of a first sync gets the processor: an application waits for it.
CREATE FUNCTION bridge.give_way() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    turn CONSTANT integer := hashoid('bridge.pending'::regclass);
BEGIN
    FOR attempt IN 1 .. 30 LOOP
        IF pg_try_advisory_lock(turn, 0) THEN
            PERFORM pg_advisory_unlock(turn, 0);
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
COMMENT ON FUNCTION bridge.give_way() IS 'Waits for a connection that begins to sync, for 0.3 s at most.';

-- Carries over what was noted before the call, in batches with their own commits: an application that goes
-- on writing would never let it reach the end of all. What is locked is passed over and tried again, with a
-- pause, for as many rounds; what is refused stays pending, and is named at the end. strict: then either is an
-- error. No SET clause here and in the procedures below: it would forbid COMMIT.
--
-- A batch is as many sessions as take 50 ms, of pushes 40 ms, going by the dearest of the last batches: the next one
-- may be like that. What was busy says nothing about it, nor does the first one, which has its plans to make: of
-- pushes, which take longest, one session. Fewer than five only where those take more than 60 ms: on a busy server it
-- takes 40 ms to begin with a batch, and writers would outrun one session at a time.
CREATE PROCEDURE bridge.drain(strict boolean DEFAULT true, rounds integer DEFAULT 50, batch integer DEFAULT 500)
    LANGUAGE plpgsql
AS $$
DECLARE
    horizon CONSTANT bigint := (SELECT max(p.id) FROM bridge.pending AS p);
    total CONSTANT bigint := (SELECT count(DISTINCT p.token) FROM bridge.pending AS p);
    one_by_one CONSTANT boolean := (SELECT s.one_by_one FROM bridge.state AS s);
    tables CONSTANT regclass[] := ARRAY(
        SELECT s.relation FROM bridge.source AS s
        UNION
        SELECT to_regclass('public.' || n) FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS n);
    began CONSTANT timestamptz := clock_timestamp();
    reported timestamptz := began;
    looked timestamptz;
    seconds double precision;
    tokens text[];
    refused jsonb := '{}';
    named text;
    cursor_at text;
    pushing boolean;
    carried bigint;
    done bigint := 0;
    size integer;
    sizes integer[] := ARRAY[least(batch, 5), 1];
    dearest double precision[] := ARRAY[NULL, NULL];
BEGIN
    FOR round IN 1 .. rounds LOOP
        FOR kind IN 1 .. 2 LOOP
            pushing := kind = 2;
            cursor_at := NULL;
            LOOP
                size := sizes[kind];
                tokens := bridge.next_noted(cursor_at, horizon, pushing, refused, size);
                EXIT WHEN tokens = '{}';
                cursor_at := tokens[cardinality(tokens)];
                IF one_by_one THEN
                    PERFORM bridge.give_way();
                END IF;
                looked := clock_timestamp();
                PERFORM set_config('lock_timeout', '50ms', true);
                refused := refused || bridge.take_each(tokens);
                CALL bridge.commit_chunk();
                seconds := extract(epoch FROM clock_timestamp() - looked);

                SELECT count(*) INTO carried FROM unnest(tokens) AS t
                WHERE t NOT IN (SELECT p.token FROM bridge.pending AS p WHERE p.token = ANY (tokens) AND p.id <= horizon);
                done := done + carried;
                IF carried > 0 AND dearest[kind] IS NULL THEN
                    dearest[kind] := 0;
                ELSIF carried > 0 THEN
                    dearest[kind] := greatest(seconds / carried, 0.8 * dearest[kind]);
                    sizes[kind] := least(batch, 2 * size, greatest(
                        CASE WHEN seconds < 0.06 THEN 5 ELSE 1 END,
                        CASE WHEN pushing THEN 0.04 ELSE 0.05 END / dearest[kind]));
                END IF;
                IF clock_timestamp() - reported > interval '2 seconds' THEN
                    reported := clock_timestamp();
                    RAISE NOTICE 'carried over % of % sessions, % a second',
                        done, total, round(done / extract(epoch FROM reported - began));
                END IF;
            END LOOP;
        END LOOP;
        tokens := ARRAY(SELECT DISTINCT p.token FROM bridge.pending AS p
                        WHERE p.id <= horizon AND NOT refused ? p.token);
        EXIT WHEN tokens = '{}';
        IF clock_timestamp() - reported > interval '3 seconds' THEN
            reported := clock_timestamp();
            RAISE NOTICE '% sessions are locked, by: %', cardinality(tokens), public.lock_holders(tables, readers => false);
        END IF;
        PERFORM pg_sleep(0.05 + 0.1 * random());
    END LOOP;

    IF refused <> '{}' THEN
        SELECT string_agg(format('...%s (%s)', right(r.key, 4), r.value), ', ' ORDER BY r.key) INTO named
        FROM (SELECT * FROM jsonb_each_text(refused) LIMIT 5) AS r;
        named := format('%s sessions could not be carried over, and stay pending: %s%s',
                        (SELECT count(*) FROM jsonb_object_keys(refused)), named,
                        CASE WHEN (SELECT count(*) > 5 FROM jsonb_object_keys(refused)) THEN ', ...' END);
        IF strict THEN
            RAISE EXCEPTION '%', named
                USING HINT = 'All others were carried over. Change what is refused in these sessions, or what '
                             'refuses it, then run this again.';
        END IF;
        RAISE WARNING '%', named;
    END IF;
    IF tokens = '{}' THEN
        RETURN;
    END IF;
    IF NOT strict THEN
        RAISE NOTICE '% sessions are being written all the time: left for the triggers', cardinality(tokens);
        RETURN;
    END IF;
    -- if it is not a lock, this says what
    PERFORM bridge.take(bridge.free(tokens));
    RAISE EXCEPTION 'sessions that are to be carried over have been locked for too long'
        USING ERRCODE = 'lock_not_available',
              DETAIL = 'Held by: ' || public.lock_holders(tables, readers => false),
              HINT = 'What was carried over so far stays. End the long transactions on the workshop''s '
                     'tables, then run this again.';
END
$$;
COMMENT ON PROCEDURE bridge.drain(boolean, integer, integer) IS 'Carries over every token noted before.'
