"""The legacy application at every stage: its own statements, under its own role, succeed.

The statements are the application's: a full save that creates and alters its table first, progress
by INSERT or UPDATE, the instructor's list, deletion by address. JSON is sent as its driver sends
it, as a JSON string that holds JSON.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from scripts.common.project import SQL
from support.databases import Clone, Database, Server, deviations, downgrade, failed_checks, upgrade

STAGES = ("base", "0003", "0004", "0006", "head")
SYNCS_AT_ONCE = ("0006", "head")

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS student_configs (
    session_token TEXT PRIMARY KEY,
    student_name TEXT,
    openai_api_key TEXT,
    tools JSONB DEFAULT '[]'::jsonb,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW()
)
"""
ADD_COLUMNS = (
    "ALTER TABLE student_configs ADD COLUMN IF NOT EXISTS demo_mode BOOLEAN DEFAULT FALSE",
    "ALTER TABLE student_configs ADD COLUMN IF NOT EXISTS ci_service_sid TEXT",
)
FLAGS = ("twilio_connected", "openai_connected", "call_direction_chosen", "services_ready")
SAVED = (
    "student_name",
    "student_email",
    "openai_api_key",
    "system_prompt",
    "tools",
    "voice_settings",
    "use_case_description",
    "call_direction",
    "ivr_greeting",
    "tts_provider",
    "selected_voice",
    "selected_phone_number",
    "websocket_url",
    "railway_url",
    "demo_mode",
    "ci_service_sid",
    "current_step",
    *FLAGS,
)


def sent(value: Any) -> Jsonb:
    """JSON as the application's driver sends it: stringified twice."""
    return Jsonb(json.dumps(value))


