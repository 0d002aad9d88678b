"""Sync of legacy and unified tables: a write to one is applied to the other, and a downgrade loses nothing.

The writers are those of ``writers.py``: statements of both applications, drawn at random. Plain
SELECTs and the oracle compare the results; no function of the bridge takes part.
"""

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.util import CommandError
from hypothesis import given, settings
from hypothesis.strategies import integers
from pytest_postgresql.executors import NoopExecutor

from support.databases import (
    ROOT,
    Clone,
    Database,
    Server,
    changes,
    cloned,
    deviations,
    downgrade,
    dump,
    failed_checks,
    hand_back,
    psql,
    script_of,
    upgrade,
)
from support.eras import ERAS, load
from support.oracle import CONFIG, PROGRESS, differences, predict, read_legacy, read_v2
from support.strategies import LegacyDatabase, legacy_databases
from support.strategies import load as fill
from support.writers import NewApplication, OldApplication, Writer

EXAMPLES = settings().max_examples
UNIFIED = """
    SELECT 'students', to_jsonb(t) - 'updated_at' FROM students AS t
    UNION ALL
    SELECT 'sessions', to_jsonb(t) - ARRAY['updated_at', 'expires_at', 'is_active']
    FROM sessions AS t
    UNION ALL
    SELECT 'step_progress', to_jsonb(t) - ARRAY['created_at', 'updated_at'] FROM step_progress AS t
    UNION ALL
    SELECT 'events', to_jsonb(t) FROM events AS t
    WHERE event_type NOT IN ('legacy_merge', 'merge_note')
"""
EVERY = """
    SELECT t.token FROM (SELECT token FROM bridge.tokens UNION SELECT session_token FROM sessions) AS t
    WHERE t.token NOT IN (
        SELECT key FROM bridge.override WHERE table_name = 'sessions' AND column_name = '(row)')
"""
"""Every session, except those of an earlier attempt without a legacy row: a write inserts that row."""
KEPT = "SELECT relname FROM pg_class WHERE relname LIKE 'bridge_remainder_backup%'"


KEYS = {"students": "student_email", "sessions": "session_token", "events": "id"}
Rows = dict[tuple[str, ...], dict[str, Any]]


def unified(database: Database) -> Rows:
    """All rows of the unified tables by their keys; without values that the migration itself sets."""
    return {
        (table, str(row[KEYS[table]]))
        if table in KEYS
        else (table, row["session_token"], str(row["step_number"])): row
        for table, row in database.query(UNIFIED)
    }


def different(before: Rows, after: Rows) -> list[str]:
    """One line for each inserted or deleted row, and for each changed cell."""
    lines = [f"{key}: gone, was {before[key]}" for key in sorted(before.keys() - after.keys())]
    lines += [f"{key}: came, is {after[key]}" for key in sorted(after.keys() - before.keys())]
    for key in sorted(before.keys() & after.keys()):
        lines += [
            f"{key}.{column}: {value!r} -> {after[key][column]!r}"
            for column, value in before[key].items()
            if value != after[key][column]
        ]
    return lines


def legacy_rows(database: Database) -> list[tuple[Any, ...]]:
    """The rows of both legacy tables, and their places: an UPDATE moves a row."""
    relations = database.query("SELECT relation::text FROM bridge.source ORDER BY legacy_name")
    return [
        (relation, *row)
        for (relation,) in relations
        for row in database.query(f"SELECT ctid::text, t::text FROM {relation} AS t ORDER BY 2")
    ]


def some_tokens(database: Database, count: int = 40) -> list[str]:
    found = database.query(
        "SELECT session_token FROM sessions ORDER BY md5(session_token) LIMIT %s", count
    )
    return [token for (token,) in found]


def write(database: Database, writes: int, seed: int, *kinds: type[Writer]) -> None:
    """Requests of these applications, one after the other, on separate connections."""
    tokens = some_tokens(database)
    writers = [kind(database.url, seed + n, tokens) for n, kind in enumerate(kinds)]
    order = random.Random(seed)
    for _ in range(writes):
        order.choice(writers).act()
    for writer in writers:
        writer.close()


def logged(database: Database) -> list[tuple[Any, ...]]:
    return database.query("SELECT side, token FROM bridge.change_log")


# --- the laws -------------------------------------------------------------------------------------


def drain(database: Database) -> None:
    """Apply the changes that a sync has left in the log: each sync has some milliseconds only."""
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")


def log(database: Database, side: str, query: str) -> None:
    """Log sessions as changed on one side, without their former values."""
    before = "'{}'::jsonb" if side == "unified" else "NULL"
    database.execute(
        "INSERT INTO bridge.change_log (side, token, before) "
        f"SELECT '{side}', t.token, {before} FROM ({query}) AS t(token)"
    )


def assert_in_step(database: Database) -> None:
    """A logged change of every session, on either side, changes nothing."""
    drain(database)
    assert logged(database) == []
    assert failed_checks(database) == []
    new, old = unified(database), legacy_rows(database)
    for side in ("unified", "legacy", "unified"):
        log(database, side, EVERY)
        drain(database)
        assert logged(database) == []
        assert changes([str(row) for row in old], [str(row) for row in legacy_rows(database)]) == []
        assert different(new, unified(database)) == []


@pytest.mark.parametrize("name", ERAS)
def test_writes_to_both_sides_keep_them_in_step(
    request: pytest.FixtureRequest, server: Server, name: str
) -> None:
    """On every era, including those that cannot hold everything; down, and up again."""
    template = request.getfixturevalue("postgresql_proc").template_dbname
    with cloned(server, template) as database:
        with database.connect() as connection:
            load(connection, ERAS[name])
        upgrade(database, "0006")
        if not database.query("SELECT to_regnamespace('bridge')")[0][0]:
            return  # a fresh install
        write(database, 25, len(name), NewApplication, OldApplication, NewApplication)
        assert_in_step(database)
        before = unified(database)
        downgrade(database)
        upgrade(database)
        assert different(before, unified(database)) == []
        assert failed_checks(database) == []


