"""The decision table of bridge.apply(), row by row, and the errors that it must avoid.

Every test writes as an application does, and then compares both sides.
"""

import threading
import time
from typing import Any

import psycopg
import pytest

from support.databases import (
    Clone,
    Database,
    deviations,
    downgrade,
    failed_checks,
    hand_back,
    upgrade,
)
from support.oracle import CONFIG, PROGRESS
from support.sides import legacy, logged_only, token_of, unified

LONG = "long " * 400
VALUES = "SELECT system_prompt, ivr_greeting, tts_provider FROM {} WHERE session_token = '{}'"


def values(database: Database, token: str) -> tuple[list[Any], list[Any]]:
    """Prompt, greeting and provider, in the legacy tables and in the unified schema."""
    return (
        list(database.query(VALUES.format(CONFIG, token))[0]),
        list(database.query(VALUES.format("sessions", token))[0]),
    )


def notes(database: Database, token: str) -> list[dict[str, str]]:
    query = (
        "SELECT event_data -> 'written_on_both_sides' FROM events "
        "WHERE session_token = %s AND event_data ? 'written_on_both_sides' ORDER BY id"
    )
    return [note for (note,) in database.query(query, token)]


def refuse_long_prompts(database: Database) -> None:
    database.execute(
        f"ALTER TABLE {CONFIG} ADD CONSTRAINT short CHECK (length(system_prompt) < 1000) NOT VALID"
    )


def wait_for_a_lock(database: Database) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    until = time.monotonic() + 30
    while not database.query(waiting):
        assert time.monotonic() < until, "nothing waits for a lock"
        time.sleep(0.01)


@pytest.fixture
def database(clone: Clone) -> Database:
    """At 0006: both sides are tables, and each write is applied at commit."""
    return clone("0006")


@pytest.fixture
def token(database: Database) -> str:
    token = token_of(database)
    legacy(
        database, token, "system_prompt = 'prompt', ivr_greeting = 'greet', tts_provider = 'tts'"
    )
    assert values(database, token) == (["prompt", "greet", "tts"],) * 2
    return token


# --- the decision table ---------------------------------------------------------------------------


def test_legacy_only_and_the_override_recorded_this_value(database: Database, token: str) -> None:
    """Not applied: the unified value stays."""
    refuse_long_prompts(database)
    unified(database, token, f"system_prompt = '{LONG}'")
    legacy(database, token, "ivr_greeting = 'changed'")
    assert values(database, token) == (["prompt", "changed", "tts"], [LONG, "changed", "tts"])
    assert failed_checks(database) == []


def test_legacy_only_else(database: Database, token: str) -> None:
    """Applied to the unified tables, also over an override that recorded another value."""
    legacy(database, token, "ivr_greeting = 'changed'")
    assert values(database, token) == (["prompt", "changed", "tts"],) * 2
    refuse_long_prompts(database)
    unified(database, token, f"system_prompt = '{LONG}'")
    legacy(database, token, "system_prompt = 'changed'")
    assert values(database, token) == (["changed", "changed", "tts"],) * 2
    assert database.query("SELECT FROM bridge.override WHERE column_name = 'system_prompt'") == []


def test_unified_only(database: Database, token: str) -> None:
    """Applied to the legacy tables."""
    unified(database, token, "system_prompt = 'changed', ivr_greeting = NULL")
    assert values(database, token) == (["changed", None, "tts"],) * 2


def test_both_and_changed_on_one_side_only(database: Database, token: str) -> None:
    """Each column is applied, in any order of writes; that is no conflict."""
    for order in ((legacy, unified), (unified, legacy)):
        with logged_only(database):
            for side in order:
                column = "system_prompt" if side is legacy else "ivr_greeting"
                side(database, token, f"{column} = '{order[0].__name__} first'")
        expected = f"{order[0].__name__} first"
        assert values(database, token) == ([expected, expected, "tts"],) * 2
    assert notes(database, token) == []


def test_both_and_changed_back_on_one_side(database: Database, token: str) -> None:
    """A value equal to the one before has not changed, however often it was written."""
    with logged_only(database):
        unified(database, token, "system_prompt = 'for a moment'")
        unified(database, token, "system_prompt = 'prompt'")
        legacy(database, token, "system_prompt = 'changed'")
        unified(database, token, "ivr_greeting = 'changed'")
    assert values(database, token) == (["changed", "changed", "tts"],) * 2
    assert notes(database, token) == []


@pytest.mark.parametrize("last", ["legacy", "unified"])
def test_both_and_changed_on_both(database: Database, token: str, last: str) -> None:
    """The later change wins; an event names the column and the side, never a value."""
    with logged_only(database):
        for side in (legacy, unified) if last == "unified" else (unified, legacy):
            side(database, token, f"system_prompt = '{side.__name__}'")
    assert values(database, token) == ([last, "greet", "tts"],) * 2
    assert notes(database, token) == [{"system_prompt": last}]