class Application:
    """The legacy application on one connection; the owner of the tables also runs its DDL."""

    def __init__(self, url: str, owner: bool) -> None:
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.owner = owner

    def close(self) -> None:
        self.connection.close()

    def execute(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def add_columns(self) -> None:
        """Before each save and each read, with its errors ignored."""
        for statement in ADD_COLUMNS if self.owner else ():
            with suppress(psycopg.Error):
                self.execute(statement)

    def save(self, token: str, **values: object) -> None:
        """A full save: missing values are overwritten with NULL."""
        if self.owner:
            self.execute(CREATE_TABLE)
        self.add_columns()
        columns = ", ".join(SAVED)
        placeholders = ", ".join(["%s"] * len(SAVED))
        updates = ", ".join(f"{column} = EXCLUDED.{column}" for column in SAVED)
        self.execute(
            f"INSERT INTO student_configs (session_token, {columns}, updated_at) "
            f"VALUES (%s, {placeholders}, NOW()) ON CONFLICT (session_token) "
            f"DO UPDATE SET {updates}, updated_at = NOW()",
            token,
            *(values.get(column) for column in SAVED),
        )

    def read(self, token: str) -> list[dict[str, Any]]:
        self.add_columns()
        return self.execute("SELECT * FROM student_configs WHERE session_token = %s", token)

    def progress(self, token: str, email: str, exercises: dict[str, Any], spent: int) -> None:
        """INSERT or UPDATE, depending on whether the row exists."""
        if self.execute("SELECT * FROM workshop_students WHERE session_token = %s", token):
            self.execute(
                "UPDATE workshop_students SET exercises = %s, total_time_spent = %s, "
                "completion_rate = %s, last_activity = NOW() WHERE session_token = %s",
                sent(exercises),
                spent,
                round(100 * len(exercises) / 9),
                token,
            )
        else:
            self.execute(
                "INSERT INTO workshop_students (session_token, student_email, student_name, "
                "exercises, total_time_spent) VALUES (%s, %s, %s, %s, %s)",
                token,
                email,
                email,
                sent(exercises),
                spent,
            )

    def list_students(self) -> list[dict[str, Any]]:
        return self.execute(
            "SELECT session_token, student_email, exercises, last_activity FROM workshop_students "
            "ORDER BY last_activity DESC LIMIT 100"
        )

    def delete(self, email: str) -> None:
        self.execute("DELETE FROM workshop_students WHERE student_email = %s", email)


def done(*keys: str) -> dict[str, Any]:
    entry = {"completed": True, "timestamp": "2025-11-02T10:00:00.000Z", "timeSpent": 60}
    return {key: {**entry, "attempts": 1} for key in keys}


def tokens(database: Database, table: str, condition: str) -> list[str]:
    return [
        row[0]
        for row in database.query(
            f"SELECT session_token FROM {table} WHERE {condition} ORDER BY 1 LIMIT 5"
        )
    ]


def day_of(application: Application, known: dict[str, Any]) -> Iterator[str]:
    """The application's day, statement by statement; yields the last one."""
    both, only_config = known["both"], known["only_config"]

    application.save("ws_new_1", student_name="Nora", openai_api_key="sk-not-a-key-1")
    yield "a first save, without an address"
    application.progress("ws_new_1", "Nora@Example.com ", done("step-1-connect-accounts"), 60)
    yield "the first progress of that session, with the address"
    application.progress(
        "ws_new_1", "-", done("step-1-connect-accounts", "step-2-choose-use-case"), 120
    )
    yield "more progress"
    application.save(
        "ws_new_1",
        student_name="Nora N.",
        student_email="nora@example.com",
        tools=sent([{"type": "function", "name": "look_up"}]),
        voice_settings=sent({"provider": "google", "speed": 1.5}),
        system_prompt='100% :ready, it\'s "fine"\\n\n',
        current_step=3,
        demo_mode=True,
        ci_service_sid="GA0001",
        **dict.fromkeys(FLAGS, True),
    )
    yield "a full save with everything"
    application.save("ws_new_1", ivr_greeting="Hello", railway_url="")
    yield "a save that wipes what it does not know"
    application.save(both[0], student_name="Someone Else", student_email="someone.else@example.com")
    yield "a save of a known session with another address"
    application.progress(both[1], "-", {**done("exercise-5"), "unknown": {"completed": True}}, 9999)
    yield "progress of a known session"
    application.progress(only_config[0], "late@example.com", done("step-9-multichannel"), 5)
    yield "the first progress of a session that had a configuration only"
    application.save("null", student_email="unknown@example.com", tools=sent({"wrong": "type"}))
    yield "a browser without a token"
    application.delete("Nora@Example.com ")
    yield "deletion of a session that has a configuration as well"
    application.progress("ws_new_2", "gone@example.com", done("step-3-provision-services"), 7)
    application.delete("gone@example.com")
    yield "a session that came and went"
    application.delete(known["email"])
    yield "deletion of all sessions of an address"
    with application.connection.transaction():
        locked = "SELECT * FROM workshop_students WHERE session_token = %s FOR UPDATE"
        (row,) = application.execute(locked, both[2])
        application.execute(
            "UPDATE workshop_students SET total_time_spent = %s WHERE session_token = %s",
            (row["total_time_spent"] or 0) + 1,
            both[2],
        )
    yield "an update of a row that was locked first"
    application.execute(
        "UPDATE student_configs SET session_token = 'ws_renamed' WHERE session_token = %s",
        only_config[1],
    )
    yield "another token for a session"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("owner", [True, False], ids=["owner", "unprivileged"])
def test_a_day_of_the_application(legacy: Database, role: str, stage: str, owner: bool) -> None:
    known: dict[str, Any] = {
        "both": tokens(
            legacy,
            "workshop_students",
            "session_token IN (SELECT session_token FROM student_configs)",
        ),
        "only_config": tokens(
            legacy,
            "student_configs",
            "session_token NOT IN (SELECT session_token FROM workshop_students)",
        ),
    }
    ((known["email"],),) = legacy.query(
        "SELECT student_email FROM workshop_students GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
    )
    legacy.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON workshop_students, student_configs TO {role}"
    )
    if stage != "base":
        upgrade(legacy, stage)
    relations = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'v')"
    before = legacy.query(relations)

    url = legacy.url if owner else legacy.server.url(legacy.name, role, role)
    with closing(Application(url, owner)) as application:
        for what in day_of(application, known):
            if owner and stage in SYNCS_AT_ONCE:
                assert deviations(legacy) == [], what
        assert legacy.query(relations) == before, "something was created"
        if stage in SYNCS_AT_ONCE:
            assert legacy.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
        upgrade(legacy)

        # the application sees its own writes, through the legacy names
        (saved,) = application.read("ws_new_1")
        assert (saved["ivr_greeting"], saved["tools"]) == ("Hello", None)
        assert len(application.list_students()) == 100
        assert application.read(known["only_config"][1]) == []
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []

    contents = [
        f"SELECT * FROM {table} ORDER BY session_token"
        for table in ("workshop_students", "student_configs")
    ]
    written = [legacy.query(query) for query in contents]
    downgrade(legacy)
    assert [legacy.query(query) for query in contents] == written


