"""``workshop verify``: the guide's step 5, the failures it finds, and the list of differences."""

import json
from contextlib import closing
from typing import Any

import pytest

from scripts.development.sample_data import fill
from support.commands import predicted, script
from support.databases import Clone, Database, dump, upgrade
from support.eras import ERAS, load
from support.watching import CANARY, LONGEST, planted, watched

ANY = "(SELECT min(session_token) FROM student_configs WHERE session_token LIKE 'ws%')"
UNSEEN = "SET bridge.applying = 'on';"
STUDENTS, SESSIONS, ORPHANS, DASHBOARD, PERCENTAGES, ERRORS = (
    "All students migrated",
    "All sessions migrated",
    "No orphaned sessions: foreign keys intact",
    "Instructor dashboard loads and shows correct data",
    "Progress percentages calculated correctly",
    "No API errors in production logs",
)


def verified(database: Database, *options: str, code: int = 0) -> dict[str, Any]:
    """The command's report; its exit code has to be this one."""
    done = script("verify", "--json", *options, url=database.url)
    assert done.returncode == code, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("state", ["0004", "0006", "head", "fresh"])
def test_the_guides_queries_and_its_criteria(clone: Clone, state: str) -> None:
    database = clone(state)
    before = dump(database)
    report = verified(database)
    assert dump(database) == before
    assert list(report["criteria"]) == [
        STUDENTS, SESSIONS, ORPHANS, DASHBOARD, PERCENTAGES, ERRORS
    ]  # fmt: skip
    assert report["criteria"][ERRORS] is None
    assert report["criteria"][DASHBOARD] is (None if state == "0004" else True)
    assert len(report["guide"]) == (1 if state == "fresh" else 7)
    for query, result in report["guide"].items():
        assert database.query(query) == [(result,)], query


@pytest.mark.parametrize("name", ["E", "A0", "C2", "C2 alone", "no keys", "other types"])
def test_the_counts_are_reconciled_in_every_era(clone: Clone, name: str) -> None:
    database = clone("empty")
    with database.connect() as connection:
        load(connection, ERAS[name])
    upgrade(database)
    report = verified(database)
    found, tables = report["reconciled"], report["tables"].values()
    assert (found["sessions_missing"], found["students_missing"]) == (0, 0)
    rows = sum(table["rows"] - table["repeated"] for table in tables)
    sessions = rows - found["in_both"] + found["further_sessions"] - found["sessions_gone"]
    students = found["addresses"] + found["placeholders"] + found["further_students"]
    counted = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM students)"
    assert database.query(counted) == [(sessions, students - found["students_gone"])]


def test_a_row_with_an_empty_token_is_counted_once(legacy: Database) -> None:
    for table in ("workshop_students", "student_configs"):
        legacy.execute(
            f"INSERT INTO {table} (session_token, student_email) VALUES ('', '{table}@b.org')"
        )
    plan = predicted(legacy)
    assert [(t["rows"], t["with_token"]) for t in plan.tables] == [(154, 153), (178, 177)]
    assert [d["sessions"] for d in plan.decided if d["kind"] == "row_without_token"] == [2]
    upgrade(legacy, "0004")
    report = verified(legacy)
    assert [(t["rows"], t["with_token"]) for t in report["tables"].values()] == [
        (154, 153), (178, 177)
    ]  # fmt: skip
    for query, result in report["guide"].items():
        assert legacy.query(query) == [(result,)], query


@pytest.mark.parametrize(
    ("damage", "criterion"),
    [
        (f"{UNSEEN} DELETE FROM sessions WHERE session_token = {ANY}", SESSIONS),
        (
            f"{UNSEEN} DELETE FROM students WHERE student_id IN "
            f"(SELECT student_id FROM sessions WHERE session_token = {ANY})",
            STUDENTS,
        ),
        (
            f"{UNSEEN} UPDATE sessions SET openai_api_key = 'sk-other' WHERE session_token = {ANY}",
            SESSIONS,
        ),
        ("ALTER TABLE sessions DROP CONSTRAINT fk_sessions_student_id_students", ORPHANS),
        ("DROP VIEW session_overview CASCADE", DASHBOARD),
        (
            f"ALTER TABLE sessions DISABLE TRIGGER completion_rate; {UNSEEN} "
            "UPDATE sessions SET completion_rate = 98",
            PERCENTAGES,
        ),
    ],
    ids=["session", "student", "key", "foreign key", "view", "percentage"],
)
def test_what_makes_a_criterion_red(migrated: Database, damage: str, criterion: str) -> None:
    migrated.execute(damage)
    report = verified(migrated, code=1)
    assert report["criteria"][criterion] is False
    done = script("verify", url=migrated.url)
    assert done.returncode == 1
    assert "NOT OK" in done.stdout
    assert "workshop merge" in done.stdout


def test_what_waits_to_be_carried_over_is_no_fault(clone: Clone) -> None:
    database = clone("0004")
    database.execute(
        f"""
        INSERT INTO student_configs (session_token, student_email) VALUES ('ws_new', 'new@example.com');
        INSERT INTO sessions (session_token, student_id) SELECT 'ws_v2', student_id FROM students LIMIT 1;
        DELETE FROM sessions WHERE session_token = {ANY}
        """
    )
    report = verified(database)
    assert report["pending"] == 3
    assert report["reconciled"]["sessions_gone"] == 2
    assert report["reconciled"]["sessions_missing"] == 0
    assert report["reconciled"]["further_sessions"] == 1


