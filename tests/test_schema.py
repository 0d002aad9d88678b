"""The unified schema: models and revisions agree, and the triggers clean the tables."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pytest_regressions.file_regression import FileRegressionFixture
from sqlalchemy import select
from sqlalchemy.orm import Session

from models import FLAGS, STEPS, Base, Event, StepProgress, Student, WorkshopSession
from support.catalogs import COMMITTED, catalog, in_lines
from support.databases import ROOT, Clone, Database

Connection = psycopg.Connection[tuple[Any, ...]]
STUDENT = "00000000-0000-4000-8000-000000000001"
TABLES = ("students", "sessions", "step_progress", "events")


# --- models and revisions -------------------------------------------------------------------------


def test_the_models_and_the_revisions_describe_the_same_schema(
    clone: Clone, file_regression: FileRegressionFixture
) -> None:
    """Tables as at head, with 0005's keys and indexes; functions and triggers at 0002.

    The objects of both at head are in tests/catalogs/head.txt; --regen-all writes it anew.
    """
    by_models, at_0002, head = clone("empty"), clone("0002"), clone("fresh")
    with by_models.engine() as engine, engine.begin() as connection:
        Base.metadata.create_all(connection)
    sql = ROOT / "alembic" / "sql"
    functions = sql / "0001_unified_schema" / "01_functions.sql"
    for file in [functions, *sorted((sql / "0002_progress_tracking").glob("0*.sql"))]:
        by_models.execute(file.read_text(encoding="utf-8"))

    kinds = ("schema", "table", "sequence", "column", "constraint", "index")
    views = [f" {name.split()[1]}." for name in catalog(head, "view")]
    expected = {
        name: definition
        for name, definition in catalog(head, *kinds).items()
        if "alembic_version" not in name and not any(view in name for view in views)
    }
    assert catalog(by_models, *kinds) == expected
    assert len(expected) > 100
    assert catalog(by_models, "function", "trigger") == catalog(at_0002, "function", "trigger")
    lines = in_lines(catalog(head))
    file_regression.check("\n".join(lines) + "\n", fullpath=COMMITTED / "head.txt")


def test_what_switches_planner_methods_off_switches_jit_off(clone: Clone) -> None:
    """A disabled method costs 1e10, and PostgreSQL compiles such queries: 30 ms a statement."""
    for state in ("0003", "0006", "head", "fresh"):
        found = clone(state).query(
            """
            SELECT p.oid::regprocedure::text
            FROM pg_proc AS p
            WHERE EXISTS (SELECT FROM unnest(p.proconfig) AS s WHERE s ~ '^enable_.*=(off|false|no|0)$')
              AND NOT 'jit=off' = ANY (p.proconfig)
            ORDER BY 1
            """
        )
        assert found == [], state


def test_every_table_and_column_has_a_comment() -> None:
    for table in Base.metadata.sorted_tables:
        assert table.comment
        assert [column.name for column in table.columns if not column.comment] == []
    assert {table.name for table in Base.metadata.sorted_tables} == set(TABLES)


def test_the_steps_are_the_same_in_python_and_in_sql(migrated: Database) -> None:
    assert migrated.query("SELECT * FROM workshop_steps() ORDER BY 1") == [
        (step.number, step.name, step.exercise_key, step.early_key) for step in STEPS
    ]
    assert set(FLAGS) <= set(WorkshopSession.__table__.columns.keys())
    arguments = sorted({flag for step in STEPS for flag in step.done_when})
    assert len(arguments) == 10
    for step in STEPS:
        for flags, expected in (
            (set(step.done_when), [step.number]),
            (set(step.done_when[:-1]), []),
        ):
            named = ", ".join(f"{name} => {name in flags}" for name in arguments)
            query = f"SELECT session_steps_done({named}, passed => NULL)"
            assert migrated.query(query) == [(expected,)]
        for name in (step.name, step.exercise_key, step.early_key, f"exercise-{step.number}"):
            assert migrated.query("SELECT step_number_of(%s)", name) == [(step.number,)]


def test_objects_come_and_go(clone: Clone) -> None:
    with clone("fresh").engine() as engine, Session(engine) as session:
        student = Student(student_id=uuid4(), student_email=" New@Example.COM ")
        run = WorkshopSession(session_token="ws_model", student=student, tools=[{"name": "x"}])
        session.add_all([student, run, Event(event_type="greeting", session=run, student=student)])
        session.flush()
        run.steps.append(
            StepProgress(
                step_number=2,
                step_name="Choose Use Case",
                student_id=student.student_id,
                validation_passed=True,
            )
        )
        session.commit()
        assert (student.student_email, run.completion_rate) == ("new@example.com", 11)
        assert run.exercises["step-2-choose-use-case"]["completed"] is True
        assert run.started_at is not None
        assert (run.expires_at - run.started_at).days == 30
        session.delete(student)
        session.commit()
        (event,) = session.scalars(select(Event))
        assert (event.student_id, event.session_token) == (None, None)
        assert session.scalars(select(StepProgress)).all() == []


# --- hygiene --------------------------------------------------------------------------------------


@pytest.fixture
def connection(clone: Clone) -> Iterator[Connection]:
    """A connection to a fresh install at head, with one student and one session."""
    with clone("fresh").connect() as connection:
        connection.execute(
            "INSERT INTO students (student_id, student_email) VALUES (%s, 'ada@example.com')",
            (STUDENT,),
        )
        connection.execute(
            "INSERT INTO sessions (session_token, student_id) VALUES ('t', %s)", (STUDENT,)
        )
        yield connection


def one(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0] if len(row) == 1 else row


def put_step(connection: Connection, number: int, name: str, passed: bool = True) -> None:
    """The application's own upsert."""
    connection.execute(
        """
        INSERT INTO step_progress (session_token, student_id, step_number, step_name,
                                   validation_passed, time_spent)
        VALUES ('t', %s, %s, %s, %s, 60)
        ON CONFLICT (session_token, step_number)
        DO UPDATE SET validation_passed = EXCLUDED.validation_passed,
                      attempts = step_progress.attempts + 1
        """,
        (STUDENT, number, name, passed),
    )


