"""Each revision on real rows: loaded before it, compared after it and after its downgrade.

Each revision has one class, which describes it. A revision without a class fails: each has a test
of its data.
"""

from abc import ABC, abstractmethod
from contextlib import closing
from typing import Any, ClassVar

import psycopg
import pytest

from support.databases import Database, downgrade, script_directory, upgrade

Connection = psycopg.Connection[tuple[Any, ...]]
Rows = list[tuple[Any, ...]]

LEGACY_TABLES = ("student_configs", "workshop_students")
TABLES = ("events", "sessions", "step_progress", "students")
NO_ROWS: dict[str, Rows] = {table: [] for table in TABLES}

ADA = "11111111-1111-4111-8111-111111111111"
OWN_SESSION = f"""
    INSERT INTO students (student_id, student_email) VALUES ('{ADA}', 'ada@example.com');
    INSERT INTO sessions (session_token, student_id) VALUES ('ws_own', '{ADA}')
"""


class RevisionTest(ABC):
    """The state before a revision, and the required state after it and after its downgrade.

    ``attempt`` is an earlier attempt at the unified schema, created before the first revision.
    """

    revision: ClassVar[str]
    attempt: ClassVar[str] = ""

    @abstractmethod
    def load(self, connection: Connection) -> None:
        """At the revision before."""

    @abstractmethod
    def check_upgrade(self, connection: Connection) -> None: ...

    @abstractmethod
    def check_downgrade(self, connection: Connection) -> None: ...


def rows(connection: Connection, query: str, *parameters: object) -> Rows:
    return connection.execute(query.encode(), parameters or None).fetchall()


def value(connection: Connection, query: str, *parameters: object) -> Any:
    ((found,),) = rows(connection, query, *parameters)
    return found


def run(connection: Connection, script: str, *parameters: object) -> int:
    return connection.execute(script.encode(), parameters or None).rowcount


def refused(connection: Connection, error: type[psycopg.Error], script: str) -> None:
    with pytest.raises(error):
        run(connection, script)


def names(connection: Connection, query: str, *parameters: object) -> set[str]:
    return {name for (name,) in rows(connection, query, *parameters)}


def pairs(connection: Connection, query: str) -> dict[str, str]:
    return {name: text for name, text in rows(connection, query)}


def relations(connection: Connection) -> dict[str, str]:
    """Tables and views of the public schema, with their kind."""
    return pairs(
        connection,
        "SELECT relname::text, relkind::text FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')",
    )


def indexes(connection: Connection) -> set[str]:
    """Indexes of the four tables, those of their constraints left out."""
    return names(
        connection,
        "SELECT indexname::text FROM pg_indexes WHERE tablename = ANY (%s) AND indexname ~ '^ix_'",
        list(TABLES),
    )


def triggers(connection: Connection, tables: tuple[str, ...]) -> set[str]:
    """``table.trigger`` for these tables, without those of foreign keys."""
    return names(
        connection,
        "SELECT format('%%s.%%s', tgrelid::regclass, tgname) FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgrelid = ANY (%s::regclass[])",
        list(tables),
    )


def contents(connection: Connection, *tables: str) -> dict[str, Rows]:
    return {table: rows(connection, f"SELECT * FROM {table} ORDER BY 1") for table in tables}


def some_token(connection: Connection, number: int = 0) -> str:
    """A token in both legacy tables."""
    token: str = value(
        connection,
        "SELECT session_token FROM workshop_students JOIN student_configs USING (session_token) "
        "ORDER BY 1 LIMIT 1 OFFSET %s",
        number,
    )
    return token


def spend(connection: Connection, token: str, seconds: int) -> None:
    """A recognisable write of the legacy application."""
    update = "UPDATE workshop_students SET total_time_spent = %s WHERE session_token = %s"
    assert run(connection, update, seconds, token) == 1


def spent(connection: Connection, token: str) -> int:
    """The session in the unified tables."""
    query = "SELECT total_time_spent FROM sessions WHERE session_token = %s"
    seconds: int = value(connection, query, token)
    return seconds


def changes_logged(connection: Connection) -> set[tuple[Any, ...]]:
    """The changes that the triggers have logged since the last call."""
    return set(rows(connection, "DELETE FROM bridge.change_log RETURNING side, token"))