def test_both_and_changed_on_neither(database: Database, token: str) -> None:
    """An override is not applied while other columns of the session are written on both sides."""
    refuse_long_prompts(database)
    unified(database, token, f"system_prompt = '{LONG}'")
    with logged_only(database):
        legacy(database, token, "ivr_greeting = 'changed'")
        unified(database, token, "tts_provider = 'changed'")
    assert values(database, token) == (
        ["prompt", "changed", "changed"],
        [LONG, "changed", "changed"],
    )
    assert notes(database, token) == []


def test_neither_and_the_bridge_changed_the_mapping(database: Database) -> None:
    """A student who loses the first session to another one keeps created_at."""
    for number, day in enumerate(("2024-01-01", "2025-01-01")):
        database.execute(
            f"INSERT INTO {PROGRESS} (session_token, student_email, student_name, started_at, created_at) "
            f"VALUES ('ws_of_two_{number}', 'two@example.org', 'Two', '{day}Z', '{day}Z')"
        )
    created = "SELECT created_at::date::text FROM students WHERE student_email = 'two@example.org'"
    assert database.query(created) == [("2024-01-01",)]
    unified(
        database,
        "ws_of_two_0",
        "student_id = (SELECT student_id FROM students WHERE student_email <> 'two@example.org' "
        "ORDER BY student_email LIMIT 1)",
    )
    assert database.query(created) == [("2024-01-01",)]
    mapped = (
        "SELECT created_at::date::text FROM bridge.students WHERE student_email = 'two@example.org'"
    )
    assert database.query(mapped) == [("2025-01-01",)]
    assert failed_checks(database) == []


@pytest.mark.parametrize("deleted", ["legacy", "unified"])
@pytest.mark.parametrize("last", ["the deletion", "the write"])
def test_deleted_on_one_side_and_written_on_the_other(
    database: Database, token: str, deleted: str, last: str
) -> None:
    """The later write wins."""

    def delete() -> None:
        for table in (PROGRESS, CONFIG) if deleted == "legacy" else ("sessions",):
            database.execute(f"DELETE FROM {table} WHERE session_token = '{token}'")

    def write() -> None:
        side = unified if deleted == "legacy" else legacy
        side(database, token, "system_prompt = 'changed'")

    with logged_only(database):
        for action in (write, delete) if last == "the deletion" else (delete, write):
            action()
    left = [] if last == "the deletion" else [("changed",)]
    for table in (CONFIG, "sessions"):
        assert (
            database.query(f"SELECT system_prompt FROM {table} WHERE session_token = '{token}'")
            == left
        )
    assert failed_checks(database) == []


# --- a committed write is never reverted ------------------------------------------------------------


def test_a_write_that_met_a_locked_student_stays(database: Database, token: str) -> None:
    with database.connect(autocommit=False) as holder:
        holder.execute(
            "UPDATE students SET github_username = 'x' WHERE student_id = "
            "(SELECT student_id FROM sessions WHERE session_token = %s)",
            (token,),
        )
        legacy(database, token, "system_prompt = 'saved by the legacy endpoint'")
        assert database.query("SELECT token FROM bridge.change_log") == [(token,)]
        holder.commit()
    unified(database, token, "tts_provider = 'changed'")
    assert values(database, token) == (["saved by the legacy endpoint", "greet", "changed"],) * 2
    assert database.query("SELECT FROM bridge.change_log") == []


def test_a_bulk_update_stays_where_it_was_not_applied_at_once(database: Database) -> None:
    database.execute(f"UPDATE {CONFIG} SET system_prompt = 'for all'")
    waiting = database.query(
        "SELECT token FROM bridge.change_log GROUP BY 1 ORDER BY max(id) DESC LIMIT 3"
    )
    for (token,) in waiting:
        unified(database, token, "tts_provider = 'changed'")
        legacy_values, unified_values = values(database, token)
        assert legacy_values[0] == unified_values[0] == "for all"
        assert legacy_values[2] == unified_values[2] == "changed"
    database.execute("CALL bridge.drain()")
    assert database.query(
        f"SELECT count(*) FROM {CONFIG} AS c JOIN sessions AS s USING (session_token) "
        "WHERE c.system_prompt <> 'for all' OR s.system_prompt <> 'for all'"
    ) == [(0,)]
    assert failed_checks(database) == []


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_write_in_a_stricter_isolation_stays(
    database: Database, token: str, isolation: str
) -> None:
    """Serializable transactions stay logged: the bridge's reads could fail them."""
    with database.connect(autocommit=False) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        connection.execute(
            "UPDATE sessions SET system_prompt = 'strict' WHERE session_token = %s", (token,)
        )
        connection.commit()
    logged = [] if isolation == "repeatable read" else [(token,)]
    assert database.query("SELECT token FROM bridge.change_log") == logged
    legacy(database, token, "ivr_greeting = 'changed'")
    assert values(database, token) == (["strict", "changed", "tts"],) * 2
    assert notes(database, token) == []