@pytest.mark.parametrize("stage", ["0003", "0004", "0006"])
def test_a_column_that_the_application_adds(clone: Clone, stage: str) -> None:
    database = clone(stage)
    with closing(Application(database.url, owner=True)) as application:
        application.execute("ALTER TABLE student_configs ADD COLUMN openai_assistant_id TEXT")
        application.save("ws_new", student_email="new@example.com")
        application.execute("UPDATE student_configs SET openai_assistant_id = 'asst_1'")
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    found = "SELECT legacy_extra #>> '{student_configs,openai_assistant_id}' FROM sessions"
    assert database.query(f"{found} WHERE session_token = 'ws_new'") == [("asst_1",)]


@pytest.mark.parametrize("stage", ["0003", "0004", "0006"])
def test_a_key_that_the_application_drops(clone: Clone, stage: str) -> None:
    database = clone(stage)
    database.execute("ALTER TABLE student_configs DROP CONSTRAINT student_configs_pkey")
    database.execute(
        "INSERT INTO student_configs (session_token, ivr_greeting, updated_at) "
        "SELECT max(session_token), 'twice', max(updated_at) + interval '1 hour' FROM student_configs"
    )
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert database.query("SELECT count(*) FROM sessions WHERE ivr_greeting = 'twice'") == [(1,)]


def test_a_prepared_statement_outlives_the_cut_over(clone: Clone) -> None:
    database = clone("0006")
    (token,) = tokens(database, "workshop_students", "true")[:1]
    query = b"SELECT * FROM workshop_students WHERE session_token = %s"
    with database.connect() as connection:
        before = [connection.execute(query, (token,), prepare=True).fetchall() for _ in range(7)]
        upgrade(database)
        after = [connection.execute(query, (token,), prepare=True).fetchall() for _ in range(7)]
        downgrade(database)
        again = connection.execute(query, (token,), prepare=True).fetchall()
    assert len(before[0]) == 1
    assert before == after
    assert again == before[0]


def test_the_applications_role_reaches_nothing_else(legacy: Database, role: str) -> None:
    legacy.execute(f"GRANT SELECT, UPDATE ON workshop_students TO {role}")
    upgrade(legacy)
    url = legacy.server.url(legacy.name, role, role)
    denied = psycopg.errors.InsufficientPrivilege
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE workshop_students SET total_time_spent = 12345")
        legacy.execute("CALL bridge.drain()")
        for relation in ("students", "sessions", "student_configs", "bridge.change_log"):
            with pytest.raises(denied):
                connection.execute(f"SELECT * FROM {relation}".encode())
        with pytest.raises(denied):
            connection.execute("DELETE FROM workshop_students")
    assert deviations(legacy) == []