def test_differences_are_opened(migrated: Database) -> None:
    """One of each kind; the values are those inserted by hand."""
    ((token, email, prompt),) = migrated.query(
        "SELECT session_token, student_email, system_prompt FROM sessions JOIN students USING (student_id) "
        "WHERE session_token = (SELECT min(session_token) FROM sessions WHERE openai_api_key LIKE 'sk-%' "
        "AND session_token IN (SELECT session_token FROM student_configs) AND system_prompt <> '')"
    )
    migrated.execute(
        f"""
        {UNSEEN}
        UPDATE sessions SET system_prompt = 'only here', openai_api_key = 'sk-{CANARY}',
            current_step = 9 - current_step,
            twilio_connected = NOT twilio_connected,
            legacy_extra = '{{"student_configs": {{"twilio_auth_token": "{CANARY}"}}}}',
            websocket_url = 'wss://user:{CANARY}@example.com',
            tools = '[{{"authorization": "Bearer sk-{CANARY}"}}]'
        WHERE session_token = '{token}';
        UPDATE students SET student_name = 'Somebody Else' WHERE student_email = '{email}';
        DELETE FROM step_progress WHERE session_token = '{token}' AND step_number = 9;
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts)
        SELECT session_token, student_id, 9, 'Deploy Your System', 77 FROM sessions
        WHERE session_token = '{token}'
        """
    )
    report = verified(migrated, "--differences", code=1)
    cells = {
        (d["table"], d["column"]): (d["old_tables"], d["new_tables"]) for d in report["differences"]
    }
    assert cells["sessions", "system_prompt"][1] == "only here"
    assert prompt.startswith(cells["sessions", "system_prompt"][0][:20].rstrip("."))
    assert cells["sessions", "openai_api_key"][1] == f"plain text, {len(CANARY) + 3} characters"
    assert cells["sessions", "openai_api_key"][0].startswith("plain text, ")
    assert "student_configs.twilio_auth_token" in cells["sessions", "legacy_extra"][1]
    assert cells["sessions", "websocket_url"][1] == "wss://***@example.com"
    assert set(cells["sessions", "twilio_connected"]) == {"true", "false"}
    assert "Somebody Else" in cells["students", "student_name"]
    steps = {
        (d["step"], d["new_tables"]) for d in report["differences"] if d["table"] == "step_progress"
    }
    assert {(9, "77"), (9, "there")} & steps
    mine = [d for d in report["differences"] if d["table"] == "sessions"]
    assert {(d["student"], d["session"]) for d in mine} == {(email, f"...{token[-4:]}")}

    shown = script("verify", "--differences", url=migrated.url)
    assert "only here" in shown.stdout
    assert "Somebody Else" in shown.stdout
    for output in (json.dumps(report), shown.stdout, shown.stderr):
        assert CANARY not in output
        assert token not in output
    few = verified(migrated, "--differences", "--limit", "2", code=1)
    assert len(few["differences"]) == 2


def test_of_long_values_the_part_that_differs_is_shown(migrated: Database) -> None:
    long = "The same words again. " * 20
    migrated.execute(
        f"UPDATE student_configs SET system_prompt = '{long}one' WHERE session_token = {ANY}"
    )
    migrated.execute(
        f"{UNSEEN} UPDATE sessions SET system_prompt = '{long}\n[bold]two' WHERE session_token = {ANY};"
        "DELETE FROM sessions WHERE session_token = (SELECT max(session_token) FROM sessions)"
    )
    report = verified(migrated, "--differences", code=1)
    (prompt,) = [d for d in report["differences"] if d["column"] == "system_prompt"]
    assert prompt["old_tables"].endswith("one")
    assert "[bold]two" in prompt["new_tables"]
    assert len(prompt["old_tables"]) < 70
    (gone,) = [d for d in report["differences"] if d["column"] == "(row missing)"][:1]
    assert (gone["old_tables"], gone["new_tables"]) == ("there", "not there")
    assert "[bold]two" in script("verify", "--differences", url=migrated.url).stdout


def test_it_keeps_nobody_waiting(clone: Clone) -> None:
    database = clone("empty")
    with database.connect() as connection:
        fill(connection, 3000)
    upgrade(database, "0006")
    with watched(database, "student_configs", "workshop_students") as (waits, locks):
        verified(database, "--differences")
    assert {mode for mode, _ in locks} <= {"AccessShareLock"}
    assert max(waits) < LONGEST


def test_no_secret_is_shown(clone: Clone) -> None:
    database = clone("0006")
    planted(database)
    database.execute(
        f"{UNSEEN} UPDATE sessions SET openai_api_key = NULL, tools = '[]', exercises = '{{}}'"
    )
    for options in (("--differences",), ("--differences", "--json", "--limit", "500")):
        done = script("verify", *options, url=database.url)
        assert done.returncode == 1
        assert CANARY not in done.stdout + done.stderr


def test_the_checks_write_nothing(migrated: Database) -> None:
    """A caller with a read-only transaction can run them; its settings stay."""
    with closing(migrated.connect(autocommit=False)) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        connection.execute("SET synchronous_commit = on")
        checks = connection.execute("SELECT ok FROM bridge.verify()").fetchall()
        assert {ok for (ok,) in checks} == {True}
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
