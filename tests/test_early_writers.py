"""Endpoints that moved too early: they write to the unified tables before the backfill and the keys are done.

The tests run the stages of the backfill by hand, so that a write falls between two of them.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from psycopg import sql

from support.databases import (
    BACKFILL,
    Clone,
    Database,
    alembic_config,
    backfill,
    create_functions,
    downgrade,
    failed_checks,
    hand_back,
    upgrade,
)
from support.eras import ERAS, load

Connection = psycopg.Connection[tuple[Any, ...]]

ONE_OF_TWO_ROWS = """
    SELECT student_email, min(s.token) FROM bridge.student_source AS s
    WHERE student_email !~ '^anonymous' AND s.student_name IS NOT NULL
    GROUP BY 1 HAVING bool_and(s.of_session) AND count(DISTINCT s.token) = 1 AND count(*) = 2
    ORDER BY 1
"""
"""Students of one session in both legacy tables."""
RENAME = "UPDATE students SET student_name = 'Renamed' WHERE student_email = %s"
MOVE = "UPDATE students SET student_email = 'moved@example.net' WHERE student_email = %s"
BEFORE_HYGIENE = """
    INSERT INTO students (student_email, student_name, github_username) VALUES
        (' Two@Example.com', NULL, 'gh-2'), ('two@example.com', 'Two', NULL), ('Alone@Example.com', 'A', NULL);
    INSERT INTO sessions (session_token, student_id, ivr_greeting)
    SELECT 'ws_early_' || student_email, student_id, '' FROM students;
    INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed, attempts)
    SELECT 'ws_early_' || st.student_email, st.student_id, n.number, n.name, n.passed, n.number
    FROM students AS st
    CROSS JOIN (
        VALUES (1, 'Choose Use Case', true), (2, 'Provision Services', false), (3, 'provision-number', true)
    ) AS n(number, name, passed);
    INSERT INTO events (student_id, session_token, event_type) SELECT student_id, session_token, 'early' FROM sessions
"""
ORPHAN = "INSERT INTO sessions (session_token, student_id) VALUES ('ws_orphan', gen_random_uuid())"
MISPLACED_STEP = """
    INSERT INTO step_progress (session_token, student_id, step_number, step_name)
    SELECT session_token, gen_random_uuid(), 9, 'x' FROM sessions ORDER BY 1 LIMIT 1
    ON CONFLICT (session_token, step_number) DO UPDATE SET student_id = excluded.student_id
"""
TOUCH_STEP = "UPDATE step_progress SET attempts = attempts + 1 WHERE step_number = 9"


def sources(merging: Connection) -> None:
    create_functions(merging, *BACKFILL)
    merging.execute("UPDATE bridge.state SET stage = 'sources', cursor_at = ''")
    merging.execute("CALL pg_temp.backfill_stage('sources', 'students', bridge.last_token())")


def students(merging: Connection) -> None:
    merging.execute("CALL pg_temp.backfill_stage('students', 'sessions', NULL)")


def sessions(merging: Connection) -> None:
    """Backfill all of them in one chunk: the procedure would commit."""
    merging.execute(
        "SELECT pg_temp.backfill_chunk('sessions', r.first_token, r.last_token, NULL) "
        "FROM bridge.next_range('', 2000) AS r"
    )
    merging.execute("UPDATE bridge.state SET cursor_at = bridge.last_token()")


HOLD_STUDENTS = b"ALTER VIEW bridge.students SET (security_barrier = false)"
"""Locks the view only, not its tables: apply() reads it after the legacy rows."""


def apply_until_blocked(
    threads: ThreadPoolExecutor, applying: Connection, token: str, watching: Connection
) -> Future[Any]:
    """Apply a session on a thread, until a lock of another transaction blocks it."""
    running = threads.submit(applying.execute, "SELECT bridge.try_apply(%s)", (token,))
    blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
    while watching.execute(blocked, (applying.info.backend_pid,)).fetchall() == [(False,)]:
        assert not running.done()
    return running


def names(database: Database, email: str) -> list[str | None]:
    """The student's names on both sides."""
    found = database.query(
        "SELECT student_name FROM students WHERE student_email = %s "
        "UNION SELECT student_name FROM student_configs WHERE lower(student_email) = %s "
        "UNION SELECT student_name FROM workshop_students WHERE lower(student_email) = %s",
        *[email] * 3,
    )
    return [name for (name,) in found]


@pytest.mark.parametrize("when", ["before its sessions arrive", "while they arrive"])
def test_a_student_who_is_changed_during_the_merge(clone: Clone, when: str) -> None:
    """The student has no session yet that the trigger could log."""
    database = clone("0003")
    with closing(database.connect()) as merging, closing(database.connect()) as v2:
        sources(merging)
        students(merging)
        (renamed, _), (moved, _) = merging.execute(ONE_OF_TWO_ROWS.encode()).fetchmany(2)
        if when == "before its sessions arrive":
            v2.execute(RENAME, (renamed,))
        with merging.transaction():
            sessions(merging)
            if when == "while they arrive":
                v2.execute(RENAME, (renamed,))
                v2.execute(MOVE, (moved,))
    upgrade(database)
    assert names(database, renamed) == ["Renamed"]
    if when == "while they arrive":
        assert names(database, "moved@example.net") != []
        left = database.query(
            "SELECT session_token FROM sessions JOIN students USING (student_id) WHERE student_email = %s "
            "UNION SELECT session_token FROM workshop_students WHERE lower(student_email) = %s "
            "UNION SELECT session_token FROM student_configs WHERE lower(student_email) = %s",
            *[moved] * 3,
        )
        assert left == []
    assert failed_checks(database) == []