def test_tables_that_refer_to_a_legacy_table_go_on_working(legacy: Database) -> None:
    legacy.execute(
        """
        CREATE TABLE conversation_sessions (
            id serial PRIMARY KEY,
            session_token text REFERENCES student_configs (session_token) ON DELETE CASCADE
        );
        INSERT INTO conversation_sessions (session_token) SELECT session_token FROM student_configs
        """
    )
    upgrade(legacy)
    legacy.execute("DELETE FROM student_configs WHERE twilio_connected")
    legacy.execute("CALL bridge.drain()")
    counts = "SELECT (SELECT count(*) FROM student_configs), (SELECT count(*) FROM conversation_sessions)"
    ((configs, conversations),) = legacy.query(counts)
    assert 0 < configs == conversations < 177
    assert deviations(legacy) == []
    downgrade(legacy)
    assert legacy.query(counts) == [(configs, conversations)]


# --- locks and failures -------------------------------------------------------------------------------


def test_a_locked_session_is_left_for_later(migrated: Database) -> None:
    locked, other = tokens(migrated, "workshop_students", "true")[:2]
    with closing(Application(migrated.url, owner=True)) as application:
        with migrated.connect(autocommit=False) as holder:
            holder.execute("SELECT FROM sessions WHERE session_token = %s FOR UPDATE", (locked,))
            began = time.monotonic()
            application.progress(locked, "-", done("step-4"), 4321)
            assert time.monotonic() - began < 2, "the application waited for another transaction"
            assert migrated.query("SELECT token FROM bridge.change_log") == [(locked,)]
            assert failed_checks(migrated) == []
        application.progress(other, "-", done("step-4"), 4321)
    assert migrated.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    assert deviations(migrated) == []


def test_an_error_inside_the_bridge_never_fails_the_application(migrated: Database) -> None:
    migrated.execute("ALTER TABLE sessions ADD CONSTRAINT odd CHECK (ivr_greeting <> 'odd')")
    with closing(Application(migrated.url, owner=True)) as application:
        application.save("ws_new", ivr_greeting="odd", student_email="new@example.com")
        assert application.read("ws_new")[0]["ivr_greeting"] == "odd"
        assert migrated.query("SELECT token FROM bridge.change_log") == [("ws_new",)]
        migrated.execute("ALTER TABLE sessions DROP CONSTRAINT odd")
        migrated.execute("CALL bridge.drain()")
    assert migrated.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    assert deviations(migrated) == []


def test_the_cut_over_applies_few_sessions_while_it_holds_its_locks(clone: Clone) -> None:
    database = clone("0006")
    database.execute((SQL / "0007_retire_legacy_tables" / "02_functions.sql").read_text("utf-8"))
    database.execute("UPDATE bridge.state SET sync = false")
    database.execute("UPDATE student_configs SET system_prompt = 'for all'")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="were written a moment ago"):
        database.execute("SELECT bridge.cut_over()")
    database.execute("DROP FUNCTION bridge.cut_over()")
    upgrade(database)
    assert failed_checks(database) == []