# --- the revisions ----------------------------------------------------------------------------------


class UnifiedSchema(RevisionTest):
    """Four tables with keys and checks; an earlier attempt renamed and copied."""

    revision = "0001_unified_schema"
    constraints: ClassVar[set[str]] = {
        "pk_students",
        "uq_students_student_email",
        "pk_sessions",
        "ck_sessions_bug_reports",
        "ck_sessions_completion_rate",
        "ck_sessions_current_step",
        "ck_sessions_exercises",
        "ck_sessions_legacy_extra",
        "ck_sessions_tools",
        "ck_sessions_total_time_spent",
        "ck_sessions_voice_settings",
        "pk_step_progress",
        "ck_step_progress_attempts",
        "ck_step_progress_step_number",
        "ck_step_progress_time_spent",
        "pk_events",
    }
    earlier = ("students", "sessions", "events")

    def load(self, connection: Connection) -> None:
        run(
            connection,
            f"""
            CREATE TABLE students (
                student_id uuid PRIMARY KEY,
                student_email text,
                github_username text
            );
            CREATE TABLE sessions (
                session_token text PRIMARY KEY,
                student_id uuid,
                system_prompt text,
                services_ready boolean
            );
            CREATE TABLE events (event_id serial, event_type text, event_data jsonb);
            INSERT INTO students VALUES ('{ADA}', E' Ada@Example.COM\\n', 'ada');
            INSERT INTO sessions VALUES ('ws_earlier', '{ADA}', 'Be kind: 100%', true);
            INSERT INTO events (event_type, event_data) VALUES ('greeting', '{{"a": 1}}')
            """,
        )
        self.before = contents(connection, *LEGACY_TABLES, *self.earlier)

    def check_upgrade(self, connection: Connection) -> None:
        found = names(
            connection,
            "SELECT conname::text FROM pg_constraint "
            "WHERE conrelid = ANY (%s::regclass[]) AND contype IN ('c', 'f', 'p', 'u')",
            list(TABLES),
        )
        assert found == self.constraints
        assert indexes(connection) == set()

        # the earlier attempt: renamed, unchanged, and its rows in the unified tables
        moved = pairs(connection, "SELECT original_name, relation::text FROM prior_attempt")
        assert moved.keys() == set(self.earlier)
        for name, backup in moved.items():
            assert backup.startswith(f"{name}_prior_backup_2")
            assert contents(connection, backup)[backup] == self.before[name]
        assert rows(
            connection,
            "SELECT student_id::text, student_email, github_username, session_token, "
            "system_prompt, services_ready, tools FROM students JOIN sessions USING (student_id)",
        ) == [(ADA, "ada@example.com", "ada", "ws_earlier", "Be kind: 100%", True, [])]
        assert rows(connection, "SELECT event_type, event_data FROM events") == [
            ("greeting", {"a": 1})
        ]
        assert contents(connection, *LEGACY_TABLES) == {
            table: self.before[table] for table in LEGACY_TABLES
        }

        # refusals of keys and checks, and defaults
        run(connection, f"INSERT INTO sessions (session_token, student_id) VALUES ('t', '{ADA}')")
        assert rows(
            connection,
            "SELECT current_step, completion_rate, tools, voice_settings, exercises, legacy_extra, "
            "demo_mode, (expires_at - started_at)::text FROM sessions WHERE session_token = 't'",
        ) == [(0, 0, [], {}, {}, {}, False, "30 days")]
        for change in (
            "current_step = 10",
            "completion_rate = 101",
            "total_time_spent = -1",
            "tools = '{}'",
            "exercises = '\"{}\"'",
        ):
            refused(connection, psycopg.errors.CheckViolation, f"UPDATE sessions SET {change}")
        refused(
            connection,
            psycopg.errors.UniqueViolation,
            "INSERT INTO students (student_email) VALUES ('ada@example.com')",
        )
        refused(
            connection,
            psycopg.errors.CheckViolation,
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name) "
            f"VALUES ('t', '{ADA}', 10, 'x')",
        )
        run(connection, "DELETE FROM sessions WHERE session_token = 't'")

    def check_downgrade(self, connection: Connection) -> None:
        assert relations(connection) == dict.fromkeys(
            ("alembic_version", *LEGACY_TABLES, *self.earlier), "r"
        )
        assert contents(connection, *LEGACY_TABLES, *self.earlier) == self.before