@pytest.mark.parametrize("way", ["students written after it", "GitHub name stored after it"])
def test_a_name_that_the_old_application_changed_is_the_newer_one(clone: Clone, way: str) -> None:
    """The student's unified row is younger, but its name was not changed there."""
    database = clone("0003")
    with closing(database.connect()) as merging, closing(database.connect()) as app:
        sources(merging)
        ((email, token),) = merging.execute(ONE_OF_TWO_ROWS.encode()).fetchmany(1)

        def rename() -> None:
            for table in ("student_configs", "workshop_students"):
                query = f"UPDATE {table} SET student_name = 'New', updated_at = now() WHERE session_token = %s"
                app.execute(query.encode(), (token,))

        if way == "students written after it":
            rename()
        students(merging)
        sessions(merging)
        if way != "students written after it":
            rename()
            app.execute(
                "UPDATE students SET github_username = 'gh' WHERE student_email = %s", (email,)
            )
        app.execute("UPDATE sessions SET ivr_greeting = 'V2' WHERE session_token = %s", (token,))
    upgrade(database)
    assert names(database, email) == ["New"]


def test_a_second_address_is_renamed(clone: Clone) -> None:
    database = clone("0003")
    with closing(database.connect()) as merging, closing(database.connect()) as v2:
        for table, number in (("workshop_students", "one"), ("student_configs", "two")):
            query = f"INSERT INTO {table} (session_token, student_email, student_name) VALUES ('ws_two', %s, %s)"
            merging.execute(query.encode(), (f"{number}@example.org", number))
        merging.execute("DELETE FROM bridge.change_log")  # as if they were older than 0003
        sources(merging)
        students(merging)
        sessions(merging)
        v2.execute(RENAME, ("two@example.org",))
    upgrade(database)
    query = "SELECT student_name FROM students WHERE student_email = 'two@example.org'"
    assert database.query(query) == [("Renamed",)]


@pytest.mark.parametrize("stage", ["0003", "0004"])
def test_a_rename_after_a_new_session_in_the_old_tables(clone: Clone, stage: str) -> None:
    """That session is applied first, with the name that the legacy tables still have."""
    database = clone(stage)
    with closing(database.connect()) as merging, closing(database.connect()) as app:
        if stage == "0003":
            sources(merging)
            students(merging)
            sessions(merging)
        ((email, name),) = merging.execute(
            "SELECT student_email, min(student_name) FROM students JOIN sessions USING (student_id) "
            "WHERE student_email !~ '^anonymous' AND student_name IS NOT NULL "
            "GROUP BY 1 HAVING count(*) = 1 ORDER BY 1 LIMIT 1"
        ).fetchall()
        app.execute(
            "INSERT INTO workshop_students (session_token, student_email, student_name) "
            "VALUES ('ws_brand_new', %s, %s)",
            (email, name),
        )
        app.execute(RENAME, (email,))
    upgrade(database)
    query = "SELECT student_name FROM students WHERE student_email = %s"
    assert database.query(query, email) == [("Renamed",)]


def two_sessions(connection: Connection) -> tuple[str, list[str]]:
    """A student of two sessions, with a name on both sides: student_id, tokens."""
    ((student, tokens),) = connection.execute(
        "SELECT student_id::text, array_agg(session_token ORDER BY session_token) "
        "FROM students JOIN sessions USING (student_id) "
        "WHERE student_email !~ '^anonymous' AND student_name IS NOT NULL "
        "AND session_token NOT IN (SELECT token FROM bridge.change_log) "
        "AND session_token NOT IN (SELECT token FROM bridge.student_source WHERE NOT of_session) "
        "GROUP BY 1 HAVING count(*) = 2 ORDER BY 1 LIMIT 1"
    ).fetchall()
    return student, tokens


RENAME_ID = b"UPDATE students SET student_name = %s WHERE student_id = %s"
NAME_OF_ID = "SELECT student_name FROM students WHERE student_id = %s::uuid"


def test_the_last_of_two_names_counts_also_where_it_is_none(clone: Clone) -> None:
    database = clone("0004")
    with database.connect() as app:
        app.execute("CALL bridge.drain()")
        student, _ = two_sessions(app)
        app.execute(RENAME_ID, ("Ann", student))
        app.execute(RENAME_ID, (None, student))
    upgrade(database)
    assert database.query(NAME_OF_ID, student) == [(None,)]
    assert failed_checks(database) == []


