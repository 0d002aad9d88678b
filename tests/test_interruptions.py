"""Nothing is lost where an upgrade or a downgrade stops halfway: not the legacy writes since, not the kept values."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from alembic.util import CommandError

from support.databases import (
    Clone,
    Database,
    deviations,
    downgrade,
    failed_checks,
    hand_back,
    upgrade,
)
from support.eras import ERAS, load

CLEAR = """
    UPDATE student_configs SET system_prompt = NULL, twilio_connected = false, current_step = 0, ivr_greeting = NULL;
    UPDATE workshop_students SET total_time_spent = 0;
    DELETE FROM student_configs WHERE session_token = (SELECT max(session_token) FROM student_configs);
    DELETE FROM workshop_students WHERE session_token = (SELECT max(session_token) FROM workshop_students)
"""
BOTH = "SELECT min(session_token) FROM student_configs JOIN workshop_students USING (session_token)"
UPDATE_BOTH = f"UPDATE student_configs SET %s WHERE session_token = ({BOTH})"
OWN = "SELECT session_token, is_active, expires_at FROM sessions ORDER BY 1"


def drain(database: Database) -> None:
    """What ``workshop status --drain`` calls."""
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")


def merge(database: Database) -> None:
    """What ``workshop merge`` calls."""
    with database.connect() as connection:
        connection.execute("CALL bridge.merge()")


def stopped_downgrade(database: Database) -> None:
    """A downgrade of which only the hand-back is done: the next step gets no lock."""
    with database.connect() as connection:
        hand_back(connection)


def refuse(database: Database, table: str, event: str = "INSERT", condition: str = "true") -> None:
    """Let each such write fail, as if the process died there."""
    database.execute(
        f"""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'died'; END $$;
        CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition})
            EXECUTE FUNCTION public.refuse()
        """
    )


def assert_as_mapped(database: Database) -> None:
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert database.query("SELECT * FROM bridge.override WHERE table_name !~ '^prior'") == []


def test_legacy_writes_after_a_downgrade_that_stops_at_0002(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = false")
    before = database.query(OWN)
    downgrade(database, "0002")
    database.execute(CLEAR)
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert set(database.query(OWN)) < set(before)
    assert len(database.query(OWN)) >= len(before) - 2


@pytest.mark.parametrize("first", [drain, stopped_downgrade])
def test_legacy_writes_after_a_drain_or_a_hand_back_before_the_backfill(
    clone: Clone, first: Callable[[Database], None]
) -> None:
    database = clone("0003")
    database.execute("UPDATE student_configs SET use_case_description = 'x'")
    first(database)
    database.execute(CLEAR)
    upgrade(database)
    assert_as_mapped(database)


@pytest.mark.parametrize("dies", [downgrade, upgrade, merge])
def test_a_comparison_of_a_later_column_that_died_is_repeated(
    clone: Clone, dies: Callable[[Database], None]
) -> None:
    database = clone("legacy")
    database.execute("ALTER TABLE student_configs DROP COLUMN ivr_greeting")
    upgrade(database, "0006")
    database.execute(
        "ALTER TABLE student_configs ADD COLUMN ivr_greeting text; UPDATE student_configs SET ivr_greeting = 'Hello'"
    )
    refuse(database, "bridge.change_log")
    with pytest.raises((CommandError, psycopg.Error), match="died"):
        dies(database)
    database.execute("DROP FUNCTION public.refuse() CASCADE")
    downgrade(database)
    assert database.query("SELECT DISTINCT ivr_greeting FROM student_configs") == [("Hello",)]


def test_a_drain_after_the_hand_back_keeps_what_was_kept(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = NOT is_active, expires_at = '2031-01-01Z'")
    before = database.query(OWN)
    downgrade(database, "0003")
    database.execute("UPDATE student_configs SET use_case_description = 'later'")
    drain(database)
    downgrade(database)
    upgrade(database)
    assert database.query(OWN) == before
    assert failed_checks(database) == []


# --- an upgrade that no backfill has finished, and its downgrade ---------------------------------


ROWS = """
    SELECT 'students', student_email, to_jsonb(t) - ARRAY['updated_at', 'student_id'] FROM students AS t
    UNION ALL
    SELECT 'sessions', session_token, to_jsonb(t) - ARRAY['updated_at', 'expires_at', 'student_id'] FROM sessions AS t
    UNION ALL
    SELECT 'steps', session_token || step_number, to_jsonb(t) - ARRAY['created_at', 'updated_at', 'student_id']
    FROM step_progress AS t
    ORDER BY 1, 2
