"""The dry run: its prediction holds, it blocks no application, and it changes nothing."""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.commands import dry_run
from scripts.common.server import embedded_server
from scripts.common.terminal import progress
from scripts.development.sample_data import fill
from support.commands import predicted, script
from support.databases import (
    ROOT,
    Clone,
    Database,
    alembic_cli,
    downgrade,
    dump,
    hand_back,
    upgrade,
)
from support.eras import ERAS, PRIOR_ATTEMPT, load
from support.watching import CANARY, LONGEST, planted, watched


def assert_it_happened(plan: dry_run.Report, merged: Database) -> None:
    """Compare every figure of the plan with the rows and events of the real run."""
    assert plan.go, plan.reasons
    counted = {
        name: merged.query(f"SELECT count(*) FROM {table}")[0][0]
        for name, table in (
            ("students", "students"),
            ("sessions", "sessions"),
            ("steps", "step_progress"),
            ("steps_completed", "step_progress WHERE validation_passed"),
            ("keys_none", "sessions WHERE openai_api_key IS NULL"),
            ("keys_plaintext", "sessions WHERE starts_with(openai_api_key, 'sk-')"),
            ("placeholders", "students WHERE starts_with(student_email, 'anonymous+')"),
        )
    }
    assert {name: plan.totals[name] for name in counted} == counted
    events = "SELECT event_type, count(*)::int FROM events GROUP BY 1"
    assert plan.events == dict(merged.query(events))
    ((merge,),) = merged.query(
        "SELECT event_data FROM events WHERE event_type = 'legacy_merge' ORDER BY id DESC LIMIT 1"
    )
    assert merge["sessions"] == plan.totals["sessions"]
    assert merge["students"] == plan.totals["students"]
    # written before the log is applied, which may add decisions
    assert merge["merge_notes"] <= plan.events.get("merge_note", 0)
    assert {(d["kind"], d["column"]): d["sessions"] for d in plan.decided} == decisions(merged)


def decisions(merged: Database) -> dict[tuple[str, str | None], int]:
    """Sessions of each kind of merge decision, and of each of its columns, in the events of a run."""
    found: set[tuple[str, str | None, str]] = set()
    for token, note in merged.query(
        "SELECT session_token, event_data FROM events WHERE event_type = 'merge_note'"
    ):
        for kind, value in note.items():
            found.add((kind, None, token))
            for column in value if isinstance(value, list | dict) else ():
                wins = kind in ("conflicts", "written_on_both_sides")
                name = f"{column}: {value[column]} wins" if wins else column
                found.add((kind, name, token))
    return dict(Counter((kind, column) for kind, column, _ in found))


# each has its own faults; test_eras.py runs all of them
@pytest.mark.parametrize(
    "name",
    [
        "E",
        "A0",
        "B",
        "C1",
        "C2",
        "C2 over D",
        "C2 alone",
        "S",
        "no student_configs",
        "no keys",
        "other types",
    ],
)
def test_it_says_what_then_happens_in_every_era(clone: Clone, name: str) -> None:
    target = clone("empty")
    with target.connect() as connection:
        load(connection, ERAS[name])
    before = dump(target)
    plan = predicted(target)
    assert dump(target) == before
    upgrade(target, "0004")
    assert_it_happened(plan, target)