def test_a_name_is_not_kept_by_a_session_that_has_left_the_student(clone: Clone) -> None:
    """The snapshot does not see the student's later name."""
    database = clone("0004")
    with database.connect() as app:
        app.execute("CALL bridge.drain()")
        student, (left, stayed) = two_sessions(app)
        app.execute(RENAME_ID, ("Ann", student))
        app.execute(
            "UPDATE sessions SET student_id = (SELECT min(student_id::text)::uuid FROM students "
            "WHERE student_id <> %s) WHERE session_token = %s",
            (student, left),
        )
        app.execute(
            "UPDATE students SET student_email = 'moved@example.net' WHERE student_id = %s",
            (student,),
        )
        app.execute(RENAME_ID, (None, student))
        app.execute("SELECT bridge.apply(%s)", (stayed,))
        assert app.execute(
            "SELECT count(*) FROM bridge.change_log WHERE token = %s", (left,)
        ).fetchone() != (0,)
    upgrade(database)
    assert database.query(NAME_OF_ID, student) == [(None,)]
    assert failed_checks(database) == []


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE students SET student_name = 'V2' "
        "WHERE student_id = (SELECT student_id FROM sessions WHERE session_token = %s)",
        "UPDATE sessions SET ivr_greeting = 'V2', exercises = '{}' WHERE session_token = %s",
    ],
)
def test_a_name_that_comes_while_legacy_rows_are_written_stays(clone: Clone, write: str) -> None:
    """By another session of the student: nothing of the applied one is written meanwhile."""
    database = clone("0004")
    with (
        closing(database.connect()) as app,
        closing(database.connect()) as applier,
        closing(database.connect(autocommit=False)) as holder,
        ThreadPoolExecutor() as threads,
    ):
        app.execute("CALL bridge.drain()")
        student, (applied, other) = two_sessions(app)
        app.execute(
            "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "BEGIN PERFORM pg_advisory_xact_lock(77); RETURN NULL; END $$"
        )
        for table in ("student_configs", "workshop_students"):
            app.execute(
                sql.SQL(
                    "CREATE TRIGGER pause AFTER UPDATE ON {} FOR EACH ROW WHEN (NEW.session_token = {}) "
                    "EXECUTE FUNCTION pause()"
                ).format(sql.Identifier(table), sql.Literal(applied))
            )
        app.execute(write.encode(), (applied,))
        holder.execute("SELECT pg_advisory_xact_lock(77)")
        applying = apply_until_blocked(threads, applier, applied, app)
        for table in ("student_configs", "workshop_students"):
            later = f"UPDATE {table} SET student_name = 'Later', updated_at = now() WHERE session_token = %s"
            app.execute(later.encode(), (other,))
        holder.rollback()
        applying.result()
        app.execute("DROP FUNCTION pause() CASCADE")
    upgrade(database)
    assert database.query(NAME_OF_ID, student) == [("Later",)]
    assert failed_checks(database) == []


def test_a_downgrade_hands_back_a_name_whose_sessions_have_not_arrived(clone: Clone) -> None:
    """By then the unified tables are read-only."""
    database = clone("0003")
    with closing(database.connect()) as merging, closing(database.connect()) as v2:
        sources(merging)
        students(merging)
        ((email, _),) = merging.execute(ONE_OF_TWO_ROWS.encode()).fetchmany(1)
        v2.execute(RENAME, (email,))
    downgrade(database)
    query = (
        "SELECT student_name FROM student_configs WHERE lower(student_email) = %s "
        "UNION SELECT student_name FROM workshop_students WHERE lower(student_email) = %s"
    )
    assert database.query(query, email, email) == [("Renamed",)]


def test_a_session_that_has_not_arrived_is_not_taken_for_deleted(clone: Clone) -> None:
    """Its address is changed while it is applied together with the name of its former student."""
    database = clone("0003")
    with (
        closing(database.connect()) as application,
        closing(database.connect()) as applier,
        closing(database.connect(autocommit=False)) as moving,
        closing(database.connect(autocommit=False)) as holder,
        ThreadPoolExecutor() as threads,
    ):
        sources(application)
        students(application)
        ((email, token),) = application.execute(
            "SELECT s.student_email, s.token FROM bridge.student_source AS s "
            "JOIN student_configs ON session_token = token "
            "WHERE token NOT IN (SELECT session_token FROM workshop_students WHERE session_token > '') "
            "AND s.student_email !~ '^anonymous' ORDER BY 1 LIMIT 1"
        ).fetchall()
        # before the name, but not visible yet
        moving.execute(
            "INSERT INTO workshop_students (session_token, student_email) VALUES (%s, 'elsewhere@example.net')",
            (token,),
        )
        application.execute(RENAME, (email,))
        holder.execute(HOLD_STUDENTS)  # read after the address
        applying = apply_until_blocked(threads, applier, token, application)
        moving.commit()
        holder.rollback()
        applying.result()
    upgrade(database)
    found = database.query(
        "SELECT student_email FROM sessions JOIN students USING (student_id) WHERE session_token = %s "
        "UNION ALL SELECT student_email FROM workshop_students WHERE session_token = %s",
        *[token] * 2,
    )
    assert found == [("elsewhere@example.net",)] * 2
    kept = "SELECT count(*) FROM student_configs WHERE session_token = %s"
    assert database.query(kept, token) == [(1,)]
    assert failed_checks(database) == []


def test_a_student_deleted_between_merge_and_verification(clone: Clone) -> None:
    """The sessions and their legacy rows still exist: the student is restored."""
    database = clone("0003")
    with database.connect() as connection:
        backfill(connection)
        connection.execute(
            "DELETE FROM students WHERE student_id = "
            "(SELECT student_id FROM sessions ORDER BY md5(session_token) DESC OFFSET 3 LIMIT 1)"
        )
    upgrade(database)
    assert failed_checks(database) == []


def test_a_session_without_a_student_that_the_legacy_tables_hold(clone: Clone) -> None:
    """The legacy rows name the student: nothing is left to refuse."""
    database = clone("0003")
    ((token, email),) = database.query(
        "SELECT session_token, lower(student_email) FROM workshop_students "
        "WHERE student_email ~ '@' AND student_email !~ 'unknown' ORDER BY 1 LIMIT 1"
    )
    database.execute(ORPHAN.replace("ws_orphan", token))
    upgrade(database)
    assert database.query(
        "SELECT student_email FROM sessions JOIN students USING (student_id) WHERE session_token = %s",
        token,
    ) == [(email,)]
    assert failed_checks(database) == []