def test_a_deletion_while_the_session_is_applied_is_not_lost(database: Database) -> None:
    """The other transaction commits after this one has searched the session, and before it ends."""
    token = "ws_1790000000000_gone"
    database.execute(
        "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$; "
        "CREATE TRIGGER pause AFTER DELETE ON sessions FOR EACH STATEMENT "
        "WHEN (current_setting('application_name') = 'slow') EXECUTE FUNCTION pause(); "
        "UPDATE bridge.state SET sync = false; "
        f"INSERT INTO {CONFIG} (session_token) VALUES ('{token}')"
    )
    database.execute("UPDATE bridge.state SET sync = true")
    delete = (
        f"SET LOCAL application_name = 'slow'; DELETE FROM {CONFIG} WHERE session_token = '{token}'"
    )
    deleting = threading.Thread(target=database.execute, args=(delete,))
    with database.connect(autocommit=False) as applying:
        applying.execute("SELECT bridge.apply(%s)", (token,))
        deleting.start()
        time.sleep(0.25)
        applying.commit()
    deleting.join()
    database.execute("CALL bridge.drain()")
    assert database.query("SELECT FROM sessions WHERE session_token = %s", token) == []


# --- the application's own objects -----------------------------------------------------

AUDIT = f"""
    CREATE TABLE audit_log (what text, token text);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO audit_log VALUES (TG_OP, coalesce(NEW.session_token, OLD.session_token)); RETURN NULL; END $$;
    CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {CONFIG} FOR EACH ROW EXECUTE FUNCTION audit()
"""


def test_a_new_name_reaches_the_legacy_rows_of_every_session(database: Database) -> None:
    """Whichever session is applied first: after it, both sides agree about the student."""
    of_student = "SELECT student_id FROM sessions GROUP BY student_id HAVING count(*) > 1 ORDER BY student_id"
    students = [student for (student,) in database.query(of_student)]
    assert len(students) > 10
    for student in students:
        database.execute(
            f"UPDATE students SET student_name = 'New Name' WHERE student_id = '{student}'"
        )
    for table in (PROGRESS, CONFIG):
        left = (
            f"SELECT count(*) FROM {table} AS t JOIN sessions AS v USING (session_token) "
            "JOIN students AS st USING (student_id) WHERE v.student_id = ANY (%s) "
            "AND lower(t.student_email) = st.student_email AND t.student_name IS DISTINCT FROM 'New Name'"
        )
        assert database.query(left, students) == [(0,)]
    assert failed_checks(database) == []


RENAME = (
    "UPDATE students SET student_name = 'Renamed' "
    "WHERE student_id = (SELECT student_id FROM sessions WHERE session_token = '{0}')"
)
PASSED = '{"step-4-basic-twiml": {"completed": true, "attempts": 77}}'


def test_a_change_of_the_student_reverts_no_legacy_write_of_the_session(
    database: Database, token: str
) -> None:
    """The change log has no columns of the session then."""
    database.execute(
        f"UPDATE {CONFIG} SET system_prompt = 'saved' WHERE session_token = '{token}'; "
        f"UPDATE {PROGRESS} SET exercises = '{PASSED}' WHERE session_token = '{token}'; "
        + RENAME.format(token)
    )
    assert values(database, token) == (["saved", "greet", "tts"],) * 2
    with logged_only(database):
        legacy(database, token, "ivr_greeting = 'saved as well'")
        database.execute(RENAME.format(token).replace("Renamed", "Renamed Again"))
    assert values(database, token) == (["saved", "saved as well", "tts"],) * 2
    attempts = "SELECT attempts FROM step_progress WHERE session_token = %s AND step_number = 4"
    assert database.query(attempts, token) == [(77,)]
    name = f"SELECT student_name FROM {PROGRESS} WHERE session_token = %s"
    assert database.query(name, token) == [("Renamed Again",)]
    assert notes(database, token) == []
    assert failed_checks(database) == []


def test_a_change_of_the_student_brings_no_deleted_row_back(database: Database, token: str) -> None:
    with logged_only(database):
        for table in (PROGRESS, CONFIG):
            database.execute(f"DELETE FROM {table} WHERE session_token = '{token}'")
        database.execute(RENAME.format(token))
    for table in (PROGRESS, CONFIG, "sessions"):
        assert database.query(f"SELECT FROM {table} WHERE session_token = %s", token) == []
    assert failed_checks(database) == []


def test_a_session_that_is_not_busy_any_more(database: Database, token: str) -> None:
    """Another transaction applied it while the drain waited for it."""
    database.execute("UPDATE bridge.state SET sync = false")
    legacy(database, token, "system_prompt = 'changed'")
    with database.connect(autocommit=False) as holder, database.connect() as draining:
        holder.execute("SELECT FROM sessions WHERE session_token = %s FOR UPDATE", (token,))
        drain = threading.Thread(target=draining.execute, args=("CALL bridge.drain()",))
        drain.start()
        time.sleep(0.5)
        holder.execute("SELECT bridge.apply(%s)", (token,))
        holder.commit()
        drain.join()
        assert draining.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert values(database, token) == (["changed", "greet", "tts"],) * 2