class ProgressTracking(RevisionTest):
    """Triggers clean rows, and update_session_progress() counts done steps."""

    revision = "0002_progress_tracking"
    functions = (
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )

    def load(self, connection: Connection) -> None:
        run(
            connection,
            """
            CREATE FUNCTION update_session_progress(token text) RETURNS text
                LANGUAGE sql AS $$SELECT 'earlier ' || token$$;
            INSERT INTO events (event_type, event_data) VALUES ('wrapped', '"{\\"a\\": 1}"')
            """,
        )
        assert triggers(connection, TABLES) == set()

    def check_upgrade(self, connection: Connection) -> None:
        assert triggers(connection, TABLES) == {
            "students.clean_students",
            "students.refuse_student_id_change",
            "students.touch_updated_at",
            "sessions.clean_sessions",
            "sessions.touch_updated_at",
            "step_progress.clean_step_progress",
            "step_progress.touch_updated_at",
            "events.clean_events",
        }
        assert value(connection, "SELECT event_data FROM events") == {"a": 1}
        run(
            connection,
            f"""
            INSERT INTO students (student_id, student_email, updated_at)
            VALUES ('{ADA}', E'\\tAda@Example.com ', '2025-01-01Z');
            INSERT INTO sessions (session_token, student_id, tools, ivr_greeting, last_activity)
            VALUES ('t', '{ADA}', '"[1]"', '', '2025-01-01Z');
            INSERT INTO step_progress (session_token, student_id, step_number, step_name,
                                       validation_passed, time_spent)
            VALUES ('t', '{ADA}', 3, 'Basic TwiML', true, 90)
            """,
        )
        assert value(connection, "SELECT student_email FROM students") == "ada@example.com"
        assert rows(connection, "SELECT tools, ivr_greeting FROM sessions") == [([1], None)]
        assert value(connection, "SELECT step_number FROM step_progress") == 4
        refused(
            connection,
            psycopg.errors.IntegrityConstraintViolation,
            "UPDATE students SET student_id = gen_random_uuid()",
        )
        run(connection, "UPDATE students SET github_username = 'ada'")
        assert value(connection, "SELECT updated_at > '2025-01-02Z' FROM students")

        progress = """
            SELECT completion_rate, current_step, total_time_spent, last_activity > '2025-01-02Z'
            FROM sessions
        """
        run(connection, "UPDATE sessions SET services_ready = true")
        assert rows(connection, progress) == [(0, 0, 0, False)]
        run(connection, "SELECT update_session_progress('t')")
        assert rows(connection, progress) == [(22, 4, 90, True)]

    def check_downgrade(self, connection: Connection) -> None:
        assert triggers(connection, TABLES) == set()
        assert names(connection, self.functions) == {
            "copy_row_security(regclass,regclass)",
            "create_commented(text)",
            "follow_legacy_rights(text)",
            "free_dated_name(text)",
            "lock_holders(regclass[],boolean)",
            "lock_unified_tables(text)",
            "refuse_write()",
            "restrict_to_owner()",
            "retry_locking(text,integer)",
            "update_updated_at_column()",
            "update_session_progress(text)",
        }
        assert value(connection, "SELECT update_session_progress('t')") == "earlier t"
        run(connection, "UPDATE sessions SET ivr_greeting = ''")
        assert value(connection, "SELECT ivr_greeting FROM sessions") == ""