@pytest.mark.parametrize("written", ["0003", "0004"])
def test_a_session_without_a_student_that_no_legacy_table_holds(clone: Clone, written: str) -> None:
    """Applied like every other one: a legacy row without an address becomes a session of a placeholder."""
    database = clone(written)
    database.execute(ORPHAN)
    upgrade(database)
    query = "SELECT count(*) FROM workshop_students WHERE session_token = 'ws_orphan'"
    assert database.query(query) == [(1,)]
    assert database.query(
        "SELECT student_email LIKE 'anonymous+%@workshop.invalid' "
        "FROM sessions JOIN students USING (student_id) WHERE session_token = 'ws_orphan'"
    ) == [(True,)]
    assert failed_checks(database) == []


def test_a_session_without_a_student_is_refused_at_the_keys(clone: Clone) -> None:
    """If no trigger has logged it: refused by name, with the query, until it has a student."""
    database = clone("0004")
    database.execute("SET session_replication_role = replica; " + ORPHAN)
    for _ in range(2):
        with pytest.raises(CommandError, match=r"1 sessions without a student \(\.\.\.phan\)"):
            upgrade(database)
    assert database.query("SELECT version_num ~ '^0004' FROM alembic_version") == [(True,)]
    database.execute(
        "UPDATE sessions SET student_id = (SELECT student_id FROM students ORDER BY 1 LIMIT 1) "
        "WHERE session_token = 'ws_orphan'"
    )
    upgrade(database)
    query = "SELECT count(*) FROM workshop_students WHERE session_token = 'ws_orphan'"
    assert database.query(query) == [(1,)]
    assert failed_checks(database) == []


def test_a_session_inserted_early_with_its_student(clone: Clone) -> None:
    """The student is logged first; the session counts as inserted all the same."""
    database = clone("0003")
    query = (
        "SELECT session_token, lower(student_email) FROM student_configs JOIN workshop_students "
        "USING (session_token, student_email) WHERE system_prompt <> '' AND twilio_connected LIMIT 1"
    )
    ((token, email),) = database.query(query)
    database.execute(
        f"""
        INSERT INTO bridge.student_source SELECT * FROM bridge.sources_of('{token}', '{token}');
        INSERT INTO students (student_email) VALUES ('{email}');
        INSERT INTO sessions (session_token, student_id, selected_voice)
        SELECT '{token}', student_id, 'early' FROM students WHERE student_email = '{email}'
        """
    )
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")
    for table in ("student_configs", "sessions"):
        values = f"SELECT system_prompt <> '', twilio_connected, selected_voice FROM {table} WHERE session_token = %s"
        assert database.query(values, token) == [(True, True, "early")]


def test_a_student_of_an_earlier_attempt_who_moves_before_the_backfill(empty: Database) -> None:
    """The legacy tables have the address before; the later one stays, and is applied to them."""
    with empty.connect(autocommit=False) as connection:
        load(connection, ERAS["C2"])
        connection.commit()
    upgrade(empty, "0003_legacy_bridge")
    query = (
        "SELECT student_email, min(session_token) FROM students JOIN sessions USING (student_id) "
        "WHERE session_token IN (SELECT p.token FROM bridge.legacy_progress AS p WHERE p.email = student_email) "
        "GROUP BY student_email HAVING count(*) = 1 ORDER BY 1 LIMIT 1"
    )
    ((email, token),) = empty.query(query)
    empty.execute(
        f"UPDATE students SET student_email = 'moved@example.net' WHERE student_email = '{email}'"
    )
    upgrade(empty)
    of_session = "SELECT student_email FROM sessions JOIN students USING (student_id) WHERE session_token = %s"
    assert empty.query(of_session, token) == [("moved@example.net",)]
    legacy = "SELECT student_email FROM workshop_students WHERE session_token = %s"
    assert empty.query(legacy, token) == [("moved@example.net",)]
    assert failed_checks(empty) == []


@pytest.mark.parametrize("written", ["0003", "0004"])
def test_steps_that_come_before_their_session(clone: Clone, written: str) -> None:
    """No foreign key before 0005; the trigger deletes the steps of a deleted session."""
    database = clone(written)
    step = (
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts) "
        "SELECT 'ws_{}', student_id, n, 'x', n FROM students, generate_series(3, 5) AS n "
        "WHERE student_email = 'early@example.org'"
    )
    session = (
        "INSERT INTO sessions (session_token, student_id) SELECT 'ws_{}', student_id FROM students "
        "WHERE student_email = 'early@example.org'"
    )
    database.execute("INSERT INTO students (student_email) VALUES ('early@example.org')")
    for token in ("early", "deleted"):
        database.execute(step.format(token))
        database.execute(session.format(token))
    database.execute("DELETE FROM sessions WHERE session_token = 'ws_deleted'")
    upgrade(database)
    assert database.query(
        "SELECT session_token, step_number, attempts FROM step_progress "
        "WHERE session_token IN ('ws_early', 'ws_deleted') ORDER BY 2"
    ) == [("ws_early", n, n) for n in (3, 4, 5)]
    assert failed_checks(database) == []


# --- keys and indexes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "change", "end", "held"),
    [
        ("0001", upgrade, "0002", "step_progress"),
        ("0002", downgrade, "0001", "students"),
        ("0001", downgrade, "base", "students"),
    ],
)
def test_no_endpoint_is_the_victim_of_a_deadlock_with_a_revision(
    clone: Clone, begin: str, change: Callable[[Database, str], None], end: str, held: str
) -> None:
    """The revision skips an index that an endpoint has created."""
    database = clone("0003")
    downgrade(database, begin)
    with (
        closing(database.connect(autocommit=False)) as v2,
        closing(database.connect()) as watching,
        ThreadPoolExecutor() as threads,
    ):
        lock = "LOCK TABLE {} IN ROW EXCLUSIVE MODE"
        v2.execute(lock.format(held).encode())
        changing = threads.submit(change, database, end)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        while watching.execute(waits, (held,)).fetchall() == [(0,)]:
            assert not changing.done(), changing.exception()
        time.sleep(0.5)
        v2.execute(lock.format("events, sessions, students, step_progress").encode())
        v2.commit()
        changing.result()
    current = database.query("SELECT left(version_num, 4) FROM alembic_version")
    assert current == ([] if end == "base" else [(end,)])


