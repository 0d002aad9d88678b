"""Corruptions that a migration can leave behind: ``bridge.verify()`` finds each of them.

A mutation changes one row of a migrated database, or as few as the fault needs, without triggers
and foreign keys. A seed draws the row: ``MUTATION_SEED=2 pytest tests/test_mutations.py`` tries
others. If a value was changed, a failing check has to name its table and column. A change without a
difference in meaning must not be reported.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from pytest_postgresql.executors import NoopExecutor

from support.databases import Server, cloned, failed_checks

Connection = psycopg.Connection[tuple[Any, ...]]

SEED = int(os.environ.get("MUTATION_SEED", "1"))

# Values that the sample lacks; the legacy application writes them after the migration.
VARIETY = """
    UPDATE workshop_students SET started_at = created_at + interval '5 minutes';
    UPDATE student_configs
    SET student_email = 'seen.only.here@example.com', student_name = 'Zoë Elsewhere'
    WHERE session_token = (SELECT min(session_token) FROM workshop_students
                           JOIN student_configs USING (session_token))
"""

KEYS = {
    "students": "student_email",
    "sessions": "session_token",
    "step_progress": "session_token, step_number",
    "workshop_students": "session_token",
    "student_configs": "session_token",
}


@dataclass(frozen=True)
class Mutation:
    """Statements that do the damage, and the words that a failing check must have."""

    clue: str
    statements: tuple[str, ...]


def drawn(table: str, condition: str = "true") -> str:
    """A condition for one row, drawn by the seed from those with the first condition."""
    key = KEYS[table]
    return (
        f"({key}) IN (SELECT {key} FROM {table} WHERE {condition} "
        f"ORDER BY md5(concat_ws('|', {SEED}, {key})) LIMIT 1)"
    )


def changed(cell: str, value: str, where: str = "true", clue: str = "") -> Mutation:
    """Another value in one cell of ``table.column``."""
    table, column = cell.split(".")
    row = drawn(table, f"({where}) AND {column} IS DISTINCT FROM ({value})")
    return Mutation(clue or cell, (f"UPDATE {table} SET {column} = {value} WHERE {row}",))


def wrapped(column: str) -> Mutation:
    """A JSON string that holds the JSON, as the application's driver sent it."""
    change = changed(
        f"sessions.{column}", f"to_jsonb({column}::text)", f"{column} NOT IN ('[]', '{{}}')"
    )
    check = f"ALTER TABLE sessions DROP CONSTRAINT ck_sessions_{column}"
    return Mutation(change.clue, (check, *change.statements))


def whole_column(cell: str, value: str = "DEFAULT") -> Mutation:
    table, column = cell.split(".")
    return Mutation(cell, (f"UPDATE {table} SET {column} = {value}",))


def swapped(column: str) -> Mutation:
    """Two sessions with each other's value."""
    return Mutation(
        f"sessions.{column}",
        (
            f"""
            WITH pair AS (
                SELECT min(session_token) AS token FROM sessions
                WHERE {column} IS NOT NULL
                GROUP BY {column}
                ORDER BY md5(concat_ws('|', {SEED}, min(session_token)))
                LIMIT 2
            )
            UPDATE sessions AS s SET {column} = o.{column} FROM sessions AS o
            WHERE s.session_token IN (SELECT token FROM pair)
              AND o.session_token IN (SELECT token FROM pair)
              AND o.session_token <> s.session_token
            """,
        ),
    )


def deleted(table: str, where: str = "true") -> Mutation:
    return Mutation(f"{table}.(row missing)", (f"DELETE FROM {table} WHERE {drawn(table, where)}",))


def surplus(table: str, insert: str) -> Mutation:
    return Mutation(f"{table}.(row without legacy)", (insert,))


ANOTHER_STUDENT = "(SELECT student_id FROM students WHERE {})".format(
    drawn("students", "student_id <> sessions.student_id")
)
HAS_EXERCISES = "exercises <> '{}'"
FIRST_EXERCISE = "(SELECT min(k) FROM jsonb_object_keys(exercises) AS k)"
HAS_TWILIO = "legacy_extra #>> '{student_configs,twilio_auth_token}' <> ''"