@pytest.mark.parametrize("email", ["ADA@example.com", " ada@Example.com\r\n", "\tada@example.com"])
def test_the_applications_upsert_of_a_student(connection: Connection, email: str) -> None:
    found = one(
        connection,
        "INSERT INTO students (student_email, student_name) VALUES (%s, 'Ada') "
        "ON CONFLICT (student_email) DO UPDATE SET student_name = EXCLUDED.student_name "
        "RETURNING student_id::text, student_email",
        email,
    )
    assert found == (STUDENT, "ada@example.com")
    assert one(connection, "SELECT count(*) FROM students") == 1


@pytest.mark.parametrize("letter", ["v", "f", "n", "t", "r"])
def test_an_address_keeps_its_letters(connection: Connection, letter: str) -> None:
    email = f"{letter}ic@example.de{letter}"
    connection.execute("INSERT INTO students (student_email) VALUES (%s)", (email,))
    assert one(connection, "SELECT count(*) FROM students WHERE student_email = %s", email) == 1


@pytest.mark.parametrize("email", [None, "", " \t"])
def test_a_student_needs_an_address(connection: Connection, email: str | None) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        connection.execute("INSERT INTO students (student_email) VALUES (%s)", (email,))


def test_a_students_id_never_changes(connection: Connection) -> None:
    connection.execute("UPDATE students SET student_id = student_id, student_name = 'Ada'")
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="immutable"):
        connection.execute("UPDATE students SET student_id = gen_random_uuid()")


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("tools", '"[{\\"a\\": 1}]"', [{"a": 1}]),
        ("tools", '"\\"[]\\""', []),
        ("tools", "null", []),
        ("voice_settings", '"{\\"speed\\": 1}"', {"speed": 1}),
        ("exercises", '"{}"', {}),
        ("bug_reports", '["kept"]', ["kept"]),
    ],
)
def test_wrapped_json_is_unwrapped(
    connection: Connection, column: str, value: str, stored: object
) -> None:
    assert one(connection, f"UPDATE sessions SET {column} = %s RETURNING {column}", value) == stored