def test_keys_wait_for_a_writer(clone: Clone) -> None:
    database = clone("0004")
    database.execute(MISPLACED_STEP)
    with closing(database.connect(autocommit=False)) as v2:
        v2.execute(TOUCH_STEP)
        timer = threading.Timer(6, v2.rollback)
        timer.start()
        try:
            upgrade(database, "0005")
        finally:
            timer.join()
    misplaced = (
        "SELECT count(*) FROM step_progress AS p JOIN sessions AS s USING (session_token) "
        "WHERE p.student_id <> s.student_id"
    )
    assert database.query(misplaced) == [(0,)]


def test_rows_written_before_the_triggers_pass_the_same_rules(clone: Clone) -> None:
    """0001 commits before 0002: a write of an endpoint in between meets no trigger."""
    database = clone("legacy")
    upgrade(database, "0001")
    database.execute(BEFORE_HYGIENE)
    upgrade(database, "0002")
    assert database.query(
        "SELECT student_email, student_name, github_username FROM students ORDER BY 1"
    ) == [("alone@example.com", "A", None), ("two@example.com", "Two", "gh-2")]
    assert database.query(
        "SELECT count(*), count(DISTINCT student_id), count(ivr_greeting) FROM sessions"
    ) == [(3, 2, 0)]
    assert database.query(
        "SELECT DISTINCT step_number, step_name, validation_passed, attempts FROM step_progress ORDER BY 1"
    ) == [
        (2, "Choose Use Case", True, 1),
        (3, "Provision Services", True, 3),
    ]
    for table in ("sessions", "step_progress", "events"):
        left = f"SELECT count(*) FROM {table} WHERE student_id NOT IN (SELECT student_id FROM students)"
        assert database.query(left) == [(0,)], table
    upgrade(database)
    assert failed_checks(database) == []
    assert database.query("SELECT count(*) FROM sessions WHERE session_token ~ '^ws_early'") == [
        (3,)
    ]


def test_students_without_an_address_are_not_one_student(clone: Clone) -> None:
    database = clone("legacy")
    upgrade(database, "0001")
    database.execute("INSERT INTO students (student_email) VALUES (''), (' ')")
    upgrade(database, "0002")
    assert database.query("SELECT count(*) FROM students") == [(2,)]


def test_a_key_of_another_owner_stays(clone: Clone) -> None:
    """Its name begins like one of ours."""
    database = clone("0004")
    database.execute(
        "ALTER TABLE events ADD CONSTRAINT fk_events FOREIGN KEY (student_id) REFERENCES students NOT VALID"
    )
    query = "SELECT convalidated FROM pg_constraint WHERE conname = 'fk_events'"
    upgrade(database, "0005")
    assert database.query(query) == [(False,)]


def test_keys_end_no_request(clone: Clone) -> None:
    """Two tables, in the opposite order: the migrator fails, not the application."""
    database = clone("0004")
    database.execute(MISPLACED_STEP)
    database.execute("INSERT INTO events (session_token, event_type) VALUES ('nowhere', 'odd')")
    errors: list[str] = []
    with closing(database.connect(autocommit=False)) as v2:
        v2.execute("UPDATE events SET event_type = 'odd' WHERE event_type = 'odd'")

        def go_on() -> None:
            time.sleep(2)
            try:
                v2.execute(TOUCH_STEP)
                v2.commit()
            except psycopg.Error as error:
                errors.append(type(error).__name__)
                v2.rollback()

        thread = threading.Thread(target=go_on)
        thread.start()
        upgrade(database, "0005")
        thread.join()
    assert errors == []


@pytest.mark.parametrize("in_one_transaction", [False, True])
def test_up_down_up_on_one_connection(clone: Clone, in_one_transaction: bool) -> None:
    database = clone("0004")
    with database.engine() as engine, engine.connect() as connection:
        config = alembic_config(database.url)
        config.attributes["connection"] = connection
        if in_one_transaction:
            connection.begin()
        command.upgrade(config, "0005")
        command.downgrade(config, "0004")
        command.upgrade(config, "0005")
        if in_one_transaction:
            connection.commit()
    assert database.query("SELECT version_num FROM alembic_version") == [("0005_keys_and_indexes",)]


def test_an_index_of_a_run_that_was_killed_is_built_anew(clone: Clone) -> None:
    """0005 commits between its indexes; an object with the name of an index is not mistaken for it."""
    database = clone("0004")
    query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    before = database.query(query)
    database.execute("CREATE INDEX ix_events_event_type ON events (created_at)")
    upgrade(database, "0005")
    assert dict(database.query(query))["ix_events_event_type"].endswith("btree (event_type)")
    downgrade(database, "0004")
    assert database.query(query) == before