def test_cut_over_waits_for_a_reader_and_no_reader_waits_for_it(clone: Clone) -> None:
    """A strong lock that waited would make every later reader queue behind it."""
    database = clone("0006")
    slowest = 0.0
    ended = threading.Event()

    def read() -> None:
        nonlocal slowest
        with database.connect() as connection:
            while not ended.is_set():
                began = time.monotonic()
                connection.execute("SELECT count(*) FROM workshop_students")
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.01)

    def migrate() -> None:
        upgrade(database)

    with database.connect(autocommit=False) as report:
        report.execute("SELECT count(*) FROM workshop_students")
        threads = [threading.Thread(target=target) for target in (read, migrate)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        assert threads[1].is_alive(), "it should wait for the report's transaction"
        report.rollback()
        threads[1].join(30)
        ended.set()
        threads[0].join(30)
    assert database.query(
        "SELECT relkind::text FROM pg_class WHERE relname = 'workshop_students'"
    ) == [("v",)]
    assert slowest < 1, f"a reader waited for {slowest:.1f} s"
    assert deviations(database) == []


SLOW_VACUUM = """
    ALTER TABLE sessions SET (
        autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1
    );
    INSERT INTO sessions (session_token, student_id, system_prompt)
    SELECT 'ws_fill_' || n, (SELECT student_id FROM students LIMIT 1), repeat('x', 1500)
    FROM generate_series(1, 3000) AS n;
    DELETE FROM sessions WHERE session_token LIKE 'ws_fill_%'
"""


def test_an_autovacuum_gives_way(clone: Clone, server: Server) -> None:
    """A refused lock: it would wait longer than any lock here may wait."""
    database = clone("0004")
    database.execute(SLOW_VACUUM)
    server.execute(sql.SQL("ALTER SYSTEM SET autovacuum_naptime = 1"))
    server.execute(sql.SQL("SELECT pg_reload_conf()"))
    try:
        with closing(database.connect()) as migrator, closing(database.connect()) as watching:
            vacuum = (
                "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'sessions'::regclass"
            )
            until = time.monotonic() + 120
            while watching.execute(vacuum).fetchall() == [(0,)]:
                assert time.monotonic() < until
                time.sleep(0.1)
            # far fewer than it would take
            migrator.execute("SELECT retry_locking('LOCK TABLE public.sessions', 5)")
    finally:
        server.execute(sql.SQL("ALTER SYSTEM RESET autovacuum_naptime"))
        server.execute(sql.SQL("SELECT pg_reload_conf()"))


@pytest.mark.parametrize("start", ["legacy", "0003"])
def test_writers_during_the_whole_upgrade(clone: Clone, start: str) -> None:
    """Several writers, with deletions and aborts, while the migration runs from end to end."""
    database = clone(start)
    known = [
        row[0] for row in database.query("SELECT session_token FROM workshop_students ORDER BY 1")
    ]
    ended = threading.Event()
    failures: list[BaseException] = []
    written = [0, 0, 0]

    def work(number: int) -> None:
        try:
            with closing(Application(database.url, owner=True)) as application:
                for turn in range(100_000):
                    if ended.is_set():
                        break
                    use(application, number, turn)
                    written[number] += 1
        except BaseException as error:
            failures.append(error)

    def use(application: Application, number: int, turn: int) -> None:
        token = known[(turn * 7 + number) % len(known)]
        new = f"ws_live_{number}_{turn % 20}"
        match turn % 5:
            case 0:
                application.save(
                    token, student_email=f"w{number}@example.com", current_step=turn % 9
                )
            case 1:
                application.progress(token, "w@example.com", done(f"step-{turn % 9 + 1}"), turn)
            case 2:
                application.progress(new, f"w{number}.{turn % 20}@example.com", {}, turn)
            case 3:
                application.delete(f"w{number}.{(turn + 5) % 20}@example.com")
            case 4:
                with application.connection.transaction(force_rollback=True):
                    application.progress(token, "w@example.com", done("step-9"), 999_999)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        upgrade(database)
        time.sleep(0.3)  # and more writes after the cut-over
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert min(written) > 5
    database.execute("CALL bridge.drain()")
    assert deviations(database) == []
    assert failed_checks(database) == []


def test_the_lists_order_is_the_same_through_the_view(clone: Clone) -> None:
    lists: list[list[dict[str, Any]]] = []
    states: list[Callable[[], Database]] = [lambda: clone("legacy"), lambda: clone("head")]
    for state in states:
        with closing(Application(state().url, owner=False)) as application:
            lists.append(application.list_students())
    assert lists[0] == lists[1]
    assert len(lists[0]) == 100


def test_backups_keep_what_the_names_had(migrated: Database) -> None:
    rows = migrated.query("SELECT legacy_name, relation::text FROM bridge.source")
    for name, backup in rows:
        assert backup.startswith(f"{name}_backup_")
        ((in_view,),) = migrated.query(f"SELECT count(*) FROM {name}")
        ((in_backup,),) = migrated.query(f"SELECT count(*) FROM {backup}")
        assert in_view == in_backup > 100
    assert len(rows) == 2


def test_two_transactions_that_change_the_same_student(migrated: Database) -> None:
    """Neither sees the other's uncommitted write; the student is correct all the same."""
    insert = """
        INSERT INTO workshop_students (session_token, student_email, student_name, created_at, started_at)
        VALUES (%(token)s, 'x@example.com', %(token)s, %(at)s, %(at)s)
    """
    with migrated.connect() as connection:
        for number in (1, 2, 3):
            parameters = {"token": f"ws_x_{number}", "at": f"2025-10-0{number}Z"}
            connection.execute(insert, parameters)
    delete = "DELETE FROM workshop_students WHERE session_token = %s"
    with migrated.connect(autocommit=False) as one, migrated.connect(autocommit=False) as other:
        one.execute(delete, ("ws_x_1",))
        other.execute(delete, ("ws_x_2",))
        other.commit()
        one.commit()
    migrated.execute("CALL bridge.drain()")
    assert deviations(migrated) == []
    assert failed_checks(migrated) == []


def test_a_session_and_its_step_do_not_deadlock(migrated: Database) -> None:
    """One transaction writes the session before the step, another one only the step."""
    ((token,),) = migrated.query(
        "SELECT min(session_token) FROM step_progress WHERE step_number = 4"
    )
    session = "UPDATE sessions SET ivr_greeting = 'new' WHERE session_token = %s"
    step = (
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts) "
        "SELECT session_token, student_id, 4, 'Basic Call', {0} FROM sessions WHERE session_token = %s "
        "ON CONFLICT (session_token, step_number) DO UPDATE SET attempts = {0}"
    )
    with (
        ThreadPoolExecutor() as threads,
        closing(migrated.connect()) as second,
        closing(migrated.connect(autocommit=False)) as first,
    ):
        first.execute(session.encode(), (token,))
        waiting = threads.submit(second.execute, step.format(77).encode(), (token,))
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
        while migrated.query(blocked, first.info.backend_pid) == [(0,)]:
            assert not waiting.done(), waiting.exception()
        first.execute(step.format(55).encode(), (token,))
        first.commit()
        waiting.result()
    query = "SELECT attempts FROM step_progress WHERE session_token = %s AND step_number = 4"
    assert migrated.query(query, token) == [(77,)]
    assert failed_checks(migrated) == []