def test_on_the_way_and_back_again(clone: Clone) -> None:
    """Before 0001 to 0003, with rows written to the unified tables; after a downgrade with overrides."""
    target = clone("0002")
    with target.connect() as connection:
        fill(connection)
    target.execute("INSERT INTO students (student_email) VALUES ('ahead@example.com')")
    before = dump(target)
    at_0002 = predicted(target)
    assert dump(target) == before
    upgrade(target, "0003")
    target.execute(
        """
        UPDATE student_configs SET ivr_greeting = 'Hello' WHERE session_token LIKE '%a';
        INSERT INTO sessions (session_token, student_id, ivr_greeting)
        SELECT 'ws_ahead', student_id, 'Ahead' FROM students;
        INSERT INTO sessions (session_token, student_id, system_prompt, twilio_connected)
        SELECT c.session_token, s.student_id, 'Written first', true
        FROM student_configs AS c, students AS s ORDER BY 1 LIMIT 3;
        INSERT INTO step_progress (session_token, student_id, step_number, step_name)
        SELECT session_token, student_id, 9, 'Final Deployment' FROM sessions
        """
    )
    before = dump(target)
    plan = predicted(target)
    assert dump(target) == before
    # the bridge's own triggers do as well
    assert [w for w in plan.warnings if "uses the name of its table" in w] == []
    # a session that an endpoint wrote with an address needs no placeholder any more
    known, before_that = (p.totals["students"] - p.totals["placeholders"] for p in (plan, at_0002))
    assert known >= before_that
    assert plan.totals["sessions"] == at_0002.totals["sessions"] + 1
    upgrade(target, "0004")
    assert_it_happened(plan, target)

    target.execute(
        """
        INSERT INTO students (student_email, github_username) VALUES ('alone@example.com', 'gh');
        INSERT INTO events (event_type) VALUES ('application');
        DELETE FROM sessions WHERE session_token = 'ws_ahead';
        UPDATE sessions SET bug_reports = '["kept"]'
        """
    )
    with target.connect() as connection:
        connection.execute("CALL bridge.drain()")
    for revision in ("0003", "0002", "base"):
        downgrade(target, revision)
        plan = predicted(target)
        assert plan.events["application"] == 1, revision
    upgrade(target, "0004")
    assert_it_happened(plan, target)


@pytest.mark.parametrize("state", ["0004", "0006", "head", "fresh", "empty"])
def test_where_there_is_nothing_left_to_merge(clone: Clone, state: str) -> None:
    target = clone(state)
    before = dump(target)
    done = script("dry_run", "--rehearse", "--json", url=target.url)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["go"]
    clue = {"empty": "fresh install", "fresh": "nothing to merge"}.get(state, "workshop merge")
    assert clue in " ".join(plan["reasons"])
    if state not in ("empty", "fresh"):
        assert plan["totals"]["sessions"] == 213
    if state in ("head", "fresh"):
        assert "Nothing was rehearsed: the last revision is reached" in done.stderr
    else:
        assert plan["rehearsal"]["ok"]
        assert "0007_retire_legacy_tables" in plan["rehearsal"]["seconds"]
    assert dump(target) == before


def test_where_a_downgrade_has_begun_or_tables_came_late(clone: Clone) -> None:
    begun = clone("0004")
    with begun.connect() as connection:
        hand_back(connection)
    late = clone("fresh")
    with late.connect() as connection:
        fill(connection)
    for target, clue in ((begun, "a downgrade has begun"), (late, "run alembic downgrade 0002")):
        done = script("dry_run", url=target.url)
        assert done.returncode == 1
        assert f"NO-GO: {clue}" in " ".join(done.stdout.split()) or clue in done.stdout


# --- obstacles -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obstacle", "clue"),
    [
        ("CREATE TABLE events (nothing text)", '"events" has the columns nothing'),
        ("CREATE VIEW sessions AS SELECT 1 AS x", "sessions is not an ordinary table"),
        (
            "ALTER TABLE student_configs RENAME TO s; CREATE VIEW student_configs AS SELECT * FROM s",
            "student_configs is not an ordinary table",
        ),
        ("CREATE SCHEMA bridge", 'there is a schema "bridge" already'),
        ("CREATE TABLE session_overview (x text)", "names already taken: session_overview"),
    ],
)
def test_no_go(legacy: Database, obstacle: str, clue: str) -> None:
    legacy.execute(obstacle)
    before = dump(legacy)
    done = script("dry_run", "--rehearse", url=legacy.url)
    assert done.returncode == 1, done.stderr
    shown = " ".join(done.stdout.split())
    assert (
        f"NO-GO: {clue}" in shown
        or f"NO-GO: this database is not ready: {clue}" in shown
        or ("NO-GO: other objects have the names of the unified tables" in shown and clue in shown)
    )
    assert dump(legacy) == before