def test_a_unique_key_of_the_application_is_named(database: Database, token: str) -> None:
    """Not waited for: only the bridge's own keys mean that another transaction inserts the row."""
    database.execute("CREATE UNIQUE INDEX one_railway ON sessions (railway_url)")
    database.execute(
        f"UPDATE {CONFIG} SET railway_url = 'https://example.org' WHERE session_token IN "
        f"('{token}', (SELECT min(session_token) FROM {CONFIG}))"
    )
    with (
        database.connect() as connection,
        pytest.raises(psycopg.errors.RaiseException, match="23505, constraint one_railway"),
    ):
        connection.execute("CALL bridge.drain()")


def test_the_index_of_a_table_without_keys_is_built_once(clone: Clone) -> None:
    """A new column changes the adapter, not the token."""
    database = clone("legacy")
    database.execute(
        f"ALTER TABLE {CONFIG} DROP CONSTRAINT student_configs_pkey, ALTER session_token DROP NOT NULL"
    )
    upgrade(database, "0006_reporting_views")
    index = "SELECT 'bridge_token_of_student_configs'::regclass::oid"
    before = database.query(index)
    database.execute(f"ALTER TABLE {CONFIG} ADD COLUMN room text")
    database.execute("CALL bridge.refresh_adapters(true)")
    assert database.query(index) == before
    assert failed_checks(database) == []


def test_two_transactions_that_bring_the_same_new_student(database: Database) -> None:
    """The second insert reads no student, but finds one on insert: it must not count as applied."""
    email = "same@example.org"
    database.execute(
        "ALTER FUNCTION bridge.insert_students(text[]) RENAME TO insert_students_now; "
        "CREATE FUNCTION bridge.insert_students(emails text[]) RETURNS bigint LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN bridge.insert_students_now(emails); "
        "END $$"
    )
    with database.connect() as first, database.connect() as second:
        first.execute("SELECT pg_advisory_lock(4711)")
        second.execute("SET bridge.applying = 'on'")  # log only
        second.execute(
            f"INSERT INTO {PROGRESS} (session_token, student_email, student_name, last_activity) "
            f"VALUES ('ws_same_2', '{email}', 'Later Name', now() + interval '1 hour')"
        )
        second.execute("RESET bridge.applying")
        refused: list[psycopg.Error] = []

        def apply() -> None:
            try:
                second.execute("SELECT bridge.apply('ws_same_2')")
            except psycopg.Error as error:
                refused.append(error)

        applying = threading.Thread(target=apply)
        applying.start()
        wait_for_a_lock(database)
        first.execute(
            f"INSERT INTO students (student_email, student_name) VALUES ('{email}', 'First')"
        )
        first.execute("SELECT pg_advisory_unlock(4711)")
        applying.join(30)
        assert [type(error) for error in refused] == [psycopg.errors.SerializationFailure]
        first.execute("CALL bridge.drain()")
    found = database.query(f"SELECT student_name FROM students WHERE student_email = '{email}'")
    assert (found, failed_checks(database)) == ([("Later Name",)], [])


def test_a_step_of_a_session_that_is_being_deleted(clone: Clone) -> None:
    """Before 0005 no foreign key refuses the orphaned step; 0005 refuses it."""
    database = clone("0004")
    token = token_of(database)
    with database.connect() as deleting, database.connect() as writing:
        refused: list[psycopg.Error] = []

        def write() -> None:
            try:
                writing.execute(
                    "INSERT INTO step_progress (session_token, student_id, step_number, step_name) "
                    "SELECT session_token, student_id, 9, 'step-9-final' FROM sessions "
                    f"WHERE session_token = '{token}'"
                )
            except psycopg.Error as error:
                refused.append(error)

        with deleting.transaction():
            deleting.execute(f"DELETE FROM sessions WHERE session_token = '{token}'")
            step = threading.Thread(target=write)
            step.start()
            wait_for_a_lock(database)
        step.join(30)
    assert [type(error) for error in refused] == [psycopg.errors.ForeignKeyViolation]
    assert database.query(f"SELECT FROM step_progress WHERE session_token = '{token}'") == []


def test_triggers_of_the_application_find_their_tables(database: Database, token: str) -> None:
    database.execute(AUDIT)
    unified(database, token, "system_prompt = 'changed'")
    assert values(database, token)[0][0] == "changed"
    database.execute(f"DELETE FROM sessions WHERE session_token = '{token}'")
    assert database.query("SELECT what, token FROM audit_log") == [
        ("UPDATE", token),
        ("DELETE", token),
    ]


def test_what_is_not_the_fault_of_a_value_stays_logged_and_is_named(
    database: Database, token: str
) -> None:
    """No override: it is applied to the legacy tables as soon as possible."""
    database.execute(AUDIT + "; ALTER TABLE audit_log RENAME TO audit_log_2")
    unified(database, token, "system_prompt = 'changed'")
    assert values(database, token)[0][0] == "prompt"
    with (
        database.connect() as connection,
        pytest.raises(psycopg.errors.RaiseException, match=r"42P01.*audit_log"),
    ):
        connection.execute("CALL bridge.drain()")
    assert database.query("SELECT token FROM bridge.change_log") == [(token,)]
    assert database.query("SELECT FROM bridge.override WHERE key = %s", token) == []
    database.execute("ALTER TABLE audit_log_2 RENAME TO audit_log")
    database.execute("CALL bridge.drain()")
    assert values(database, token)[0][0] == "changed"