"""


def earlier_attempt(clone: Clone, era: str = "C2") -> Database:
    """Both legacy tables and the rows of an earlier attempt."""
    database = clone("empty")
    with database.connect() as connection:
        load(connection, ERAS[era])
    return database


def die(database: Database, table: str, condition: str = "true") -> None:
    """An upgrade that dies at the first such row of this table."""
    refuse(database, table, condition=condition)
    with pytest.raises(CommandError, match="died"):
        upgrade(database)
    database.execute("DROP FUNCTION public.refuse() CASCADE")


@pytest.mark.parametrize("table", ["", "public.students", "public.sessions"])
def test_a_downgrade_before_the_backfill_of_an_earlier_attempt(clone: Clone, table: str) -> None:
    database, direct = earlier_attempt(clone), earlier_attempt(clone)
    upgrade(direct)
    upgrade(database, "0003")
    if table:
        die(database, table)
    downgrade(database)
    upgrade(database)
    assert database.query(ROWS) == direct.query(ROWS)
    assert failed_checks(database) == []


def test_legacy_writes_before_an_upgrade_that_stops_at_0003(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = false")
    downgrade(database, "0002")
    database.execute(CLEAR)
    upgrade(database, "0003")
    downgrade(database)
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert database.query("SELECT DISTINCT is_active FROM sessions") == [(False,)]


@pytest.mark.parametrize("back", [downgrade, stopped_downgrade, lambda d: downgrade(d, "0002")])
@pytest.mark.parametrize("table", ["public.students", "public.sessions"])
def test_students_of_a_backfill_that_died(
    clone: Clone, table: str, back: Callable[[Database], None]
) -> None:
    """One has a second address in a legacy row; others have values that only the unified tables hold."""
    database = clone("legacy")
    database.execute(UPDATE_BOTH % "student_email = 'second@example.com', student_name = 'Second'")
    upgrade(database)
    database.execute(
        "UPDATE students SET github_username = 'gh', created_at = '2024-01-01Z' WHERE student_email > 'm'"
    )
    students = "SELECT student_id, student_email, student_name, github_username, created_at FROM students ORDER BY 2"
    before = database.query(students)
    downgrade(database)
    upgrade(database, "0003")
    die(database, table)
    back(database)
    upgrade(database)
    assert database.query(students) == before
    assert failed_checks(database) == []


def test_student_names_that_the_legacy_tables_refuse(clone: Clone) -> None:
    database = clone("head")
    for (relation,) in database.query("SELECT relation::text FROM bridge.source"):
        database.execute(f"ALTER TABLE {relation} ADD CHECK (student_name <> 'Own')")
    database.execute(
        "UPDATE students SET student_name = 'Own', created_at = created_at - interval '1 day'"
    )
    students = "SELECT student_email, student_name, created_at FROM students ORDER BY 1"
    before = database.query(students)
    downgrade(database, "0002")
    upgrade(database, "0003")
    downgrade(database)
    upgrade(database)
    assert database.query(students) == before
    assert failed_checks(database) == []


# --- writes while the backfill works on their session ------------------------------------------------

LATE = "UPDATE public.student_configs SET ivr_greeting = 'late' WHERE session_token = NEW.session_token"
GONE = """
    DELETE FROM public.student_configs WHERE session_token = NEW.session_token;
    DELETE FROM public.workshop_students WHERE session_token = NEW.session_token
"""
TO_COMBINE = """
    SELECT session_token FROM sessions JOIN student_configs AS c USING (session_token)
    WHERE sessions.system_prompt <> c.system_prompt ORDER BY 1