@pytest.mark.parametrize("value", ["{}", '"no JSON"', "1"])
def test_json_of_another_type_is_refused(connection: Connection, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE sessions SET tools = %s", (value,))


def test_empty_text_is_null_and_a_space_is_not(connection: Connection) -> None:
    query = "UPDATE sessions SET ivr_greeting = '', system_prompt = ' ' RETURNING ivr_greeting, system_prompt"
    assert one(connection, query) == (None, " ")


@pytest.mark.parametrize(
    ("number", "name", "step"),
    [
        (0, "Connect Accounts", 1),
        (6, "Custom AI Prompt", 7),
        (8, "Final Deployment", 9),
        (1, "step-1-connect-accounts", 1),
        (3, "provision-number", 3),
        (4, "anything else", 4),
    ],
)
def test_the_name_says_which_step_it_is(
    connection: Connection, number: int, name: str, step: int
) -> None:
    for _ in range(2):  # the upsert hits the same row again
        put_step(connection, number, name)
    rows = connection.execute("SELECT step_number, attempts FROM step_progress").fetchall()
    assert rows == [(step, 1)]


def test_events_hold_json_not_its_text(connection: Connection) -> None:
    query = "INSERT INTO events (event_type, event_data) VALUES ('x', %s) RETURNING event_data"
    assert one(connection, query, '"{\\"step\\": 1}"') == {"step": 1}


def test_updated_at_follows_changes_only(connection: Connection) -> None:
    query = "SELECT updated_at FROM sessions"
    first = one(connection, query)
    connection.execute("UPDATE sessions SET demo_mode = demo_mode")
    assert one(connection, query) == first
    connection.execute("UPDATE sessions SET demo_mode = true")
    second = one(connection, query)
    assert second > first
    connection.execute("UPDATE sessions SET updated_at = '2025-01-01Z'")
    assert one(connection, query) < first


# --- progress -------------------------------------------------------------------------------------


def test_completion_follows_flags_and_steps(connection: Connection) -> None:
    rate = "SELECT completion_rate FROM sessions"
    assert one(connection, rate) == 0
    connection.execute("UPDATE sessions SET twilio_connected = true")
    assert one(connection, rate) == 0
    connection.execute("UPDATE sessions SET openai_connected = true, completion_rate = 77")
    assert one(connection, rate) == 11
    put_step(connection, 1, "Choose Use Case")
    assert one(connection, rate) == 22
    put_step(connection, 1, "Choose Use Case", passed=False)
    assert one(connection, rate) == 11
    put_step(connection, 9, "step-9-multichannel")
    connection.execute("UPDATE sessions SET project_deployed = true")
    assert one(connection, rate) == 22
    connection.execute("DELETE FROM step_progress WHERE step_number = 9")
    assert one(connection, rate) == 22
    connection.execute(
        f"UPDATE sessions SET ({', '.join(FLAGS)}) = ({', '.join(['true'] * 21)})".encode()
    )
    assert one(connection, rate) == 100


def test_exercises_follow_the_steps(connection: Connection) -> None:
    connection.execute(
        "UPDATE sessions SET exercises = %s",
        ('{"exercise-2": {"completed": false, "hint": 1}, "unknown": {"kept": true}}',),
    )
    put_step(connection, 2, "choose-use-case")
    connection.execute("UPDATE step_progress SET time_spent = 60")
    exercises = one(connection, "SELECT exercises FROM sessions")
    assert exercises["unknown"] == {"kept": True}
    assert exercises["exercise-2"]["completed"] is True
    assert exercises["exercise-2"]["hint"] == 1
    assert exercises["exercise-2"]["timeSpent"] == 60
    assert exercises.keys() == {"exercise-2", "unknown"}


def test_steps_follow_the_exercises(connection: Connection) -> None:
    put_step(connection, 2, "choose-use-case")
    connection.execute(
        "UPDATE step_progress SET code_submitted = 'print()', started_at = '2025-11-01Z'"
    )
    steps = """
        SELECT json_agg(json_build_array(step_number, step_name, validation_passed, time_spent, code_submitted)
                        ORDER BY step_number) FROM step_progress
    """
    connection.execute(
        "UPDATE sessions SET exercises = exercises || %s",
        ('{"step-2-choose-use-case": {"completed": true, "timeSpent": 90}, "exercise-4": true}',),
    )
    # values of a step that exercises cannot hold stay
    assert one(connection, steps) == [
        [2, "Choose Use Case", True, 90, "print()"],
        [4, "Basic TwiML", True, 0, None],
    ]
    assert one(connection, "SELECT completion_rate FROM sessions") == 22
    connection.execute("UPDATE sessions SET exercises = exercises - 'exercise-4'")
    assert one(connection, steps) == [[2, "Choose Use Case", True, 90, "print()"]]
    assert one(connection, "SELECT completion_rate FROM sessions") == 11


def test_steps_and_exercises_end_following_each_other(
    connection: Connection,
) -> None:
    """The two triggers end: neither writes the value that the other one has just written."""
    put_step(connection, 2, "choose-use-case")
    query = "SELECT exercises, (SELECT max(attempts) FROM step_progress) FROM sessions"
    found = one(connection, query)
    connection.execute("UPDATE sessions SET exercises = %s", (json.dumps(found[0]),))
    connection.execute("UPDATE step_progress SET attempts = attempts")
    assert one(connection, query) == found


def test_exercises_take_up_a_step_that_they_lack(connection: Connection) -> None:
    put_step(connection, 2, "choose-use-case", passed=False)
    (key, entry) = one(connection, "SELECT key, value FROM sessions, jsonb_each(exercises)")
    assert key == "step-2-choose-use-case"
    assert entry == {"completed": False, "timestamp": None, "timeSpent": 60, "attempts": 0}
    connection.execute(
        "UPDATE step_progress SET validation_passed = true, completed_at = '2025-11-02 10:00Z', "
        "time_spent = 90, attempts = 2"
    )
    entry = one(connection, "SELECT exercises -> 'step-2-choose-use-case' FROM sessions")
    assert (entry["completed"], entry["timeSpent"], entry["attempts"]) == (True, 90, 2)
    assert entry["timestamp"].startswith("2025-11-02T10:00:00")
    assert one(
        connection,
        "SELECT (e.completed_at, e.time_spent, e.attempts, e.validation_passed) = "
        "(p.completed_at, p.time_spent, p.attempts, p.validation_passed) "
        "FROM sessions AS s JOIN step_progress AS p USING (session_token), "
        "exercise_steps(s.exercises) AS e",
    )


def test_update_session_progress(connection: Connection) -> None:
    connection.execute("UPDATE sessions SET last_activity = '2025-01-01Z', services_ready = true")
    connection.execute("SELECT update_session_progress('t')")
    assert one(connection, "SELECT total_time_spent FROM sessions") == 0
    put_step(connection, 4, "step-4-basic-twiml")
    put_step(connection, 6, "step-6-conversation-relay", passed=False)
    connection.execute("SELECT update_session_progress('t'), update_session_progress('unknown')")
    query = """
        SELECT completion_rate, current_step, total_time_spent, now() - last_activity < '1 minute'
        FROM sessions
    """
    assert one(connection, query) == (22, 4, 120, True)
    connection.execute("UPDATE sessions SET current_step = 8, total_time_spent = 9999")
    connection.execute("SELECT update_session_progress('t')")
    assert one(connection, query) == (22, 8, 9999, True)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("sessions", "current_step = 10"),
        ("sessions", "current_step = -1"),
        ("sessions", "total_time_spent = -1"),
        ("step_progress", "step_number = 10, step_name = 'x'"),
        ("step_progress", "attempts = -1"),
        ("step_progress", "time_spent = -1"),
    ],
)
def test_checks(connection: Connection, table: str, change: str) -> None:
    put_step(connection, 4, "step-4")
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE {table} SET {change}".encode())