def test_a_row_that_the_merge_would_stumble_over(empty: Database) -> None:
    """A token that no index accepts: the merge fails, and so does the dry run, with the same error."""
    empty.execute(
        """
        CREATE TABLE student_configs (session_token text, student_email text);
        INSERT INTO student_configs
        SELECT string_agg(md5(n::text), ''), 'a@example.com' FROM generate_series(1, 300) AS n
        """
    )
    done = script("dry_run", url=empty.url)
    assert done.returncode == 1, done.stderr
    assert "NO-GO: index row " in " ".join(done.stdout.split())
    refused = alembic_cli("upgrade", "head", url=empty.url)
    assert refused.returncode != 0
    assert "index row " in refused.stdout + refused.stderr


def test_a_role_that_may_only_read_gets_the_figures(legacy: Database, role: str) -> None:
    legacy.execute(f"GRANT SELECT ON workshop_students, student_configs TO {role}")
    url = legacy.server.url(legacy.name, role, role)
    done = script("dry_run", url=url)
    assert done.returncode == 1
    shown = " ".join(done.stdout.split())
    assert f"role {role} does not own student_configs, workshop_students" in shown
    assert "213 sessions will result" in shown
    legacy.execute(f"REVOKE TEMPORARY ON DATABASE {legacy.name} FROM PUBLIC")
    done = script("dry_run", url=url)
    assert done.returncode == 2
    assert "temporary tables" in done.stderr