SETTINGS = {
    "TimeZone": "America/New_York",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "0",
    "bytea_output": "escape",
}


@pytest.mark.parametrize("of", ["session", "database"])
def test_output_settings_change_no_value(clone: Clone, of: str) -> None:
    """Settings differ from the migrator's; stored values must depend on neither."""
    database = clone("legacy")
    database.execute(
        f"""
        ALTER TABLE {CONFIG} ADD last_login timestamptz, ADD score double precision, ADD digest bytea,
            ADD pause interval, ADD day date;
        UPDATE {CONFIG} SET last_login = '2025-12-01 23:30Z', score = 0.1::float8 + 0.2, digest = '\\xdeadbeef',
            pause = '1 day 02:03:04.5', day = '2025-12-31'
        """
    )
    if of == "database":
        for name, value in SETTINGS.items():
            database.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    upgrade(database, "0006")
    token = token_of(database)
    query = "SELECT legacy_extra -> 'student_configs' FROM sessions WHERE session_token = %s"
    ((before,),) = database.query(query, token)
    assert before["score"] == 0.30000000000000004
    assert before["last_login"] == "2025-12-01T23:30:00+00:00"
    with database.connect() as connection:
        for name, value in SETTINGS.items():
            connection.execute(f"SET {name} = '{value}'".encode())
        connection.execute(
            f"UPDATE {CONFIG} SET selected_voice = 'x' WHERE session_token = %s".encode(), (token,)
        )
        connection.execute(
            "UPDATE sessions SET ivr_greeting = 'y', last_activity = '2026-03-04 05:06:07Z' "
            "WHERE session_token = %s",
            (token,),
        )
    assert database.query("SELECT FROM bridge.change_log") == []
    assert database.query(query, token) == [(before,)]
    assert failed_checks(database) == []
    upgrade(database)
    downgrade(database)
    assert database.query(
        "SELECT selected_voice, ivr_greeting, last_login AT TIME ZONE 'UTC' = '2025-12-01 23:30', "
        "score = 0.1::float8 + 0.2, digest = '\\xdeadbeef'::bytea, pause = '1 day 02:03:04.5' "
        f"FROM {CONFIG} WHERE session_token = %s",
        token,
    ) == [("x", "y", True, True, True, True)]


def test_columns_with_a_collation_of_their_own(clone: Clone) -> None:
    database = clone("legacy")
    database.execute(
        f"""
        ALTER TABLE {CONFIG} ALTER selected_voice TYPE text COLLATE "C", ALTER system_prompt TYPE varchar COLLATE "C",
            ADD note text COLLATE "C" DEFAULT 'x';
        ALTER TABLE {PROGRESS} ALTER student_email TYPE text COLLATE "C", ALTER student_name TYPE text COLLATE "POSIX",
            ALTER session_token TYPE text COLLATE "C"
        """
    )
    upgrade(database)
    token = token_of(database)
    unified(database, token, "selected_voice = 'new', system_prompt = 'new'")
    legacy(database, token, "ivr_greeting = 'legacy', note = 'y'")
    assert database.query(
        f"SELECT selected_voice, ivr_greeting FROM {CONFIG} WHERE session_token = %s", token
    ) == [("new", "legacy")]
    assert deviations(database) == []
    assert failed_checks(database) == []
    downgrade(database)


def test_a_role_needs_no_right_to_execute_what_runs_in_its_statement(
    clone: Clone, role: str
) -> None:
    """Default privileges without EXECUTE for PUBLIC, and a token that may be NULL."""
    database = clone("legacy")
    database.execute(
        f"""
        GRANT USAGE ON SCHEMA public TO {role};
        GRANT ALL ON {PROGRESS} TO {role};
        ALTER TABLE {PROGRESS} DROP CONSTRAINT {PROGRESS}_pkey, ALTER session_token DROP NOT NULL,
            ADD UNIQUE (session_token);
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
        """
    )
    for revision in ("0003", "0004", "0006"):
        upgrade(database, revision)
        if revision == "0006":
            database.execute(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON students, sessions TO {role}"
            )
        with psycopg.connect(
            database.server.url(database.name, role, role), autocommit=True
        ) as application:
            application.execute(
                f"INSERT INTO {PROGRESS} (session_token, student_email) "
                "VALUES (%s, 'a@example.com'), (NULL, 'b@example.com')".encode(),
                (f"ws_{revision}",),
            )
            application.execute(
                f"UPDATE {PROGRESS} SET total_time_spent = 5 WHERE session_token = %s".encode(),
                (f"ws_{revision}",),
            )
            if revision == "0006":
                application.execute(
                    "UPDATE sessions SET total_time_spent = 7 WHERE session_token = %s",
                    (f"ws_{revision}",),
                )
    found = f"SELECT total_time_spent FROM {PROGRESS} WHERE session_token = 'ws_0006'"
    assert database.query(found) == [(7,)]
    assert failed_checks(database) == []