"""
ALONE = "SELECT min(session_token) FROM sessions WHERE session_token NOT IN (SELECT token FROM bridge.tokens)"
GREETING = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"


def meanwhile(database: Database, event: str, token: str, statements: str) -> None:
    """Run statements after this event of a session in the backfill, which reads both sides again."""
    database.execute(
        f"""
        CREATE FUNCTION public.meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            {statements};
            RETURN NULL;
        END $$;
        CREATE TRIGGER meanwhile AFTER {event} ON sessions FOR EACH ROW
            WHEN (NEW.session_token = '{token}' AND current_setting('bridge.backfilling', true) = 'on')
            EXECUTE FUNCTION public.meanwhile()
        """
    )


def upgrade_while(database: Database, sign: str, write: Callable[[], object]) -> None:
    """Upgrade to 0006; write when an activity of the server shows this sign."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(upgrade, database, "0006")
        seen = f"SELECT FROM pg_stat_activity WHERE datname = current_database() AND {sign}"
        while not running.done() and not database.query(seen):
            pass
        write()
        running.result()


@pytest.mark.parametrize(("statements", "found"), [(LATE, [("late",)]), (GONE, [])])
def test_a_legacy_write_while_kept_values_are_restored(
    clone: Clone, statements: str, found: list[tuple[str]]
) -> None:
    database = clone("head")
    ((token,),) = database.query(BOTH)
    database.execute(
        f"UPDATE sessions SET is_active = NOT is_active WHERE session_token = '{token}'"
    )
    downgrade(database)
    upgrade(database, "0003")
    meanwhile(database, "INSERT", token, statements)
    upgrade(database, "0006")
    assert database.query(GREETING, token) == found
    assert_as_mapped(database)


@pytest.mark.parametrize("address", ["NULL", "'new@example.org'"])
def test_a_legacy_row_that_comes_while_its_kept_session_is_restored(
    clone: Clone, address: str
) -> None:
    database = clone("head")
    ((token,),) = database.query(BOTH)
    own = f"{token}-own"
    for (relation,) in database.query("SELECT relation::text FROM bridge.source"):
        database.execute(
            f"ALTER TABLE {relation} ADD CONSTRAINT no CHECK (session_token <> '{own}')"
        )
    database.execute(
        "INSERT INTO sessions (session_token, student_id, system_prompt, is_active) "
        f"SELECT '{own}', student_id, 'own', false FROM sessions WHERE session_token = '{token}'"
    )
    downgrade(database)
    for table in ("student_configs", "workshop_students"):
        database.execute(f"ALTER TABLE {table} DROP CONSTRAINT no")
    upgrade(database, "0003")
    insert = (
        "INSERT INTO public.student_configs (session_token, student_email, ivr_greeting) "
        f"VALUES ('{own}', {address}, 'late') ON CONFLICT DO NOTHING"
    )
    meanwhile(database, "INSERT", token, insert)
    upgrade(database, "0006")
    found = "SELECT system_prompt, is_active, ivr_greeting FROM sessions WHERE session_token = %s"
    assert database.query(found, own) == [("own", False, "late")]
    assert failed_checks(database) == []


def test_a_legacy_write_while_an_earlier_attempt_is_combined(clone: Clone) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    token = database.query(TO_COMBINE)[0][0]
    meanwhile(database, "UPDATE", token, LATE)
    upgrade(database, "0006")
    assert database.query(GREETING, token) == [("late",)]
    assert failed_checks(database) == []


def test_a_legacy_row_that_comes_while_its_session_is_combined(clone: Clone) -> None:
    """The chunk is repeated: both rows are combined."""
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    ((token,),) = database.query(ALONE)
    own = "SELECT system_prompt, exercises FROM sessions WHERE session_token = %s"
    before = database.query(own, token)
    meanwhile(database, "UPDATE", database.query(TO_COMBINE)[0][0], "PERFORM pg_sleep(0.5)")
    insert = "INSERT INTO student_configs (session_token, ivr_greeting) VALUES ('%s', 'late')"
    upgrade_while(database, "wait_event = 'PgSleep'", lambda: database.execute(insert % token))
    assert database.query(GREETING, token) == [("late",)]
    assert database.query(own, token) == before
    assert failed_checks(database) == []


@pytest.mark.parametrize(("held", "written"), [(0, 3), (3, 0), (0, 1), (1, 0)])
def test_an_endpoint_writes_while_its_session_is_combined(
    clone: Clone, held: int, written: int
) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    tokens = [token for (token,) in database.query(TO_COMBINE)]
    of_it = f"WHERE session_token = '{tokens[written]}'"
    with closing(database.connect(autocommit=False)) as holder:
        holder.execute("SELECT FROM sessions WHERE session_token = %s FOR UPDATE", [tokens[held]])

        def write() -> None:
            database.execute(f"UPDATE sessions SET system_prompt = 'late' {of_it}")
            holder.rollback()

        upgrade_while(database, "cardinality(pg_blocking_pids(pid)) > 0", write)
    assert database.query(f"SELECT system_prompt FROM sessions {of_it}") == [("late",)]
    assert failed_checks(database) == []