class LegacyBridge(RevisionTest):
    """Every legacy write is logged, nothing is applied yet."""

    revision = "0003_legacy_bridge"

    def load(self, connection: Connection) -> None:
        self.known = some_token(connection)
        spend(connection, self.known, 1234)
        self.before = triggers(connection, LEGACY_TABLES)

    def check_upgrade(self, connection: Connection) -> None:
        assert changes_logged(connection) == set()
        assert triggers(connection, LEGACY_TABLES) - self.before == {
            f"{table}.bridge_{event}"
            for table in LEGACY_TABLES
            for event in ("insert", "update", "delete", "truncate")
        }
        # the mapping has every token, the four tables none
        assert value(connection, "SELECT count(*) FROM bridge.sessions") == 213
        query = "SELECT total_time_spent FROM bridge.sessions WHERE session_token = %s"
        assert value(connection, query, self.known) == 1234
        assert contents(connection, *TABLES) == NO_ROWS

        for statement, logged in (
            ("INSERT INTO student_configs (session_token) VALUES ('ws_1'), ('ws_2')", "ws_1 ws_2"),
            (
                "INSERT INTO student_configs (session_token) VALUES ('ws_1') "
                "ON CONFLICT (session_token) DO UPDATE SET ivr_greeting = 'Hello'",
                "ws_1",
            ),
            (
                "UPDATE student_configs SET session_token = 'ws_3' WHERE session_token = 'ws_2'",
                "ws_2 ws_3",
            ),
            ("DELETE FROM student_configs WHERE session_token = 'ws_3'", "ws_3"),
            ("UPDATE student_configs SET ivr_greeting = '' WHERE false", ""),
        ):
            run(connection, statement)
            assert changes_logged(connection) == {("legacy", token) for token in logged.split()}
        with connection.transaction(force_rollback=True):
            spend(connection, self.known, 1)
        assert changes_logged(connection) == set()
        assert contents(connection, *TABLES) == NO_ROWS
        spend(connection, self.known, 4321)
        self.written = contents(connection, *LEGACY_TABLES)

    def check_downgrade(self, connection: Connection) -> None:
        assert value(connection, "SELECT to_regnamespace('bridge')") is None
        assert triggers(connection, LEGACY_TABLES) == self.before
        assert indexes(connection) == set()
        assert contents(connection, *LEGACY_TABLES) == self.written
        spend(connection, self.known, 5)


class MergeLegacyData(RevisionTest):
    """Every token becomes a session, together with the rows of an earlier attempt.

    From here on triggers keep completion_rate, steps and exercises in line.
    """

    revision = "0004_merge_legacy_data"
    attempt = f"""
        CREATE TABLE students (student_id uuid PRIMARY KEY, student_email text, github_username text);
        CREATE TABLE sessions (
            session_token text PRIMARY KEY,
            student_id uuid,
            system_prompt text,
            total_time_spent integer
        );
        CREATE TABLE step_progress (
            session_token text,
            step_number integer,
            step_name text,
            validation_passed boolean
        );
        INSERT INTO students
        SELECT '{ADA}', lower(student_email), 'kept' FROM workshop_students
        ORDER BY session_token LIMIT 1;
        INSERT INTO sessions
        SELECT session_token, '{ADA}', NULL, 900000 FROM workshop_students
        ORDER BY session_token LIMIT 1;
        INSERT INTO sessions VALUES ('ws_earlier', '{ADA}', 'Only here', 60);
        INSERT INTO step_progress VALUES ('ws_earlier', 0, 'Connect Accounts', true)
    """
    progress_triggers: ClassVar[set[str]] = {
        "sessions.completion_rate",
        "sessions.steps_follow_exercises",
        "step_progress.follow_step_progress",
        "step_progress.follow_step_progress_first",
    }
    counted = """
        SELECT (SELECT count(*) FROM students), (SELECT count(*) FROM sessions),
               (SELECT count(*) FROM step_progress)
    """

    def load(self, connection: Connection) -> None:
        self.adopted: str = value(connection, "SELECT min(session_token) FROM workshop_students")
        self.late = some_token(connection, 9)
        self.before = triggers(connection, TABLES)
        spend(connection, self.late, 800_000)
        assert value(connection, "SELECT count(*) FROM bridge.change_log") == 1
        self.legacy = contents(connection, *LEGACY_TABLES)

    def check_upgrade(self, connection: Connection) -> None:
        assert triggers(connection, TABLES) - self.before == self.progress_triggers
        students, sessions, steps = rows(connection, self.counted)[0]
        addresses = """
            SELECT count(*) FROM (
                SELECT lower(trim(student_email)) AS address FROM workshop_students
                UNION SELECT lower(trim(student_email)) FROM student_configs
            ) AS a WHERE address NOT IN ('', 'unknown@example.com')
        """
        placeholders = "SELECT count(*) FROM students WHERE student_email LIKE 'anonymous+%'"
        assert students == value(connection, addresses) + value(connection, placeholders)
        assert sessions == 213 + 1
        assert value(connection, "SELECT count(DISTINCT session_token) FROM step_progress") > 130
        merge = "SELECT event_data FROM events WHERE event_type = 'legacy_merge'"
        told = value(connection, merge)
        assert (told["students"], told["sessions"], told["step_progress"]) == (
            students,
            sessions,
            steps,
        )
        assert value(connection, "SELECT bool_and(ok) FROM bridge.verify()")

        # the rows of the earlier attempt were there first: its id, its session, the greater time
        assert rows(
            connection,
            "SELECT session_token, student_id::text, github_username, total_time_spent "
            "FROM sessions JOIN students USING (student_id) "
            "WHERE session_token IN ('ws_earlier', %s) ORDER BY total_time_spent",
            self.adopted,
        ) == [("ws_earlier", ADA, "kept", 60), (self.adopted, ADA, "kept", 900_000)]
        assert rows(
            connection,
            "SELECT step_number, step_name, validation_passed FROM step_progress "
            "WHERE session_token = 'ws_earlier'",
        ) == [(1, "Connect Accounts", True)]

        # older changes are applied; the legacy tables were only read
        assert spent(connection, self.late) == 800_000
        assert changes_logged(connection) == set()
        assert contents(connection, *LEGACY_TABLES) == self.legacy

    def check_downgrade(self, connection: Connection) -> None:
        assert triggers(connection, TABLES) - self.before == {
            f"{table}.read_only" for table in TABLES
        }
        assert rows(connection, self.counted)[0][1] == 213 + 1
        assert contents(connection, *LEGACY_TABLES) == self.legacy
        spend(connection, self.late, 1)
        assert spent(connection, self.late) == 800_000
        assert changes_logged(connection) == {("legacy", self.late)}