MUTATIONS = {
    # rows
    "a session lost": deleted("sessions"),
    "a session lost with its steps": Mutation(
        "sessions.(row missing)",
        (
            "WITH gone AS (DELETE FROM sessions WHERE "
            + drawn("sessions", "session_token IN (SELECT session_token FROM step_progress)")
            + " RETURNING session_token) "
            "DELETE FROM step_progress WHERE session_token IN (SELECT session_token FROM gone)",
        ),
    ),
    "a student lost": deleted("students"),
    "a student without sessions lost": deleted(
        "students", "student_id NOT IN (SELECT student_id FROM sessions)"
    ),
    "a step lost": deleted("step_progress"),
    "all steps of a session lost": Mutation(
        "step_progress.(row missing)",
        (
            "DELETE FROM step_progress WHERE session_token = "
            f"(SELECT session_token FROM step_progress WHERE {drawn('step_progress')})",
        ),
    ),
    "a surplus session": surplus(
        "sessions",
        "INSERT INTO sessions (session_token, student_id) "
        f"SELECT 'ws_surplus', student_id FROM students WHERE {drawn('students')}",
    ),
    "a surplus step": surplus(
        "step_progress",
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name) "
        "SELECT session_token, student_id, 9, step_name_of(9) FROM sessions WHERE "
        + drawn(
            "sessions",
            "session_token NOT IN (SELECT session_token FROM step_progress WHERE step_number = 9)",
        ),
    ),
    "a step twice, under another number": surplus(
        "step_progress",
        "INSERT INTO step_progress (session_token, student_id, step_number, step_name, "
        "completed_at, time_spent, attempts, validation_passed) "
        "SELECT session_token, student_id, step_number + 5, step_name, "
        "completed_at, time_spent, attempts, validation_passed FROM step_progress WHERE "
        + drawn(
            "step_progress",
            "step_number < 5 AND (session_token, step_number + 5) NOT IN "
            "(SELECT session_token, step_number FROM step_progress)",
        ),
    ),
    "a step off by one": changed(
        "step_progress.step_number",
        "step_number + 1",
        "step_number < 9 AND (session_token, step_number + 1) NOT IN "
        "(SELECT session_token, step_number FROM step_progress)",
        clue="step_progress.(row without legacy)",
    ),
    "an orphaned session": changed(
        "sessions.student_id", "gen_random_uuid()", clue="sessions.student_email"
    ),
    "an orphaned step": changed(
        "step_progress.session_token", "'ws_nowhere'", clue="orphans: steps without a session"
    ),
    "a step of another student": changed("step_progress.student_id", "gen_random_uuid()"),
    "a session moved to another student": changed(
        "sessions.student_id", ANOTHER_STUDENT, clue="sessions.student_email"
    ),
    "a session under another token": changed(
        "sessions.session_token", "session_token || ' '", clue="sessions.(row missing)"
    ),
    "students of two sessions swapped": replace(
        swapped("student_id"), clue="sessions.student_email"
    ),
    "API keys of two sessions swapped": swapped("openai_api_key"),
    "prompts of two sessions swapped": swapped("system_prompt"),
    # text
    "a trailing space in a prompt": changed("sessions.system_prompt", "system_prompt || ' '"),
    "a trailing space in a name": changed("students.student_name", "student_name || ' '"),
    "a trailing space lost": changed(
        "sessions.use_case_description", "left(use_case_description, -1)"
    ),
    "white space at the end of an address": changed(
        "students.student_email", "student_email || E'\\n'", clue="students.(row missing)"
    ),
    "case of a voice changed": changed("sessions.selected_voice", "lower(selected_voice)"),
    "case of an address changed": changed(
        "students.student_email", "upper(student_email)", clue="students.(row missing)"
    ),
    "empty instead of NULL": changed("sessions.ivr_greeting", "''", "ivr_greeting IS NULL"),
    "empty instead of a text": changed("sessions.use_case_description", "''"),
    "NULL instead of a text": changed("sessions.selected_phone_number", "NULL"),
    "a text instead of NULL": changed(
        "sessions.railway_url", "'https://railway.example'", "railway_url IS NULL"
    ),
    "'null' instead of NULL": changed("sessions.websocket_url", "'null'", "websocket_url IS NULL"),
    "a text cut off": changed("sessions.system_prompt", "left(system_prompt, 100)"),
    "line ends of a prompt changed": changed(
        "sessions.system_prompt", "replace(system_prompt, E'\\n', E'\\r\\n')"
    ),
    "backslashes of a prompt doubled": changed(
        "sessions.system_prompt", r"replace(system_prompt, '\', '\\')"
    ),
    "Unicode of a name decomposed": changed(
        "students.student_name", "normalize(student_name, NFD)"
    ),
    "Unicode of a prompt decomposed": changed(
        "sessions.system_prompt", "normalize(system_prompt, NFD)"
    ),
    "UTF-8 of a prompt read as Latin-1": changed(
        "sessions.system_prompt", "convert_from(convert_to(system_prompt, 'UTF8'), 'LATIN1')"
    ),
    "an API key shorter by a byte": changed("sessions.openai_api_key", "left(openai_api_key, -1)"),
    "an API key with a line end": changed("sessions.openai_api_key", "openai_api_key || E'\\n'"),
    "an API key lost": changed("sessions.openai_api_key", "NULL"),
    "an address changed": changed(
        "students.student_email", "'x' || student_email", clue="students.(row missing)"
    ),
    "a name changed": changed("students.student_name", "'Somebody Else'"),
    "a name replaced by the address": changed("students.student_name", "student_email"),
    "a name lost": changed("students.student_name", "NULL"),
    "name of a student without sessions changed": changed(
        "students.student_name",
        "'Somebody Else'",
        "student_id NOT IN (SELECT student_id FROM sessions)",
    ),
    "a step under the name of another": changed(
        "step_progress.step_name", "step_name_of(step_number % 9 + 1)"
    ),
    # times
    **{
        f"{cell}: {name}": changed(cell, value.format(cell.split(".")[1]), f"{cell} IS NOT NULL")
        for cell in (
            "students.created_at",
            "sessions.started_at",
            "sessions.last_activity",
            "sessions.created_at",
            "step_progress.completed_at",
        )
        for name, value in {
            "an hour late": "{} + interval '1 hour'",
            "a microsecond early": "{} - interval '1 microsecond'",
            "milliseconds cut off": "date_trunc('second', {})",
        }.items()
    },
    "a time read in another zone": changed(
        "sessions.created_at", "created_at AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Kolkata'"
    ),
    "the beginning of the row as the beginning of the session": changed(
        "sessions.started_at", "created_at"
    ),
    "the time of the migration": changed("sessions.last_activity", "now()"),
    "no last activity": changed("sessions.last_activity", "NULL"),
    "no time of creation": changed("students.created_at", "NULL"),
    "no time of completion": changed("step_progress.completed_at", "NULL"),
    # JSON
    "tools still wrapped": wrapped("tools"),
    "voice settings still wrapped": wrapped("voice_settings"),
    "exercises still wrapped": wrapped("exercises"),
    "legacy columns still wrapped": wrapped("legacy_extra"),
    "bug reports wrapped one by one": changed(
        "sessions.bug_reports", "jsonb_build_array(bug_reports ->> 0)", "bug_reports <> '[]'"
    ),
    "tools emptied": changed("sessions.tools", "'[]'"),
    "a tool lost": changed("sessions.tools", "tools - -1", "tools <> '[]'"),
    "tools in another order": changed(
        "sessions.tools",
        "(tools - 0) || jsonb_build_array(tools -> 0)",
        "jsonb_array_length(tools) > 1",
    ),
    "a nested value of a tool changed": changed(
        "sessions.tools",
        "jsonb_set(tools, '{0,function,parameters,type}', '\"array\"')",
        "tools <> '[]'",
    ),
    "a number in JSON changed": changed(
        "sessions.voice_settings",
        "jsonb_set(voice_settings, '{speed}', '1.1500001')",
        "voice_settings ? 'speed'",
    ),
    "a number in JSON as text": changed(
        "sessions.voice_settings",
        "jsonb_set(voice_settings, '{speed}', to_jsonb(voice_settings ->> 'speed'))",
        "voice_settings ? 'speed'",
    ),
    "a key in JSON lost": changed("sessions.voice_settings", "voice_settings - 'language'"),
    "an entry of the exercises lost": changed(
        "sessions.exercises", f"exercises - {FIRST_EXERCISE}", HAS_EXERCISES
    ),
    "a field of an exercise lost": changed(
        "sessions.exercises", f"exercises #- ARRAY[{FIRST_EXERCISE}, 'timestamp']", HAS_EXERCISES
    ),
    "an exercise no longer completed": changed(
        "sessions.exercises",
        """regexp_replace(exercises::text, '"completed": true', '"completed": false')::jsonb""",
    ),
    "bug reports lost": changed("sessions.bug_reports", "'[]'"),
    "a legacy value lost": changed(
        "sessions.legacy_extra",
        "legacy_extra #- '{student_configs,twilio_auth_token}'",
        HAS_TWILIO,
    ),
    "a legacy value changed": changed(
        "sessions.legacy_extra",
        "jsonb_set(legacy_extra, '{student_configs,twilio_auth_token}', '\"another\"')",
        HAS_TWILIO,
    ),
    "a legacy value under another table": changed(
        "sessions.legacy_extra",
        "jsonb_build_object('workshop_students', legacy_extra -> 'student_configs')",
        HAS_TWILIO,
    ),
    # flags and numbers
    **{
        f"{flag} flipped": changed(f"sessions.{flag}", f"NOT {flag}")
        for flag in (
            "twilio_connected",
            "services_ready",
            "step4_deployed",
            "step6_code_validated",
            "step7_committed",
            "tools_configured",
            "project_deployed",
            "demo_mode",
        )
    },
    "a passed step as failed": changed("step_progress.validation_passed", "false"),
    "a failed step as passed": changed("step_progress.validation_passed", "true"),
    "a second more": changed("step_progress.time_spent", "time_spent + 1"),
    "an attempt fewer": changed("step_progress.attempts", "attempts - 1", "attempts > 0"),
    "completion off by one": changed(
        "sessions.completion_rate", "completion_rate - 1", "completion_rate > 0"
    ),
    "current step too high": changed(
        "sessions.current_step", "current_step + 1", "current_step < 9"
    ),
    "current step too low": changed(
        "sessions.current_step", "current_step - 1", "current_step > 0"
    ),
    "total time off by one": changed("sessions.total_time_spent", "total_time_spent + 1"),
    # whole columns
    "all prompts lost": whole_column("sessions.system_prompt"),
    "all tools lost": whole_column("sessions.tools"),
    "all legacy columns lost": whole_column("sessions.legacy_extra"),
    "all completion lost": whole_column("sessions.completion_rate"),
    "all sessions active now": whole_column("sessions.last_activity"),
    "all attempts lost": whole_column("step_progress.attempts"),
    "all flags of a step taken from another": whole_column(
        "sessions.step5_deployed", "step4_deployed"
    ),
    # a write of the application to a legacy table that no trigger logged
    "unseen: progress": changed(
        "workshop_students.exercises",
        """to_jsonb(replace(exercises #>> '{}', '"completed":false', '"completed":true'))""",
        """exercises #>> '{}' LIKE '%"completed":false%'""",
        clue="sessions.exercises",
    ),
    "unseen: time spent": changed(
        "workshop_students.total_time_spent",
        "total_time_spent + 1",
        clue="sessions.total_time_spent",
    ),
    "unseen: activity": changed(
        "workshop_students.last_activity", "now()", clue="sessions.last_activity"
    ),
    "unseen: a bug report": changed(
        "workshop_students.bug_reports", """'["unseen"]'""", clue="sessions.bug_reports"
    ),
    "unseen: another address": changed(
        "workshop_students.student_email", "'moved@example.com'", clue="sessions.student_email"
    ),
    "unseen: another name": Mutation(
        "students.(source)",
        (
            "UPDATE workshop_students SET student_name = 'Somebody Else', updated_at = now() "
            f"WHERE {drawn('workshop_students')}",
        ),
    ),
    "unseen: a prompt": changed(
        "student_configs.system_prompt", "system_prompt || ' '", clue="sessions.system_prompt"
    ),
    "unseen: an API key": changed(
        "student_configs.openai_api_key", "'sk-not-a-key'", clue="sessions.openai_api_key"
    ),
    "unseen: tools": changed("student_configs.tools", """'[{"x": 1}]'""", clue="sessions.tools"),
    "unseen: a greeting erased": changed(
        "student_configs.ivr_greeting", "NULL", "ivr_greeting <> ''", clue="sessions.ivr_greeting"
    ),
    "unseen: a flag": changed(
        "student_configs.project_deployed", "true", clue="sessions.project_deployed"
    ),
    "unseen: a step ahead": changed(
        "student_configs.current_step",
        "current_step + 1",
        "current_step < 9",
        clue="sessions.current_step",
    ),
    "unseen: a column of the old application": changed(
        "student_configs.twilio_auth_token",
        "'sample-auth-token'",
        "twilio_auth_token IS NOT NULL",
        clue="sessions.legacy_extra",
    ),
    "unseen: another token": changed(
        "student_configs.session_token", "'ws_unseen'", clue="sessions.(row missing)"
    ),
    "unseen: a new session": Mutation(
        "sessions.(row missing)",
        ("INSERT INTO student_configs (session_token) VALUES ('ws_unseen')",),
    ),
    "unseen: a session deleted": Mutation(
        "sessions.(row without legacy)",
        (
            "DELETE FROM workshop_students WHERE "
            + drawn(
                "workshop_students",
                "session_token NOT IN (SELECT session_token FROM student_configs)",
            ),
        ),
    ),
    "unseen: a configuration deleted": Mutation(
        "sessions.system_prompt",
        (
            "DELETE FROM student_configs WHERE "
            + drawn(
                "student_configs",
                "system_prompt <> '' AND session_token IN (SELECT session_token FROM workshop_students)",
            ),
        ),
    ),
    "unseen: a new column": Mutation(
        "adapters",
        (
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE %s ADD added text', relation) "
            "FROM bridge.source WHERE legacy_name = 'student_configs'); END $$",
        ),
    ),
}