@pytest.mark.parametrize("busy", [False, True], ids=["while the chunk waits", "while it is locked"])
def test_an_endpoint_deletes_a_session_that_would_be_combined(clone: Clone, busy: bool) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    token = database.query(TO_COMBINE)[0][0]
    of_it = f"WHERE session_token = '{token}'"
    if busy:
        database.execute(f"DELETE FROM step_progress {of_it}; DELETE FROM sessions {of_it}")
    with closing(database.connect(autocommit=False)) as holder:
        table = "student_configs" if busy else "sessions"
        holder.execute(f"SELECT FROM {table} {of_it} FOR UPDATE".encode())

        def write() -> None:
            if busy:
                holder.execute("SELECT pg_sleep(0.7)")
            else:
                holder.execute(f"DELETE FROM sessions {of_it}".encode())
            holder.commit()

        upgrade_while(database, "cardinality(pg_blocking_pids(pid)) > 0", write)
    assert database.query(GREETING, token) == []
    assert database.query("SELECT FROM bridge.tokens WHERE token = %s", token) == []
    assert failed_checks(database) == []


def test_a_deletion_after_a_legacy_insert_while_the_backfill_is_interrupted(clone: Clone) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    ((token,),) = database.query(ALONE)
    die(database, "public.events", "NEW.event_type = 'legacy_merge'")
    database.execute(
        f"""
        INSERT INTO student_configs (session_token, ivr_greeting) VALUES ('{token}', 'late');
        DELETE FROM sessions WHERE session_token = '{token}'
        """
    )
    upgrade(database)
    assert database.query(GREETING, token) == []
    assert failed_checks(database) == []


def test_kept_students_of_an_interrupted_upgrade(clone: Clone) -> None:
    """The upgrade dies between two chunks of students, and is taken back."""
    database = clone("legacy")
    database.execute(UPDATE_BOTH % "student_email = 'aaa@example.com', student_name = 'Second'")
    upgrade(database)
    for (relation,) in database.query("SELECT relation::text FROM bridge.source"):
        database.execute(f"ALTER TABLE {relation} ADD CHECK (student_name <> 'Own')")
    database.execute(
        "DELETE FROM students WHERE student_email = 'aaa@example.com'; "
        "UPDATE students SET student_name = 'Own', created_at = '2024-01-01Z', github_username = 'gh' || student_email"
    )
    students = "SELECT to_jsonb(s) - 'updated_at' FROM students AS s ORDER BY student_email"
    before = database.query(students)
    downgrade(database)
    upgrade(database, "0003")
    die(database, "public.students", "NEW.student_email > 'y'")
    downgrade(database)
    upgrade(database)
    assert database.query(students) == before
    assert failed_checks(database) == []


def test_an_early_session_beside_an_earlier_attempt(clone: Clone) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    database.execute(
        """
        INSERT INTO sessions (session_token, student_id, is_active)
        SELECT 'early', student_id, false FROM students ORDER BY student_email LIMIT 1;
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, code_submitted)
        SELECT session_token, student_id, 4, 'Basic TwiML', 'code' FROM sessions WHERE session_token = 'early'
        """
    )
    upgrade(database)
    before = database.query(ROWS)
    downgrade(database)
    upgrade(database)
    assert database.query(ROWS) == before
    assert failed_checks(database) == []


