"""The operator's commands, run by a person or a script: output and exit codes."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path

import pytest
from alembic.util import CommandError
from rich.console import Console

from scripts.common import terminal
from scripts.development.bench import ONE_SHOT
from support.commands import script
from support.databases import ROOT, Clone, Database, Server, alembic_cli, downgrade, dump, upgrade


@pytest.mark.parametrize(
    "name",
    [
        "backup",
        "dry_run",
        "verify",
        "merge",
        "status",
        "rollback_check",
        "drop_backups",
        "dashboard",
    ],
)
def test_every_command_explains_itself(name: str) -> None:
    done = script(name, "--help")
    assert done.returncode == 0
    assert re.search(r"Example: (\w+=\S+ )?workshop", " ".join(done.stdout.split()))
    assert "xits with 0" in done.stdout
    nowhere = script(name)
    assert nowhere.returncode == 2
    assert "POSTGRES_URL_NON_POOLING" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


def test_the_dry_run_says_what_then_happens(clone: Clone) -> None:
    database = clone("legacy")
    before = dump(database)
    done = script("dry_run", "--json", url=database.url)
    assert done.returncode == 0, done.stderr
    assert dump(database) == before
    plan = json.loads(done.stdout)
    assert plan["go"]
    upgrade(database)
    for name, table in (
        ("students", "students"),
        ("sessions", "sessions"),
        ("steps", "step_progress"),
    ):
        assert database.query(f"SELECT count(*) FROM {table}") == [(plan["totals"][name],)]
    verified = script("verify", "--json", url=database.url)
    assert verified.returncode == 0
    report = json.loads(verified.stdout)
    assert report["ok"]
    assert report["counts"]["students"] == plan["totals"]["students"]


def test_verify_says_what_is_wrong(clone: Clone, server: Server) -> None:
    database = clone("head")
    database.execute(
        "SET bridge.applying = 'on'; UPDATE sessions SET ivr_greeting = 'x' WHERE session_token = "
        "(SELECT min(session_token) FROM sessions)"
    )
    done = script("verify", url=database.url)
    assert done.returncode == 1
    assert "sessions.ivr_greeting differs" in " ".join(done.stdout.split())
    unmigrated = script("verify", url=clone("legacy").url)
    assert unmigrated.returncode == 2
    # these facts are known
    assert unmigrated.stderr.startswith("error: the database is not migrated; next: workshop ")
    nowhere = script("verify", url=server.url("not_there"))
    assert (nowhere.returncode, nowhere.stderr[:25]) == (2, "error: could not check: c")


# --- status and rollback_check ----------------------------------------------------------------------


def test_status_at_every_stage(clone: Clone) -> None:
    expected = {
        "empty": (1, "check that this is the right database"),
        "legacy": (1, "workshop backup, then workshop dry-run, then alembic upgrade 0003"),
        "0003": (1, "workshop dry-run shows the merge, then alembic upgrade 0006"),
        "0004": (1, "alembic upgrade 0006"),
        "0006": (1, "workshop verify, check the dashboard"),
        "head": (0, "nothing"),
        "fresh": (0, "nothing"),
    }
    for state, (code, clue) in expected.items():
        database = clone(state)
        done = script("status", "--json", url=database.url)
        assert done.returncode == code, (state, done.stdout, done.stderr)
        status = json.loads(done.stdout)
        assert clue in status["next"], state
        assert status["problems"] == []
        shown = script("status", url=database.url)
        assert shown.returncode == code
        assert f"Next: {status['next']}" in shown.stdout
        if state == "legacy":
            assert status["rows"] == {"workshop_students": 153, "student_configs": 177}
            assert re.search(r"workshop_students +153 rows", shown.stdout)
        elif state == "empty":
            assert re.search(r"student_configs +not there", shown.stdout)


def test_a_database_without_rows_looks_wrong(legacy: Database) -> None:
    legacy.execute("TRUNCATE workshop_students, student_configs")
    done = script("status", url=legacy.url)
    assert (done.returncode, "check that this is the right database." in done.stdout) == (1, True)
    done = script("dry_run", url=legacy.url)
    assert done.returncode == 0
    assert re.search(
        r"NOTE: database \S+ has no row to merge: check that it\s+is\s+the\s+right\s+one",
        done.stdout,
    )


def test_status_tells_and_drains_what_is_pending(clone: Clone) -> None:
    database = clone("0004")
    ((token,),) = database.query("SELECT min(session_token) FROM student_configs")
    database.execute(
        f"""
        UPDATE student_configs SET ivr_greeting = 'old' WHERE session_token = '{token}';
        INSERT INTO students (student_id, student_email)
        VALUES ('11111111-1111-4111-8111-111111111111', 'new@example.com');
        INSERT INTO sessions (session_token, student_id)
        VALUES ('ws_v2', '11111111-1111-4111-8111-111111111111')
        """
    )
    done = script("status", "--json", url=database.url)
    assert json.loads(done.stdout)["pending"] == {"legacy": 1, "unified": 1}
    assert done.returncode == 1
    done = script("status", "--drain", "--json", url=database.url)
    status = json.loads(done.stdout)
    assert status["pending"] == {"legacy": 0, "unified": 0}
    assert status["drift"] == {"not_in_unified": 0, "not_in_legacy": 0}
    count = "SELECT count(*) FROM workshop_students WHERE session_token = 'ws_v2'"
    assert database.query(count) == [(1,)]
    assert token not in done.stdout


def test_status_names_what_a_person_has_to_mend(migrated: Database) -> None:
    ((backup,),) = migrated.query(
        "SELECT relation::text FROM bridge.source WHERE legacy_name = 'student_configs'"
    )
    migrated.execute(f"ALTER TABLE {backup} ADD COLUMN brand_new text")
    done = script("status", url=migrated.url)
    assert done.returncode == 2
    assert "workshop merge" in done.stdout


def test_rollback_check_tells_what_a_downgrade_would_do(migrated: Database) -> None:
    before = dump(migrated)
    done = script("rollback_check", "--json", url=migrated.url)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["ok"]
    assert (report["written_back"], report["kept"], report["in_the_way"]) == ([], [], [])

    # a write that a lock blocked from the legacy tables, and one that they cannot hold
    ((token,),) = migrated.query("SELECT min(session_token) FROM student_configs")
    with migrated.connect(autocommit=False) as holder:
        holder.execute("SELECT * FROM student_configs WHERE session_token = %s FOR UPDATE", [token])
        migrated.execute(
            f"UPDATE sessions SET ivr_greeting = 'new' WHERE session_token = '{token}'"
        )
    migrated.execute("UPDATE students SET github_username = 'gh' WHERE student_email LIKE 'a%'")
    done = script("rollback_check", "base", "--json", url=migrated.url)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert {(w["column"], w["into"]) for w in report["written_back"]} == {
        ("ivr_greeting", "student_configs.ivr_greeting")
    }
    assert "github_username" in {kept["column_name"] for kept in report["kept"]}
    shown = script("rollback_check", url=migrated.url)
    assert shown.returncode == 0
    assert "OK: nothing would be lost" in shown.stdout
    assert token not in done.stdout + shown.stdout

    # the prediction holds; the prediction changed nothing
    migrated.execute("UPDATE students SET github_username = NULL")
    with migrated.connect() as connection:
        connection.execute("CALL bridge.drain()")
    migrated.execute("CREATE VIEW mine AS SELECT session_token FROM student_configs")
    done = script("rollback_check", "0006", url=migrated.url)
    assert done.returncode == 1
    assert "IN THE WAY: view mine" in " ".join(done.stdout.split())
    migrated.execute("DROP VIEW mine; CREATE VIEW mine AS SELECT session_token FROM sessions")
    assert script("rollback_check", "0006", url=migrated.url).returncode == 0
    assert script("rollback_check", "base", url=migrated.url).returncode == 1
    migrated.execute("DROP VIEW mine")
    assert len(before) > 1000


def test_rollback_check_keeps_nobody_waiting_while_it_works_students_out(clone: Clone) -> None:
    database = clone("0006")
    waits = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"
    locks = "SELECT relation::regclass::text FROM pg_locks WHERE pid = %s AND relation IS NOT NULL"
    with database.connect(autocommit=False) as holder, ThreadPoolExecutor(1) as pool:
        # the last student read by the check
        holder.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        check = pool.submit(script, "rollback_check", "--json", url=database.url)
        try:
            while not (found := database.query(waits)):
                assert not check.done()
                time.sleep(0.02)
            held = {table for (table,) in database.query(locks, *found[0])}
        finally:
            holder.rollback()
    assert {"students", "sessions"} <= held
    assert not {"workshop_students", "student_configs"} & held
    assert check.result().returncode == 0


def test_rollback_check_of_what_cannot_be_told(legacy: Database) -> None:
    assert script("rollback_check", url=legacy.url).returncode == 2
    upgrade(legacy, "0004")
    assert script("rollback_check", "head", url=legacy.url).returncode == 2
    assert script("rollback_check", "9999", url=legacy.url).returncode == 2


def test_rows_that_nothing_else_holds_are_not_dropped(clone: Clone) -> None:
    """Written to the unified tables before the bridge existed: refused, unless confirmed."""
    database = clone("0002")
    database.execute("INSERT INTO students (student_email) VALUES ('a@example.com')")
    assert script("rollback_check", url=database.url).returncode == 1
    with pytest.raises(CommandError, match="1 rows of students"):
        downgrade(database)
    assert database.query("SELECT count(*) FROM students") == [(1,)]
    done = alembic_cli("-x", "drop_existing=true", "downgrade", "base", url=database.url)
    assert done.returncode == 0, done.stderr


def test_the_guides_rollback_taken_literally(clone: Clone) -> None:
    """DROP TABLE ... CASCADE by hand: the legacy application still works, status shows the repair."""
    database = clone("head")
    database.execute(
        """
        DROP TABLE IF EXISTS events CASCADE;
        DROP TABLE IF EXISTS step_progress CASCADE;
        DROP TABLE IF EXISTS sessions CASCADE;
        DROP TABLE IF EXISTS students CASCADE
        """
    )
    database.execute("UPDATE student_configs SET ivr_greeting = 'still here'")
    done = script("status", url=database.url)
    assert done.returncode == 2
    assert "alembic downgrade base, then alembic upgrade head" in " ".join(done.stdout.split())
    assert_status_is_pointed_at(database)
    for command in (("downgrade", "base"), ("upgrade", "head")):
        done = alembic_cli(*command, url=database.url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert script("status", url=database.url).returncode == 0
    greetings = "SELECT count(*) FROM {} WHERE ivr_greeting = 'still here'"
    for table in ("student_configs", "sessions"):
        assert database.query(greetings.format(table)) == [(177,)]


def test_a_backup_dropped_by_hand(clone: Clone) -> None:
    """The guide's literal DROP TABLE ... CASCADE of the backups: moved endpoints still work, status explains."""
    database = clone("head")
    for (backup,) in database.query("SELECT relation::text FROM bridge.source"):
        database.execute(f"DROP TABLE {backup} CASCADE")
    database.execute("UPDATE sessions SET ivr_greeting = 'V2 goes on'")
    assert database.query("SELECT DISTINCT ivr_greeting FROM sessions") == [("V2 goes on",)]
    done = script("status", url=database.url)
    assert done.returncode == 2
    assert "dropped by hand" in " ".join(done.stdout.split())
    assert_status_is_pointed_at(database)