class KeysAndIndexes(RevisionTest):
    """Foreign keys and indexes; legacy writes are applied at once."""

    revision = "0005_keys_and_indexes"
    foreign_keys = """
        SELECT conname::text, CASE confdeltype WHEN 'c' THEN 'cascade' WHEN 'n' THEN 'set null' END
        FROM pg_constraint WHERE contype = 'f' ORDER BY 1
    """
    of_bridge: ClassVar[set[str]] = {"ix_sessions_student_id", "ix_events_session_token"}
    progress = "SELECT completion_rate, exercises FROM sessions WHERE session_token = 'ws_own'"

    def load(self, connection: Connection) -> None:
        self.logged, self.other = some_token(connection), some_token(connection, 9)
        spend(connection, self.logged, 800_000)
        assert spent(connection, self.logged) < 800_000
        assert indexes(connection) == self.of_bridge

    def check_upgrade(self, connection: Connection) -> None:
        assert rows(connection, self.foreign_keys) == [
            ("fk_events_session_token_sessions", "set null"),
            ("fk_events_student_id_students", "set null"),
            ("fk_sessions_student_id_students", "cascade"),
            ("fk_step_progress_session_token_sessions", "cascade"),
            ("fk_step_progress_student_id_students", "cascade"),
        ]
        assert indexes(connection) - self.of_bridge == {
            "ix_events_event_type",
            "ix_events_student_id",
            "ix_sessions_is_active_expires_at",
            "ix_sessions_last_activity",
            "ix_step_progress_student_id",
        }
        # older changes are applied; from now on each write is applied at once
        assert spent(connection, self.logged) == 800_000
        spend(connection, self.other, 700_000)
        assert spent(connection, self.other) == 700_000
        assert changes_logged(connection) == set()

        run(connection, OWN_SESSION)
        run(connection, "UPDATE sessions SET completion_rate = 55 WHERE session_token = 'ws_own'")
        assert rows(connection, self.progress) == [(0, {})]
        run(
            connection,
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name, "
            f"validation_passed, time_spent) VALUES ('ws_own', '{ADA}', 4, 'Basic TwiML', true, 7)",
        )
        ((rate, exercises),) = rows(connection, self.progress)
        assert rate == 11
        assert exercises["step-4-basic-twiml"]["completed"] is True
        assert exercises["step-4-basic-twiml"]["timeSpent"] == 7

        refused(
            connection,
            psycopg.errors.ForeignKeyViolation,
            "INSERT INTO sessions (session_token, student_id) VALUES ('t', gen_random_uuid())",
        )
        run(
            connection,
            "INSERT INTO events (event_type, student_id, session_token) "
            f"VALUES ('seen', '{ADA}', 'ws_own'); DELETE FROM students WHERE student_id = '{ADA}'",
        )
        own = """
            SELECT (SELECT count(*) FROM sessions WHERE session_token = 'ws_own'),
                   (SELECT count(*) FROM step_progress WHERE session_token = 'ws_own')
        """
        assert rows(connection, own) == [(0, 0)]
        seen = "SELECT student_id, session_token FROM events WHERE event_type = 'seen'"
        assert rows(connection, seen) == [(None, None)]

    def check_downgrade(self, connection: Connection) -> None:
        assert rows(connection, self.foreign_keys) == []
        assert indexes(connection) == self.of_bridge
        run(connection, OWN_SESSION)
        run(connection, "UPDATE sessions SET completion_rate = 55 WHERE session_token = 'ws_own'")
        # the triggers are those of 0004
        assert rows(connection, self.progress) == [(0, {})]
        changes_logged(connection)
        spend(connection, self.other, 600_000)
        assert spent(connection, self.other) == 700_000
        assert changes_logged(connection) == {("legacy", self.other)}


