"""Sequences of writes on both sides that lost or reverted a value: each keeps what was committed last."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from support.databases import Clone, Database, failed_checks
from support.oracle import CONFIG, PROGRESS
from support.sides import legacy, logged_only, token_of, unified

EMAIL = "both@example.org"
MOVED, THIRD = "moved@example.org", "third@example.org"
NEW_ADDRESS = f"UPDATE students SET student_email = '{MOVED}' WHERE student_email = '{EMAIL}'"


@pytest.fixture
def database(clone: Clone) -> Database:
    """At 0006: both sides are tables, and each write is applied at commit."""
    return clone("0006")


@pytest.fixture
def token(database: Database) -> str:
    return token_of(database)


def one(database: Database, query: str, *parameters: object) -> Any:
    ((value,),) = database.query(query, *parameters)
    return value


def settled(database: Database) -> None:
    assert database.query("SELECT token, side FROM bridge.change_log") == []
    assert failed_checks(database) == []


STEPS = """
    SELECT step_number, code_submitted, completed_at::date::text FROM step_progress
    WHERE session_token = %s ORDER BY 1
"""


@pytest.mark.parametrize("state", ["0004", "0006", "head"])
def test_one_statement_on_several_steps_keeps_their_own_columns(clone: Clone, state: str) -> None:
    database = clone(state)
    token = token_of(database)
    of_it = f"WHERE session_token = '{token}'"
    database.execute(f"DELETE FROM step_progress {of_it}")
    database.execute(
        f"""
        INSERT INTO step_progress (
            session_token, student_id, step_number, step_name, code_submitted, validation_passed, completed_at)
        SELECT session_token, student_id, n, step_name_of(n), 'code ' || n, true, make_date(2026, 1, n)
        FROM sessions, generate_series(4, 6) AS n {of_it}
        """
    )
    assert database.query(STEPS, token) == [(n, f"code {n}", f"2026-01-0{n}") for n in (4, 5, 6)]
    database.execute(
        f"UPDATE step_progress SET step_number = 7, step_name = NULL {of_it} AND step_number = 6"
    )
    assert database.query(STEPS, token)[2] == (7, "code 6", "2026-01-06")
    database.execute(
        "UPDATE step_progress "
        f"SET validation_passed = false, completed_at = '2026-02-02', time_spent = time_spent + 1 {of_it}"
    )
    assert {date for _, _, date in database.query(STEPS, token)} == {"2026-02-02"}
    database.execute(f"DELETE FROM step_progress {of_it} AND step_number < 6")
    exercises = (
        "SELECT ARRAY(SELECT e.step_number FROM exercise_steps(exercises) AS e) FROM sessions"
    )
    assert one(database, f"{exercises} WHERE session_token = %s", token) == [7]
    if state != "0004":
        settled(database)


def test_a_session_that_comes_back_keeps_what_the_legacy_tables_cannot_hold(
    database: Database, token: str
) -> None:
    database.execute(
        f"ALTER TABLE {CONFIG} ADD CONSTRAINT short CHECK (length(system_prompt) < 1000) NOT VALID"
    )
    unified(
        database,
        token,
        'system_prompt = repeat(\'long \', 400), legacy_extra = \'{"student_configs": {"k": 1}, "note": 2}\'',
    )
    with logged_only(database):
        for table in (CONFIG, PROGRESS):
            database.execute(f"DELETE FROM {table} WHERE session_token = '{token}'")
        unified(database, token, "ivr_greeting = 'later'")
    kept = "SELECT length(system_prompt), ivr_greeting, legacy_extra #> '{student_configs,k}' FROM sessions"
    assert database.query(f"{kept} WHERE session_token = %s", token) == [(2000, "later", 1)]
    assert database.query(f"SELECT ivr_greeting FROM {CONFIG} WHERE session_token = %s", token) == [
        ("later",)
    ]
    settled(database)
    # a legacy column without a unified one: the others stay
    database.execute(f"ALTER TABLE {CONFIG} ADD COLUMN room text")
    database.execute("CALL bridge.refresh_adapters(true)")
    legacy(database, token, "room = 'blue'")
    extra = "SELECT legacy_extra FROM sessions WHERE session_token = %s"
    both = {"student_configs": {"k": 1, "room": "blue"}, "note": 2}
    assert one(database, extra, token) == both
    settled(database)


def test_a_legacy_row_that_a_repeatable_read_transaction_cannot_see(database: Database) -> None:
    database.execute(
        f"INSERT INTO {CONFIG} (session_token, student_email) VALUES ('rr', '{EMAIL}')"
    )
    with closing(database.connect()) as first:
        first.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM sessions LIMIT 1")
        first.execute(
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed) "
            "SELECT session_token, student_id, 4, 'Basic TwiML', true FROM sessions WHERE session_token = 'rr'"
        )
        database.execute(
            f"INSERT INTO {PROGRESS} (session_token, student_email, exercises) "
            f"""VALUES ('rr', '{EMAIL}', '{{"step-5": {{"completed": true}}}}')"""
        )
        first.execute("COMMIT")
    database.execute("CALL bridge.drain()")
    steps = "SELECT array_agg(step_number ORDER BY step_number) FROM step_progress WHERE session_token = 'rr'"
    assert one(database, steps) == [4, 5]
    settled(database)


@pytest.mark.parametrize("first", ["legacy", "unified"])
def test_the_name_of_a_student_that_both_sides_insert(database: Database, first: str) -> None:
    sides = {
        "unified": f"INSERT INTO students (student_email, student_name) VALUES ('{EMAIL}', 'Name'); "
        "INSERT INTO sessions (session_token, student_id) "
        f"SELECT 't', student_id FROM students WHERE student_email = '{EMAIL}'",
        "legacy": f"INSERT INTO {CONFIG} (session_token, student_email) VALUES ('t', '{EMAIL}')",
    }
    with logged_only(database):
        database.execute(sides.pop(first))
        database.execute(*sides.values())
    name = f"SELECT student_name FROM students WHERE student_email = '{EMAIL}'"
    assert one(database, name) == "Name"
    settled(database)


@pytest.mark.parametrize("writer", ["t1", "t2"])
@pytest.mark.parametrize("last", ["legacy", "unified"])
def test_two_names_of_a_student_with_two_sessions(
    database: Database, writer: str, last: str
) -> None:
    for token in ("t1", "t2"):
        database.execute(
            f"INSERT INTO {PROGRESS} (session_token, student_email, student_name) "
            f"VALUES ('{token}', '{EMAIL}', 'Before')"
        )
    writes = [
        f"UPDATE {PROGRESS} SET student_name = 'Legacy' WHERE session_token = '{writer}'",
        f"UPDATE students SET student_name = 'Unified' WHERE student_email = '{EMAIL}'",
    ]
    with logged_only(database):
        for write in writes if last == "unified" else reversed(writes):
            database.execute(write)
    name = f"SELECT student_name FROM students WHERE student_email = '{EMAIL}'"
    assert one(database, name) == last.capitalize()
    row = f"SELECT student_name FROM {PROGRESS} WHERE session_token = %s"
    assert one(database, row, writer) == last.capitalize()
    settled(database)


def test_a_new_address_and_a_later_legacy_name(database: Database) -> None:
    database.execute(
        f"INSERT INTO {PROGRESS} (session_token, student_email, student_name) VALUES ('t', '{EMAIL}', 'Before')"
    )
    with logged_only(database):
        database.execute(NEW_ADDRESS)
        database.execute(f"UPDATE {PROGRESS} SET student_name = 'Later' WHERE session_token = 't'")
    students = "SELECT student_email, student_name FROM students WHERE student_email = ANY (%s)"
    moved = (MOVED, "Later")
    assert database.query(students, [EMAIL, moved[0]]) == [moved]
    row = f"SELECT student_email, student_name FROM {PROGRESS} WHERE session_token = 't'"
    assert database.query(row) == [moved]
    settled(database)


def test_a_change_of_another_student_decides_no_address(database: Database, token: str) -> None:
    """A legacy row with another address than its session belongs to another student."""
    database.execute(
        f"""
        INSERT INTO {PROGRESS} (session_token, student_email) VALUES ('t', 'first@example.org');
        INSERT INTO {CONFIG} (session_token, student_email) VALUES ('t', '{EMAIL}')
        """
    )
    with logged_only(database):
        database.execute(
            f"UPDATE {PROGRESS} SET student_email = 'new@example.org' WHERE session_token = 't'"
        )
        database.execute(f"UPDATE students SET student_name = 'Z' WHERE student_email = '{EMAIL}'")
    address = "SELECT student_email FROM sessions JOIN students USING (student_id) WHERE session_token = 't'"
    assert one(database, address) == "new@example.org"
    assert (
        one(database, f"SELECT student_email FROM {PROGRESS} WHERE session_token = 't'")
        == "new@example.org"
    )
    settled(database)


def test_a_session_that_is_deleted_and_inserted_again_has_no_step_of_the_first_one(
    database: Database, token: str
) -> None:
    exercises = '{"step-4-basic-twiml": {"completed": true}}'
    unified(database, token, f"exercises = '{exercises}'")
    with logged_only(database):
        legacy(database, token, "system_prompt = 'at the same time'")
        database.execute(
            f"""
            CREATE TEMP TABLE copy AS SELECT * FROM sessions WHERE session_token = '{token}';
            DELETE FROM sessions WHERE session_token = '{token}';
            INSERT INTO sessions (session_token, student_id) SELECT session_token, student_id FROM copy
            """
        )
    assert one(database, "SELECT exercises FROM sessions WHERE session_token = %s", token) == {}
    settled(database)


ROW = "INSERT INTO {} (session_token, student_email, student_name) VALUES ('{}', '{}', '{}');"


def students_of(database: Database, *emails: str) -> list[tuple[Any, ...]]:
    return database.query(
        "SELECT student_email, student_name FROM students WHERE student_email = ANY (%s) ORDER BY 1",
        list(emails),
    )


@pytest.mark.parametrize("state", ["0004", "0006"])
def test_a_session_that_comes_with_exercises_after_its_step(clone: Clone, state: str) -> None:
    database = clone(state)
    database.execute(f"INSERT INTO students (student_email) VALUES ('{EMAIL}')")
    step = (
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed) "
        "SELECT 't', student_id, 4, 'Basic TwiML', true FROM {}"
    )
    session = (
        "INSERT INTO sessions (session_token, student_id, exercises) "
        """SELECT 't', student_id, '{"step-5": {"completed": true}}' FROM students """
        f"WHERE student_email = '{EMAIL}' RETURNING student_id"
    )
    if state == "0004":
        database.execute(step.format("students") + f" WHERE student_email = '{EMAIL}'")
        database.execute(session)
    else:
        database.execute(f"WITH s AS ({session}) {step.format('s')}")
    steps = "SELECT array_agg(step_number ORDER BY step_number) FROM step_progress WHERE session_token = 't'"
    assert one(database, steps) == [4, 5]


def test_steps_that_one_statement_numbers_anew(database: Database, token: str) -> None:
    of_it = f"WHERE session_token = '{token}'"
    database.execute(
        f"""
        DELETE FROM step_progress {of_it};
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, code_submitted)
        SELECT session_token, student_id, n, step_name_of(n), 'code ' || n
        FROM sessions, generate_series(4, 5) AS n {of_it};
        UPDATE step_progress SET step_number = step_number - 1, step_name = NULL {of_it}
        """
    )
    assert [row[:2] for row in database.query(STEPS, token)] == [(3, "code 4"), (4, "code 5")]
    settled(database)


def test_a_student_with_a_new_address_and_a_session_that_moves_away(database: Database) -> None:
    database.execute(ROW.format(CONFIG, "t", EMAIL, "A") + ROW.format(CONFIG, "u", THIRD, "Y"))
    with logged_only(database):
        database.execute(NEW_ADDRESS)
        database.execute(
            "UPDATE sessions SET student_id = v.student_id FROM sessions AS v "
            "WHERE sessions.session_token = 't' AND v.session_token = 'u'"
        )
        legacy(database, "t", "system_prompt = 'later'")
    address = "SELECT student_email FROM sessions JOIN students USING (student_id) WHERE session_token = 't'"
    assert one(database, address) == THIRD
    assert students_of(database, EMAIL) == []
    settled(database)


def test_an_address_that_the_other_session_of_a_renamed_student_loses(database: Database) -> None:
    rows = [
        (PROGRESS, "t1", EMAIL, "A"),
        (PROGRESS, "t2", EMAIL, "A"),
        (PROGRESS, "t3", THIRD, "C"),
    ]
    for row in [*rows, (CONFIG, "t2", THIRD, "Newest")]:
        database.execute(ROW.format(*row))
    with logged_only(database):
        database.execute(f"UPDATE {PROGRESS} SET demo_mode = true WHERE session_token = 't1'")
        legacy(database, "t2", f"student_email = '{EMAIL}', student_name = 'A'")
        database.execute(f"UPDATE students SET student_name = 'Z' WHERE student_email = '{EMAIL}'")
    assert students_of(database, EMAIL, THIRD) == [(EMAIL, "Z"), (THIRD, "C")]
    settled(database)


@pytest.mark.parametrize("writer", ["t1", "t2"])
def test_a_new_address_of_two_sessions_and_a_later_legacy_name(
    database: Database, writer: str
) -> None:
    for token in ("t1", "t2"):
        database.execute(ROW.format(PROGRESS, token, EMAIL, "Before"))
    with logged_only(database):
        database.execute(NEW_ADDRESS)
        unified(database, "t1", "ivr_greeting = 'beside it'")
        database.execute(
            f"UPDATE {PROGRESS} SET student_name = 'Later' WHERE session_token = '{writer}'"
        )
        # in two transactions: a trigger sets updated_at, and of two names of one time the token decides
        for token in ("t1", "t2"):
            database.query("SELECT bridge.apply(%s)", token)
    assert students_of(database, EMAIL, MOVED) == [(MOVED, "Later")]
    settled(database)


def test_a_session_that_comes_back_keeps_the_name_of_its_student(database: Database) -> None:
    database.execute(ROW.format(PROGRESS, "t", EMAIL, "Short"))
    for table in (CONFIG, PROGRESS):
        database.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT short CHECK (length(student_name) < 10) NOT VALID"
        )
    database.execute(
        f"UPDATE students SET student_name = 'A very long name' WHERE student_email = '{EMAIL}'"
    )
    with logged_only(database):
        for table in (CONFIG, PROGRESS):
            database.execute(f"DELETE FROM {table} WHERE session_token = 't'")
        unified(database, "t", "ivr_greeting = 'later'")
    assert students_of(database, EMAIL) == [(EMAIL, "A very long name")]
    settled(database)


@pytest.mark.parametrize("merging", [False, True], ids=["after the merge", "during it"])
@pytest.mark.parametrize("written", ["before", "between"])
def test_a_session_deleted_inserted_and_written_again(
    database: Database, token: str, written: str, merging: bool
) -> None:
    """The new session replaces the old one: no value before the deletion comes back, nor stays as an override."""
    legacy(database, token, "step4_committed = true, use_case_description = 'old'")
    (merged,) = database.query("SELECT merged_at FROM bridge.state")
    with logged_only(database):
        if merging:  # the backfill has reached the session
            database.execute("UPDATE bridge.state SET merged_at = NULL, stage = 'end'")
        if written == "before":
            legacy(database, token, "selected_voice = 'Polly'")
        database.execute(f"DELETE FROM sessions WHERE session_token = '{token}'")
        database.execute(
            "INSERT INTO sessions (session_token, student_id, created_at) "
            f"SELECT '{token}', student_id, '2026-11-01Z' FROM students ORDER BY student_email LIMIT 1"
        )
        if written == "between":
            legacy(database, token, "selected_voice = 'Polly'")
        unified(database, token, "ivr_greeting = 'new'")
        with database.connect() as connection:
            connection.execute("UPDATE bridge.state SET merged_at = %s, stage = NULL", [*merged])
    columns = "created_at::date::text, step4_committed, use_case_description, ivr_greeting"
    of_it = "WHERE session_token = %s"
    new = [("2026-11-01", False, None, "new")]
    assert database.query(f"SELECT {columns} FROM sessions {of_it}", token) == new
    assert database.query(f"SELECT {columns} FROM {CONFIG} {of_it}", token) == new
    assert database.query("SELECT column_name FROM bridge.override WHERE key = %s", token) == []
    settled(database)


def insert_refused(database: Database, statement: str) -> None:
    """Insert the session 'own', of which the legacy tables take no row."""
    for table in (CONFIG, PROGRESS):
        database.execute(f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (session_token <> 'own')")
    database.execute(statement)
    for table in (CONFIG, PROGRESS):
        database.execute(f"ALTER TABLE {table} DROP CONSTRAINT no")


@pytest.mark.parametrize("again", [False, True], ids=["there before", "deleted and inserted"])
def test_a_legacy_row_for_a_session_that_had_none(
    database: Database, token: str, again: bool
) -> None:
    """Columns that the old application did not name keep their values."""
    insert = (
        "INSERT INTO sessions (session_token, student_id, system_prompt, current_step, exercises) "
        f"""SELECT 'own', student_id, 'own', 4, '{{"step-1": {{"completed": true}}}}' """
        f"FROM sessions WHERE session_token = '{token}'"
    )
    insert_refused(database, insert)
    with logged_only(database):
        if again:
            database.execute("DELETE FROM sessions WHERE session_token = 'own'")
            database.execute(insert)
        database.execute(
            f"INSERT INTO {CONFIG} (session_token, ivr_greeting) VALUES ('own', 'old')"
        )
    columns = "system_prompt, current_step, ivr_greeting"
    for table in ("sessions", CONFIG):
        of_it = f"SELECT {columns} FROM {table} WHERE session_token = 'own'"
        assert database.query(of_it) == [("own", 4, "old")]
    assert one(database, "SELECT exercises <> '{}' FROM sessions WHERE session_token = 'own'")
    settled(database)


def test_the_first_legacy_row_names_no_student(database: Database, token: str) -> None:
    """The session keeps its student, without a placeholder; unknown columns of both sides are kept."""
    database.execute(f"ALTER TABLE {CONFIG} ADD COLUMN room text")
    database.execute("CALL bridge.refresh_adapters(true)")
    insert_refused(
        database,
        "INSERT INTO sessions (session_token, student_id, legacy_extra) "
        f"""SELECT 'own', student_id, '{{"note": 2}}' FROM sessions WHERE session_token = '{token}'""",
    )
    students = database.query("SELECT student_email FROM students ORDER BY 1")
    database.execute(f"INSERT INTO {CONFIG} (session_token, room) VALUES ('own', 'blue')")
    assert database.query("SELECT student_email FROM students ORDER BY 1") == students
    extra = "SELECT legacy_extra FROM sessions WHERE session_token = 'own'"
    assert one(database, extra) == {"note": 2, "student_configs": {"room": "blue"}}
    settled(database)


def test_many_sessions_of_a_student_without_legacy_rows(database: Database) -> None:
    """Each is logged once for itself, and once for its student."""
    database.execute("UPDATE bridge.state SET sync = false")
    database.execute(f"INSERT INTO students (student_email) VALUES ('{EMAIL}')")
    database.execute(
        "INSERT INTO sessions (session_token, student_id) "
        f"SELECT 'many' || n, student_id FROM students, generate_series(1, 50) AS n WHERE student_email = '{EMAIL}'"
    )
    assert one(database, "SELECT count(*) FROM bridge.change_log") <= 100


def insert_both(database: Database, email: str, *tokens: str) -> None:
    for token in tokens:
        for table in (CONFIG, PROGRESS):
            database.execute(
                f"INSERT INTO {table} (session_token, student_email, student_name, updated_at) "
                f"VALUES ('{token}', '{email}', 'First', now() - interval '1 hour')"
            )


LATER_NAME = "student_name = 'Later', updated_at = now()"


def names_of(database: Database, email: str, *tokens: str) -> set[str]:
    rows = database.query(
        f"""
        SELECT student_name FROM students WHERE student_email = %s
        UNION ALL SELECT student_name FROM {CONFIG} WHERE session_token = ANY (%s)
        UNION ALL SELECT student_name FROM {PROGRESS} WHERE session_token = ANY (%s)
        """,
        email,
        list(tokens),
        list(tokens),
    )
    return {name for (name,) in rows}


def test_a_later_legacy_name_and_an_address_that_is_still_logged(database: Database) -> None:
    """Writing the address dates the legacy rows, and so the former name in them."""
    insert_both(database, EMAIL, "n1")
    with logged_only(database):
        database.execute(NEW_ADDRESS)
        legacy(database, "n1", LATER_NAME)
    assert names_of(database, MOVED, "n1") == {"Later"}
    settled(database)


def test_a_legacy_name_that_is_still_logged_and_a_write_to_another_session(
    database: Database,
) -> None:
    insert_both(database, EMAIL, "n1", "n2")
    with logged_only(database):
        legacy(database, "n2", LATER_NAME)
    database.execute("UPDATE students SET student_name = student_name")
    insert_both(database, THIRD, "n3", "n4")
    with logged_only(database):
        legacy(database, "n4", LATER_NAME)
        # applied first, because its change is the older one
        database.execute("UPDATE bridge.change_log SET id = DEFAULT WHERE token = 'n4'")
        unified(database, "n3", "total_time_spent = 99")
        database.execute("UPDATE bridge.change_log SET id = DEFAULT WHERE token = 'n4'")
    for email in (EMAIL, THIRD):
        query = "SELECT student_name FROM students WHERE student_email = %s"
        assert one(database, query, email) == "Later"
    settled(database)


@pytest.mark.parametrize("moved", ["renamed", "moved"])
def test_an_address_written_on_both_sides_reaches_both_legacy_rows(
    database: Database, moved: str
) -> None:
    """The row that the legacy application did not write has the address before."""
    insert_both(database, EMAIL, "n1")
    with logged_only(database):
        database.execute(
            f"UPDATE {PROGRESS} SET student_email = '{THIRD}' WHERE session_token = 'n1'"
        )
        if moved == "renamed":
            database.execute(NEW_ADDRESS)
        else:
            database.execute(f"INSERT INTO students (student_email) VALUES ('{MOVED}')")
            student = f"(SELECT student_id FROM students WHERE student_email = '{MOVED}')"
            unified(database, "n1", f"student_id = {student}")
    for table in (CONFIG, PROGRESS):
        query = f"SELECT student_email FROM {table} WHERE session_token = 'n1'"
        assert one(database, query) == MOVED, table
    settled(database)


BOTH_SIDES = """
    SELECT event_data -> 'written_on_both_sides' FROM events
    WHERE session_token = 'n1' AND event_data ? 'written_on_both_sides'