def test_grants_of_single_columns_go_on_to_be_enough(legacy: Database, role: str) -> None:
    """The grants of the table are on the view; a column without a grant stays closed."""
    legacy.execute(
        f"""
        GRANT USAGE ON SCHEMA public TO {role};
        GRANT SELECT (session_token, student_email), UPDATE (student_email) ON student_configs TO {role}
        """
    )
    upgrade(legacy)
    with psycopg.connect(legacy.server.url(legacy.name, role, role)) as reader:
        reader.execute(
            "UPDATE student_configs SET student_email = 'x@example.com' WHERE session_token = 'none'"
        )
        found = reader.execute("SELECT count(student_email) FROM student_configs").fetchall()
        assert found[0][0] > 0
        for closed in ("openai_api_key FROM student_configs", "* FROM sessions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
                reader.execute(f"SELECT {closed}".encode())


def test_a_session_deleted_while_it_is_applied_goes(clone: Clone) -> None:
    """Its row is not committed yet: the deletion finds no session to lock."""
    database = clone("head")
    token = "ws_1790000000000_gone"
    with database.connect() as connection, database.connect(autocommit=False) as first:
        connection.execute("UPDATE bridge.state SET sync = false")
        connection.execute("INSERT INTO student_configs (session_token) VALUES (%s)", (token,))
        connection.execute("UPDATE bridge.state SET sync = true")
        first.execute("SELECT bridge.apply(%s)", (token,))
        connection.execute("DELETE FROM student_configs WHERE session_token = %s", (token,))
        first.commit()
        connection.execute("CALL bridge.drain()")
    assert (
        database.query("SELECT session_token FROM sessions WHERE session_token = %s", token) == []
    )
    assert failed_checks(database) == []


LATE, EARLY = "ws_1790000000000_late", "ws_1790000000001_early"


def insert_at(connection: psycopg.Connection[Any], token: str, email: str, day: str) -> None:
    """A session of a new student in the legacy tables."""
    connection.execute(
        "INSERT INTO student_configs (session_token, student_email, created_at) VALUES (%s, %s, %s)",
        (token, email, day),
    )


def insert_logged(database: Database, token: str, email: str, day: str) -> None:
    """The same, in the change log only."""
    with database.connect() as connection:
        connection.execute("UPDATE bridge.state SET sync = false")
        insert_at(connection, token, email, day)
        connection.execute("UPDATE bridge.state SET sync = true")


def test_two_that_insert_the_same_new_student_are_both_counted(clone: Clone) -> None:
    """Neither sees the other's session: the second one must not keep the student of the first one."""
    database = clone("head")
    address = "two.at.once@example.edu"
    insert_logged(database, LATE, address, "2025-11-02")
    with database.connect() as connection, database.connect(autocommit=False) as first:
        first.execute("SELECT bridge.apply(%s)", (LATE,))

        def commit_soon() -> None:
            time.sleep(0.02)
            first.commit()

        committing = threading.Thread(target=commit_soon)
        committing.start()
        insert_at(connection, EARLY, address, "2025-11-01")
        committing.join()
        connection.execute("CALL bridge.drain()")
    query = "SELECT created_at::date::text FROM students WHERE student_email = %s"
    assert database.query(query, address) == [("2025-11-01",)]
    assert failed_checks(database) == []


def test_a_student_that_came_since_the_sources_were_read_is_left_alone(clone: Clone) -> None:
    """The first session of the student may be one that an older snapshot does not have."""
    database = clone("head")
    address = "came.since@example.edu"
    insert_logged(database, LATE, address, "2025-11-02")
    with database.connect() as connection, database.connect(autocommit=False) as older:
        older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        older.execute("SELECT FROM bridge.change_log")
        insert_at(connection, EARLY, address, "2025-11-01")
        # the insertion of EARLY has applied the older changes
        assert older.execute("SELECT bridge.try_apply(%s)", (LATE,)).fetchall() == [("busy",)]
        older.commit()
        connection.execute("CALL bridge.drain()")
    query = "SELECT created_at::date::text FROM students WHERE student_email = %s"
    assert database.query(query, address) == [("2025-11-01",)]
    assert failed_checks(database) == []


def test_a_placeholder_does_not_beat_an_address(clone: Clone) -> None:
    """Both sides wrote the session at once: only the legacy row had the address."""
    database = clone("head")
    token = "ws_1790000000000_whose"
    with database.connect() as connection:
        connection.execute("INSERT INTO student_configs (session_token) VALUES (%s)", (token,))
        connection.execute("UPDATE bridge.state SET sync = false")
        for statement in (
            "UPDATE student_configs SET student_email = 'learnt@example.edu' WHERE session_token = %s",
            "UPDATE sessions SET system_prompt = 'mine' WHERE session_token = %s",
        ):
            connection.execute(statement.encode(), (token,))
        connection.execute("CALL bridge.drain()")
    found = database.query(
        "SELECT student_email, system_prompt FROM sessions JOIN students USING (student_id) "
        "WHERE session_token = %s",
        token,
    )
    assert found == [("learnt@example.edu", "mine")]
    assert failed_checks(database) == []
