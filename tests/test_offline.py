"""The scripts of ``--sql``, run by the real psql, have exactly the effect of the online commands."""

import ast
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from support.databases import (
    HEAD,
    REVISIONS,
    ROOT,
    Clone,
    Database,
    alembic_cli,
    changes,
    deviations,
    downgrade,
    dump,
    failed_checks,
    psql,
    script_of,
    upgrade,
)

STATES = ("base", *REVISIONS)
STEPS = tuple(itertools.pairwise(STATES))


def assert_applied(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


def assert_stopped(done: "subprocess.CompletedProcess[str]", *clues: str) -> None:
    """An error in a script with ON_ERROR_STOP ends psql with status 3."""
    assert done.returncode == 3, done.stderr
    for clue in clues:
        assert clue in done.stderr


# --- the script itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("upgrade", "head"), ("downgrade", "head:base")])
def test_a_script_needs_no_database_and_stdout_is_nothing_but_sql(args: tuple[str, str]) -> None:
    done = alembic_cli(*args, "--sql", env={"PGHOST": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.rstrip().splitlines()
    assert lines[0].startswith("-- Run with: psql -X -f ")
    assert lines.index("\\set ON_ERROR_STOP on") < 25
    assert lines[-1].startswith("\\echo Applied: ")
    assert "INFO" not in done.stdout
    assert "INFO" in done.stderr
    # in this process, and on every run: the same text
    assert done.stdout == script_of(*args)


@pytest.mark.parametrize("args", [("upgrade", "head"), ("downgrade", "head:base")])
def test_a_script_can_be_read_alone(args: tuple[str, str]) -> None:
    """Contents with the line of each section, which begins with the docstring of its revision."""
    script = script_of(*args)
    lines = script.splitlines()
    header = script[: script.index("\\set ")]
    assert re.search(
        r"^-- workshop-migration \d+\.\d+\.\d+, tested with PostgreSQL 15, 16 and 18\.",
        header,
        re.M,
    )
    contents = re.findall(r"^-- +(\d+)  ((?:up|down)grade \S+ -> \S+) +(\S.*)$", header, re.M)
    assert len(contents) == len(REVISIONS)
    steps = STEPS if args[0] == "upgrade" else [pair[::-1] for pair in reversed(STEPS)]
    for (line, name, lock), (start, end) in zip(contents, steps, strict=True):
        revision = end if args[0] == "upgrade" else start
        assert name == f"{args[0]} {start} -> {end}"
        assert lines[int(line) - 1].startswith(f"-- Running {args[0]} ")
        section = lines[int(line) : lines.index(f"\\echo Done: {name}")]
        (file,) = (ROOT / "alembic" / "versions").glob(f"{revision}.py")
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        told = section[: section.index(f"\\echo Skipped, done already: {name}") - 1]
        assert f"\\echo Begins: {name}" in section
        assert [text.removeprefix("--").removeprefix(" ") for text in told] == doc.splitlines()
        assert ("none" in lock) == ("LEGACY TABLES:" not in "\n".join(section))


def test_a_stamp_can_be_a_script() -> None:
    done = alembic_cli("stamp", "head", "--sql")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"\\echo Applied: the database is at {HEAD}")


def test_the_text_is_the_same_as_online() -> None:
    script = script_of("upgrade", "head") + script_of("downgrade", "head:base")
    assert "%%" not in script
    assert "\t" not in script
    for file in (Path(__file__).parent.parent / "alembic" / "sql").rglob("*.sql"):
        text = file.read_text(encoding="utf-8").rstrip().removesuffix(";")
        assert text in script, f"{file} is not in a script as it stands"


@pytest.mark.parametrize(
    "args",
    [
        ("downgrade", "base", "--sql"),
        ("downgrade", "-1", "--sql"),
        ("upgrade", "0999", "--sql"),
        ("upgrade", "0999:head", "--sql"),
    ],
)
def test_what_alembic_cannot_write_is_refused_without_a_script(args: tuple[str, ...]) -> None:
    done = alembic_cli(*args)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    if args[0] == "downgrade":  # Alembic's own refusal, on stdout
        assert done.stdout.startswith("FAILED: ")
    else:
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("FAILED: ")


# --- the same database as online ---------------------------------------------------------------------


def test_upgrade_to_head(legacy: Database, migrated: Database, tmp_path: Path) -> None:
    assert_applied(psql(legacy, script_of("upgrade", "head"), tmp_path))
    assert changes(dump(migrated), dump(legacy)) == []
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []


def test_downgrade_to_base(clone: Clone, tmp_path: Path) -> None:
    online, offline = clone("head"), clone("head")
    downgrade(online)
    assert_applied(psql(offline, script_of("downgrade", "head:base"), tmp_path))
    assert changes(dump(online), dump(offline)) == []
    before, after = dump(clone("legacy")), dump(offline, without=("alembic_version",))
    assert changes(before, after) == []


def test_step_by_step_up_and_down(clone: Clone, tmp_path: Path) -> None:
    online, offline = clone("legacy"), clone("legacy")
    for start, end in STEPS:
        upgrade(online, end)
        assert_applied(psql(offline, script_of("upgrade", f"{start}:{end}"), tmp_path))
        assert changes(dump(online), dump(offline)) == [], f"{start}:{end}"
    for end, start in reversed(STEPS):
        downgrade(online, end)
        assert_applied(psql(offline, script_of("downgrade", f"{start}:{end}"), tmp_path))
        assert changes(dump(online), dump(offline)) == [], f"{start}:{end}"


def test_online_and_offline_take_turns(clone: Clone, tmp_path: Path) -> None:
    online, mixed = clone("head"), clone("legacy")
    upgrade(mixed, "0003")
    assert_applied(psql(mixed, script_of("upgrade", "0003:0005"), tmp_path))
    upgrade(mixed)
    assert changes(dump(online), dump(mixed)) == []


def test_a_fresh_install(clone: Clone, tmp_path: Path) -> None:
    online, offline = clone("empty"), clone("empty")
    upgrade(online)
    # settings of a DBA's psql
    options = ("-v", "AUTOCOMMIT=off", "-v", "ON_ERROR_ROLLBACK=on", "-v", "ON_ERROR_STOP=off")
    done = psql(offline, script_of("upgrade", "head"), tmp_path, "fresh.sql", *options)
    assert_applied(done)
    assert "postgres is a superuser" in done.stderr
    assert done.stdout.splitlines()[-1] == f"Applied: the database is at {HEAD}"
    assert changes(dump(online), dump(offline)) == []


def test_an_interactive_session_is_given_back_as_it_was(empty: Database, tmp_path: Path) -> None:
    """The lock is free, the settings are those from before, and so are psql's."""
    (tmp_path / "upgrade.sql").write_text(script_of("upgrade", "0002"), encoding="utf-8")
    typed = (
        f"\\i {tmp_path}/upgrade.sql",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();",
        "SELECT current_setting('lock_timeout'), current_setting('search_path'), pg_backend_pid() > 0;",
        "\\echo :AUTOCOMMIT :ON_ERROR_STOP :ON_ERROR_ROLLBACK",
    )
    done = subprocess.run(
        [empty.server.bin_dir / "psql", "-XAt", empty.url],
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == [
        "Applied: the database is at 0002_progress_tracking",
        "0",
        '0|"$user", public|t',
        "on off off",
    ]


def test_without_the_lines_of_psql_it_says_so(empty: Database) -> None:
    """Pasted into a GUI: without the lines for psql, or without their results."""
    lines = script_of("upgrade", "head").splitlines()
    pasted = "\n".join(line for line in lines if not line.startswith("\\") and ":probe" not in line)
    with empty.connect() as connection, pytest.raises(psycopg.Error) as error:
        connection.execute(pasted.replace("\\gset", ";").encode())
    assert "this script is for psql" in str(error.value)
    assert empty.query("SELECT FROM pg_class WHERE relname = 'students'") == []


def test_from_base_after_an_online_downgrade(migrated: Database, tmp_path: Path) -> None:
    before = dump(migrated)
    downgrade(migrated)
    assert migrated.query("SELECT count(*) FROM alembic_version") == [(0,)]
    assert_applied(psql(migrated, script_of("upgrade", "head"), tmp_path))
    assert changes(before, dump(migrated)) == []


def test_downgrade_by_one_step(migrated: Database, tmp_path: Path) -> None:
    assert_applied(psql(migrated, script_of("downgrade", "head:-1"), tmp_path))
    assert migrated.query("SELECT version_num FROM alembic_version") == [(REVISIONS[-2],)]
    assert_applied(psql(migrated, script_of("upgrade", f"{REVISIONS[-2]}:head"), tmp_path))
    assert migrated.query("SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert failed_checks(migrated) == []


# --- scripts in the wrong place -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "direction", "revisions"),
    [
        ("legacy", "upgrade", "0004:head"),
        ("legacy", "downgrade", "head:0003"),
        ("0003", "upgrade", "0006:head"),
        ("0003", "upgrade", "0002"),
        ("head", "upgrade", "0001:0002"),
        ("head", "downgrade", "0006:0003"),
    ],
)
def test_a_revision_that_is_not_in_the_script_is_refused_and_nothing_changes(
    clone: Clone, tmp_path: Path, state: str, direction: str, revisions: str
) -> None:
    database = clone(state)
    before = dump(database)
    done = psql(database, script_of(direction, revisions), tmp_path)
    at = "(base)" if state == "legacy" else HEAD if state == "head" else f"{state}_"
    assert_stopped(done, "this script is for revision", f"the database is at {at}", "Nothing was")
    assert changes(before, dump(database)) == []


def test_an_unknown_revision_is_refused(clone: Clone, tmp_path: Path) -> None:
    database = clone("0003")
    database.execute("UPDATE alembic_version SET version_num = 'a1b2c3d4e5f6'")
    before = dump(database)
    done = psql(database, script_of("upgrade", "head"), tmp_path)
    assert_stopped(done, "holds revision a1b2c3d4e5f6, which this project does not have")
    assert changes(before, dump(database)) == []


@pytest.mark.parametrize(
    ("state", "direction", "revisions"),
    [("0003", "upgrade", "head"), ("0006", "downgrade", "head:base")],
)
def test_a_script_skips_what_is_done_and_a_second_run_changes_nothing(
    clone: Clone, tmp_path: Path, state: str, direction: str, revisions: str
) -> None:
    online, offline = clone(state), clone(state)
    upgrade(online) if direction == "upgrade" else downgrade(online)
    script = script_of(direction, revisions)
    begins = [line.partition(": ")[2] for line in script.splitlines() if "\\echo Begins" in line]
    done = psql(offline, script, tmp_path)
    assert_applied(done)
    left = next(n for n, name in enumerate(begins) if f"grade {state}_" in name)
    told = re.findall(r"^(?:Skipped|Begins|Done).*", done.stdout, re.MULTILINE)
    assert told[:left] == [f"Skipped, done already: {name}" for name in begins[:left]]
    assert told[left : left + 2] == [f"Begins: {begins[left]}", f"Done: {begins[left]}"]
    assert changes(dump(online), dump(offline)) == []
    again = psql(offline, script, tmp_path)
    assert_applied(again)
    assert again.stdout.count("Skipped, done already: ") == len(begins)
    assert "Begins" not in again.stdout
    assert changes(dump(online), dump(offline)) == []


def test_a_downgrade_that_is_done_asks_nothing_more(legacy: Database, tmp_path: Path) -> None:
    """At base the tables of an earlier attempt are restored, and other objects may refer to them."""
    legacy.execute(
        """
        CREATE TABLE students (student_id uuid PRIMARY KEY, student_email text);
        CREATE TABLE certificates (student_id uuid REFERENCES students)
        """
    )
    before = dump(legacy)
    assert_applied(psql(legacy, script_of("upgrade", "0002"), tmp_path))
    for _ in range(2):
        assert_applied(psql(legacy, script_of("downgrade", "0002:base"), tmp_path))
        assert changes(before, dump(legacy, without=("alembic_version",))) == []


def test_each_step_guards_itself(legacy: Database, tmp_path: Path) -> None:
    """Without the script's own preflight: a part is refused if an operator cuts out the checks."""
    script = script_of("upgrade", "0004:0005")
    begins = script.index("\\echo Begins: ")
    step = script[begins : script.index("\\endif", begins)]
    before = dump(legacy)
    legacy.execute("CREATE TABLE alembic_version (version_num text)")
    done = psql(legacy, "\\set ON_ERROR_STOP on\n" + step, tmp_path)
    assert_stopped(done, "this step starts at revision 0004_merge_legacy_data")
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


def test_a_script_is_refused_while_another_migration_runs(legacy: Database, tmp_path: Path) -> None:
    before = dump(legacy)
    with legacy.connect() as other:
        other.execute("SELECT pg_advisory_lock(5283017740012345)")
        done = psql(legacy, script_of("upgrade", "head"), tmp_path)
    assert_stopped(done, "another migration is running")
    assert changes(before, dump(legacy)) == []


def test_script_and_command_exclude_each_other(clone: Clone, tmp_path: Path) -> None:
    """Each of them waits half-way for an application's transaction."""
    first, second = clone("legacy"), clone("legacy")
    script = tmp_path / "upgrade.sql"
    script.write_text(script_of("upgrade", "head"), encoding="utf-8")
    by_psql = (first.server.bin_dir / "psql", "-X", "-f", script, second.url)
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
    for database, command in ((first, ("-m", "alembic", "upgrade", "head")), (second, by_psql)):
        with database.connect(autocommit=False) as application:
            application.execute("UPDATE student_configs SET ivr_greeting = 'x' WHERE false")
            process = subprocess.Popen(
                [sys.executable, *command] if database is first else command,
                cwd=ROOT,
                env={**os.environ, "POSTGRES_URL": database.url},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while database.query(waits) != [(True,)]:
                assert process.poll() is None
                time.sleep(0.05)
            done = alembic_cli("upgrade", "head", url=database.url)
            assert "another migration is running" in done.stdout
            refused = psql(database, script_of("upgrade", "head"), tmp_path, "other.sql")
            assert_stopped(refused, "another migration is running")
            application.rollback()
        assert process.wait(60) == 0
        assert failed_checks(database) == []


def test_a_script_that_fails_midway_continues(legacy: Database, tmp_path: Path) -> None:
    """Committed steps stay; the same script, or one for the rest, continues."""
    legacy.execute(
        """
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_query() ~ 'CREATE VIEW session_overview' THEN
                RAISE EXCEPTION 'the disk is full';
            END IF;
        END
        $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()
        """
    )
    assert_stopped(psql(legacy, script_of("upgrade", "head"), tmp_path), "the disk is full")
    assert legacy.query("SELECT version_num FROM alembic_version") == [("0005_keys_and_indexes",)]
    legacy.execute("DROP EVENT TRIGGER refuse")
    assert_applied(psql(legacy, script_of("upgrade", "0005:0006"), tmp_path))
    assert_applied(psql(legacy, script_of("upgrade", "head"), tmp_path))
    assert failed_checks(legacy) == []