UNPACKED = {
    column: f"jsonb_typeof(unwrap_json({column})) = '{kind}'"
    for column, kind in (("exercises", "object"), ("tools", "array"), ("voice_settings", "object"))
}
HARMLESS = {
    "nothing": Mutation("", ()),
    # columns of the unified tables only
    "a session touched": changed("sessions.updated_at", "now()"),
    "a student touched": changed("students.updated_at", "now()"),
    "a step touched": changed("step_progress.updated_at", "now()"),
    "a session extended": changed("sessions.expires_at", "now()"),
    "a session opened or closed": changed("sessions.is_active", "NOT is_active"),
    "a step begun": changed("step_progress.started_at", "now()"),
    "code submitted": changed("step_progress.code_submitted", "'print()'"),
    "a deployment": changed("step_progress.deployment_url", "'https://x.example'"),
    "a step under a name of the application": changed("step_progress.step_name", "'anything else'"),
    "a GitHub account": changed("students.github_username", "'octocat'"),
    "a new student without sessions": Mutation(
        "", ("INSERT INTO students (student_email) VALUES ('new@example.com')",)
    ),
    "a new event": Mutation("", ("INSERT INTO events (event_type) VALUES ('greeting')",)),
    # another form of the same value in a legacy table
    "JSON keys in another order": changed(
        "student_configs.voice_settings",
        "to_jsonb(unwrap_json(voice_settings)::text)",
        UNPACKED["voice_settings"],
    ),
    "JSON wrapped once more": changed(
        "workshop_students.exercises", "to_jsonb(exercises::text)", UNPACKED["exercises"]
    ),
    "JSON without a wrapping": changed(
        "student_configs.tools", "unwrap_json(tools)", UNPACKED["tools"]
    ),
    "an address in capitals": changed("workshop_students.student_email", "upper(student_email)"),
    "white space around an address": changed(
        "workshop_students.student_email", "concat(' ', student_email, E'\\r\\n')"
    ),
    "NULL instead of empty": changed("student_configs.ivr_greeting", "NULL", "ivr_greeting = ''"),
    "a flag that the other table still has": changed(
        "student_configs.demo_mode",
        "false",
        "session_token IN (SELECT session_token FROM workshop_students WHERE demo_mode)",
    ),
    "completion as the old application counts it": changed(
        "workshop_students.completion_rate", "completion_rate + 1"
    ),
    # a known difference, to be applied next
    "a change that is logged": Mutation(
        "",
        (
            "WITH late AS (UPDATE sessions SET system_prompt = 'late' "
            f"WHERE {drawn('sessions')} RETURNING session_token) "
            "INSERT INTO bridge.change_log (side, token) SELECT 'legacy', session_token FROM late",
        ),
    ),
}

