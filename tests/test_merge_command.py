"""``workshop merge``: missing rows are merged, newer values stay, equal rows are not written."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.commands import script
from support.databases import (
    ADVISORY_LOCK,
    ROOT,
    Clone,
    Database,
    alembic_cli,
    deviations,
    downgrade,
    dump,
    hand_back,
)
from support.watching import CANARY, LONGEST, planted, watched

TABLES = ("students", "sessions", "step_progress")
ANY = "(SELECT min(session_token) FROM student_configs)"


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of both schemas with its place and its writer: an UPDATE changes both."""
    found = {}
    legacy = [name for (name,) in database.query("SELECT relation::text FROM bridge.source")]
    for name in (*TABLES, *legacy):
        found[name] = database.query(f"SELECT ctid::text, xmin::text FROM {name} ORDER BY 1")
    return found


def merged(database: Database) -> dict[str, Any]:
    """The command's report, which must be a good one."""
    done = script("merge", "--json", url=database.url)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("state", ["0004", "0006", "head"])
def test_what_is_missing_arrives_and_a_second_run_writes_nothing(clone: Clone, state: str) -> None:
    database = clone(state)
    # lost and changed without any trigger
    database.execute(
        f"""
        SET bridge.applying = 'on';
        DELETE FROM sessions WHERE session_token = {ANY};
        DELETE FROM step_progress WHERE session_token = {ANY};
        DELETE FROM step_progress WHERE step_number = 2;
        UPDATE sessions SET ivr_greeting = 'nobody said this' WHERE session_token LIKE '%a'
        """
    )
    assert script("verify", url=database.url).returncode == 1
    report = merged(database)
    assert report["ok"]
    assert report["sessions"] == 213
    assert report["differing"] > 10
    assert deviations(database) == []

    before = rows(database)
    report = merged(database)
    assert (report["differing"], report["pending"]) == (0, 0)
    assert rows(database) == before
    shown = script("merge", url=database.url)
    assert shown.returncode == 0
    assert "All 9 checks hold" in shown.stdout


def test_a_run_that_finds_nothing_leaves_no_trace(clone: Clone) -> None:
    database = clone("head")
    events = "SELECT id, event_type FROM events ORDER BY id"
    state = "SELECT * FROM bridge.state"
    before = database.query(events), database.query(state)
    merged(database)
    assert (database.query(events), database.query(state)) == before


NEWER = f"""
UPDATE sessions SET system_prompt = 'newer', ivr_greeting = NULL, twilio_connected = NOT twilio_connected,
    services_ready = NOT services_ready, current_step = 7 WHERE session_token = {ANY};
UPDATE students SET github_username = 'gh', student_name = 'Newer Name'
    WHERE student_id = (SELECT student_id FROM sessions WHERE session_token = {ANY});
INSERT INTO sessions (session_token, student_id, system_prompt)
    SELECT 'ws_only_here', student_id, 'only here' FROM students ORDER BY student_email LIMIT 1;
DELETE FROM sessions WHERE session_token = (SELECT max(session_token) FROM student_configs
                                            WHERE session_token LIKE 'ws%');
UPDATE step_progress SET code_submitted = 'code of a step' WHERE session_token = {ANY}
"""


def said(database: Database) -> dict[str, Any]:
    """The unified tables, without values of triggers and sequences."""
    queries = {
        "students": "SELECT to_jsonb(s) - 'updated_at' FROM students AS s ORDER BY student_id",
        "sessions": "SELECT to_jsonb(s) - 'updated_at' - 'completion_rate' FROM sessions AS s "
        "ORDER BY session_token",
        "steps": "SELECT to_jsonb(s) - 'updated_at' FROM step_progress AS s "
        "ORDER BY session_token, step_number",
    }
    return {name: database.query(query) for name, query in queries.items()}


@pytest.mark.parametrize("state", ["0004", "0006", "head"])
def test_what_is_newer_in_the_new_tables_survives(clone: Clone, state: str) -> None:
    database = clone(state)
    ((gone,),) = database.query(
        "SELECT max(session_token) FROM student_configs WHERE session_token LIKE 'ws%'"
    )
    database.execute(NEWER)
    before = said(database)
    report = merged(database)
    assert said(database) == before
    assert report["pending"] == 0
    # and the legacy tables have followed
    new = "SELECT system_prompt, ivr_greeting, current_step FROM student_configs"
    assert database.query(f"{new} WHERE session_token = {ANY}") == [("newer", None, 7)]
    assert database.query(f"{new} WHERE session_token = '{gone}'") == []
    before_second = rows(database)
    merged(database)
    assert rows(database) == before_second


def test_what_the_old_application_wrote_since_arrives(clone: Clone) -> None:
    database = clone("0004")
    database.execute(
        f"UPDATE student_configs SET system_prompt = 'old side' WHERE session_token = {ANY}"
    )
    report = merged(database)
    assert report["carried_over"] == 1
    assert deviations(database) == []


