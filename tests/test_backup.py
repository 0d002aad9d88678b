"""workshop backup and workshop restore in their own process: from a backup back to a database."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from psycopg import sql

from scripts.common import programs
from scripts.common.connection import ConnectionProblem
from scripts.common.server import embedded_server
from support.backups import API_KEY, PASSWORD, TOKEN, alike, back_up, plant, restore
from support.commands import run_command, script
from support.databases import ROOT, Clone, Database, Server, changes, downgrade, dump, psql, upgrade


def databases_of(server: Server) -> set[str]:
    with psycopg.connect(server.url(server.maintenance_dbname)) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.mark.parametrize("name", ["backup", "restore", "drop_backups"])
def test_the_commands_explain_themselves(name: str) -> None:
    done = script(name, "--help")
    assert done.returncode == 0
    assert "Example: " in " ".join(done.stdout.split())
    assert "xits with 0" in done.stdout
    if name != "restore":
        nowhere = script(name)
        assert nowhere.returncode == 2
        assert "POSTGRES_URL_NON_POOLING" in nowhere.stderr


def test_a_restore_drill(clone: Clone, tmp_path: Path) -> None:
    """From head into a file, from the file into an empty database, and from there down to base."""
    database, other, legacy = clone("head"), clone("empty"), clone("legacy")
    for each in (database, legacy):
        plant(each)
    file = tmp_path / "drill.dump"
    manifest = back_up(database, file)
    assert manifest["proven"] is True
    assert manifest["revision"] == "0007_retire_legacy_tables"
    assert isinstance(manifest["tables"], dict)
    for name, told in manifest["tables"].items():
        assert database.query(f"SELECT count(*) FROM {name}") == [(told["rows"],)]
    assert {"public.sessions", "public.students", "public.step_progress", "public.events",
            "public.alembic_version", "bridge.state"} < manifest["tables"].keys()  # fmt: skip
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    done = restore(file, other)
    assert done.returncode == 0, done.stderr
    assert changes(alike(database), alike(other)) == []
    # the target's tables are in use: a second restore is refused, and later writes stay
    other.execute("UPDATE student_configs SET ivr_greeting = 'written since'")
    again = restore(file, other)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    # a write of many rows stays logged until a drain
    with other.connect() as connection:
        connection.execute("CALL bridge.drain()")
    assert other.query("SELECT count(*) FROM sessions WHERE ivr_greeting = 'written since'") == [
        (178,)
    ]
    # with its bridge it is a normal database: a downgrade works
    downgrade(other)
    without = ("bridge_remainder_backup_*", "alembic_version")
    legacy.execute("UPDATE student_configs SET ivr_greeting = 'written since'")
    assert changes(dump(legacy, without=without), dump(other, without=without)) == []


def test_in_place_of_what_is_there(clone: Clone, tmp_path: Path) -> None:
    """A backup of before the migration, restored after it."""
    database, other = clone("legacy"), clone("empty")
    database.execute(
        """
        CREATE TABLE conversation_sessions (
            id serial PRIMARY KEY,
            session_token text REFERENCES student_configs (session_token) ON DELETE CASCADE
        );
        INSERT INTO conversation_sessions (session_token) SELECT session_token FROM student_configs;
        CREATE TABLE unrelated (id serial PRIMARY KEY);
        CREATE VIEW of_both AS SELECT c.session_token FROM student_configs AS c, unrelated;
        CREATE VIEW of_ours AS SELECT session_token FROM student_configs;
        """
    )
    plant(database)
    original = dump(database)
    file = tmp_path / "before.dump"
    back_up(database, file)
    upgrade(database)
    database.execute(f"DELETE FROM student_configs WHERE session_token <> '{TOKEN}'")
    database.execute("CREATE TABLE since (id integer DEFAULT 4 PRIMARY KEY)")
    migrated = dump(database)

    # beside the tables in use: in another database, complete
    assert restore(file, other).returncode == 0
    assert changes(alike(other), [re.sub(r"[()]| AS text\b", "", line) for line in original]) == []

    # instead of them: first the command describes the effect
    described = restore(file, database, "--replace")
    assert described.returncode == 1
    assert "to be dropped" in " ".join(described.stdout.split())
    assert "unchanged: public.since" in " ".join(described.stdout.split())
    assert f"--confirm {database.name}" in described.stderr
    assert changes(migrated, dump(database)) == []

    # objects that are not in the backup, and would be lost with the tables
    replace = (file, database, "--replace", "--confirm", database.name)
    obstacles = {
        "CREATE VIEW mine AS SELECT session_token FROM sessions": "view public.mine",
        "CREATE FUNCTION f(students) RETURNS int LANGUAGE sql AS 'SELECT 1'": "function public.f",
        "CREATE TABLE since2 (t text REFERENCES sessions)": "since2_t_fkey on public.since2",
        "CREATE TABLE of_rows (s sessions)": "table column public.of_rows.s",
        "CREATE VIEW of_legacy AS SELECT session_token FROM student_configs": "view public.of_legacy",
        "CREATE PUBLICATION mine FOR TABLE students": "public.students in publication mine",
        "ALTER TABLE since ADD FOREIGN KEY (id) REFERENCES unrelated NOT VALID": "since_id_fkey",
    }
    undo = """
        DROP VIEW IF EXISTS mine, of_legacy; DROP FUNCTION IF EXISTS f; DROP TABLE IF EXISTS since2, of_rows;
        DROP PUBLICATION IF EXISTS mine; ALTER TABLE since DROP CONSTRAINT IF EXISTS since_id_fkey
        """
    for statement, clue in obstacles.items():
        database.execute(statement)
        before = dump(database)
        done = restore(*replace)
        assert (done.returncode, clue in done.stderr) == (1, True), (statement, done.stderr)
        assert changes(before, dump(database)) == []
        database.execute(undo)

    done = restore(*replace)
    assert done.returncode == 0, done.stderr
    assert database.query("SELECT count(*) FROM since") == [(0,)]
    database.execute("DROP TABLE since")
    assert changes(original, dump(database)) == []
    upgrade(database)

    # a backup of head, over the present tables
    file = tmp_path / "after.dump"
    back_up(database, file)
    migrated = alike(database)
    database.execute("DELETE FROM students")
    downgrade(database, "0006")
    done = restore(file, database, "--replace", "--confirm", database.name)
    assert done.returncode == 0, done.stderr
    assert changes(migrated, alike(database)) == []
    downgrade(database)


def test_what_is_no_good_backup_changes_nothing(clone: Clone, tmp_path: Path) -> None:
    database, target = clone("legacy"), clone("empty")
    file = tmp_path / "good.dump"
    back_up(database, file)
    good, before = file.read_bytes(), dump(target)
    manifest = tmp_path / "good.dump.manifest.json"
    told = manifest.read_text()

    def refused(clue: str) -> None:
        done = restore(file, target)
        assert done.returncode == 1
        assert clue in done.stderr
        assert dump(target) == before

    file.write_bytes(good[:-100] + b"x" + good[-99:])
    refused("damaged")
    file.write_bytes(good[: len(good) // 2])
    refused("damaged")
    file.write_bytes(good)
    manifest.write_text("{}")
    refused("no manifest")
    manifest.unlink()
    refused("not finished")
    # a valid file with other content
    manifest.write_text(re.sub(r'"rows": 177', '"rows": 178', told))
    refused("student_configs has 177 rows instead of 178")
    manifest.write_text(re.sub(r'"checksum": "..', '"checksum": "xx', told))
    refused("has other values")
    manifest.write_text(told)
    # no file is overwritten
    done = run_command("backup", "--file", str(file), url=database.url)
    assert (done.returncode, "Nothing was overwritten" in done.stderr) == (1, True)
    assert file.read_bytes() == good
    assert restore(file, target).returncode == 0


def test_plain_and_json(clone: Clone, tmp_path: Path) -> None:
    database, by_hand, restored = clone("head"), clone("empty"), clone("empty")
    plant(database)
    file = tmp_path / "workshop.sql"
    assert back_up(database, file, "--format", "plain")["proven"] is True
    done = psql(by_hand, "\\set ON_ERROR_STOP on\n" + file.read_text(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert restore(file, restored).returncode == 0
    for each in (by_hand, restored):
        assert changes(alike(database), alike(each)) == []
    assert restore(file, restored, "--replace").returncode == 1

    export = tmp_path / "workshop.json"
    manifest = back_up(database, export, "--format", "json")
    assert stat.S_IMODE(export.stat().st_mode) == 0o600
    told = json.loads(export.read_text())
    keys = {row["openai_api_key"] for row in told["tables"]["public.sessions"]}
    assert API_KEY in keys
    assert keys == {key for (key,) in database.query("SELECT openai_api_key FROM sessions")}
    counts = {name: len(rows) for name, rows in told["tables"].items()}
    tables = manifest["tables"]
    assert isinstance(tables, dict)
    assert counts == {name: entry["rows"] for name, entry in tables.items()}
    assert restore(export, clone("empty")).returncode == 1


@pytest.fixture
def spied(server: Server, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A folder of programs in front of PostgreSQL's, which record their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    notes = tmp_path / "notes"

    def install(**before: str) -> Path:
        for name in ("pg_dump", "pg_restore", "psql"):
            wrapper = folder / name
            wrapper.write_text(
                f"""#!/bin/sh