# Columns that the legacy tables lack, or that identify a row.
UNMAPPED = {
    "students": {"student_id", "student_email", "github_username", "updated_at"},
    "sessions": {"session_token", "expires_at", "is_active", "updated_at"},
    "step_progress": {
        "session_token",
        "step_number",
        "step_name",
        "started_at",
        "code_submitted",
        "deployment_url",
        "created_at",
        "updated_at",
    },
}
# completed_at counts if a step is passed
ROW = {"step_progress": "NOT validation_passed"}
REPORTED_AS = {"sessions": {"student_id": "student_email"}}
ANOTHER_VALUE = {
    "boolean": "NOT {0}",
    "integer": "CASE {0} WHEN 0 THEN 1 ELSE {0} - 1 END",
    "jsonb": "CASE jsonb_typeof({0}) WHEN 'array' THEN {0} || '[0]' ELSE {0} || '{{\"0\": 0}}' END",
    "text": "concat({0}, '-')",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 second'",
    "uuid": "gen_random_uuid()",
}


@pytest.fixture(scope="module")
def unguarded(server: Server, template_head: NoopExecutor) -> Iterator[Connection]:
    """A connection to this module's own migrated database, without triggers and keys."""
    with cloned(server, template_head.template_dbname) as database:
        database.execute(VARIETY)
        # too many to be applied at commit
        database.execute("CALL bridge.drain()")
        assert database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
        assert failed_checks(database) == []
        with database.connect() as connection:
            # once: each change of it makes the server discard its plans
            connection.execute("SET session_replication_role = replica")
            yield connection