def assert_status_is_pointed_at(database: Database) -> None:
    """The other commands stop if a table was dropped by hand, and name workshop status."""
    others = ("dry_run", "verify", "merge", "rollback_check")
    unified = database.query("SELECT to_regclass('public.sessions')")[0][0]
    for command in others if unified else (*others, "drop_backups"):
        done = script(command, url=database.url)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.match(r"error: .*workshop", done.stderr)


# --- the benchmark's baseline -------------------------------------------------------------------------


def test_the_one_shot_writes_what_the_migration_writes(migrated: Database) -> None:
    """So that it is the same work, except for ids and times of the run, and unreadable values."""
    keys = {
        "students": "student_email",
        "sessions": "session_token",
        "step_progress": "session_token, step_number",
    }
    with migrated.connect() as connection:
        connection.execute("CREATE SCHEMA one_shot; SET search_path = one_shot")
        connection.execute(ONE_SHOT.read_bytes())
        for table, key in keys.items():
            query = f"""
                SELECT e.key, count(*) FROM one_shot.{table} AS a FULL JOIN public.{table} AS b USING ({key})
                CROSS JOIN LATERAL jsonb_each(to_jsonb(a)) AS e
                WHERE e.value IS DISTINCT FROM to_jsonb(b) -> e.key
                  AND e.key NOT IN ('student_id', 'student_name', 'updated_at', 'legacy_extra')
                  AND (e.key, {table!r}) <> ('created_at', 'step_progress')
                GROUP BY 1
            """
            assert connection.execute(query.encode()).fetchall() == [], table


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_table_breaks_lines_between_words(width: int) -> None:
    """A table too wide for the terminal becomes a list of its rows."""
    rows = [
        ("student_configs.selected_phone_number", "AccessExclusiveLock", "the application", 1234),
        ("a view over workshop_students_backup", "yes", "[red]waits for a long, long time[/]", 5),
    ]
    written = StringIO()
    Console(width=width, file=written).print(
        terminal.table(
            "What the downgrade keeps aside, [b]and[/] why",
            ("Column", "Mode", "What", "Rows"),
            rows,
        )
    )
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for word in [
        "student_configs.selected_phone_number",
        "AccessExclusiveLock",
        "application",
        "1,234",
        "waits",
    ]:
        assert word in words
    assert ("Mode" in lines[1]) == (width == 100), "one line of headings, or one for each value"