class ReportingViews(RevisionTest):
    """session_overview shows every session and no secret; the other views aggregate."""

    revision = "0006_reporting_views"
    secrets = """
        SELECT openai_api_key FROM sessions
        UNION SELECT system_prompt FROM sessions
        UNION SELECT legacy_extra #>> '{student_configs,twilio_auth_token}' FROM sessions
    """

    def load(self, connection: Connection) -> None:
        """A write as 0005 may leave it: logged, and not applied."""
        self.logged = some_token(connection)
        with connection.transaction():
            run(connection, "SET LOCAL session_replication_role = replica")
            spend(connection, self.logged, 800_000)
            log = "INSERT INTO bridge.change_log (side, token) VALUES ('legacy', %s)"
            run(connection, log, self.logged)

    def check_upgrade(self, connection: Connection) -> None:
        assert spent(connection, self.logged) == 800_000
        assert changes_logged(connection) == set()

        cursor = connection.execute("SELECT * FROM session_overview")
        columns = {column.name for column in cursor.description or ()}
        assert cursor.rowcount == 213
        assert {name for name, kind in relations(connection).items() if kind == "v"} == {
            "session_overview",
            "student_overview",
            "step_funnel",
            "progress_by_day",
            "stuck_sessions",
        }
        assert value(connection, "SELECT sum(sessions) FROM student_overview") == 213
        assert value(connection, "SELECT count(*) FROM step_funnel WHERE done > 0") == 9
        assert value(connection, "SELECT sum(sessions_started) FROM progress_by_day") == 213
        unfinished = "SELECT count(*) FROM sessions WHERE completion_rate < 100"
        stuck = "SELECT count(*) FROM stuck_sessions"
        assert value(connection, stuck) == value(connection, unfinished)
        assert {"student_email", "completion_rate", "has_tools", "step4_deployed"} <= columns
        assert not columns & {"openai_api_key", "system_prompt", "tools", "legacy_extra"}
        shown = "SELECT count(*) FROM session_overview WHERE {}"
        for flag, secret in (
            ("has_api_key", "openai_api_key <> ''"),
            ("has_system_prompt", "system_prompt <> ''"),
            ("has_tools", "jsonb_array_length(tools) > 0"),
        ):
            with_secret = f"SELECT session_token FROM sessions WHERE {secret}"
            right = f"{flag} = (session_token IN ({with_secret}))"
            assert value(connection, shown.format(right)) == 213, flag
            assert 0 < value(connection, shown.format(flag)) < 213, flag
        assert len(names(connection, self.secrets)) > 100
        leaks = f"""
            SELECT count(*)
            FROM (SELECT string_agg(c.value, ' ') AS shown
                  FROM session_overview AS o, jsonb_each_text(to_jsonb(o)) AS c
                  GROUP BY o.session_token) AS o
            JOIN ({self.secrets}) AS s(secret) ON strpos(o.shown, s.secret) > 0
        """
        assert value(connection, leaks) == 0

    def check_downgrade(self, connection: Connection) -> None:
        assert "v" not in relations(connection).values()
        assert value(connection, "SELECT count(*) FROM sessions") == 213
        assert spent(connection, self.logged) == 800_000


