"""Alembic's commands on real databases: up, down, up again, refusals and their messages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from pytest_regressions.file_regression import FileRegressionFixture
from sqlalchemy import Connection, text

from support.catalogs import COMMITTED, catalog, difference
from support.commands import script as run_script
from support.databases import (
    ADVISORY_LOCK,
    HEAD,
    REVISIONS,
    ROOT,
    Clone,
    Database,
    Server,
    alembic_cli,
    alembic_config,
    changes,
    deviations,
    downgrade,
    dump,
    failed_checks,
    psql,
    script_directory,
    script_of,
    upgrade,
)
from support.eras import PRIOR_ATTEMPT

ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
LEGACY_TABLES = ("workshop_students", "student_configs")


def version_of(database: Database) -> list[str]:
    return [row[0] for row in database.query("SELECT version_num FROM alembic_version")]


def assert_refused(done: "subprocess.CompletedProcess[str]", *clues: str) -> None:
    """One clear line, a failing exit status, no traceback and no secret."""
    assert done.returncode != 0
    line, *more = done.stdout.splitlines()
    assert line.startswith("FAILED: ")
    assert more == []
    for clue in clues:
        assert clue in line
    assert "Traceback" not in done.stderr
    assert [entry for entry in done.stderr.splitlines() if not entry.startswith("INFO")] == []
    assert "geheim" not in done.stdout + done.stderr


# --- up and down ----------------------------------------------------------------------------------


def test_each_revision_up_down_and_up_again(
    legacy: Database, file_regression: FileRegressionFixture
) -> None:
    """The changes of each revision are in tests/catalogs/; --regen-all writes them anew."""
    states = ["base", *REVISIONS]
    before = dump(legacy)
    upgrade(legacy, REVISIONS[0])
    downgrade(legacy)  # creates alembic_version, which stays
    catalogs = {"base": catalog(legacy)}
    for state in states[1:]:
        upgrade(legacy, state)
        assert version_of(legacy) == [state]
        catalogs[state] = catalog(legacy)
    for state in reversed(states[:-1]):
        downgrade(legacy, state)
        found = catalog(legacy)
        # from 0004 down no step writes to tables that will be dropped
        read_only = [name for name in found if name.endswith(".read_only")]
        assert len(read_only) == (4 if state[:4] in ("0001", "0002", "0003") else 0)
        for name in read_only:
            del found[name]
        assert found == catalogs[state], f"downgrade to {state}"
    assert changes(before, dump(legacy, without=("alembic_version",))) == []
    for state in states[1:]:
        upgrade(legacy, state)
        assert catalog(legacy) == catalogs[state], f"second upgrade to {state}"
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []
    for before_it, state in pairwise(states):
        changed = difference(catalogs[before_it], catalogs[state])
        file_regression.check(changed, fullpath=COMMITTED / f"{state}.txt")


def test_downgrade_to_base_leaves_the_database_as_it_was(clone: Clone) -> None:
    migrated = clone("head")
    downgrade(migrated)
    assert version_of(migrated) == []
    before, after = dump(clone("legacy")), dump(migrated, without=("alembic_version",))
    assert changes(before, after) == []


def test_base_and_head_again_on_the_same_day(legacy: Database) -> None:
    legacy.execute(
        """
        CREATE TABLE workshop_students_backup_1761155999000 AS TABLE workshop_students;
        DO $$
        BEGIN
            EXECUTE format('CREATE TABLE student_configs_backup_%s (of_an_earlier_run text)',
                           to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'));
        END
        $$
        """
    )
    before = dump(legacy)
    students = "SELECT student_id::text, student_email FROM students ORDER BY 1"
    backups = "SELECT relname::text FROM pg_class WHERE relname ~ '_backup_' AND relkind = 'r'"
    upgrade(legacy)
    first = legacy.query(students)
    names = sorted(row[0] for row in legacy.query(backups))
    assert [re.sub(r"_\d{8}(?!\d)", "_DATE", name) for name in names] == [
        "student_configs_backup_DATE",
        "student_configs_backup_DATE_2",
        "workshop_students_backup_1761155999000",
        "workshop_students_backup_DATE",
    ]
    downgrade(legacy)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []
    upgrade(legacy)
    assert legacy.query(students) == first
    assert len(first) > 100
    assert sorted(row[0] for row in legacy.query(backups)) == names
    assert failed_checks(legacy) == []


def test_fresh_install(empty: Database) -> None:
    before = dump(empty)
    upgrade(empty)
    assert version_of(empty) == [HEAD]
    names = catalog(empty).keys()
    assert {f"table {name}" for name in ("public.students", "public.events")} <= names
    assert "view public.session_overview" in names
    assert not any("bridge" in name or "_backup_" in name for name in names)
    assert not any(table in name for name in names for table in LEGACY_TABLES)
    downgrade(empty)
    assert changes(before, dump(empty, without=("alembic_version",))) == []
    upgrade(empty)
    assert catalog(empty).keys() == names


@pytest.mark.parametrize(("gone", "left"), [LEGACY_TABLES, LEGACY_TABLES[::-1]])
def test_one_legacy_table_only(legacy: Database, gone: str, left: str) -> None:
    legacy.execute(f"DROP TABLE {gone}")
    before = dump(legacy)
    (count,) = legacy.query(f"SELECT count(*) FROM {left}")
    upgrade(legacy)
    assert legacy.query("SELECT count(*) FROM sessions") == [count]
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []
    downgrade(legacy)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


def test_a_table_that_the_bridge_created_stays_once_it_is_used(legacy: Database) -> None:
    legacy.execute("DROP TABLE student_configs")
    upgrade(legacy)
    legacy.execute("INSERT INTO student_configs (session_token, ivr_greeting) VALUES ('t', 'Hi')")
    assert deviations(legacy) == []
    downgrade(legacy)
    rows = legacy.query("SELECT session_token, ivr_greeting FROM student_configs")
    assert rows == [("t", "Hi")]


def test_staged_use(legacy: Database) -> None:
    """The stages one by one end like a single upgrade."""
    for revision in ("0003", "0006", "head"):
        done = alembic_cli("upgrade", revision, url=legacy.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == ""
    assert version_of(legacy) == [HEAD]
    assert legacy.query("SELECT count(*) FROM sessions") == [(213,)]


def test_an_owner_needs_no_superuser(legacy: Database, role: str) -> None:
    """As on hosted databases: a role that owns the database and the tables, without more rights."""
    names = {"role": role, "database": legacy.name}
    legacy.execute(
        """
        ALTER DATABASE {database} OWNER TO {role};
        ALTER SCHEMA public OWNER TO {role};
        ALTER TABLE workshop_students OWNER TO {role};
        ALTER TABLE student_configs OWNER TO {role};
        ALTER FUNCTION update_updated_at_column() OWNER TO {role};
        """.format_map(names)
    )
    url = legacy.server.url(legacy.name, role, role)
    done = alembic_cli("upgrade", "head", url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "superuser" not in done.stderr
    assert deviations(legacy) == []
    owners = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid > 16384"
    assert legacy.query(owners) == [(role,)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE workshop_students SET total_time_spent = 1")
        connection.execute("UPDATE workshop_students SET total_time_spent = 2")
        # more changes than one commit applies
        connection.execute("CALL bridge.drain()")
    assert deviations(legacy) == []
    done = alembic_cli("downgrade", "base", url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert catalog(legacy, "table", "function", "trigger").keys() == {
        "table public.alembic_version",
        "table public.bridge_remainder_backup_YYYYMMDD",
        "table public.student_configs",
        "table public.workshop_students",
        "function update_updated_at_column()",
        "trigger public.workshop_students.update_workshop_students_updated_at",
    }


# --- the other commands --------------------------------------------------------------------


def test_check_finds_no_difference_to_the_models(clone: Clone) -> None:
    for database in (clone("head"), clone("fresh")):
        done = alembic_cli("check", url=database.url)
        assert done.returncode == 0, done.stdout
        assert "No new upgrade operations detected" in done.stdout


def test_autogenerate_writes_an_empty_revision(migrated: Database, tmp_path: Path) -> None:
    ini = tmp_path / "alembic.ini"
    ini.write_text(
        "[alembic]\n"
        f"script_location = {ROOT / 'alembic'}\n"
        f"prepend_sys_path = {ROOT}\n"
        "path_separator = newline\n"
        f"version_locations =\n    {ROOT / 'alembic' / 'versions'}\n    {tmp_path}\n"
        "file_template = %%(rev)s\n"
    )
    options = f"--autogenerate --message nothing --rev-id 0999_nothing --version-path {tmp_path}"
    done = alembic_cli("-c", str(ini), "revision", *options.split(), url=migrated.url)
    assert done.returncode == 0, done.stdout + done.stderr
    written = (tmp_path / "0999_nothing.py").read_text()
    assert re.search(rf"^down_revision\b.* = ['\"]{HEAD}['\"]$", written, re.MULTILINE)
    bodies = written[written.index("def upgrade") :]
    assert "op." not in bodies.replace("op.expect_revision", "")


def test_current_history_heads_and_stamp(migrated: Database) -> None:
    done = alembic_cli("current", url=migrated.url)
    assert (done.returncode, done.stdout) == (0, f"{HEAD} (head)\n")
    assert alembic_cli("heads").stdout == f"{HEAD} (head)\n"
    history = alembic_cli("history").stdout.splitlines()
    assert [re.search(r"-> (\w+)", line)[1] for line in history] == list(  # type: ignore[index]
        reversed(REVISIONS)
    )
    done = alembic_cli("stamp", REVISIONS[-2], url=migrated.url)
    assert done.returncode == 0, done.stdout
    assert version_of(migrated) == [REVISIONS[-2]]


@pytest.mark.parametrize(
    ("state", "revision", "refused"),
    [
        ("legacy", "head", True),
        ("legacy", "0001", True),
        ("0003", "0005", True),
        ("0003", "0006", True),
        ("0004", "0002", False),
        ("head", "base", False),
    ],
)
def test_a_stamp_with_what_is_not_there_is_refused(
    clone: Clone, state: str, revision: str, refused: bool
) -> None:
    database = clone(state)
    before = dump(database)
    for options in ((), ("--purge",)):
        done = alembic_cli("stamp", *options, revision, url=database.url)
        assert (done.returncode != 0) == refused
        if refused:
            assert_refused(done, "cannot be stamped", "are missing", "alembic upgrade head")
            assert changes(before, dump(database)) == []


def test_a_run_says_what_it_did(migrated: Database) -> None:
    def said(*args: str) -> list[str]:
        done = alembic_cli(*args, url=migrated.url)
        assert (done.returncode, done.stdout) == (0, "")
        return [line.removeprefix("INFO    ") for line in done.stderr.splitlines()]

    assert said("upgrade", "head") == [f"nothing to do: the database is at {HEAD} already"]
    lines = said("downgrade", "-2")
    steps = [line for line in lines if line.startswith("Running")]
    assert steps == [
        f"Running downgrade {HEAD} -> {REVISIONS[-2]}, Give the tables their names back.",
        f"Running downgrade {REVISIONS[-2]} -> {REVISIONS[-3]}, Drop the reporting views.",
    ]
    assert lines[-1] == f"done: the database is at {REVISIONS[-3]}"
    assert said("upgrade", "head")[-1] == f"done: the database is at {HEAD}"


def test_names_of_revisions() -> None:
    for script in script_directory().walk_revisions():
        assert len(script.revision) <= 32
        assert Path(script.path).stem == script.revision
        assert re.match(r"\d{4}_[a-z_]+$", script.revision)
        assert script.doc, "the docstring's first line is what the commands show"


def test_sql_files() -> None:
    files = sorted((ROOT / "alembic" / "sql").rglob("*.sql"))
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        assert b"\t" not in content, f"{file} holds a tab, which offline output changes"
        assert b"\r" not in content, file
        last = content.decode().rstrip().splitlines()[-1]
        assert not last.lstrip().startswith("--"), f"{file} ends in a comment"


def test_every_sql_file_is_used_by_its_revision() -> None:
    versions = ROOT / "alembic" / "versions"
    shared = [*versions.glob("*.py"), ROOT / "scripts" / "migration" / "own_columns.py"]
    for folder in sorted((ROOT / "alembic" / "sql").iterdir()):
        if folder.is_dir():
            of_folder = versions / f"{folder.name}.py"
            users = [of_folder] if of_folder.exists() else shared
            users = [*users, ROOT / "alembic" / "env.py"]
            source = "".join(path.read_text() for path in users)
            for file in folder.glob("*.sql"):
                assert f'"{file.stem}"' in source, f"{file} is run by nothing"


# --- in-process use -----------------------------------------------------------------------------------


@pytest.fixture
def connection(legacy: Database) -> Iterator[Connection]:
    """A SQLAlchemy connection of the caller to the legacy database."""
    with legacy.engine() as engine, engine.connect() as opened:
        yield opened


def upgrade_with(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def test_a_callers_connection_is_given_back_as_it_was(
    legacy: Database, connection: Connection
) -> None:
    settings = text("SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%'")
    connection.execute(text("SET lock_timeout = '7s'"))
    connection.execute(text("SET search_path = pg_temp, public"))
    before = connection.execute(settings).all()
    connection.commit()
    upgrade_with(connection)
    assert not connection.in_transaction()
    assert connection.execute(settings).all() == before
    assert connection.scalar(text(ADVISORY_LOCKS)) == 0
    assert version_of(legacy) == [HEAD]


def test_a_rehearsal_in_the_callers_transaction_leaves_nothing(
    legacy: Database, connection: Connection
) -> None:
    before = dump(legacy)
    with connection.begin() as transaction:
        upgrade_with(connection)
        assert connection.scalar(text("SELECT count(*) FROM sessions")) == 213
        transaction.rollback()
    assert connection.scalar(text(ADVISORY_LOCKS)) == 0
    assert changes(before, dump(legacy)) == []


# --- one migrator at a time -----------------------------------------------------------------------------


@pytest.fixture
def locked(migrated: Database) -> Iterator[Database]:
    """A database in which another migration is running."""
    with migrated.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        yield migrated


@pytest.mark.parametrize("args", [("upgrade", "head"), ("downgrade", "-1"), ("stamp", "base")])
def test_a_second_migrator_is_refused(locked: Database, args: tuple[str, ...]) -> None:
    before = dump(locked)
    assert_refused(alembic_cli(*args, url=locked.url), "another migration is running")
    assert changes(before, dump(locked)) == []


def test_reading_commands_work_meanwhile(locked: Database) -> None:
    for args in (("current",), ("check",), ("history",)):
        done = alembic_cli(*args, url=locked.url)
        assert done.returncode == 0, done.stdout


def test_a_killed_migrator_frees_its_locks_and_its_work_is_taken_up(legacy: Database) -> None:
    with legacy.connect(autocommit=False) as application:
        application.execute("UPDATE workshop_students SET total_time_spent = 1 WHERE false")
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env={"POSTGRES_URL": legacy.url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
        with legacy.connect() as observer:
            deadline = time.monotonic() + 30
            while observer.execute(waiting).fetchone() == (0,):
                assert process.poll() is None, "the migration should wait for the application"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            while observer.execute(ADVISORY_LOCKS).fetchone() != (0,):
                assert time.monotonic() < deadline, "the killed migrator's locks are still held"
                time.sleep(0.05)
        application.rollback()
    assert version_of(legacy) == ["0002_progress_tracking"]
    upgrade(legacy)
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []


def interrupted(
    database: Database, *command: str, instead: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command; press Ctrl-C while it waits for a lock, or run a statement instead."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "POSTGRES_URL": database.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
    deadline = time.monotonic() + 60
    while database.query(waits) != [(True,)]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if instead:
        database.query(instead)
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.parametrize(
    ("state", "revision", "table"),
    # in a step's transaction, and in a procedure that commits chunk by chunk
    [("legacy", REVISIONS[1], "student_configs"), ("0003", REVISIONS[2], "students")],
)
def test_ctrl_c_ends_a_migration_with_one_line(
    clone: Clone, state: str, revision: str, table: str
) -> None:
    database = clone(state)
    with database.connect(autocommit=False) as application:
        application.execute(f"LOCK TABLE {table}")
        done = interrupted(database, "alembic", "upgrade", "head")
        told = ("interrupted", f"at {revision}, with 0 sessions", "Run the command again")
        assert_refused(done, *told)
        assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_a_connection_that_is_ended_ends_a_migration_with_one_line(clone: Clone) -> None:
    database = clone("0003")
    end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
    with database.connect(autocommit=False) as application:
        application.execute("LOCK TABLE students")
        done = interrupted(database, "alembic", "upgrade", "head", instead=end)
        assert_refused(done, "terminating connection")


def test_ctrl_c_ends_a_command_with_one_line(migrated: Database) -> None:
    for name in ("merge", "dry_run"):
        with migrated.connect(autocommit=False) as holder:
            holder.execute("LOCK TABLE bridge.state")
            done = interrupted(migrated, f"scripts.{name}")
        assert (done.returncode, done.stdout) == (130, "")
        assert done.stderr.splitlines()[-1].startswith("interrupted. What was committed stays")
        assert "Traceback" not in done.stderr


# --- holders of a lock ---------------------------------------------------------------------------------

RETRY = "SELECT retry_locking('LOCK TABLE public.student_configs IN ACCESS EXCLUSIVE MODE', {})"


def test_a_wait_says_every_few_seconds_who_holds_the_lock(clone: Clone) -> None:
    database = clone("0003")
    heard: list[str] = []
    with database.connect(autocommit=False) as holder, database.connect() as waiter:
        holder.execute("UPDATE student_configs SET ivr_greeting = '' WHERE false")
        waiter.execute("SET client_min_messages = notice; SET deadlock_timeout = '50ms'")

        def hear(notice: psycopg.errors.Diagnostic) -> None:
            heard.append(notice.message_primary or "")
            holder.rollback()

        waiter.add_notice_handler(hear)
        waiter.execute(RETRY.format(200))
        pid = holder.info.backend_pid
    assert len(heard) == 1
    assert heard[0].startswith(f"waiting for a lock, held by: pid {pid} (")


def test_a_prepared_transaction_is_named_with_what_ends_it(clone: Clone) -> None:
    database = clone("0006")
    if database.query("SHOW max_prepared_transactions") == [("0",)]:
        pytest.skip("this server has no prepared transactions")
    gid = f"it's {database.name}"
    quoted = gid.replace("'", "''")
    ends = f"ROLLBACK PREPARED '{quoted}'"
    with database.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE student_configs SET ivr_greeting = ''")
        connection.execute(f"PREPARE TRANSACTION '{quoted}'")
    try:
        with database.connect() as waiter, pytest.raises(psycopg.errors.LockNotAvailable) as error:
            waiter.execute(RETRY.format(1))
        assert f"Held by: prepared transaction '{quoted}' (user " in str(error.value)
        assert ends in str(error.value)
        done = run_script("status", "--json", url=database.url)
        locks = json.loads(done.stdout)["locks"]
        assert {(lock["pid"], lock["ended_by"]) for lock in locks} == {(None, ends)}
        assert ends in run_script("status", url=database.url).stdout
    finally:
        with database.connect() as connection:
            connection.execute(ends)


# --- refusals -----------------------------------------------------------------------------------------


def test_no_database_is_named() -> None:
    assert_refused(alembic_cli("upgrade", "head"), "POSTGRES_URL_NON_POOLING", "make demo")


@pytest.mark.parametrize(
    ("url", "clue"),
    [
        ("not a url", "is not a database URL"),
        ("postgresql://u:geheim@host:port/db", "is not a database URL"),
        ("postgresql://u:geheim@localhost", "has no database name"),
        ("mysql://u:geheim@localhost/db", "'mysql'"),
        ("postgresql+asyncpg://u:geheim@localhost/db", "'postgresql+asyncpg'"),
        ("postgresql://u:geheim@127.0.0.1:1/db", "127.0.0.1"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, clue: str) -> None:
    assert_refused(alembic_cli("upgrade", "head", url=url), clue)


def test_a_database_that_does_not_exist(server: Server) -> None:
    url = server.url("no_such_database")
    assert_refused(alembic_cli("upgrade", "head", url=url), '"no_such_database" does not exist')


def test_a_role_that_may_create_nothing(legacy: Database, role: str, tmp_path: Path) -> None:
    before = dump(legacy)
    url = legacy.server.url(legacy.name, role, role)
    clue = f"this database is not ready: role {role} may not create in schema public"
    assert_refused(alembic_cli("upgrade", "head", url=url), clue)
    as_role = replace(legacy, server=replace(legacy.server, user=role, password=role))
    done = psql(as_role, script_of("upgrade", "head"), tmp_path)
    assert (done.returncode, clue in done.stderr) == (3, True), done.stderr
    assert changes(before, dump(legacy)) == []


def test_a_name_that_is_taken_by_an_unknown_table(legacy: Database) -> None:
    legacy.execute("CREATE TABLE events (nothing_that_anybody_knows text)")
    before = dump(legacy)
    refused = alembic_cli("upgrade", "head", url=legacy.url)
    assert_refused(refused, "events", "nothing_that_anybody_knows")
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


@pytest.mark.parametrize("run", [upgrade, downgrade])
def test_a_dropped_legacy_table_stops_a_run_before_it_begins(
    clone: Clone, run: Callable[[Database], None]
) -> None:
    database = clone("0004")
    database.execute("DROP TABLE student_configs CASCADE")
    before = dump(database)
    with pytest.raises(CommandError, match=r"student_configs was dropped by hand.*workshop status"):
        run(database)
    assert changes(before, dump(database)) == []


def test_an_earlier_attempt_is_dropped_only_on_request(clone: Clone, tmp_path: Path) -> None:
    kept, dropped, by_script = clone("legacy"), clone("legacy"), clone("legacy")
    for database in (kept, dropped, by_script):
        database.execute(PRIOR_ATTEMPT)
    upgrade(kept)
    assert kept.query("SELECT count(*) FROM sessions") == [(214,)]
    assert any("_prior_backup_" in name for name in catalog(kept, "table"))

    done = alembic_cli("-x", "drop_existing=true", "upgrade", "head", url=dropped.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert dropped.query("SELECT count(*) FROM sessions") == [(213,)]
    assert not any("prior" in name for name in catalog(dropped, "table"))
    assert deviations(dropped) == []

    done = alembic_cli("-x", "drop_existing=true", "upgrade", "head", "--sql")
    assert done.returncode == 0, done.stdout + done.stderr
    assert psql(by_script, done.stdout, tmp_path).returncode == 0
    assert changes(dump(dropped), dump(by_script)) == []


@pytest.mark.parametrize("option", ["drop_existing=yes", "drop-existing=true", "x"])
def test_an_option_that_nobody_knows_is_refused(legacy: Database, option: str) -> None:
    before = dump(legacy)
    assert_refused(alembic_cli("-x", option, "upgrade", "head", url=legacy.url), "drop_existing")
    assert changes(before, dump(legacy)) == []


def test_a_revision_that_does_not_exist(legacy: Database) -> None:
    assert_refused(alembic_cli("upgrade", "0999", url=legacy.url), "0999")


def test_set_main_option_wins_over_the_environment(
    legacy: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL_NON_POOLING", "postgresql://nowhere.invalid/db")
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("sqlalchemy.url", legacy.url.replace("%", "%%"))
    command.upgrade(config, "0001")
    assert version_of(legacy) == [REVISIONS[0]]


def test_a_plain_psycopg_url_and_every_variable(
    legacy: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DATABASE_URL", "POSTGRES_URL", "POSTGRES_URL_NON_POOLING"):
        monkeypatch.setenv(variable, legacy.url.replace("postgresql:", "postgres:"))
        command.current(alembic_config())
        monkeypatch.delenv(variable)
    with psycopg.connect(legacy.url) as connection:
        assert connection.info.dbname == legacy.name
