"""The merge against an independent oracle: generated databases, and the sample of 213 sessions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.util import CommandError
from hypothesis import given, settings
from psycopg import sql
from pytest_postgresql.executors import NoopExecutor
from sqlalchemy import text

from support.databases import (
    BACKFILL,
    Clone,
    Database,
    Server,
    alembic_config,
    changes,
    cloned,
    create_functions,
    deviations,
    downgrade,
    dump,
    failed_checks,
    upgrade,
)
from support.strategies import SHAPES, LegacyDatabase, legacy_databases, load

EXAMPLES = settings().max_examples


# --- generated databases --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_any_legacy_database(shape: str, server: Server, template_0002: NoopExecutor) -> None:
    """For any legacy tables: head equals the oracle's prediction."""

    @settings(max_examples=EXAMPLES * 3 // 10 if shape == "B" else EXAMPLES // 12)
    @given(legacy_databases((shape,)))
    def check(generated: LegacyDatabase) -> None:
        # the four tables and their functions are the same for all: begin at 0002
        with cloned(server, template_0002.template_dbname) as database:
            with database.connect() as connection:
                load(connection, generated)
            upgrade(database)
            assert deviations(database) == []
            assert failed_checks(database) == []

    check()


@settings(max_examples=EXAMPLES // 7)
@given(generated=legacy_databases())
def test_any_legacy_database_comes_back(
    generated: LegacyDatabase, server: Server, template_0002: NoopExecutor
) -> None:
    with cloned(server, template_0002.template_dbname) as database:
        with database.connect() as connection:
            load(connection, generated)
        # the merged rows stay until 0001 drops their tables
        unified = ("students", "sessions", "step_progress", "events")
        before = dump(database, without=unified)
        upgrade(database)
        downgrade(database, "0002")
        assert changes(before, dump(database, without=unified)) == []


# --- the sample: 153 and 177 rows, 117 tokens in both tables ------------------------------------------


def test_the_sample_is_merged_completely(clone: Clone) -> None:
    legacy = clone("legacy")
    assert legacy.query("SELECT count(*) FROM workshop_students") == [(153,)]
    assert legacy.query("SELECT count(*) FROM student_configs") == [(177,)]
    for state in ("0004", "0006", "head"):
        database = clone(state)
        assert database.query("SELECT count(*) FROM sessions") == [(213,)]
        assert deviations(database) == [], state
        assert failed_checks(database) == [], state
        assert database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]


def test_checks_are_counted_and_hold(migrated: Database) -> None:
    checks = migrated.query("SELECT check_name, expected, actual, ok FROM bridge.verify()")
    assert len(checks) >= 9
    assert all(ok for *_, ok in checks)
    sessions = [expected for name, expected, *_ in checks if name.startswith("sessions: one")]
    assert sessions == [213]


def row_versions(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """The place of each row, and the transaction that wrote it."""
    legacy = [row[0] for row in database.query("SELECT relation::text FROM bridge.source")]
    return {
        table: database.query(f"SELECT ctid::text, xmin::text FROM {table} ORDER BY ctid")
        for table in ("students", "sessions", "step_progress", "events", *legacy)
    }


@pytest.mark.parametrize("side", ["legacy", "unified"])
def test_applying_what_does_not_differ_writes_nothing(migrated: Database, side: str) -> None:
    before, versions = dump(migrated), row_versions(migrated)
    migrated.execute(f"""
        SET LOCAL bridge.applying = on;  -- left to the drain
        INSERT INTO bridge.change_log (side, token, before) SELECT '{side}', session_token, '{{}}' FROM sessions
    """)
    migrated.execute("CALL bridge.drain()")
    assert migrated.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    assert row_versions(migrated) == versions
    assert changes(before, dump(migrated)) == []


def test_a_second_merge_changes_nothing(clone: Clone) -> None:
    database = clone("0004")
    before = dump(database)
    downgrade(database, "0003")
    upgrade(database, "0004")
    again = changes(before, dump(database))
    # the one new row: the event of another merge
    assert [line for line in again if not line.startswith("@@")][2:] == [
        line for line in again if "legacy_merge" in line and line.startswith("+")
    ]


def test_the_audit_trail_tells_what_was_decided_and_no_secret(migrated: Database) -> None:
    kinds = dict(migrated.query("SELECT event_type, count(*) FROM events GROUP BY 1"))
    assert kinds["legacy_merge"] == 1
    ((decided, sessions),) = migrated.query(
        """
        SELECT count(*), count(DISTINCT session_token) FROM events
        WHERE event_type = 'merge_note' AND session_token IS NOT NULL AND student_id IS NOT NULL
        """
    )
    assert kinds == {"legacy_merge": 1, "merge_note": decided}
    assert 0 < decided == sessions
    ((counts,),) = migrated.query("SELECT event_data FROM events WHERE event_type = 'legacy_merge'")
    assert counts["sessions"] == 213
    assert counts["merge_notes"] == decided
    leaks = migrated.query(
        """
        SELECT count(*)
        FROM events AS e
        JOIN (
            SELECT session_token AS secret FROM sessions
            UNION ALL SELECT openai_api_key FROM sessions
            UNION ALL SELECT legacy_extra #>> '{student_configs,twilio_auth_token}' FROM sessions
        ) AS s ON strpos(e.event_data::text, s.secret) > 0
        """
    )
    assert leaks == [(0,)]


# Each is a way in which migrations have lost data: a loss, or nearly one.
MUTATIONS = {
    "a trailing space": "UPDATE sessions SET system_prompt = system_prompt || ' '",
    "case": "UPDATE sessions SET selected_voice = upper(selected_voice)",
    "null for empty": "UPDATE sessions SET ivr_greeting = '' WHERE ivr_greeting IS NULL",
    "empty for text": "UPDATE sessions SET use_case_description = NULL",
    "an hour": "UPDATE sessions SET last_activity = last_activity + interval '1 hour'",
    "milliseconds": "UPDATE sessions SET created_at = date_trunc('milliseconds', created_at)",
    "the time of the migration": "UPDATE sessions SET started_at = now()",
    "a flag": "UPDATE sessions SET step4_deployed = NOT step4_deployed",
    "a number": "UPDATE sessions SET total_time_spent = total_time_spent + 1",
    "wrapped JSON": "UPDATE sessions SET bug_reports = to_jsonb(ARRAY[bug_reports::text])",
    "an API key": "UPDATE sessions SET openai_api_key = reverse(openai_api_key)",
    "no API key": "UPDATE sessions SET openai_api_key = NULL",
    "legacy columns": "UPDATE sessions SET legacy_extra = '{}'",
    "exercises": "UPDATE sessions SET exercises = '{}'",
    "completion": "UPDATE sessions SET completion_rate = 100 - completion_rate",
    "a session": "DELETE FROM sessions WHERE session_token = (SELECT min(session_token) FROM sessions)",
    "a step": "DELETE FROM step_progress WHERE step_number = 1",
    "a time of completion": "UPDATE step_progress SET completed_at = NULL",
    "attempts": "UPDATE step_progress SET attempts = attempts + 1",
    "another's session": "UPDATE sessions SET student_id = (SELECT min(student_id::text)::uuid FROM students)",
    "an orphan": "UPDATE sessions SET student_id = gen_random_uuid()",
    "a student": "DELETE FROM students WHERE student_email = (SELECT min(student_email) FROM students)",
    "a name": "UPDATE students SET student_name = student_email",
    "an address": "UPDATE students SET student_email = 'x' || student_email",
}


def test_verification_finds_every_loss(clone: Clone) -> None:
    database = clone("0006")
    for name, mutation in MUTATIONS.items():
        with database.connect(autocommit=False) as connection:
            # no trigger and no foreign key may repair, refuse or repeat the loss
            connection.execute("SET LOCAL session_replication_role = replica")
            assert connection.execute(mutation.encode()).rowcount > 0, name
            failed = connection.execute("SELECT * FROM bridge.verify() WHERE ok IS NOT TRUE")
            assert failed.fetchall() != [], f"{name}: not found"
            connection.rollback()
    assert failed_checks(database) == []


def merge_again(database: Database) -> None:
    """The statements of ``workshop merge``."""
    with database.connect() as connection:
        connection.execute("CALL bridge.merge()")
        connection.execute("CALL bridge.drain()")


def test_cut_over_is_refused_when_something_does_not_add_up(clone: Clone) -> None:
    database = clone("0006")
    database.execute(
        f"SET LOCAL session_replication_role = replica; {MUTATIONS['a trailing space']}"
    )
    before = dump(database)
    with pytest.raises(CommandError, match=r"verification failed.*system_prompt"):
        upgrade(database)
    assert changes(before, dump(database)) == []


@pytest.mark.parametrize(
    ("table", "change"),
    [("sessions", "NEW.system_prompt := 'x'"), ("step_progress", "NEW.attempts := 99")],
)
def test_a_trigger_that_changes_what_is_merged_is_found(
    clone: Clone, table: str, change: str
) -> None:
    """A changed row after the insert: every value is compared before the cut-over."""
    database = clone("0003")
    database.execute(
        f"""
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {change}; RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION spoil()
        """
    )
    column = change.split()[0].removeprefix("NEW.")
    with pytest.raises(CommandError, match=rf"verification failed.*{table}\.{column}"):
        upgrade(database)
    assert database.query("SELECT version_num FROM alembic_version") == [("0006_reporting_views",)]
    database.execute(f"DROP TRIGGER spoil ON {table}")
    merge_again(database)
    upgrade(database)
    assert deviations(database) == []


def test_no_odd_row_stops_the_merge(legacy: Database) -> None:
    """Extreme times, a prompt of a megabyte, odd tokens: no value is lost."""
    legacy.execute("""
        INSERT INTO student_configs (session_token, system_prompt, updated_at, tools, current_step)
        VALUES (repeat('t', 200), repeat('p', 1000000), 'infinity', to_jsonb('{"a": "\\u0000"}'::text), 99);
        INSERT INTO workshop_students (session_token, student_email, last_activity, total_time_spent)
        VALUES (' spaced token ', E'\t"Q''uote" <b>@X.de \n', '-infinity', -5),
               ('ABC', 'A@b.c', '294270-12-31', 0),
               ('abc', 'a@b.c', '294276-12-31 23:00Z', 0)
    """)
    upgrade(legacy)
    assert failed_checks(legacy) == []
    assert legacy.query("""
        SELECT session_token, student_email, last_activity::text, current_step, length(system_prompt)
        FROM sessions JOIN students USING (student_id)
        WHERE session_token IN (' spaced token ', 'ABC', 'abc') OR session_token ~ '^t+$'
        ORDER BY session_token COLLATE "C"
    """) == [
        (" spaced token ", '"q\'uote" <b>@x.de', "-infinity", 0, None),
        ("ABC", "a@b.c", "294270-12-31 00:00:00+00", 0, None),
        ("abc", "a@b.c", "294276-12-31 23:00:00+00", 0, None),
        ("t" * 200, "anonymous+8cbeafc05ce09a3e@workshop.invalid", "infinity", 9, 1000000),
    ]


def test_an_address_that_no_key_can_hold_is_named(legacy: Database) -> None:
    legacy.execute("""
        DROP INDEX IF EXISTS idx_students_email;
        UPDATE workshop_students
        SET student_email = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) AS n) || '@x.de'
        WHERE session_token = (SELECT min(session_token) FROM workshop_students)
    """)
    ((token,),) = legacy.query("SELECT min(session_token) FROM workshop_students")
    with pytest.raises(CommandError, match=rf"longer than 2600 bytes.*\.\.\.{token[-4:]}"):
        upgrade(legacy)
    legacy.execute(
        f"UPDATE workshop_students SET student_email = 'a@x.de' WHERE session_token = '{token}'"
    )
    upgrade(legacy)
    assert failed_checks(legacy) == []
    assert deviations(legacy) == []


def test_json_too_deep_to_be_read_stays_what_it_is(legacy: Database) -> None:
    legacy.execute("""
        INSERT INTO student_configs (session_token, tools) VALUES ('deep', to_jsonb(repeat('[', 100000)))
    """)
    upgrade(legacy)
    assert failed_checks(legacy) == []
    kept = "SELECT length(legacy_extra #>> '{student_configs,tools}') FROM sessions WHERE session_token = 'deep'"
    assert legacy.query(kept) == [(100000,)]


def test_an_empty_token_that_is_logged_is_applied(clone: Clone) -> None:
    database = clone("0003")
    database.execute(
        "INSERT INTO workshop_students (session_token, student_email) VALUES ('', 'a@b.c')"
    )
    upgrade(database)
    assert database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    assert failed_checks(database) == []


def test_merging_again_brings_students_of_new_sessions_up_to_date(clone: Clone) -> None:
    """Rows written without triggers may have more facts of an existing student."""
    database = clone("0004")
    ((address,),) = database.query("SELECT min(student_email) FROM students")
    database.execute(f"""
        SET LOCAL session_replication_role = replica;
        INSERT INTO workshop_students (session_token, student_email, created_at)
        VALUES ('new', '{address}', '2001-01-01Z');
        INSERT INTO student_configs (session_token, student_email) VALUES ('new', 'second@b.c')
    """)
    merge_again(database)
    assert deviations(database) == []
    assert failed_checks(database) == []


# --- the connection of the migrator -------------------------------------------------------------------


@contextmanager
def upgrading(database: Database) -> Iterator[Callable[[], None]]:
    """Run ``upgrade head`` on a connection of the caller, which stays open."""
    config = alembic_config(database.url)
    with database.engine() as engine, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.rollback()
        config.attributes["connection"] = connection
        yield lambda: command.upgrade(config, "head")


def test_an_upgrade_needs_one_connection(legacy: Database) -> None:
    allow = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"
    name = sql.Identifier(legacy.name)
    with upgrading(legacy) as run:
        # an existing connection may stay open
        legacy.server.execute(sql.SQL(allow).format(name, sql.Literal(False)))
        try:
            run()
        finally:
            legacy.server.execute(sql.SQL(allow).format(name, sql.Literal(True)))
    assert deviations(legacy) == []


def test_a_connection_of_the_caller_keeps_no_lock_after_an_error(legacy: Database) -> None:
    """Else the next run, on another connection, would be refused."""
    upgrade(legacy, "0003")
    legacy.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH STATEMENT EXECUTE FUNCTION refuse();
    """)
    with upgrading(legacy) as run:
        with pytest.raises(CommandError, match="not now"):
            run()
        assert legacy.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        assert legacy.query("SELECT stage FROM bridge.state") == [("sessions",)]
        legacy.execute("DROP FUNCTION refuse CASCADE")
        upgrade(legacy)
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []


# --- the size of the workshop -------------------------------------------------------------------------


def test_a_chunk_does_not_read_what_belongs_to_others(clone: Clone) -> None:
    """The numbers of student and override rows read grow with the sessions, not with their square."""
    database = clone("0003")
    sessions = 2000
    database.execute(
        f"""
        INSERT INTO workshop_students (session_token, student_email, student_name)
        SELECT 'flat-' || n, 'flat' || n || '@example.com', 'F ' || n FROM generate_series(1, {sessions}) AS n;
        -- as a downgrade leaves it
        INSERT INTO bridge.override (table_name, key, column_name, value)
        SELECT 'kept students', 'flat' || n || '@example.com', 'github_username', to_jsonb('gh' || n)
        FROM generate_series(1, {sessions}) AS n
        """
    )
    chunk = "SELECT pg_temp.backfill_chunk(%s, %s, %s, %s)"
    with database.connect() as connection:
        create_functions(connection, *BACKFILL)
        ((tokens,),) = connection.execute(
            "SELECT array_agg(token ORDER BY token) FROM bridge.tokens"
        ).fetchall()
        connection.execute(chunk, ("sources", tokens[0], tokens[-1], None))
        ((emails,),) = connection.execute(
            "SELECT array_agg(DISTINCT student_email) FROM bridge.student_source"
        ).fetchall()
        for n in range(0, len(emails), 40):
            connection.execute(chunk, ("students", None, None, emails[n : n + 40]))
        for n in range(0, len(tokens), 40):
            part = tokens[n : n + 40]
            connection.execute(chunk, ("sessions", part[0], part[-1], None))
        connection.execute("SELECT pg_stat_force_next_flush()")
    read = {
        table: rows
        for table, rows in database.query(
            "SELECT relname::text, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables "
            "WHERE schemaname || '.' || relname IN ('public.students', 'public.sessions', 'bridge.override')"
        )
    }
    # 50 chunks and more: a chunk that read all would read 100,000
    assert max(read.values()) < 15 * sessions, read
    assert read.keys() == {"students", "sessions", "override"}
    assert database.query(
        "SELECT count(*) FROM students WHERE github_username = 'gh' || substr(student_name, 3)"
    ) == [(sessions,)]


@pytest.mark.parametrize("token", ["varchar(80)", "uuid"])
def test_an_earlier_attempt_with_other_types(clone: Clone, token: str) -> None:
    database = clone("legacy")
    database.execute(
        f"""
        CREATE TABLE students (student_id uuid PRIMARY KEY, student_email varchar(255) UNIQUE);
        CREATE TABLE sessions (session_token {token} PRIMARY KEY, student_id uuid, system_prompt varchar(500));
        INSERT INTO students VALUES ('11111111-1111-4111-8111-111111111111', 'earlier@example.com');
        INSERT INTO sessions SELECT '2f0e6a1c-9d0b-4b6e-8f55-3b1a5c7d9e11', student_id, 'Hi' FROM students;
        CREATE TABLE events (student_id text, event_type text, created_at timestamp);
        INSERT INTO events SELECT student_id, 'earlier', '2025-01-02 03:04:05' FROM students
        """
    )
    upgrade(database)
    query = (
        "SELECT student_id::text, system_prompt FROM sessions WHERE session_token LIKE '2f0e6a1c-%'"
    )
    assert database.query(query) == [("11111111-1111-4111-8111-111111111111", "Hi")]
    assert database.query(
        "SELECT student_email, e.created_at AT TIME ZONE 'UTC' = '2025-01-02 03:04:05' "
        "FROM events AS e JOIN students USING (student_id) WHERE event_type = 'earlier'"
    ) == [("earlier@example.com", True)]
    assert failed_checks(database) == []


def test_an_error_at_the_end_of_the_backfill_repeats_no_session(clone: Clone) -> None:
    """Combined a second time, its own rows would count as rows that were there first."""
    database = clone("0003")
    database.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not yet'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON events
            FOR EACH ROW WHEN (NEW.event_type = 'legacy_merge') EXECUTE FUNCTION refuse()
        """
    )
    with pytest.raises(CommandError, match="not yet"):
        upgrade(database, "0004")
    database.execute(
        """
        DROP FUNCTION refuse() CASCADE;
        UPDATE student_configs SET system_prompt = NULL, twilio_connected = false, current_step = 0;
        DELETE FROM student_configs WHERE session_token IN (SELECT max(session_token) FROM student_configs);
        DELETE FROM workshop_students WHERE session_token IN (SELECT max(session_token) FROM workshop_students)
        """
    )
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert database.query("SELECT * FROM bridge.override") == []
    merged = (
        "SELECT (event_data ->> 'sessions')::bigint FROM events WHERE event_type = 'legacy_merge'"
    )
    assert database.query(merged) == [(213,)]