def test_a_session_written_before_the_bridge_keeps_what_only_it_says(clone: Clone) -> None:
    """A session that workshop_students has as well; an earlier attempt's would be overwritten."""
    database = clone("legacy")
    upgrade(database, "0002")
    ((token, email),) = database.query(
        "SELECT session_token, lower(student_email) FROM workshop_students "
        "WHERE student_email ~ '^[^ ]+@' AND student_email !~ 'unknown' "
        "AND session_token NOT IN (SELECT session_token FROM student_configs) ORDER BY 1 LIMIT 1"
    )
    with database.connect() as application:
        application.execute("INSERT INTO students (student_email) VALUES (%s)", (email,))
        application.execute(
            "INSERT INTO sessions (session_token, student_id, ivr_greeting) "
            "SELECT %s, student_id, 'V2 greeting' FROM students",
            (token,),
        )
        application.execute(
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name, code_submitted) "
            "SELECT session_token, student_id, 9, 'x', 'V2 code' FROM sessions"
        )
    upgrade(database)
    step = "SELECT code_submitted FROM step_progress WHERE session_token = %s AND step_number = 9"
    assert database.query(step, token) == [("V2 code",)]
    greeting = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"
    assert database.query(greeting, token) == [("V2 greeting",)]
    assert failed_checks(database) == []


def test_a_step_that_comes_while_its_session_is_applied_stays(clone: Clone) -> None:
    """It waits for the session; neither write is lost."""
    database = clone("0004")
    ((token,),) = database.query(
        "SELECT session_token FROM student_configs JOIN sessions USING (session_token) "
        "WHERE session_token NOT IN (SELECT session_token FROM step_progress WHERE step_number = 9) LIMIT 1"
    )
    change = "UPDATE student_configs SET ivr_greeting = 'old' WHERE session_token = %s"
    with (
        closing(database.connect()) as application,
        closing(database.connect()) as watching,
        closing(database.connect()) as applier,
        closing(database.connect(autocommit=False)) as holder,
        ThreadPoolExecutor() as threads,
    ):
        application.execute(change.encode(), (token,))
        holder.execute(HOLD_STUDENTS)
        applying = apply_until_blocked(threads, applier, token, watching)
        step = threads.submit(
            application.execute,
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts) "
            "SELECT session_token, student_id, 9, 'x', 7 FROM sessions WHERE session_token = %s",
            (token,),
        )
        time.sleep(0.2)
        holder.rollback()
        applying.result()
        step.result()
    upgrade(database, "0006")
    attempts = "SELECT attempts FROM step_progress WHERE session_token = %s AND step_number = 9"
    assert database.query(attempts, token) == [(7,)]
    greeting = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"
    assert database.query(greeting, token) == [("old",)]
    assert failed_checks(database) == []


def test_endpoints_go_on_writing_while_rows_are_checked_against_the_keys(clone: Clone) -> None:
    """No write waits for the check of all rows, and from its start no write adds an orphan."""
    database = clone("0004")
    database.execute("""
        CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM pg_constraint WHERE conname = 'fk_events_session_token_sessions') THEN
                PERFORM pg_advisory_xact_lock(4711);
            END IF;
        END $$;
        CREATE EVENT TRIGGER hold ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION hold()
    """)
    keys = "SELECT DISTINCT convalidated FROM pg_constraint WHERE conname ~ '^fk_(sessions|step|events)'"
    with database.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("SELECT pg_advisory_lock(4711)")
        running = pool.submit(upgrade, database, "0005")
        try:
            while not (found := database.query(keys)):
                assert not running.done()
                time.sleep(0.02)
            assert found == [(False,)]
            database.execute(
                f"SET lock_timeout = '1s'; {MISPLACED_STEP.replace('gen_random_uuid()', 'student_id')}"
            )
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                database.execute(ORPHAN)
            assert database.query("SELECT version_num ~ '^0004' FROM alembic_version") == [(True,)]
        finally:
            holder.execute("SELECT pg_advisory_unlock(4711)")
        running.result()
    assert database.query(keys) == [(True,)]


def test_a_key_of_a_run_that_was_killed_is_built_anew(clone: Clone) -> None:
    database = clone("0004")
    query = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    upgrade(database, "0005")
    complete = database.query(query)
    downgrade(database, "0004")
    database.execute("""
        ALTER TABLE events ADD CONSTRAINT fk_events_session_token_sessions
            FOREIGN KEY (session_token) REFERENCES sessions (session_token) NOT VALID
    """)
    upgrade(database, "0005")
    assert database.query(query) == complete


def test_an_index_of_another_table_stays(clone: Clone) -> None:
    database = clone("0004")
    database.execute(
        "CREATE TABLE audit (at timestamptz); CREATE INDEX ix_events_event_type ON audit (at)"
    )
    with pytest.raises(CommandError, match='"ix_events_event_type" already exists'):
        upgrade(database, "0005")
    assert database.query("SELECT count(*) FROM pg_indexes WHERE tablename = 'audit'") == [(1,)]


def test_an_upgrade_after_a_refused_downgrade(clone: Clone) -> None:
    """As its hint recommends: upgrade again. The tables are writable then."""
    database = clone("head")
    ((token,),) = database.query("SELECT max(session_token) FROM student_configs")
    downgrade(database, "0004")
    greet = "UPDATE sessions SET ivr_greeting = '{}' WHERE session_token = '{}'"
    with closing(database.connect(autocommit=False)) as holder:
        holder.execute("SELECT FROM student_configs WHERE session_token = %s FOR UPDATE", (token,))
        database.execute(greet.format("V2", token))
        with pytest.raises(CommandError, match="could not be handed back"):
            downgrade(database, "0003")
        holder.rollback()
    upgrade(database)
    database.execute(greet.format("V3", token))
    query = "SELECT ivr_greeting FROM student_configs WHERE session_token = %s"
    assert database.query(query, token) == [("V3",)]