@pytest.fixture
def connection(unguarded: Connection) -> Iterator[Connection]:
    """The same in a transaction that is rolled back."""
    with unguarded.transaction(force_rollback=True):
        yield unguarded


def failures(connection: Connection) -> list[str]:
    """Names of the checks that fail."""
    rows = connection.execute("SELECT check_name FROM bridge.verify() WHERE ok IS NOT TRUE")
    return [row[0] for row in rows]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_corruption_is_found(connection: Connection, name: str) -> None:
    mutation = MUTATIONS[name]
    for statement in mutation.statements:
        assert connection.execute(statement.encode()).rowcount != 0, f"no row for seed {SEED}"
    found = failures(connection)
    named = rf"(?<!\w){re.escape(mutation.clue)}(?!\w)"
    assert [check for check in found if re.search(named, check)] != [], f"seed {SEED}: {found}"


@pytest.mark.parametrize("table", UNMAPPED)
def test_every_column_is_compared(connection: Connection, table: str) -> None:
    """One row with another value everywhere: all of its columns are named, new ones included."""
    types = connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        (table,),
    ).fetchall()
    mapped = {column: type_ for column, type_ in types if column not in UNMAPPED[table]}
    values = (f"{name} = {ANOTHER_VALUE[type_].format(name)}" for name, type_ in mapped.items())
    change = f"UPDATE {table} SET {', '.join(values)} WHERE {drawn(table, ROW.get(table, 'true'))}"
    assert connection.execute(change.encode()).rowcount == 1
    named = re.findall(rf"\b{table}\.(\w+)", " ".join(failures(connection)))
    reported = REPORTED_AS.get(table, {})
    assert sorted(named) == sorted(reported.get(name, name) for name in mapped)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_means_the_same_is_not_reported(connection: Connection, name: str) -> None:
    for statement in HARMLESS[name].statements:
        assert connection.execute(statement.encode()).rowcount == 1, f"no row for seed {SEED}"
    assert failures(connection) == [], f"seed {SEED}"