"""


def test_names_and_exercises_written_on_both_sides_leave_an_event(database: Database) -> None:
    insert_both(database, EMAIL, "n1")
    with logged_only(database):
        database.execute(
            f"UPDATE students SET student_name = 'Unified' WHERE student_email = '{EMAIL}'"
        )
        legacy(database, "n1", LATER_NAME)
    assert names_of(database, EMAIL, "n1") <= {"Later", "First"}
    assert database.query(BOTH_SIDES) == [({"student_name": "legacy"},)]
    database.execute("DELETE FROM events WHERE session_token = 'n1'")
    exercises = 'exercises = \'{"notes": "%s", "%s": 1}\''
    with logged_only(database):
        database.execute(
            f"UPDATE {PROGRESS} SET {exercises % ('L', 'l')} WHERE session_token = 'n1'"
        )
        unified(database, "n1", exercises % ("U", "u"))
    assert database.query("SELECT exercises FROM sessions WHERE session_token = 'n1'") == [
        ({"notes": "U", "u": 1, "l": 1},)
    ]
    assert database.query(BOTH_SIDES) == [({"exercises": "unified"},)]
    settled(database)


def test_a_legacy_name_that_comes_while_a_sibling_is_applied(database: Database) -> None:
    """It is logged after the sibling's application has begun, and counts when its own session is applied."""
    insert_both(database, EMAIL, "n1")
    database.execute(
        f"""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON {PROGRESS} FOR EACH ROW EXECUTE FUNCTION slow()
        """
    )
    with ThreadPoolExecutor() as pool:
        inserting = pool.submit(
            database.execute,
            "INSERT INTO sessions (session_token, student_id) "
            f"SELECT 'n2', student_id FROM students WHERE student_email = '{EMAIL}'",
        )
        time.sleep(0.3)
        legacy(database, "n1", "student_name = 'Later', updated_at = now() + interval '1 minute'")
        inserting.result()
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")
    assert students_of(database, EMAIL) == [(EMAIL, "Later")]
    settled(database)