# --- everything is verified -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "reached", "named"),
    [
        ("openai_api_key", "0003", "API keys: byte for byte"),
        ("ivr_greeting", "0006", r"sessions\.ivr_greeting differs"),
    ],
)
def test_rows_that_are_changed_behind_the_backfill_are_found(
    clone: Clone, column: str, reached: str, named: str
) -> None:
    """The counts of 0004 find another key; the comparison before the cut-over finds other values."""
    database = clone("0003")
    database.execute(f"""
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF pg_trigger_depth() = 1 THEN
                UPDATE public.sessions SET {column} = 'SPOILT' WHERE session_token = NEW.session_token;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER spoil AFTER INSERT ON sessions FOR EACH ROW WHEN (NEW.{column} IS NOT NULL)
            EXECUTE FUNCTION spoil()
    """)
    with pytest.raises(CommandError, match=named):
        upgrade(database)
    assert database.query("SELECT left(version_num, 4) FROM alembic_version") == [(reached,)]


def test_an_old_row_that_is_changed_with_triggers_off_is_found(clone: Clone) -> None:
    """Between the chunk that read it and the verification before the cut-over."""
    database = clone("0003")
    ((token,),) = database.query(
        "SELECT max(session_token) FROM student_configs WHERE ivr_greeting > 'A'"
    )
    database.execute(f"""
        CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.merged_at IS NOT NULL AND OLD.merged_at IS NULL THEN
                SET LOCAL session_replication_role = replica;
                UPDATE public.student_configs SET ivr_greeting = 'mended' WHERE session_token = '{token}';
                SET LOCAL session_replication_role = origin;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER meanwhile AFTER UPDATE ON bridge.state FOR EACH ROW EXECUTE FUNCTION meanwhile()
    """)
    with pytest.raises(CommandError, match=r"sessions\.ivr_greeting differs"):
        upgrade(database)


ARRIVALS = """
    CREATE OR REPLACE FUNCTION bridge.next_size(size integer, most integer, took interval) RETURNS integer
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.student_configs (session_token)
        SELECT 'zz' || lpad((1 + count(*))::text, 9, '0') FROM public.student_configs;
        RETURN 20;
    END
    $$
"""
"""After each chunk an application inserts a session, the last one in key order."""


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("0003", "backfill"),
        ("0004", "CALL bridge.merge()"),
        ("0004", "CALL bridge.run_checks(NULL)"),
        ("0004", "hand_back"),
    ],
)
def test_sessions_that_come_meanwhile_do_not_keep_it_from_its_end(
    clone: Clone, state: str, action: str
) -> None:
    database = clone(state)
    database.execute("CALL bridge.drain()")
    ((definition,),) = database.query(
        "SELECT pg_get_functiondef('bridge.next_size'::regproc::regprocedure)"
    )
    database.execute(ARRIVALS)
    with closing(database.connect()) as migrator:
        migrator.execute("SET statement_timeout = '30s'")
        if action == "hand_back":
            hand_back(migrator)
        elif action == "backfill":
            backfill(migrator)
        else:
            migrator.execute(action.encode())
    arrived = (
        "SELECT count(*) > 3, count(*) < 1000 FROM student_configs WHERE session_token LIKE 'zz0%'"
    )
    assert database.query(arrived) == [(True, True)]
    database.execute(definition)
    if action != "hand_back":
        upgrade(database)
        assert failed_checks(database) == []


def test_what_was_logged_before_syncing_began_goes_with_the_first_write(clone: Clone) -> None:
    """From 0005 on each write is applied at once, and applies older changes."""
    database = clone("0004")
    greet = "UPDATE student_configs SET ivr_greeting = '{}' WHERE session_token = '{}'"
    logged = "SELECT count(*) FROM bridge.change_log"
    tokens = [
        token for (token,) in database.query("SELECT session_token FROM student_configs LIMIT 2")
    ]
    upgrade(database, "0005")
    database.execute("UPDATE bridge.state SET sync = false")
    database.execute(greet.format("left", tokens[0]))
    database.execute("UPDATE bridge.state SET sync = true")
    assert database.query(logged) == [(1,)]
    database.execute(greet.format("at once", tokens[1]))
    assert database.query(logged) == [(0,)]
    query = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"
    assert [database.query(query, token) for token in tokens] == [[("left",)], [("at once",)]]
    assert failed_checks(database) == []


def test_what_was_left_goes_with_writers_of_new_connections(migrated: Database) -> None:
    """Each connection plans first, as functions without a pool do, and still applies older changes."""
    tokens = [
        token
        for (token,) in migrated.query(
            "SELECT session_token FROM sessions JOIN workshop_students USING (session_token) "
            "ORDER BY md5(session_token) LIMIT 60"
        )
    ]
    spend = "UPDATE workshop_students SET total_time_spent = {} WHERE session_token = '{}'"
    with closing(migrated.connect(autocommit=False)) as holder:
        holder.execute("SELECT FROM sessions WHERE session_token = %s FOR UPDATE", (tokens[0],))
        migrated.execute(spend.format(77, tokens[0]))
        holder.rollback()
    logged = "SELECT count(*) FROM bridge.change_log"
    assert migrated.query(logged) == [(1,)]
    for number, token in enumerate(tokens[1:]):
        migrated.execute(spend.format(number, token))
    assert migrated.query(logged) == [(0,)]