case "$1" in --version) exec "{server.bin_dir}/{name}" "$@";; esac
echo "{name} $*" >> "{notes}"
exec 3>&1
[ {name} != pg_dump ] || stat -Lc 'mode %a' /proc/self/fd/3 >> "{notes}"
[ -z "$PGPASSWORD" ] || echo "password by environment" >> "{notes}"
{before.get(name, "")}
exec "{server.bin_dir}/{name}" "$@"
"""
            )
            wrapper.chmod(0o755)
        return notes

    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    yield install
    os.environ["PATH"] = path


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc, which Linux has")
def test_no_password_on_a_command_line_and_nobody_else_reads_the_file(
    legacy: Database, tmp_path: Path, spied: Callable[..., Path]
) -> None:
    notes = spied(pg_dump="sleep 0.8")
    # the snapshot outlives the server's timeouts
    legacy.execute(f'ALTER DATABASE "{legacy.name}" SET idle_in_transaction_session_timeout = 500')
    back_up(legacy, tmp_path / "spied.dump")
    noted = notes.read_text()
    assert "pg_dump --dbname" in noted
    assert "psql " in noted
    assert "password by environment" in noted
    assert "mode 600" in noted
    assert PASSWORD not in noted


def test_a_killed_proof_leaves_no_database_behind(
    legacy: Database, tmp_path: Path, spied: Callable[..., Path]
) -> None:
    notes = spied(psql="exec sleep 60")
    before = databases_of(legacy.server)
    command = [sys.executable, "-m", "scripts.backup", "--file", str(tmp_path / "killed.dump")]
    with subprocess.Popen(
        [*command, "--url", legacy.url], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as run:
        while not notes.exists() or "psql" not in notes.read_text():
            assert run.poll() is None
            time.sleep(0.05)
        assert databases_of(legacy.server) - before
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=30) != 0
    assert databases_of(legacy.server) == before
    # the dump is complete, and reported as not proven
    manifest = json.loads((tmp_path / "killed.dump.manifest.json").read_text())
    assert manifest["proven"] is False


def test_the_proof_finds_what_cannot_be_restored(
    legacy: Database, tmp_path: Path, spied: Callable[..., Path]
) -> None:
    before = databases_of(legacy.server)
    spied(psql="exec false")
    done = run_command("backup", "--file", str(tmp_path / "bad.dump"), url=legacy.url)
    assert done.returncode == 1
    assert "NOT PROVEN" in done.stdout
    assert databases_of(legacy.server) == before


def test_a_role_that_may_not_create_a_database(legacy: Database, role: str, tmp_path: Path) -> None:
    """A throw-away server is the fallback."""
    grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {}"
    legacy.execute(sql.SQL(grant).format(sql.Identifier(role), sql.Identifier(role)).as_string())
    url = legacy.server.url(legacy.name, role, role)
    file = tmp_path / "role.dump"
    done = run_command("backup", "--file", str(file), url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROVEN: restored on a throw-away server" in done.stdout
    # a plain file names owners and grantees
    plain = ("--format", "plain", "--file", f"{tmp_path}/role.sql")
    done = run_command("backup", *plain, url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TO {role}" in (tmp_path / "role.sql").read_text()
    done = run_command("backup", "--file", str(tmp_path / "not.dump"), "--no-prove", url=url)
    assert done.returncode == 0
    assert "NOT PROVEN: not asked for" in done.stdout


def test_a_backup_of_a_database_in_use(legacy: Database, tmp_path: Path) -> None:
    """Dump and checksums are of one moment, while the legacy application writes and alters."""
    stop = Event()
    slowest = [0.0]
    save = """
        ALTER TABLE student_configs ADD COLUMN IF NOT EXISTS demo_mode boolean;
        UPDATE student_configs SET ivr_greeting = random()::text
        """

    def write() -> None:
        with legacy.connect() as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute(save)
                slowest[0] = max(slowest[0], time.monotonic() - began)

    writer = Thread(target=write)
    writer.start()
    try:
        manifest = back_up(legacy, tmp_path / "busy.dump")
    finally:
        stop.set()
        writer.join()
    assert manifest["proven"] is True
    assert 0 < slowest[0] < 5
    assert isinstance(manifest["held_seconds"], float)
    assert 0 < manifest["held_seconds"] < 5


def test_options_after_the_dashes_go_to_the_program(clone: Clone, tmp_path: Path) -> None:
    database, other = clone("legacy"), clone("empty")
    database.execute("CREATE TABLE large (id integer)")
    file = tmp_path / "smaller.dump"
    assert back_up(database, file, "--", "--exclude-table=large")["options"] == [
        "--exclude-table=large"
    ]
    assert restore(file, other, "--", "--no-comments").returncode == 0
    assert other.query("SELECT to_regclass('large'), to_regclass('student_configs')::text") == [
        (None, "student_configs")
    ]
    # the proof finds the parts that the options removed
    options = ("--", "--exclude-table-data=student_configs")
    done = run_command("backup", "--file", f"{tmp_path}/less.dump", *options, url=database.url)
    assert done.returncode == 1
    assert "student_configs has 0 rows instead of 177" in " ".join(done.stdout.split())
    # wrong options leave no file
    done = run_command("backup", "--file", f"{tmp_path}/no.dump", "--", "--nothing", url=other.url)
    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert not list(tmp_path.glob("no.dump*"))
    done = run_command("backup", "no.dump", url=other.url)
    assert (done.returncode, "--file no.dump names the file" in done.stderr) == (1, True)


def test_programs_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Newer programs serve; if all are older, the message names the package."""
    folders = {programs.major_of(f / "pg_dump"): f for f in programs.folders_with("pg_dump")}
    if not {16, 18} <= folders.keys():
        pytest.skip("needs the programs of 16 and 18")
    monkeypatch.setattr(programs, "folders_with", lambda *_, **__: [folders[18]])
    with embedded_server(major=16) as server:
        url, file = server.url("postgres"), str(tmp_path / "newer.dump")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE student_configs AS SELECT 'ws_1' AS session_token")
            assert run_command("backup", "--file", file, url=url).returncode == 0
            replace = ("--replace", "--confirm", "postgres")
            connection.execute("DELETE FROM student_configs")
            assert run_command("restore", file, *replace, url=url).returncode == 0
            assert connection.execute("TABLE student_configs").fetchall() == [("ws_1",)]
    monkeypatch.setattr(programs, "folders_with", lambda *_, **__: [folders[16]])
    with pytest.raises(ConnectionProblem, match=r"found: 16 in .*install postgresql-client-18"):
        programs.client_programs(18)