def test_a_standby_is_told_apart(request: pytest.FixtureRequest) -> None:
    """A standby: the commands that need temporary tables report it."""
    major = request.config.option.major
    with embedded_server(major=major) as primary, psycopg.connect(primary.url("postgres")) as c:
        fill(c)
        c.commit()
        uid = primary.data_dir.stat().st_uid
        folder = Path(tempfile.mkdtemp(prefix="wsdb-", dir="/tmp"))
        os.chown(folder, uid, -1)

        def program(name: str, *args: str) -> None:
            with (folder / "output").open("w") as output:
                subprocess.run(
                    [primary.bin_dir / name, *args],
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    user=None if uid == os.geteuid() else uid,
                    timeout=60,
                    check=True,
                )

        data = str(folder / "data")
        copied = (
            "-h",
            primary.host,
            "-U",
            "postgres",
            "-D",
            data,
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        )
        try:
            program("pg_basebackup", *copied)
            with (folder / "data" / "postgresql.conf").open("a") as conf:
                conf.write(f"unix_socket_directories = '{folder}'\n")
            program("pg_ctl", "-D", data, "-w", "start")
            standby = f"postgresql://postgres@/postgres?host={folder}"
            for name in ("dry_run", "merge"):
                done = script(name, url=standby)
                assert done.returncode == 2
                assert "this server is a standby" in done.stderr
        finally:
            program("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
            shutil.rmtree(folder)


# --- it blocks no application --------------------------------------------------------------------------


def test_it_keeps_nobody_waiting(empty: Database) -> None:
    with empty.connect() as connection:
        fill(connection, 3000)
        connection.execute(PRIOR_ATTEMPT.encode())
    tables = ("student_configs", "workshop_students", "sessions")
    with watched(empty, *tables) as (waits, locks):
        done = script("dry_run", "--json", url=empty.url)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["totals"]["sessions"] == 3001
    assert plan["earlier_attempt"] == {"sessions": 1, "students": 1}
    assert {mode for mode, _ in locks} <= {"AccessShareLock"}
    assert max(waits) < LONGEST
    assert len(waits) > 20

    upgrade(empty)
    size = (
        "SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM unnest(%s::text[]) AS name"
    )
    ((actual,),) = empty.query(size, ["students", "sessions", "step_progress", "events"])
    assert 0.8 < plan["expected"]["bytes"] / actual < 1.25


def test_a_moment_is_one_moment(empty: Database) -> None:
    """A row that moves while pages are read is neither lost nor counted twice."""
    with empty.connect() as connection:
        fill(connection, 3000)
    ended = threading.Event()

    def move() -> None:
        with empty.connect() as application:
            while not ended.is_set():
                application.execute(
                    "UPDATE student_configs SET updated_at = updated_at WHERE session_token IN ("
                    "SELECT session_token FROM student_configs ORDER BY random() LIMIT 200)"
                )

    mover = threading.Thread(target=move)
    mover.start()
    try:
        plan = predicted(empty)
    finally:
        ended.set()
        mover.join()
    assert plan.go, plan.reasons
    assert plan.totals["sessions"] == 3000


# --- the rehearsal ------------------------------------------------------------------------------------


def test_a_rehearsal_is_the_real_thing_and_leaves_nothing(legacy: Database) -> None:
    before = dump(legacy)
    done = script("dry_run", "--rehearse", "--json", url=legacy.url)
    assert done.returncode == 0, done.stderr
    assert "it holds locks on the legacy tables" in " ".join(done.stderr.split())
    rehearsal = json.loads(done.stdout)["rehearsal"]
    assert rehearsal["ok"]
    assert rehearsal["failed"] == []
    assert len(rehearsal["seconds"]) == 8
    assert rehearsal["totals"]["sessions"] == 213
    assert dump(legacy) == before

    # a trigger on a name of ours: only the rehearsal finds it
    upgrade(legacy, "0002")
    legacy.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'the auditor says no'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    before = dump(legacy)
    done = script("dry_run", "--rehearse", url=legacy.url)
    assert done.returncode == 1
    assert "NO-GO: the rehearsal failed: the auditor says no" in " ".join(done.stdout.split())
    assert dump(legacy) == before


def test_a_rehearsal_that_finds_a_lock_could_not_tell(legacy: Database) -> None:
    with legacy.connect() as other:
        other.execute("SELECT pg_advisory_lock(5283017740012345)")
        done = script("dry_run", "--rehearse", url=legacy.url)
    assert done.returncode == 2
    assert "another migration is running" in done.stderr


def test_on_a_terminal_a_rehearsal_is_asked_for(legacy: Database) -> None:
    before = dump(legacy)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "scripts.dry_run", "--rehearse", "--json", "--url", legacy.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as asked:
        os.write(ours, b"n\n")
        output, _ = asked.communicate(timeout=60)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "Continue?" in shown
    assert asked.returncode == 0
    assert json.loads(output)["rehearsal"] is None
    assert dump(legacy) == before


def test_progress_is_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0])
    monkeypatch.setattr("scripts.common.terminal.time.monotonic", lambda: next(clock))
    with progress("working") as say:
        say("too early for [this]")
        say("three of [seven]")
    assert capsys.readouterr().err == "three of [seven]\n"


# --- secrets ------------------------------------------------------------------------------------------


def test_no_secret_is_shown(clone: Clone) -> None:
    target = clone("empty")
    with target.connect() as connection:
        fill(connection)
    planted(target)
    outputs: list[Any] = [
        script("dry_run", "--rehearse", url=target.url),
        script("dry_run", "--json", url=target.url),
    ]
    for done in outputs:
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
    # nor if something fails
    target.execute("ALTER TABLE student_configs ALTER COLUMN tools TYPE text")
    with psycopg.connect(target.url) as holder:
        holder.execute("LOCK TABLE student_configs IN ACCESS EXCLUSIVE MODE")
        done = script("dry_run", url=target.url)
    assert done.returncode == 2
    assert "another session holds a lock" in done.stderr
    assert CANARY not in done.stdout + done.stderr