def test_a_column_that_came_since_is_read(clone: Clone) -> None:
    database = clone("0006")
    database.execute(
        "ALTER TABLE student_configs ADD COLUMN brand_new text; "
        "UPDATE student_configs SET brand_new = 'x' WHERE session_token LIKE '%a'"
    )
    merged(database)
    extra = "SELECT count(*) FROM sessions WHERE legacy_extra->'student_configs' ? 'brand_new'"
    ((expected,),) = database.query(
        "SELECT count(*) FROM student_configs WHERE brand_new IS NOT NULL"
    )
    assert database.query(extra) == [(expected,)]


Write = Callable[[Database], None]


@pytest.mark.parametrize("committed", [True, False], ids=["noted", "in flight"])
def test_what_somebody_is_writing_meanwhile_survives(clone: Clone, committed: bool) -> None:
    """The legacy row is locked, so that the newer unified value can only be logged."""
    database = clone("head")
    newer = f"UPDATE sessions SET system_prompt = 'newer', ivr_greeting = NULL WHERE session_token = {ANY}"
    # a change of another session, so that its neighbours are compared
    database.execute(
        "SET bridge.applying = 'on'; UPDATE sessions SET ivr_greeting = 'unseen' "
        f"WHERE session_token <> {ANY}"
    )
    with database.connect(autocommit=False) as holder, database.connect(autocommit=False) as writer:
        if committed:
            holder.execute(f"SELECT FROM student_configs WHERE session_token = {ANY} FOR UPDATE")
        writer.execute(newer)
        if committed:
            writer.commit()
        done = script("merge", "--json", url=database.url)
        assert done.returncode in (0, 1), done.stderr
        writer.commit()
        holder.rollback()
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")
    found = f"SELECT system_prompt, ivr_greeting FROM {{}} WHERE session_token = {ANY}"
    for table in ("sessions", "student_configs"):
        assert database.query(found.format(table)) == [("newer", None)], table
    notes = "SELECT count(*) FROM events WHERE event_data ? 'written_on_both_sides'"
    assert database.query(notes) == [(0,)]


# --- one at a time, and preconditions --------------------------------------------------------------


def test_it_never_runs_beside_a_migrator(migrated: Database) -> None:
    before = dump(migrated)
    with migrated.connect() as other:
        other.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        done = script("merge", url=migrated.url)
    assert done.returncode == 2
    assert "another migration is running" in done.stderr
    assert dump(migrated) == before
    # and the other order
    with migrated.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE bridge.override IN ACCESS EXCLUSIVE MODE")
        merging = subprocess.Popen(
            [sys.executable, "-m", "scripts.merge", "--url", migrated.url],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        held = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid "
        )
        while migrated.query(f"{held} FROM pg_database WHERE datname = current_database())") == [
            (0,)
        ]:
            assert merging.poll() is None
            time.sleep(0.02)
        refused = alembic_cli("downgrade", "-1", url=migrated.url)
        holder.rollback()
    assert refused.returncode != 0
    assert "another migration is running" in refused.stdout + refused.stderr
    assert merging.wait(60) == 0


def test_what_was_merged_stays_where_the_rest_fails(migrated: Database) -> None:
    with migrated.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE bridge.override IN ACCESS EXCLUSIVE MODE")
        done = script("merge", url=migrated.url)
    assert done.returncode == 2
    assert "another session holds a lock" in done.stderr
    assert "Sessions merged before that stay" in done.stderr


@pytest.mark.parametrize(
    ("state", "clue"),
    [
        ("empty", "revision (base) has not merged anything yet"),
        ("legacy", "next: workshop status"),
        ("0003", "has not merged anything yet"),
        ("fresh", "no legacy tables to merge from"),
    ],
)
def test_what_comes_first(clone: Clone, state: str, clue: str) -> None:
    done = script("merge", url=clone(state).url)
    assert done.returncode == 2
    assert clue in done.stderr
    assert "Nothing was changed" in done.stderr


def test_tables_dropped_by_hand(clone: Clone) -> None:
    database = clone("head")
    for (backup,) in database.query("SELECT relation::text FROM bridge.source"):
        database.execute(f"DROP TABLE {backup} CASCADE")
    done = script("merge", url=database.url)
    assert done.returncode == 2
    assert "were dropped by hand" in done.stderr
    database.execute("DROP TABLE events, step_progress, sessions, students CASCADE")
    done = script("merge", url=database.url)
    assert done.returncode == 2
    assert "students, sessions, step_progress, events" in done.stderr
    assert "workshop status" in done.stderr


def test_a_downgrade_that_has_begun(clone: Clone) -> None:
    database = clone("0004")
    with database.connect() as connection:
        hand_back(connection)
    done = script("merge", url=database.url)
    assert done.returncode == 2
    assert "a downgrade has begun" in done.stderr
    downgrade(database, "0003")


def test_it_keeps_nobody_waiting(clone: Clone) -> None:
    database = clone("0006")
    with watched(database, "student_configs", "workshop_students") as (waits, _):
        merged(database)
    assert max(waits) < LONGEST


def test_no_secret_is_shown(clone: Clone) -> None:
    database = clone("0006")
    planted(database)
    for options in ((), ("--json",)):
        done = script("merge", *options, url=database.url)
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
    texts = database.query("SELECT event_data::text FROM events")
    assert not [text for (text,) in texts if CANARY in text]