class RetireLegacyTables(RevisionTest):
    """Dated backups, and writable views with the legacy names."""

    revision = "0007_retire_legacy_tables"
    backups = "SELECT legacy_name, relation::text FROM bridge.source"
    save = """
        INSERT INTO student_configs (session_token, student_email, ivr_greeting)
        VALUES ('ws_new', 'new@example.com', %s)
        ON CONFLICT (session_token) DO UPDATE SET ivr_greeting = EXCLUDED.ivr_greeting
    """
    greeting = "SELECT ivr_greeting FROM {} WHERE session_token = 'ws_new'"
    today = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"

    def load(self, connection: Connection) -> None:
        run(connection, "GRANT SELECT ON student_configs TO PUBLIC")
        self.known, self.gone = some_token(connection), some_token(connection, 9)
        self.day = value(connection, self.today)
        self.before = contents(connection, *LEGACY_TABLES)

    def check_upgrade(self, connection: Connection) -> None:
        backups = pairs(connection, self.backups)
        kinds = relations(connection)
        days = {self.day, value(connection, self.today)}
        assert {table.removeprefix(f"{name}_backup_") for name, table in backups.items()} <= days
        assert [(kinds[view], kinds[table]) for view, table in backups.items()] == [("v", "r")] * 2
        assert contents(connection, *LEGACY_TABLES) == self.before
        assert value(
            connection, "SELECT has_table_privilege('public', 'student_configs', 'SELECT')"
        )

        # each of the legacy application's statements, through the legacy name
        for greeting in ("Hello", "Hello again"):
            run(connection, "CREATE TABLE IF NOT EXISTS student_configs (session_token text)")
            assert run(connection, self.save, greeting) == 1
            for relation in ("student_configs", backups["student_configs"], "sessions"):
                assert value(connection, self.greeting.format(relation)) == greeting
        spend(connection, self.known, 800_000)
        assert spent(connection, self.known) == 800_000
        for table in LEGACY_TABLES:
            delete = f"DELETE FROM {table} WHERE session_token = %s"
            assert run(connection, delete, self.gone) == 1
        found = "SELECT count(*) FROM sessions WHERE session_token = %s"
        assert value(connection, found, self.gone) == 0
        assert relations(connection) == kinds
        self.written = contents(connection, *LEGACY_TABLES)

    def check_downgrade(self, connection: Connection) -> None:
        kinds = relations(connection)
        assert {name: kinds[name] for name in LEGACY_TABLES} == dict.fromkeys(LEGACY_TABLES, "r")
        assert not [name for name in kinds if "_backup_" in name]
        assert pairs(connection, self.backups) == {name: name for name in LEGACY_TABLES}
        assert contents(connection, *LEGACY_TABLES) == self.written
        assert run(connection, self.save, "Hello once more") == 1
        assert value(connection, self.greeting.format("sessions")) == "Hello once more"


TESTS = {test.revision: test for test in RevisionTest.__subclasses__()}
STEPS = [
    (str(script.down_revision or "base"), script.revision)
    for script in script_directory().walk_revisions()
]


@pytest.mark.parametrize(("before", "revision"), STEPS)
def test_data_before_and_after(legacy: Database, before: str, revision: str) -> None:
    assert revision in TESTS, f"write a class for {revision}: load, check_upgrade, check_downgrade"
    test = TESTS[revision]()
    if test.attempt:
        legacy.execute(test.attempt)
    if before != "base":
        upgrade(legacy, before)
    with closing(legacy.connect()) as connection:
        test.load(connection)
    upgrade(legacy, revision)
    with closing(legacy.connect()) as connection:
        test.check_upgrade(connection)
    downgrade(legacy, before)
    with closing(legacy.connect()) as connection:
        test.check_downgrade(connection)


def test_every_class_is_of_a_revision() -> None:
    assert TESTS.keys() <= {revision for _, revision in STEPS}