@pytest.mark.parametrize("end", ["head", "base"])
@pytest.mark.parametrize("stage", ["0002", "0003"])
def test_a_session_inserted_early_resets_no_column(clone: Clone, stage: str, end: str) -> None:
    """Its defaults are no values, and a later legacy save counts for the columns that it changed."""
    database = clone("legacy")
    upgrade(database, stage)
    row = (
        "SELECT system_prompt, twilio_connected, started_at FROM student_configs "
        "JOIN workshop_students USING (session_token)"
    )
    ((token, email),) = database.query(
        "SELECT session_token, c.student_email FROM student_configs AS c JOIN workshop_students USING (session_token) "
        "WHERE system_prompt <> '' AND selected_voice <> '' AND twilio_connected AND c.student_email <> '' "
        "ORDER BY 1 LIMIT 1"
    )
    before = database.query(f"{row} WHERE session_token = %s", token)
    database.execute(
        f"""
        INSERT INTO students (student_email) VALUES ('{email}');
        UPDATE workshop_students SET exercises = '{{"exercise-1": {{"completed": true}}}}'
        WHERE session_token = '{token}';
        INSERT INTO sessions (session_token, student_id, selected_voice, exercises)
        SELECT '{token}', student_id, 'early', '{{"exercise-2": {{"completed": true}}}}' FROM students
        """
    )
    upgrade(database, "0003")
    database.execute(
        f"UPDATE student_configs SET websocket_url = 'wss://later' WHERE session_token = '{token}'"
    )
    if end == "head":
        upgrade(database)
        assert failed_checks(database) == []
        assert (
            database.query(
                "SELECT system_prompt, twilio_connected, started_at FROM sessions WHERE session_token = %s",
                token,
            )
            == before
        )
    else:
        downgrade(database)
    assert database.query(f"{row} WHERE session_token = %s", token) == before
    assert database.query(
        "SELECT selected_voice, websocket_url FROM student_configs WHERE session_token = %s", token
    ) == [("early", "wss://later")]
    keys = "SELECT jsonb_object_keys(exercises) FROM workshop_students WHERE session_token = %s"
    assert {key for (key,) in database.query(keys, token)} == {"exercise-1", "exercise-2"}


@pytest.mark.parametrize("first", ["legacy", "unified"])
def test_two_insertions_of_a_token_that_could_not_sync_keep_both(clone: Clone, first: str) -> None:
    database = clone("0006")
    database.execute("INSERT INTO students (student_email) VALUES ('both@example.com')")
    inserted = {
        "legacy": "INSERT INTO student_configs (session_token, student_email, system_prompt) "
        "VALUES ('ws_both', 'both@example.com', 'Hi')",
        "unified": "INSERT INTO sessions (session_token, student_id, selected_voice) "
        "SELECT 'ws_both', student_id, 'new' FROM students WHERE student_email = 'both@example.com'",
    }
    database.execute(f"BEGIN ISOLATION LEVEL SERIALIZABLE; {inserted.pop(first)}; COMMIT")
    database.execute(*inserted.values())
    for table in ("student_configs", "sessions"):
        query = f"SELECT system_prompt, selected_voice FROM {table} WHERE session_token = 'ws_both'"
        assert database.query(query) == [("Hi", "new")]
    assert failed_checks(database) == []


OF_BOTH = (
    "(SELECT min(session_token) FROM student_configs "
    "JOIN workshop_students USING (session_token) WHERE repo_created)"
)
EARLY_STUDENT = (
    "INSERT INTO students (student_email, created_at) VALUES ('early@example.org', '2019-05-05')"
)
EARLY_SESSION = (
    "INSERT INTO sessions (session_token, student_id, created_at, started_at, exercises) "
    "SELECT {token}, student_id, '2019-06-06', '2019-06-06', '{exercises}' FROM students "
    "WHERE student_email = 'early@example.org'"
)
EARLY_STEP = (
    "INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed, attempts, "
    "code_submitted, started_at) "
    "SELECT session_token, student_id, 5, 'WebSocket Handler', {passed}, 3, 'code', '2019-07-07' FROM sessions"
)
LEGACY_STEP = (
    "UPDATE workshop_students SET exercises = "
    '\'{{"step-5-websocket-handler": {{"completed": true, "attempts": 4, "note": 1}}}}\' WHERE session_token = {token}'
)
ROWS_OF_ALL = """
    SELECT to_jsonb(st) - ARRAY['student_id', 'updated_at'] FROM students AS st WHERE student_email ~ '^early'
    UNION ALL
    SELECT to_jsonb(v) - ARRAY['student_id', 'last_activity', 'updated_at', 'expires_at', 'is_active']
    FROM sessions AS v
    UNION ALL SELECT to_jsonb(sp) - ARRAY['student_id', 'created_at', 'updated_at'] FROM step_progress AS sp
    ORDER BY 1
"""


@pytest.mark.parametrize("target", ["base", "0002"])
@pytest.mark.parametrize(
    ("exercises", "step", "legacy_step"),
    [
        ("{}", None, False),
        ("{}", "false", False),
        ('{"step-5": {"completed": true, "attempts": 2}}', "false", False),
        ('{"step-5": {"completed": false, "attempts": 2}}', "true", True),
    ],
    ids=["no step", "step alone", "step in both", "step everywhere"],
)
@pytest.mark.parametrize("token", ["'early'", OF_BOTH], ids=["new", "in the legacy tables"])
def test_an_early_session_is_the_same_after_a_downgrade_and_an_upgrade(
    clone: Clone, token: str, exercises: str, step: str | None, legacy_step: bool, target: str
) -> None:
    rows = []
    for way in ((), (target,)):
        database = clone("0003")
        for statement in (
            *([LEGACY_STEP] if legacy_step else []),
            EARLY_STUDENT,
            EARLY_SESSION.replace("{exercises}", exercises.replace("{", "{{").replace("}", "}}")),
            *([EARLY_STEP] if step else []),
        ):
            database.execute(statement.format(token=token, passed=step))
        for revision in way:
            downgrade(database, revision)
        upgrade(database)
        assert failed_checks(database) == []
        rows.append(database.query(ROWS_OF_ALL))
    assert [row for row in rows[0] if row not in rows[1]] == []
    assert [row for row in rows[1] if row not in rows[0]] == []