@pytest.mark.parametrize("stops", [("0003",), ("base", "0003"), ("0002", "base")])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT",
        "UPDATE sessions SET is_active = NOT is_active",
        "UPDATE step_progress SET code_submitted = 'own'",
        "UPDATE students SET github_username = 'own'",
    ],
)
def test_an_earlier_attempt_over_several_downgrades(
    clone: Clone, statement: str, stops: tuple[str, ...]
) -> None:
    database = earlier_attempt(clone)
    upgrade(database)
    database.execute(statement)
    before = database.query(ROWS)
    for stop in stops:
        downgrade(database, stop)
        upgrade(database)
        assert database.query(ROWS) == before
    assert failed_checks(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET system_prompt = NULL, use_case_description = NULL",
        "UPDATE sessions SET twilio_connected = false, current_step = 0",
        "UPDATE sessions SET is_active = NOT is_active, expires_at = '2031-01-01Z'",
        "UPDATE step_progress SET code_submitted = 'early'",
        "UPDATE students SET github_username = 'early-' || left(student_email, 3)",
        f"DELETE FROM sessions WHERE session_token = (SELECT session_token FROM ({TO_COMBINE}) AS o LIMIT 1)",
        f"DELETE FROM step_progress WHERE session_token = (SELECT min(session_token) FROM ({TO_COMBINE}) AS o); "
        f"DELETE FROM sessions WHERE session_token = (SELECT min(session_token) FROM ({TO_COMBINE}) AS o)",
    ],
)
def test_an_early_write_to_an_earlier_attempt_is_kept(clone: Clone, statement: str) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0003")
    token = database.query(TO_COMBINE)[0][0]
    database.execute(statement)
    upgrade(database)
    assert ("DELETE" in statement) == (database.query(GREETING, token) == [])
    before = database.query(ROWS)
    downgrade(database)
    upgrade(database)
    assert database.query(ROWS) == before
    assert failed_checks(database) == []


# --- a downgrade that is undone --------------------------------------------------------------------


def test_deletions_in_an_earlier_attempt_after_an_undone_downgrade(clone: Clone) -> None:
    database = earlier_attempt(clone)
    upgrade(database)
    database.execute(
        """
        UPDATE sessions SET system_prompt = NULL, twilio_connected = false, current_step = 0;
        DELETE FROM sessions WHERE session_token IN (
            SELECT key FROM bridge.override WHERE table_name = 'prior sessions' ORDER BY key LIMIT 3)
        """
    )
    drain(database)
    before = database.query(ROWS)
    for revision in ("0003", "base"):
        downgrade(database, revision)
        upgrade(database)
        assert database.query(ROWS) == before
    assert failed_checks(database) == []


def test_a_deleted_second_address_after_an_undone_downgrade(clone: Clone) -> None:
    database = clone("legacy")
    database.execute(UPDATE_BOTH % "student_email = 'second@example.com'")
    upgrade(database)
    database.execute("DELETE FROM students WHERE student_email = 'second@example.com'")
    downgrade(database, "0003")
    upgrade(database)
    database.execute(UPDATE_BOTH % "use_case_description = 'x'")
    drain(database)
    assert database.query("SELECT FROM students WHERE student_email LIKE 'second@%'") == []


BESIDE = """
    INSERT INTO students (student_email, github_username) VALUES ('beside@example.org', 'beside');
    INSERT INTO sessions (session_token, student_id, system_prompt, is_active, expires_at)
    SELECT 'ws_beside', student_id, 'beside', false, '2031-01-01Z' FROM students WHERE student_email ~ '^beside'
"""


@pytest.mark.parametrize("stop", ["base", "0002"])
def test_what_an_endpoint_inserts_beside_an_earlier_attempt_is_kept(
    clone: Clone, stop: str
) -> None:
    database = earlier_attempt(clone)
    upgrade(database, "0002")
    database.execute(BESIDE)
    upgrade(database)
    before = database.query(ROWS)
    downgrade(database, stop)
    upgrade(database)
    assert database.query(ROWS) == before
    assert failed_checks(database) == []


@pytest.mark.parametrize("stop", ["base", "0001", "0002"])
def test_a_student_of_an_earlier_attempt_with_another_address(clone: Clone, stop: str) -> None:
    """Down to 0001 or 0002 the unified tables stay, and the earlier attempt has the address before."""
    database = earlier_attempt(clone, "S")
    upgrade(database)
    database.execute(
        "UPDATE students SET student_email = 'renamed@example.org' WHERE student_id = "
        "(SELECT student_id FROM sessions GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1)"
    )
    renamed = (
        "SELECT student_id, student_name, (SELECT count(*) FROM sessions AS v WHERE v.student_id = st.student_id) "
        "FROM students AS st WHERE student_email = 'renamed@example.org'"
    )
    before = database.query(renamed)
    downgrade(database, stop)
    upgrade(database)
    assert database.query(renamed) == before
    assert failed_checks(database) == []