@pytest.mark.parametrize(("child", "parent"), [(PROGRESS, CONFIG), (CONFIG, PROGRESS)])
def test_a_foreign_key_between_the_legacy_tables(clone: Clone, child: str, parent: str) -> None:
    database = clone("legacy")
    database.execute(
        f"""
        DELETE FROM {child} AS c WHERE NOT EXISTS (SELECT FROM {parent} AS p WHERE p.session_token = c.session_token);
        ALTER TABLE {child} ADD FOREIGN KEY (session_token) REFERENCES {parent}
        """
    )
    upgrade(database, "0006")
    token = token_of(database)
    database.execute(
        "INSERT INTO sessions (session_token, student_id, selected_voice, exercises) "
        """SELECT 'ws_new', student_id, 'v', '{"step-1-connect-accounts": {"completed": true}}' FROM students LIMIT 1"""
    )
    for table in (child, parent):
        count = f"SELECT count(*) FROM {table} WHERE session_token = %s"
        assert database.query(count, "ws_new") == [(1,)]
    database.execute(f"DELETE FROM sessions WHERE session_token = '{token}'")
    assert database.query("SELECT FROM bridge.change_log") == []
    for table in (child, parent):
        count = f"SELECT count(*) FROM {table} WHERE session_token = %s"
        assert database.query(count, token) == [(0,)]
    assert failed_checks(database) == []
    downgrade(database)


# --- types and names that legacy tables may have ----------------------------------------------------

TOKENS = {
    "uuid": ("a81bc81b-dead-4e5d-abff-90865d1e13b1", "b81bc81b-dead-4e5d-abff-90865d1e13b1"),
    "bigint": ("1761063279761", "1761063279762"),
    "char(12)": ("ws_1", "ws_2"),
    "citext": ("Ws_1", "Ws_2"),
    "token_domain": ("ws_1", "ws_2"),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_of_another_type(empty: Database, kind: str) -> None:
    """In both directions; the unified tables keep a token that the type cannot hold."""
    first, second = TOKENS[kind]
    if kind == "citext":
        if not empty.query("SELECT FROM pg_available_extensions WHERE name = 'citext'"):
            pytest.skip("no citext on this server")
        empty.execute("CREATE EXTENSION citext")
    empty.execute(
        f"""
        CREATE DOMAIN token_domain AS varchar(20) CHECK (VALUE ~ '^ws_');
        CREATE TABLE {PROGRESS} (session_token {kind} PRIMARY KEY, student_email text, total_time_spent integer);
        CREATE TABLE {CONFIG} (session_token {kind} PRIMARY KEY, student_email text, system_prompt text,
            updated_at timestamp DEFAULT now());
        INSERT INTO {PROGRESS} VALUES ('{first}', 'a@example.com', 5);
        INSERT INTO {CONFIG} VALUES ('{first}', 'a@example.com', 'prompt')
        """
    )
    upgrade(empty, "0006")
    assert empty.query("SELECT session_token, system_prompt, total_time_spent FROM sessions") == [
        (first, "prompt", 5)
    ]
    legacy(empty, first, "system_prompt = 'legacy'")
    unified(empty, first, "total_time_spent = 6")
    empty.execute(
        "INSERT INTO sessions (session_token, student_id, system_prompt) "
        f"SELECT t, student_id, 'new' FROM students, unnest(ARRAY['{second}', 'no such token at all']) AS t"
    )
    assert empty.query("SELECT FROM bridge.change_log") == []
    taken = [(first, "legacy"), (second, "new")]
    if kind == "citext":  # the only one that holds any text
        taken.append(("no such token at all", "new"))
    found = empty.query(f"SELECT btrim(session_token::text), system_prompt FROM {CONFIG}")
    assert sorted(found) == taken
    spent = empty.query(f"SELECT total_time_spent FROM {PROGRESS} ORDER BY 1")
    assert spent == [(0,)] * (len(taken) - 1) + [(6,)]
    assert failed_checks(empty) == []
    upgrade(empty)
    rows = empty.query("SELECT session_token, system_prompt FROM sessions ORDER BY 1")
    assert len(rows) == 3
    downgrade(empty)
    upgrade(empty)
    assert empty.query("SELECT session_token, system_prompt FROM sessions ORDER BY 1") == rows
    for table in (PROGRESS, CONFIG):
        empty.execute(f"DELETE FROM {table} WHERE session_token = '{second}'")
    assert len(empty.query("SELECT FROM sessions")) == 2


NAMES = (
    *("token", "name", "before", "t", "n", "r", "j", "i", "l", "u", "m", "k", "p", "c", "absent"),
    *("kept", "value", "key", "patch", "email", "extra", "unreadable", "clamped", "row_at"),
    *(
        "step",
        "spent",
        "src",
        "rel",
        "columns",
        "base",
        "p_token",
        "new_rows",
        "old_rows",
        "tokenless",
    ),
)


def test_columns_named_like_something_of_the_bridge(clone: Clone) -> None:
    database = clone("legacy")
    for table in (PROGRESS, CONFIG):
        for name in NAMES:
            database.execute(f'ALTER TABLE {table} ADD "{name}" text')
    token = token_of(database)
    assignments = ", ".join(f"\"{name}\" = 'value of {name}'" for name in NAMES)
    database.execute(f"UPDATE {PROGRESS} SET {assignments} WHERE session_token = '{token}'")
    upgrade(database, "0006")
    legacy(database, token, f"{assignments}, ivr_greeting = 'legacy'")
    unified(database, token, "system_prompt = 'new', total_time_spent = 77")
    assert database.query("SELECT FROM bridge.change_log") == []
    ((extra,),) = database.query(
        "SELECT legacy_extra FROM sessions WHERE session_token = %s", token
    )
    for table in (PROGRESS, CONFIG):
        assert {name: extra[table].get(name) for name in NAMES} == {
            name: f"value of {name}" for name in NAMES
        }
    assert database.query(
        f"SELECT c.system_prompt, c.ivr_greeting, w.total_time_spent, w.t, c.name FROM {CONFIG} AS c "
        f"JOIN {PROGRESS} AS w USING (session_token) WHERE session_token = %s",
        token,
    ) == [("new", "legacy", 77, "value of t", "value of name")]
    assert deviations(database) == []
    assert failed_checks(database) == []
    upgrade(database)
    downgrade(database)


def test_a_time_stored_as_a_number_stays_where_it_was(clone: Clone) -> None:
    """The value is unreadable; a write to another column leaves it unchanged."""
    database = clone("legacy")
    database.execute(
        f"""
        ALTER TABLE {PROGRESS} ALTER started_at DROP DEFAULT, ALTER last_activity DROP DEFAULT,
            ALTER started_at TYPE bigint USING extract(epoch FROM started_at)::bigint * 1000,
            ALTER last_activity TYPE double precision USING extract(epoch FROM last_activity)
        """
    )
    token = token_of(database)
    numbers = f"SELECT session_token, started_at, last_activity FROM {PROGRESS} ORDER BY 1"
    before = database.query(numbers)
    upgrade(database, "0006")
    unified(database, token, "total_time_spent = 77, system_prompt = 'new'")
    unified(database, token, "current_step = 3, last_activity = '2026-03-04 05:06:07Z'")
    database.execute(
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed) "
        f"SELECT session_token, student_id, 9, 'x', true FROM sessions WHERE session_token = '{token}' "
        "ON CONFLICT DO NOTHING"
    )
    assert database.query("SELECT FROM bridge.change_log") == []
    assert database.query(numbers) == before
    assert database.query(
        f"SELECT total_time_spent FROM {PROGRESS} WHERE session_token = %s", token
    ) == [(77,)]
    assert failed_checks(database) == []
    upgrade(database)
    downgrade(database)
    assert database.query(numbers) == before