def test_a_new_address_dates_no_name_of_another_student(database: Database) -> None:
    """The newest row of the session belongs to the other one."""
    insert_both(database, EMAIL, "n1")
    other = f"student_email = '{THIRD}', student_name = 'Old', updated_at = now() - interval '30 minutes'"
    legacy(database, "n1", other)
    insert_both(database, THIRD, "n2")
    legacy(database, "n2", LATER_NAME)
    with logged_only(database):
        legacy(database, "n1", "ivr_greeting = 'beside it'")
        database.execute(NEW_ADDRESS)
    assert students_of(database, MOVED, THIRD) == [(MOVED, "First"), (THIRD, "Later")]
    settled(database)


def test_a_name_written_on_both_sides_leaves_one_event(database: Database) -> None:
    insert_both(database, EMAIL, "n1", "n2", "n3")
    with logged_only(database):
        for token in ("n1", "n2", "n3"):
            legacy(database, token, LATER_NAME)
        database.execute(
            f"UPDATE students SET student_email = '{MOVED}', student_name = 'Unified' WHERE student_email = '{EMAIL}'"
        )
    events = "SELECT count(*) FROM events WHERE event_data ? 'written_on_both_sides'"
    assert one(database, events) == 1
    settled(database)


@pytest.mark.parametrize("first", ["n1", "n2"])
def test_a_new_address_does_not_bring_an_older_name_back(database: Database, first: str) -> None:
    """Only one row of the other session has the newest name."""
    insert_both(database, EMAIL, "n1", "n2")
    legacy(database, "n2", LATER_NAME)
    with logged_only(database):
        for token in sorted(("n1", "n2"), reverse=first == "n2"):
            legacy(database, token, "ivr_greeting = 'beside it'")
        database.execute(NEW_ADDRESS)
    assert names_of(database, MOVED, "n1", "n2") == {"Later"}
    settled(database)