# --- workshop -----------------------------------------------------------------------------------------

GUIDE = ("status", "backup", "dry-run", "verify", "dashboard", "merge", "drop-backups",
         "rollback-check", "restore", "demo", "sample-data", "server", "bench", "diagram")  # fmt: skip
INSTALLED = Path(sys.executable).with_name("workshop")


def workshop(*args: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed ``workshop``, from the project's root."""
    return subprocess.run(
        [INSTALLED, *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "COLUMNS": "100", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_workshop_lists_its_commands_in_the_order_of_the_guide() -> None:
    done = workshop("--help")
    assert done.returncode == 0
    listed = [match for match in re.findall(r"^│ ([a-z-]+)  +[A-Z].*\.", done.stdout, re.M)]
    assert tuple(listed) == GUIDE
    assert "--install-completion" in done.stdout


@pytest.mark.parametrize("name", GUIDE)
def test_each_has_its_help_and_its_old_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m scripts.dry_run`` is ``workshop dry-run``."""
    monkeypatch.setattr("sys.argv", ["", "--help"])
    monkeypatch.setenv("COLUMNS", "100")
    module = f"scripts.{name.replace('-', '_')}"
    monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns about an imported module
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(module, run_name="__main__")
    told = capsys.readouterr().out
    assert "Example: " in told
    assert f"Usage: workshop {name}" in told


def test_the_list_needs_no_other_package() -> None:
    """It is quick, and a missing extra affects only its own command."""
    code = (
        "import sys; from scripts.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(*sorted(sys.modules.keys() & {'sqlalchemy', 'alembic', 'psycopg', 'jinja2', "
        "'starlette', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("args", [("nothing",), ("status", "--nothing"), ("status", "nothing"), ()])
def test_workshop_refuses_what_it_does_not_know(args: tuple[str, ...]) -> None:
    done = workshop(*args)
    assert done.returncode == 2
    assert "Usage: workshop" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [("workshop rol", "rollback-check"), ("workshop verify --diff", "--differences")],
)
def test_workshop_completes(words: str, offered: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = workshop(_WORKSHOP_COMPLETE="complete_bash", **asked)
    assert done.stdout.split() == [offered]


def test_the_shell_gets_a_script_for_completion() -> None:
    shell = ["bash", "-c", f"'{INSTALLED}' --show-completion; exit $?"]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "complete -o default -F _workshop_completion workshop" in done.stdout


def test_a_reader_that_goes_away_is_no_traceback(migrated: Database) -> None:
    code = "from scripts.cli import workshop; workshop()"
    command = f"'{sys.executable}' -c '{code}' verify | true"
    environ = os.environ | {"POSTGRES_URL_NON_POOLING": migrated.url}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