def test_a_column_whose_type_has_no_equality(database: Database, token: str) -> None:
    """The type json: a comparison of whole rows must not fail the application's write."""
    database.execute("ALTER TABLE sessions ADD COLUMN mine json")
    unified(database, token, "mine = '{\"a\": 1}', tts_provider = 'with json'")
    assert values(database, token)[0][2] == "with json"
    assert failed_checks(database) == []


def test_a_legacy_row_that_does_not_change_is_not_written(database: Database, token: str) -> None:
    """A trigger of the application changes updated_at of each written row."""
    versions = f"SELECT ctid, xmin FROM {PROGRESS} WHERE session_token = '{token}'"
    before = database.query(versions)
    unified(database, token, "ivr_greeting = 'for the configuration'")
    assert values(database, token)[0][1] == "for the configuration"
    assert database.query(versions) == before


def test_a_downgrade_keeps_what_was_written_with_the_triggers_off(
    database: Database, token: str
) -> None:
    database.execute(
        f"""
        SET session_replication_role = replica;
        UPDATE step_progress SET time_spent = 7777 WHERE session_token = '{token}' AND step_number = 1;
        UPDATE sessions SET completion_rate = 3 WHERE session_token = '{token}';
        UPDATE students SET student_name = 'Triggers Off'
        WHERE student_id = (SELECT student_id FROM sessions WHERE session_token = '{token}')
        """
    )
    downgrade(database)
    upgrade(database)
    query = (
        "SELECT student_name, time_spent, completion_rate > 3 FROM sessions JOIN students USING (student_id) "
        f"JOIN step_progress USING (session_token) WHERE session_token = '{token}' AND step_number = 1"
    )
    assert database.query(query) == [("Triggers Off", 7777, True)]
    assert failed_checks(database) == []