def test_a_student_takes_the_sessions_along_and_leaves_the_trail(connection: Connection) -> None:
    put_step(connection, 4, "step-4")
    connection.execute(
        "INSERT INTO events (student_id, session_token, event_type) VALUES (%s, 't', 'x')",
        (STUDENT,),
    )
    connection.execute("DELETE FROM students")
    assert one(connection, "SELECT count(*) FROM sessions") == 0
    assert one(connection, "SELECT count(*) FROM step_progress") == 0
    assert one(connection, "SELECT student_id, session_token, event_type FROM events") == (
        None,
        None,
        "x",
    )


# --- reporting ------------------------------------------------------------------------------


def test_the_overview_shows_no_secret(migrated: Database) -> None:
    with migrated.connect() as connection:
        cursor = connection.execute("SELECT * FROM session_overview")
        assert cursor.rowcount == 213
        names = [column.name for column in cursor.description or ()]
    secrets = {"openai_api_key", "system_prompt", "legacy_extra", "tools", "voice_settings"}
    assert not secrets & set(names)
    assert set(FLAGS) <= set(names)
    assert {"has_api_key", "has_system_prompt", "has_tools", "student_email", "expires_at"} <= set(
        names
    )
    leaks = """
        SELECT count(*) FROM session_overview AS o JOIN sessions AS s USING (session_token)
        WHERE strpos(to_jsonb(o)::text, s.openai_api_key) > 0
    """
    assert migrated.query(leaks) == [(0,)]