@settings(max_examples=EXAMPLES // 7)
@given(generated=legacy_databases(), seed=integers(0, 2**31))
def test_the_laws_on_generated_databases(
    generated: LegacyDatabase, seed: int, server: Server, template_0002: NoopExecutor
) -> None:
    with cloned(server, template_0002.template_dbname) as database:
        with database.connect() as connection:
            fill(connection, generated)
        upgrade(database, "0006")
        write(database, 12, seed, NewApplication, OldApplication)
        assert_in_step(database)


def test_a_later_legacy_change_wins(migrated: Database) -> None:
    """Overrides hold until the legacy tables get another value."""
    ((token,),) = migrated.query(
        "SELECT session_token FROM student_configs JOIN workshop_students USING (session_token) "
        "ORDER BY 1 LIMIT 1"
    )
    names = dict(migrated.query("SELECT legacy_name, relation::text FROM bridge.source"))
    migrated.execute(
        f"ALTER TABLE {names[CONFIG]} ADD CONSTRAINT short CHECK (length(system_prompt) < 1000) NOT VALID"
    )
    long = "x" * 2000
    migrated.execute(
        f"UPDATE sessions SET system_prompt = '{long}' WHERE session_token = '{token}'"
    )
    prompt = f"SELECT system_prompt FROM sessions WHERE session_token = '{token}'"
    kept = f"SELECT column_name FROM bridge.override WHERE key = '{token}' ORDER BY 1"
    assert ("system_prompt",) in migrated.query(kept)
    migrated.execute(
        f"UPDATE workshop_students SET total_time_spent = 77 WHERE session_token = '{token}'"
    )
    migrated.execute(
        f"UPDATE student_configs SET ivr_greeting = 'Hi' WHERE session_token = '{token}'"
    )
    assert migrated.query(prompt) == [(long,)]
    migrated.execute(
        f"UPDATE student_configs SET system_prompt = 'short' WHERE session_token = '{token}'"
    )
    assert migrated.query(prompt) == [("short",)]
    assert ("system_prompt",) not in migrated.query(kept)


# --- downgrades ---------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["0003", "0004", "0005", "0006", "head"])
def test_rollback_after_many_writes(clone: Clone, revision: str) -> None:
    """From each revision, head after a thousand: by the oracle, the legacy tables equal the unified ones."""
    database = clone(revision if revision != "0005" else "0004")
    if revision == "0005":
        upgrade(database, "0005")
    writes = 1000 if revision == "head" else 250
    write(database, writes, 7, NewApplication, OldApplication, NewApplication, OldApplication)
    if revision in ("0003", "0004"):
        upgrade(database, "0006")  # for comparison
        downgrade(database, revision)
    before = unified(database)
    with database.connect() as connection:
        said = read_v2(connection)
    downgrade(database)
    with database.connect() as connection:
        found = predict(read_legacy(connection, PROGRESS), read_legacy(connection, CONFIG))
    assert not (said.sessions.keys() ^ found.sessions.keys())
    # a column without a legacy column is not written back if the legacy application deleted its
    # row; the value for a missing current_step follows the exercises written there
    lines = [line for line in differences(found, said) if line.startswith("session")]
    # and exercises do not follow a deleted step before the triggers of 0004
    of_0003 = (".exercises",) if revision == "0003" else ()
    known = (".legacy_extra", ".current_step", *of_0003)
    assert [line for line in lines if not any(column in line for column in known)] == []
    upgrade(database)
    assert different(before, unified(database)) == []
    assert failed_checks(database) == []


def test_what_v2_wrote_is_in_the_old_tables(migrated: Database) -> None:
    """Every kind of write by name; rows without a write are unchanged."""
    old = {
        table: dict(migrated.query(f"SELECT session_token, to_jsonb(t)::text FROM {table} AS t"))
        for table in (PROGRESS, CONFIG)
    }
    touched = some_tokens(migrated, 4)
    configured, renamed, deleted, moved = touched
    migrated.execute(
        f"""
        INSERT INTO students (student_email, student_name) VALUES ('New@Example.com', 'New One');
        INSERT INTO sessions (session_token, student_id)
        SELECT 'ws_v2', student_id FROM students WHERE student_email = 'new@example.com';
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts,
                                   validation_passed, completed_at)
        SELECT 'ws_v2', student_id, 3, 'Basic TwiML', 2, true, '2026-01-02Z'
        FROM students WHERE student_email = 'new@example.com';
        SELECT update_session_progress('ws_v2');
        UPDATE sessions SET system_prompt = 'Be kind', step5_deployed = true, tools = '[{{"a": 1}}]'
        WHERE session_token = 'ws_v2';
        UPDATE sessions SET ivr_greeting = 'Hello', openai_api_key = NULL
        WHERE session_token = '{configured}';
        UPDATE students SET student_name = 'Renamed' WHERE student_id =
            (SELECT student_id FROM sessions WHERE session_token = '{renamed}');
        UPDATE students SET student_email = 'Moved@Example.com' WHERE student_id =
            (SELECT student_id FROM sessions WHERE session_token = '{moved}');
        DELETE FROM sessions WHERE session_token = '{deleted}'
        """
    )
    family = {
        token
        for (token,) in migrated.query(
            "SELECT session_token FROM sessions WHERE student_id IN "
            "(SELECT student_id FROM sessions WHERE session_token = ANY (%s))",
            [renamed, moved],
        )
    }
    downgrade(migrated)

    def values(query: str) -> Any:
        (row,) = migrated.query(query)
        return row

    assert values(
        "SELECT student_email, student_name, exercises -> 'step-4-basic-twiml' -> 'completed', "
        "completion_rate FROM workshop_students WHERE session_token = 'ws_v2'"
    ) == ("new@example.com", "New One", True, 22)
    assert values(
        "SELECT system_prompt, step5_deployed, tools, current_step FROM student_configs "
        "WHERE session_token = 'ws_v2'"
    ) == ("Be kind", True, [{"a": 1}], 4)
    assert values(
        "SELECT ivr_greeting, openai_api_key FROM student_configs "
        f"WHERE session_token = '{configured}'"
    ) == ("Hello", None)
    for column, token, expected in (
        ("student_name", renamed, "Renamed"),
        ("student_email", moved, "moved@example.com"),
    ):
        found = migrated.query(
            f"SELECT {column} FROM workshop_students WHERE session_token = '{token}' "
            f"UNION SELECT {column} FROM student_configs WHERE session_token = '{token}'"
        )
        assert found == [(expected,)]
    for table, rows in old.items():
        now = dict(migrated.query(f"SELECT session_token, to_jsonb(t)::text FROM {table} AS t"))
        assert deleted not in now
        untouched = rows.keys() - set(touched) - family
        assert len(untouched) > 100
        assert {token: now.get(token) for token in untouched} == {t: rows[t] for t in untouched}


def test_every_time_that_the_mapping_reads_is_written(clone: Clone) -> None:
    """The latest one counts: a forgotten older one would win."""
    database = clone("legacy")
    database.execute("ALTER TABLE student_configs ADD COLUMN last_activity timestamp DEFAULT now()")
    upgrade(database)
    database.execute("UPDATE sessions SET last_activity = '2025-01-02 03:04:05Z'")
    drain(database)
    found = "SELECT DISTINCT last_activity::text, updated_at::text FROM student_configs"
    assert database.query(found) == [("2025-01-02 03:04:05", "2025-01-02 03:04:05")]
    kept = "SELECT count(*) FROM bridge.override WHERE column_name = 'last_activity'"
    assert database.query(kept) == [(0,)]


def test_without_writes_nothing_is_kept_aside(clone: Clone) -> None:
    database = clone("legacy")
    before = dump(database)
    upgrade(database)
    downgrade(database)
    assert database.query(KEPT) == []
    assert changes(before, dump(database, without=("alembic_version",))) == []

    # a legacy write changes no lifetime of a session, and nothing else
    upgrade(database)
    database.execute("UPDATE student_configs SET system_prompt = 'old', updated_at = now()")
    database.execute("UPDATE workshop_students SET exercises = '{}', last_activity = now()")
    downgrade(database)
    for (kept,) in database.query(KEPT):
        found = database.query(f"SELECT DISTINCT table_name || '.' || column_name FROM {kept}")
        assert {name for (name,) in found} <= {
            "sessions.expires_at",
            "sessions.is_active",
            "sessions.updated_at",
        }


def test_up_down_up_is_the_same(clone: Clone, tmp_path: Path) -> None:
    """Also twice, also by script, with a second cut-over on one day; ids of students included."""
    database = clone("head")
    write(database, 60, 11, NewApplication)
    database.execute(
        "INSERT INTO events (event_type, event_data) VALUES ('greeting', '{\"a\": 1}')"
    )
    before = unified(database)
    names = database.query("SELECT legacy_name, relation::text FROM bridge.source ORDER BY 1")
    downgrade(database)
    ((kept,),) = database.query(KEPT)
    assert database.query("SELECT has_table_privilege('public', %s, 'SELECT')", kept) == [(False,)]
    upgrade(database)
    assert different(before, unified(database)) == []
    assert database.query(KEPT) == []
    assert (
        database.query("SELECT legacy_name, relation::text FROM bridge.source ORDER BY 1") == names
    )
    for direction, revisions in (("downgrade", "head:base"), ("upgrade", "head")):
        done = psql(database, script_of(direction, revisions), tmp_path)
        assert done.returncode == 0, done.stderr
    assert different(before, unified(database)) == []
    assert failed_checks(database) == []


@pytest.mark.parametrize("era", ["B", "C2"])
def test_own_columns_come_back_and_later_values_stay(era: str, empty: Database) -> None:
    """Values that only the unified tables hold survive a downgrade; C2: also of sessions that 0001 copies."""
    with empty.connect(autocommit=False) as connection:
        load(connection, ERAS[era])
        connection.commit()
    upgrade(empty)
    tokens = [
        token
        for (token,) in empty.query(
            "SELECT session_token FROM sessions LEFT JOIN bridge.override AS o ON o.key = session_token "
            "AND o.table_name = 'prior sessions' ORDER BY o.key IS NULL, 1 LIMIT 2"
        )
    ]
    expires = "SELECT expires_at::text FROM sessions WHERE session_token = ANY (%s) ORDER BY session_token"
    with empty.connect() as connection:
        connection.execute(
            "UPDATE sessions SET expires_at = '2031-01-01Z' WHERE session_token = ANY (%s)",
            (tokens,),
        )
    downgrade(empty)
    upgrade(empty, "0004")
    assert empty.query(expires, tokens) == [("2031-01-01 00:00:00+00",)] * 2
    with empty.connect() as connection:
        connection.execute(
            "UPDATE sessions SET expires_at = '2032-02-02Z' WHERE session_token = ANY (%s)",
            (tokens,),
        )
        connection.execute("CALL bridge.merge()")
    assert empty.query(expires, tokens) == [("2032-02-02 00:00:00+00",)] * 2


def test_a_downgrade_that_is_killed_goes_on(migrated: Database) -> None:
    write(migrated, 60, 13, NewApplication, OldApplication)
    before = unified(migrated)
    reached = {"0004": "", "0003": "", "0002": ""}
    for state in reached:
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic", "downgrade", "base"],
            cwd=ROOT,
            env={**os.environ, "POSTGRES_URL_NON_POOLING": migrated.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        query = "SELECT coalesce(max(version_num), '') FROM alembic_version"
        while process.poll() is None:
            if migrated.query(query)[0][0] <= f"{state}_":
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        reached[state] = migrated.query(query)[0][0]
    assert reached["0004"] >= "0002"
    assert wait_until_free(migrated)
    downgrade(migrated)
    upgrade(migrated)
    assert different(before, unified(migrated)) == []
    assert failed_checks(migrated) == []


def wait_until_free(database: Database) -> bool:
    """The server has noticed the end of the client, and freed its locks."""
    running = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    for _ in range(200):
        if database.query(running) == [(0,)]:
            return True
        time.sleep(0.05)
    return False


def test_a_rollback_that_is_rolled_back(migrated: Database) -> None:
    """Down to 0003, with read-only unified tables, and up again."""
    write(migrated, 30, 5, NewApplication)
    before = unified(migrated)
    downgrade(migrated, "0003")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="read-only"):
        migrated.execute("UPDATE sessions SET ivr_greeting = 'too late'")
    upgrade(migrated)
    assert different(before, unified(migrated)) == []
    migrated.execute("UPDATE sessions SET ivr_greeting = 'in time'")
    drain(migrated)
    assert logged(migrated) == []


def test_what_the_old_tables_say_of_a_student_since_the_downgrade_counts(
    migrated: Database,
) -> None:
    """Even without a session of the student: the address is the second one of another student's session."""
    ((token,),) = migrated.query(
        "SELECT session_token FROM student_configs JOIN workshop_students USING (session_token) "
        "ORDER BY 1 LIMIT 1"
    )
    migrated.execute(
        "INSERT INTO students (student_email, student_name) VALUES ('lonely@example.com', 'Then')"
    )
    downgrade(migrated)
    migrated.execute(
        "UPDATE student_configs SET student_email = 'lonely@example.com', student_name = 'Now', "
        f"updated_at = now() WHERE session_token = '{token}'"
    )
    upgrade(migrated)
    assert migrated.query(
        "SELECT student_name FROM students WHERE student_email = 'lonely@example.com'"
    ) == [("Now",)]


def test_a_column_that_came_after_the_adapters_is_not_emptied_by_a_downgrade(
    clone: Clone,
) -> None:
    database = clone("legacy")
    database.execute("ALTER TABLE student_configs DROP COLUMN ivr_greeting")
    upgrade(database, "0006")
    database.execute("ALTER TABLE student_configs ADD COLUMN ivr_greeting text")
    database.execute("UPDATE student_configs SET ivr_greeting = 'Hello'")
    with database.connect() as connection:
        connection.execute("CALL bridge.refresh_adapters(true)")  # the point of a killed downgrade
    downgrade(database)
    assert database.query("SELECT DISTINCT ivr_greeting FROM student_configs") == [("Hello",)]


# --- conflicts, and cases that resemble one ------------------------------------------------------------


def test_written_on_both_sides_before_either_could_follow(clone: Clone) -> None:
    """Each column is decided by itself; if both sides wrote it the later value wins, with a merge decision."""
    database = clone("0004")
    first, second = some_tokens(database, 2)
    database.execute(
        f"""
        DELETE FROM student_configs WHERE session_token IN ('{first}', '{second}');
        INSERT INTO student_configs (session_token) VALUES ('{first}'), ('{second}')
        """
    )
    drain(database)
    old = (
        "UPDATE student_configs SET system_prompt = 'old', tts_provider = 'old', "
        "step4_deployed = true WHERE session_token = '{}'"
    )
    new = (
        "UPDATE sessions SET system_prompt = 'new', ivr_greeting = 'new', "
        "project_deployed = true WHERE session_token = '{}'"
    )
    database.execute(old.format(first))
    database.execute(new.format(first))
    database.execute(new.format(second))
    database.execute(old.format(second))
    upgrade(database, "0006")
    for table in ("sessions", "student_configs"):
        rows = dict(
            database.query(
                f"SELECT session_token, ARRAY[system_prompt, tts_provider, ivr_greeting, "
                f"step4_deployed::text, project_deployed::text] FROM {table} "
                "WHERE session_token = ANY (%s)",
                [first, second],
            )
        )
        assert rows[first] == ["new", "old", "new", "true", "true"]
        assert rows[second] == ["old", "old", "new", "true", "true"]
    notes = (
        "SELECT session_token, event_data -> 'written_on_both_sides' "
        "FROM events WHERE event_data ? 'written_on_both_sides'"
    )
    assert dict(database.query(notes)) == {
        first: {"system_prompt": "unified"},
        second: {"system_prompt": "legacy"},
    }


def test_deleted_here_and_written_there(clone: Clone) -> None:
    database = clone("0004")
    kept_new, gone_new, kept_old, gone_old = some_tokens(database, 4)

    def old(statement: str, token: str) -> None:
        for table in (PROGRESS, CONFIG):
            database.execute(statement.format(table) + f" WHERE session_token = '{token}'")

    touch_old = "UPDATE {} SET student_name = 'x'"
    delete_old = "DELETE FROM {}"
    for table in (PROGRESS, CONFIG):
        database.execute(
            f"INSERT INTO {table} (session_token, student_email) SELECT t, 'a@example.com' "
            f"FROM unnest(ARRAY['{kept_new}', '{gone_new}', '{kept_old}', '{gone_old}']) AS t "
            "ON CONFLICT DO NOTHING"
        )
    drain(database)
    old(delete_old, kept_new)
    database.execute(f"UPDATE sessions SET ivr_greeting = 'x' WHERE session_token = '{kept_new}'")
    database.execute(f"UPDATE sessions SET ivr_greeting = 'x' WHERE session_token = '{gone_new}'")
    old(delete_old, gone_new)
    database.execute(f"DELETE FROM sessions WHERE session_token = '{kept_old}'")
    old(touch_old, kept_old)
    old(touch_old, gone_old)
    database.execute(f"DELETE FROM sessions WHERE session_token = '{gone_old}'")
    upgrade(database, "0006")
    legacy = f"(SELECT session_token FROM {PROGRESS} UNION SELECT session_token FROM {CONFIG}) AS r"
    for relation in ("sessions", legacy):
        found = database.query(f"SELECT DISTINCT session_token FROM {relation}")
        assert {kept_new, gone_new, kept_old, gone_old} & {t for (t,) in found} == {
            kept_new,
            kept_old,
        }
    assert failed_checks(database) == []


def test_a_session_that_v2_had_first_is_merged_not_erased(clone: Clone) -> None:
    """Endpoints that moved before the merge: nearly empty rows must not empty the legacy tables."""
    database = clone("0003")
    tokens = database.query("SELECT session_token FROM student_configs ORDER BY 1 LIMIT 20")
    prompts = "SELECT session_token, system_prompt, ivr_greeting FROM student_configs ORDER BY 1"
    before = database.query(prompts)
    with closing(NewApplication(database.url, 1)) as new:
        for (token,) in tokens:
            new.start(token)
    upgrade(database)
    assert database.query(prompts) == before
    merged = (
        "SELECT c.session_token FROM student_configs AS c JOIN sessions AS s USING (session_token) "
        "WHERE nullif(c.system_prompt, '') IS DISTINCT FROM s.system_prompt"
    )
    assert database.query(merged) == []
    assert failed_checks(database) == []


def test_a_student_who_was_renamed_after_an_old_write_keeps_the_name(clone: Clone) -> None:
    """The legacy rows still have the former name when their session is combined."""
    database = clone("0004")
    ((token,),) = database.query(
        "SELECT min(session_token) FROM sessions JOIN student_configs USING (session_token) "
        "JOIN students AS s USING (student_id) WHERE s.student_name IS NOT NULL"
    )
    database.execute(
        f"UPDATE student_configs SET ivr_greeting = 'old' WHERE session_token = '{token}'"
    )
    database.execute(
        "UPDATE students SET student_name = 'Renamed' WHERE student_id = "
        f"(SELECT student_id FROM sessions WHERE session_token = '{token}')"
    )
    upgrade(database, "0006")
    for table in ("sessions JOIN students USING (student_id)", "student_configs"):
        found = f"SELECT {{}}.student_name FROM {table} WHERE session_token = '{token}'"
        name = "students" if "JOIN" in table else table
        assert database.query(found.format(name)) == [("Renamed",)]
    assert failed_checks(database) == []


def test_a_step_by_an_unknown_name_keeps_it_when_the_old_application_goes_on(clone: Clone) -> None:
    database = clone("0006")
    ((token,),) = database.query(
        "SELECT min(session_token) FROM workshop_students WHERE session_token NOT IN ("
        "SELECT session_token FROM step_progress WHERE step_number = 9 "
        "UNION SELECT session_token FROM student_configs)"
    )
    database.execute(f"""
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts)
        SELECT session_token, student_id, 9, 'Bonus round', 5 FROM sessions WHERE session_token = '{token}'
    """)
    done = '{"exercise-9": {"completed": true}}'
    database.execute(f"""
        UPDATE workshop_students SET exercises = exercises::jsonb || '{done}' WHERE session_token = '{token}'
    """)
    upgrade(database)
    query = "SELECT step_name, validation_passed FROM step_progress WHERE session_token = %s AND step_number = 9"
    assert database.query(query, token) == [("Bonus round", True)]
    assert failed_checks(database) == []


@pytest.mark.parametrize("entry", ["null", '"yes"'])
def test_an_exercise_that_is_no_object_any_more_says_nothing_of_a_step(
    clone: Clone, entry: str
) -> None:
    """Its row is deleted, and must not delete the entry."""
    database = clone("0006")
    ((token,),) = database.query(
        "SELECT min(session_token) FROM workshop_students "
        "WHERE session_token NOT IN (SELECT session_token FROM student_configs)"
    )
    for value in ('{"completed": true}', entry):
        database.execute(f"""
            UPDATE workshop_students SET exercises = '{{"step-1-connect-accounts": {value}}}'
            WHERE session_token = '{token}'
        """)
    log(database, "legacy", f"VALUES ('{token}')")
    drain(database)
    upgrade(database)
    query = "SELECT exercises::text FROM sessions WHERE session_token = %s"
    assert database.query(query, token) == [(f'{{"step-1-connect-accounts": {entry}}}',)]
    steps = "SELECT step_number FROM step_progress WHERE session_token = %s"
    assert database.query(steps, token) == []
    assert failed_checks(database) == []


def test_a_drain_holds_locks_of_legacy_tables_for_milliseconds(clone: Clone) -> None:
    """It commits every 40 ms: its rows are unlocked again long before its end."""
    database = clone("0004")
    drain(database)
    database.execute("UPDATE sessions SET ivr_greeting = 'new'")
    database.execute("UPDATE student_configs SET tts_provider = 'old'")
    held: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        query = (
            "SELECT extract(epoch FROM clock_timestamp() - a.xact_start)::float "
            "FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) "
            "WHERE l.relation = 'student_configs'::regclass AND l.mode = 'RowExclusiveLock'"
        )
        with database.connect() as connection:
            while not ended.is_set():
                held.extend(s for (s,) in connection.execute(query.encode()).fetchall())
                time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    drain(database)
    took = time.monotonic() - began
    ended.set()
    watcher.join()
    assert logged(database) == []
    assert held
    assert max(held) < max(0.25, took / 3)


def test_one_session_is_applied_without_reading_what_belongs_to_others(migrated: Database) -> None:
    """The numbers of overrides and logged changes read do not grow with those of other sessions."""
    others = 3000
    with migrated.connect() as connection:
        connection.execute(
            f"""
            UPDATE bridge.state SET sync = false;
            INSERT INTO bridge.override (table_name, key, column_name, value)
            SELECT 'students', 'other' || n || '@example.com', 'student_name', to_jsonb('O ' || n)
            FROM generate_series(1, {others}) AS n;
            INSERT INTO bridge.change_log (side, token, before)
            SELECT 'unified', 'other-' || n, '{{}}' FROM generate_series(1, {others}) AS n;
            ANALYZE bridge.override, bridge.change_log;
            UPDATE bridge.state SET sync = true
            """.encode()
        )
        # else the server adds these reads at the end of the connection to those of the save
        connection.execute("SELECT pg_stat_force_next_flush()")

    def rows_read() -> dict[str, int]:
        return dict(
            migrated.query(
                "SELECT relname::text, seq_tup_read + coalesce(idx_tup_fetch, 0) "
                "FROM pg_stat_user_tables WHERE relname IN ('change_log', 'override')"
            )
        )

    before = rows_read()
    with migrated.connect() as connection:
        written = connection.execute(
            "UPDATE students SET student_name = 'Renamed' WHERE student_id = ("
            "SELECT student_id FROM sessions ORDER BY session_token LIMIT 1)"
        )
        assert written.rowcount == 1
        connection.execute("SELECT pg_stat_force_next_flush()")
    after = rows_read()
    assert migrated.query(
        "SELECT count(*) FROM bridge.change_log WHERE token NOT LIKE 'other-%'"
    ) == [(0,)]
    assert after["override"] - before["override"] < others / 3
    assert after["change_log"] - before["change_log"] < others / 3


def test_truncating_the_new_tables_erases_nothing(migrated: Database) -> None:
    before = legacy_rows(migrated)
    migrated.execute("TRUNCATE students, sessions, step_progress, events")
    drain(migrated)
    assert legacy_rows(migrated) == before
    assert migrated.query("SELECT count(*) FROM sessions") == [(213,)]
    assert deviations(migrated) == []


def test_what_leads_nowhere_is_refused_by_name_before_the_keys(clone: Clone) -> None:
    """A student that the legacy tables name is restored; nothing else is guessed."""
    database = clone("0004")
    (token,) = some_tokens(database, 1)
    database.execute(
        f"""
        INSERT INTO step_progress (session_token, student_id, step_number, step_name)
        VALUES ('nowhere', gen_random_uuid(), 1, 'Connect Accounts');
        INSERT INTO events (session_token, event_type) VALUES ('nowhere', 'seen');
        DELETE FROM students WHERE student_id =
            (SELECT student_id FROM sessions WHERE session_token = '{token}')
        """
    )
    with pytest.raises(CommandError) as refused:
        upgrade(database)
    for named in (
        "1 steps without a session (...here step 1)",
        "Nothing was deleted",
        "SELECT * FROM step_progress AS sp WHERE NOT EXISTS",
    ):
        assert named in str(refused.value)
    assert token[-4:] not in str(refused.value)
    assert database.query("SELECT count(*) FROM step_progress WHERE session_token = 'nowhere'") == [
        (1,)
    ]
    database.execute("DELETE FROM step_progress WHERE session_token = 'nowhere'")
    upgrade(database)
    assert failed_checks(database) == []
    # as the foreign key does, when a session is deleted
    assert database.query("SELECT session_token FROM events WHERE event_type = 'seen'") == [(None,)]


def test_a_token_that_a_legacy_type_spells_otherwise(empty: Database) -> None:
    """No legacy row gets another token than its session."""
    empty.execute(
        "CREATE TABLE student_configs (session_token uuid PRIMARY KEY, student_email text, ivr_greeting text)"
    )
    upgrade(empty)
    token = "2F0E6A1C-9D0B-4B6E-8F55-3B1A5C7D9E11"
    empty.execute("INSERT INTO students (student_email) VALUES ('a@example.com')")
    empty.execute(
        f"INSERT INTO sessions (session_token, student_id, ivr_greeting) SELECT '{token}', student_id, 'Hi' "
        "FROM students"
    )
    rows = "SELECT session_token, ivr_greeting FROM sessions"
    for _ in range(2):
        empty.execute("UPDATE sessions SET ivr_greeting = ivr_greeting || '!'")
        assert logged(empty) == []
        assert empty.query("SELECT session_token FROM student_configs") == []
        assert failed_checks(empty) == []
        before = empty.query(rows)
        downgrade(empty)
        upgrade(empty)
        assert empty.query(rows) == before == [(token, before[0][1])]


LATE = """
CREATE TABLE voices (voice text PRIMARY KEY);
INSERT INTO voices SELECT DISTINCT selected_voice FROM student_configs WHERE selected_voice IS NOT NULL;
ALTER TABLE student_configs
    ADD FOREIGN KEY (selected_voice) REFERENCES voices DEFERRABLE INITIALLY DEFERRED
"""
RAISES = """
CREATE FUNCTION refuse_voice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.selected_voice = 'new' THEN RAISE EXCEPTION 'no'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_voice AFTER UPDATE ON student_configs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_voice()
"""
ASSERTS = """
CREATE FUNCTION refuse_voice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    ASSERT NEW.selected_voice <> 'new';
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_voice BEFORE UPDATE ON student_configs FOR EACH ROW EXECUTE FUNCTION refuse_voice()
"""


@pytest.mark.parametrize("refusing", [LATE, RAISES, ASSERTS], ids=["key", "trigger", "assert"])
def test_what_a_legacy_table_refuses_fails_no_write(clone: Clone, refusing: str) -> None:
    """Neither at the commit, nor by an ASSERT, which WHEN OTHERS does not catch."""
    database = clone("0006")
    database.execute(refusing)
    token = database.query(
        "SELECT session_token FROM student_configs WHERE selected_voice IS NOT NULL"
    )[0][0]
    database.execute(
        f"UPDATE sessions SET selected_voice = 'new', ivr_greeting = 'Hi' WHERE session_token = '{token}'"
    )
    assert logged(database) == []
    both = (
        "SELECT {0}.selected_voice, {0}.ivr_greeting FROM {0} WHERE session_token = '" + token + "'"
    )
    assert database.query(both.format("sessions")) == [("new", "Hi")]
    ((voice, greeting),) = database.query(both.format("student_configs"))
    assert (voice != "new", greeting) == (True, "Hi")
    upgrade(database)
    downgrade(database)
    upgrade(database)
    assert database.query(both.format("sessions")) == [("new", "Hi")]
    assert failed_checks(database) == []


def test_a_trigger_that_keeps_deleted_rows_is_named(clone: Clone) -> None:
    database = clone("0006")
    database.execute(
        """
        CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE student_configs SET student_name = 'gone' WHERE session_token = OLD.session_token;
            RETURN NULL;
        END $$;
        CREATE TRIGGER mark BEFORE DELETE ON student_configs FOR EACH ROW EXECUTE FUNCTION mark()
        """
    )
    ((token,),) = database.query("SELECT max(session_token) FROM student_configs")
    database.execute(f"DELETE FROM sessions WHERE session_token = '{token}'")
    assert {t for _, t in logged(database)} == {token}
    with (
        database.connect() as connection,
        pytest.raises(psycopg.errors.RaiseException, match="a trigger of the legacy tables keeps"),
    ):
        connection.execute("CALL bridge.drain()")
    database.execute("DROP TRIGGER mark ON student_configs")
    drain(database)
    assert failed_checks(database) == []


def test_a_session_that_is_refused_keeps_no_other_waiting(migrated: Database) -> None:
    """Neither a drain nor writers that apply older changes; at the end it is named."""
    odd, *others = some_tokens(migrated, 6)
    migrated.execute(
        f"""
        ALTER TABLE sessions ADD CONSTRAINT no_odd_greeting CHECK (ivr_greeting <> 'odd') NOT VALID;
        INSERT INTO student_configs (session_token) SELECT unnest(ARRAY{[odd, *others]})
        ON CONFLICT DO NOTHING
        """
    )
    greet = "UPDATE student_configs SET ivr_greeting = '{}' WHERE session_token = ANY (ARRAY{})"
    arrived = "SELECT session_token FROM sessions WHERE ivr_greeting = '{}'"

    def write_at_once(greeting: str) -> None:
        migrated.execute(greet.format(greeting, others) + ";" + greet.format("odd", [odd]))

    write_at_once("Good day")
    with (
        migrated.connect() as connection,
        pytest.raises(psycopg.errors.RaiseException, match="no_odd_greeting") as raised,
    ):
        connection.execute("CALL bridge.drain()")
    assert f"...{odd[-4:]}" in str(raised.value)
    assert odd not in str(raised.value)
    assert {token for (token,) in migrated.query(arrived.format("Good day"))} == set(others)
    assert {token for _, token in logged(migrated)} == {odd}

    # many changes of one session, older than those of the others
    for _ in range(5):
        migrated.execute(greet.format("odd", [odd]))
    write_at_once("Hello")
    with migrated.connect() as connection:
        for n in range(500):  # each applies some older changes as well
            connection.execute(greet.format(f"Hello {n}", [others[0]]).encode())
            if {token for _, token in logged(migrated)} == {odd}:
                break
    assert {token for _, token in logged(migrated)} == {odd}
    assert {token for (token,) in migrated.query(arrived.format("Hello"))} == set(others[1:])

    migrated.execute(greet.format("even", [odd]))
    drain(migrated)
    assert logged(migrated) == []
    assert failed_checks(migrated) == []


# --- side by side ---------------------------------------------------------------------------------


def run_side_by_side(database: Database, seconds: float, *kinds: type[Writer]) -> list[str]:
    """All at once, on the same few sessions; return the errors."""
    tokens = some_tokens(database, 12)
    end = time.monotonic() + seconds
    wrong: list[str] = []

    def go(kind: type[Writer], seed: int) -> None:
        with closing(kind(database.url, seed, tokens)) as writer:
            while time.monotonic() < end:
                try:
                    writer.act()
                except psycopg.Error as error:
                    wrong.append(f"{kind.__name__}: {error}")

    threads = [threading.Thread(target=go, args=(k, n)) for n, k in enumerate(kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.parametrize("state", ["0006", "head"])
def test_writers_of_both_sides_of_the_same_sessions(clone: Clone, state: str) -> None:
    """No error in any request; afterwards both sides are equal."""
    database = clone(state)
    assert run_side_by_side(database, 8, OldApplication, NewApplication) == []
    drain(database)
    assert_in_step(database)
    before = unified(database)
    downgrade(database)
    upgrade(database)
    assert different(before, unified(database)) == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_two_writers_that_do_not_see_each_other(migrated: Database, isolation: str) -> None:
    """Each deletes one of the two legacy rows of a session: then the session is deleted."""
    token = "ws_twice"  # each of its rows has all values
    for table, written in ((PROGRESS, "last_activity"), (CONFIG, "updated_at")):
        migrated.execute(
            f"INSERT INTO {table} (session_token, student_email, created_at, {written}) "
            f"VALUES ('{token}', 'twice@example.com', '2026-01-01', '2026-01-01')"
        )
    migrated.execute(
        f"UPDATE {PROGRESS} SET started_at = created_at WHERE session_token = '{token}'"
    )
    with (
        migrated.connect(autocommit=False) as one,
        migrated.connect(autocommit=False) as other,
    ):
        for connection in (one, other):
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        one.execute("DELETE FROM student_configs WHERE session_token = %s", (token,))
        other.execute("DELETE FROM workshop_students WHERE session_token = %s", (token,))
        one.commit()
        other.commit()
    drain(migrated)
    assert migrated.query("SELECT FROM sessions WHERE session_token = %s", token) == []
    assert failed_checks(migrated) == []


def test_what_is_locked_waits_and_no_other_write_does(migrated: Database) -> None:
    """A transaction on one side stays open: the write of the other one succeeds, and is logged."""
    token = migrated.query("SELECT session_token FROM student_configs ORDER BY 1 LIMIT 1")[0][0]
    new = f"UPDATE sessions SET ivr_greeting = 'new' WHERE session_token = '{token}'"
    old = f"UPDATE student_configs SET ivr_greeting = 'old' WHERE session_token = '{token}'"
    greeting = f"SELECT ivr_greeting FROM {{}} WHERE session_token = '{token}'"
    for held, written, winner, side in ((new, old, "old", "legacy"), (old, new, "new", "unified")):
        with migrated.connect(autocommit=False) as holder:
            holder.execute(held.encode())
            migrated.execute(written)
            assert migrated.query("SELECT DISTINCT side FROM bridge.change_log") == [(side,)]
            holder.commit()
        with migrated.connect() as connection:
            connection.execute("CALL bridge.drain()")
        assert logged(migrated) == []
        # the transaction that committed last wrote first: the later write wins
        for table in ("sessions", "student_configs"):
            assert migrated.query(greeting.format(table)) == [(winner,)], table
    assert failed_checks(migrated) == []


def test_two_writers_of_a_new_token_that_do_not_see_each_other(clone: Clone) -> None:
    """One inserts the session while the other has read its student without the first one's row."""
    database = clone("0006")
    database.execute(
        "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM pg_sleep(0.6); RETURN NULL; END $$; "
        "CREATE TRIGGER pause BEFORE INSERT ON students FOR EACH STATEMENT "
        "WHEN (current_setting('application_name') = 'slow') EXECUTE FUNCTION pause()"
    )
    first = (
        "SET LOCAL application_name = 'slow'; INSERT INTO student_configs (session_token, student_name, created_at) "
        "VALUES ('both', 'Early Bird', '2019-01-01')"
    )
    writer = threading.Thread(target=database.execute, args=(first,))
    writer.start()
    time.sleep(0.3)
    database.execute(
        "INSERT INTO workshop_students (session_token, student_email, created_at) "
        "VALUES ('both', 'a@example.edu', '2020-01-01')"
    )
    writer.join()
    database.execute("DROP FUNCTION pause() CASCADE")
    upgrade(database)
    assert database.query(
        "SELECT student_name, created_at::date::text FROM students WHERE student_email = 'a@example.edu'"
    ) == [("Early Bird", "2019-01-01")]
    assert failed_checks(database) == []


def test_events_that_come_back_meet_those_that_came_since(clone: Clone) -> None:
    """Both have the first numbers: each event is kept, with its number or another one."""
    database = clone("head")
    kinds = [f"before {n}" for n in range(5)]
    for kind in kinds:
        database.execute(f"INSERT INTO events (event_type) VALUES ('{kind}')")
    downgrade(database, "base")
    upgrade(database, "0003")
    # some of their numbers are used again, those of the others come next
    database.execute(
        "SELECT setval(pg_get_serial_sequence('events', 'id'), min(key::bigint)) FROM bridge.override "
        "WHERE table_name = 'events' AND value ->> 'event_type' ~ '^before'"
    )
    for n in range(3):
        database.execute(f"INSERT INTO events (event_type) VALUES ('since {n}')")
    upgrade(database)
    database.execute("INSERT INTO events (event_type) VALUES ('after')")
    found = database.query(
        "SELECT event_type FROM events WHERE event_type !~ '^(merge|legacy)' ORDER BY 1"
    )
    assert [kind for (kind,) in found] == sorted([*kinds, "since 0", "since 1", "since 2", "after"])


def test_a_student_who_comes_back_under_a_second_address(clone: Clone) -> None:
    """Dropped there for good, it seemed; a downgrade and an upgrade keep the present student."""
    database = clone("head")
    for table, address in (("workshop_students", "one"), ("student_configs", "two")):
        database.execute(
            f"INSERT INTO {table} (session_token, student_email, student_name) "
            f"VALUES ('ws_two', '{address}@example.org', '{address}')"
        )
    database.execute(
        "UPDATE students SET student_email = 'moved@example.net' WHERE student_email = 'two@example.org'"
    )
    database.execute(
        "INSERT INTO students (student_email, student_name) VALUES ('two@example.org', 'Another')"
    )
    assert failed_checks(database) == []
    before = unified(database)
    downgrade(database)
    upgrade(database)
    assert different(before, unified(database)) == []


def own_values(database: Database) -> list[tuple[Any, ...]]:
    return database.query(
        "SELECT st.student_email, st.github_username, s.is_active, s.session_token "
        "FROM students AS st JOIN sessions AS s USING (student_id) ORDER BY 4"
    )


def test_a_downgrade_that_stops_before_any_backfill_loses_no_kept_value(clone: Clone) -> None:
    database = clone("head")
    database.execute(
        "UPDATE students SET github_username = 'gh-' || student_email; UPDATE sessions SET is_active = false"
    )
    before = own_values(database)
    downgrade(database)
    upgrade(database, "0003")
    with database.connect() as connection:
        hand_back(connection)  # and the next step gets no lock
    upgrade(database)
    assert own_values(database) == before
    assert failed_checks(database) == []


def test_a_session_that_comes_early_and_has_kept_values_goes_down_and_up(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = false, expires_at = '2031-01-01Z'")
    ((token, email),) = database.query(
        "SELECT s.session_token, st.student_email "
        "FROM sessions AS s JOIN students AS st USING (student_id) ORDER BY 1 LIMIT 1"
    )
    before = own_values(database)
    downgrade(database)
    upgrade(database, "0003")
    database.execute(
        f"""
        INSERT INTO students (student_email) VALUES ('{email}');
        INSERT INTO sessions (session_token, student_id, is_active, expires_at)
        SELECT '{token}', student_id, true, '2032-02-02Z' FROM students WHERE student_email = '{email}'
        """
    )
    downgrade(database)
    upgrade(database)
    now = [(e, g, a or t == token, t) for e, g, a, t in own_values(database)]
    assert now == [(e, g, a or t == token, t) for e, g, a, t in before]
    expires = "SELECT expires_at::date::text FROM sessions WHERE session_token = %s"
    assert database.query(expires, token) == [("2032-02-02",)]
    assert failed_checks(database) == []


def test_an_expiry_is_kept_where_the_legacy_rows_have_no_time(legacy: Database) -> None:
    for table, columns in (
        (CONFIG, ("created_at", "updated_at")),
        (PROGRESS, ("started_at", "last_activity", "created_at", "updated_at")),
    ):
        nulls = ", ".join(f"{name} = NULL" for name in columns)
        legacy.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER; UPDATE {table} SET {nulls}")
    upgrade(legacy)
    legacy.execute("UPDATE sessions SET expires_at = '2031-01-01', is_active = false")
    for _ in range(2):
        downgrade(legacy)
        upgrade(legacy)
        query = "SELECT DISTINCT expires_at::date::text, is_active FROM sessions"
        assert legacy.query(query) == [("2031-01-01", False)]