def test_a_step_is_not_restored_when_the_legacy_tables_lost_its_exercise(
    database: Database, token: str
) -> None:
    """The downgrade kept values that only the step had; without the exercise the checks would fail."""
    number = (
        "SELECT min(step_number) FROM step_progress "
        f"WHERE session_token = '{token}' AND validation_passed"
    )
    ((step,),) = database.query(number)
    database.execute(
        "UPDATE step_progress SET code_submitted = 'print(1)', started_at = now() "
        f"WHERE session_token = '{token}' AND step_number = {step}"
    )
    downgrade(database)
    legacy_exercises = f"UPDATE {{}} SET exercises = '{{{{}}}}' WHERE session_token = '{token}'"
    database.execute(legacy_exercises.format(PROGRESS))
    upgrade(database)
    assert failed_checks(database) == []
    assert database.query(f"SELECT FROM step_progress WHERE session_token = '{token}'") == []


def test_a_kept_session_that_the_legacy_tables_have_got_since(database: Database) -> None:
    """Combined like a row that was there first: the later legacy values win, all others come back."""
    for table in (CONFIG, PROGRESS):
        database.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT no_zz CHECK (session_token NOT LIKE 'zz%') NOT VALID"
        )
    database.execute(
        """
        INSERT INTO sessions (session_token, student_id, system_prompt, ivr_greeting)
        SELECT 'zz1', student_id, 'kept', 'kept' FROM students ORDER BY 2 LIMIT 1;
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed, code_submitted)
        SELECT 'zz1', student_id, 4, 'Basic TwiML', true, 'kept' FROM sessions WHERE session_token = 'zz1'
        """
    )
    downgrade(database)
    for table in (CONFIG, PROGRESS):
        database.execute(f"ALTER TABLE {table} DROP CONSTRAINT no_zz")
    database.execute(f"INSERT INTO {CONFIG} (session_token, system_prompt) VALUES ('zz1', 'later')")
    upgrade(database)
    query = (
        "SELECT system_prompt, ivr_greeting, code_submitted, exercises ? 'step-4-basic-twiml' "
        "FROM sessions JOIN step_progress USING (session_token) WHERE session_token = 'zz1'"
    )
    assert database.query(query) == [("later", "kept", "kept", True)]
    note = "SELECT event_data -> 'conflicts' FROM events WHERE session_token = 'zz1' AND event_data ? 'conflicts'"
    assert database.query(note) == [({"system_prompt": "legacy"},)]
    assert failed_checks(database) == []


def test_a_legacy_write_during_the_hand_back_is_not_undone_by_the_next_upgrade(
    database: Database,
) -> None:
    """It stays logged, and the unified tables lack it: their values are outdated."""
    deleted, changed = (
        token
        for (token,) in database.query(
            f"SELECT session_token FROM {CONFIG} JOIN {PROGRESS} USING (session_token) "
            "ORDER BY session_token DESC LIMIT 2"
        )
    )
    database.execute(
        f"UPDATE step_progress SET code_submitted = 'mine' WHERE session_token = '{changed}'"
    )
    downgrade(database, "0004")
    with database.connect(autocommit=False) as locking, database.connect() as connection:
        locking.execute(
            "SELECT FROM sessions WHERE session_token = ANY (%s) FOR UPDATE", ([deleted, changed],)
        )
        for table in (PROGRESS, CONFIG):
            database.execute(f"DELETE FROM {table} WHERE session_token = '{deleted}'")
        legacy(database, changed, "system_prompt = 'written last'")
        hand_back(connection)
    downgrade(database)
    upgrade(database)
    assert values(database, changed)[1][0] == "written last"
    assert database.query(f"SELECT FROM sessions WHERE session_token = '{deleted}'") == []
    submitted = (
        f"SELECT DISTINCT code_submitted FROM step_progress WHERE session_token = '{changed}'"
    )
    assert database.query(submitted) == [("mine",)]
    assert failed_checks(database) == []


def test_what_an_endpoint_writes_before_the_backfill_is_not_replaced_by_kept_values(
    database: Database, token: str
) -> None:
    """The downgrade kept values of the session; the endpoint writes it again after 0002."""
    refuse_long_prompts(database)
    database.execute(
        f"UPDATE step_progress SET code_submitted = 'kept' WHERE session_token = '{token}'"
    )
    unified(database, token, f"system_prompt = '{LONG}', ivr_greeting = 'handed back'")
    downgrade(database)
    upgrade(database, "0002")
    database.execute(
        "INSERT INTO students (student_email) VALUES ('early@example.org'); "
        "INSERT INTO sessions (session_token, student_id, system_prompt, tts_provider) "
        f"SELECT '{token}', student_id, 'early', 'early' FROM students"
    )
    upgrade(database, "0006")
    assert values(database, token) == (["early", "handed back", "early"],) * 2
    emails = f"SELECT student_email FROM {{}} WHERE session_token = '{token}'"
    for source in (PROGRESS, CONFIG, "sessions JOIN students USING (student_id)"):
        assert database.query(emails.format(source)) == [("early@example.org",)]
    kept = f"SELECT DISTINCT code_submitted FROM step_progress WHERE session_token = '{token}'"
    assert database.query(kept) == [("kept",)]
    assert failed_checks(database) == []
