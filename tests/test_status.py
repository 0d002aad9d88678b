"""``workshop status``: its report, and the commands that it names for a repair."""

import importlib
import json
import os
import shlex
import subprocess
import threading
import time
from typing import Any

import psycopg
import pytest
import typer
from alembic import command
from alembic.util import CommandError
from typer.testing import CliRunner

from scripts.commands.status import main
from scripts.common.connection import ConnectionProblem, make_engine, resolve_url
from support.commands import script
from support.databases import (
    HEAD,
    Clone,
    Database,
    alembic_cli,
    alembic_config,
    changes,
    deviations,
    downgrade,
    dump,
    failed_checks,
    upgrade,
)

FOUR = ("events", "step_progress", "sessions", "students")
ADVISORY_LOCK = 5_283_017_740_012_345


app = typer.Typer()
app.command()(main)


def status(database: Database, *args: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    done = CliRunner().invoke(app, [*args, "--json", "--url", database.url])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, json.loads(done.stdout)


def follow(database: Database, commands: list[str]) -> None:
    """Run the commands unchanged."""
    for line in commands:
        program, *args = shlex.split(line)
        if program == "alembic" and args[0] in ("upgrade", "downgrade"):
            # alembic_cli does this in its own process
            getattr(command, args[0])(alembic_config(database.url), *args[1:])
        elif program == "workshop" and args == ["verify"]:
            assert failed_checks(database) == []
        elif program == "workshop":
            assert args in (["merge"], ["status", "--drain"])
            done = script(*args, url=database.url)
            assert done.returncode < 2, done.stdout + done.stderr
        elif program == "alembic":
            done = alembic_cli(*args, url=database.url)
            assert done.returncode == 0, (line, done.stdout)
        else:
            subprocess.run(
                line,
                shell=True,
                env={
                    "PATH": f"{database.server.bin_dir}:{os.environ['PATH']}",
                    "POSTGRES_URL_NON_POOLING": database.url,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=120,
            )


def relations(database: Database) -> dict[str, str]:
    return dict(database.query("SELECT legacy_name, relation::text FROM bridge.source"))


def addresses(database: Database) -> list[tuple[Any, ...]]:
    """The sessions' students, and one value of each."""
    return database.query(
        "SELECT session_token, student_email, ivr_greeting, completion_rate "
        "FROM sessions JOIN students USING (student_id) ORDER BY 1"
    )


def drop_four(database: Database) -> None:
    for name in FOUR:
        database.execute(f"DROP TABLE IF EXISTS {name} CASCADE")


def drop_bridge(database: Database) -> None:
    database.execute("DROP SCHEMA bridge CASCADE")


def drop_four_and_bridge(database: Database) -> None:
    drop_four(database)
    drop_bridge(database)


def drop_some(database: Database) -> None:
    database.execute("DROP TABLE students, step_progress CASCADE")


def drop_configurations(database: Database) -> None:
    database.execute(f"DROP TABLE {relations(database)['student_configs']} CASCADE")


def drop_version(database: Database) -> None:
    database.execute("DROP TABLE alembic_version")


def stamp_base(database: Database) -> None:
    database.execute("DELETE FROM alembic_version")


def stamp_another(database: Database) -> None:
    database.execute(f"UPDATE alembic_version SET version_num = '{HEAD}'")


def drop_version_and_four(database: Database) -> None:
    drop_four(database)
    drop_version(database)


CASES = (
    # the guide's own rollback, at every stage
    *((drop_four, state) for state in ("0003", "0004", "0006", "head")),
    *((drop_bridge, state) for state in ("0003", "0006", "head")),
    (drop_four_and_bridge, "head"),
    (drop_some, "0006"),
    (drop_configurations, "0004"),
    (drop_configurations, "head"),
    (drop_version, "0003"),
    (drop_version, "head"),
    (stamp_base, "head"),
    (stamp_another, "0004"),
    (drop_version_and_four, "0006"),
)


@pytest.mark.parametrize(("damage", "state"), CASES)
def test_the_way_back_that_it_names_leads_to_head(clone: Clone, damage: Any, state: str) -> None:
    database, whole = clone(state), clone("head")
    assert status(database)[1]["problems"] == []
    damage(database)
    code, said = status(database)
    assert code == 2
    assert said["problems"]
    assert "by hand" in said["problems"][0]
    follow(database, said["commands"])
    code, said = status(database)
    assert (code, said["problems"], said["revision"]) == (0, [], HEAD)
    assert failed_checks(database) == []
    if damage is drop_configurations:
        # the rows of the table are in the unified tables, as far as these exist
        kept = {row[0] for row in addresses(database)}
        assert len(kept) >= len({*database.query("SELECT session_token FROM workshop_students")})
    else:
        assert deviations(database) == []
        assert addresses(database) == addresses(whole)


@pytest.mark.parametrize("state", ["legacy", "0006"])
def test_a_revision_of_another_project_is_left_alone(clone: Clone, state: str) -> None:
    """No command deletes its row, and each explains how to name another table."""
    database = clone(state)
    database.execute(
        "CREATE TABLE IF NOT EXISTS alembic_version (version_num text);"
        "DELETE FROM alembic_version; INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6')"
    )
    code, said = status(database)
    assert (code, said["commands"]) == (2, [])
    told = "holds revision a1b2c3d4e5f6, which this project does not have"
    advice = "version_table = workshop_version"
    assert told in said["problems"][0]
    assert advice in said["problems"][0]
    assert ("alembic stamp 0006" in said["problems"][0]) == (state == "0006")
    for args in (
        ("upgrade", "head"),
        ("current",),
        ("stamp", "--purge", "head"),
        ("downgrade", "-1"),
    ):
        done = alembic_cli(*args, url=database.url)
        assert done.returncode != 0
        assert told in done.stdout
        assert advice in done.stdout
    for name in ("dry_run", "verify"):
        done = script(name, url=database.url)
        assert (done.returncode, told in done.stderr) == (2, True)
    assert database.query("SELECT version_num FROM alembic_version") == [("a1b2c3d4e5f6",)]


def test_both_backups_dropped_by_hand(clone: Clone) -> None:
    database = clone("head")
    before = addresses(database)
    for backup in relations(database).values():
        database.execute(f"DROP TABLE {backup} CASCADE")
    code, said = status(database)
    assert code == 2
    assert "dropped by hand" in said["problems"][0]
    follow(database, said["commands"])
    code, said = status(database)
    assert (code, said["next"]) == (0, "nothing")
    assert addresses(database) == before


def test_a_view_dropped_by_hand(clone: Clone, role: str) -> None:
    database = clone("0006")
    database.execute(f"GRANT SELECT ON student_configs TO {role}")
    upgrade(database)
    ((count,),) = database.query("SELECT count(*) FROM student_configs")
    for statement in ("", "CREATE TABLE student_configs (session_token text PRIMARY KEY)"):
        database.execute(f"DROP VIEW student_configs; {statement}")
        code, said = status(database)
        assert code == 2
        follow(database, said["commands"])
        assert status(database)[0] == 0
        with psycopg.connect(database.server.url(database.name, role, role)) as connection:
            rows = connection.execute("SELECT count(*) FROM student_configs").fetchall()
        assert rows == [(count,)]


def test_new_columns_are_read_as_it_says(clone: Clone) -> None:
    early, late = clone("0006"), clone("head")
    for database in (early, late):
        name = relations(database)["student_configs"]
        database.execute(f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS assistant_id text")
        database.execute(f"UPDATE {name} SET assistant_id = 'asst_1'")
        # the number of writes applied at commit depends on the machine
        with database.connect() as connection:
            connection.execute("CALL bridge.drain()")
    assert status(early)[0] == 1
    follow(early, status(early)[1]["commands"])
    assert status(late)[0] == 2
    follow(late, status(late)[1]["commands"])
    for database in (early, late):
        assert status(database)[0] == 0
        assert failed_checks(database) == []
        assert deviations(database) == []
        extra = "SELECT count(*) FROM sessions WHERE legacy_extra::text ~ 'asst_1'"
        assert database.query(extra) == [(177,)]


# --- activity -----------------------------------------------------------------------------


def test_it_tells_of_a_migrator_and_of_the_merge(clone: Clone) -> None:
    database = clone("0003")
    database.execute("UPDATE bridge.state SET stage = 'sessions', cursor_at = 'y', sessions = 100")
    with database.connect() as migrator:
        pid = migrator.info.backend_pid
        migrator.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        code, said = status(database)
    assert code == 1
    assert said["migrator"]["pid"] == pid
    assert said["migrator"]["seconds"] >= 0
    assert said["merge"] == {"done": 100, "total": 213}
    assert "running" in said["next"]
    code, said = status(database)
    assert (code, said["migrator"]) == (1, None)
    assert said["next"] == "alembic upgrade 0006 continues the merge"
    assert said["stage"] == "the merge has begun, and is not finished"
    # more than there are now
    database.execute("UPDATE bridge.state SET sessions = 300")
    assert status(database)[1]["merge"] == {"done": 213, "total": 213}
    database.execute("UPDATE bridge.state SET merged_at = now(), stage = NULL")
    assert "nothing is merged" not in status(database)[1]["stage"]


def test_it_tells_who_holds_and_who_waits(clone: Clone) -> None:
    database = clone("0006")
    with database.connect(autocommit=False) as holder, database.connect() as other:
        holds, waits_for_it = holder.info.backend_pid, other.info.backend_pid
        holder.execute("LOCK TABLE student_configs IN ACCESS EXCLUSIVE MODE")
        waiter = threading.Thread(
            target=other.execute, args=("UPDATE student_configs SET ivr_greeting = '' WHERE false",)
        )
        waiter.start()
        while not database.query("SELECT FROM pg_locks WHERE NOT granted AND relation > 0"):
            time.sleep(0.02)
        try:
            code, said = status(database)
            shown = CliRunner().invoke(app, ["--url", database.url], env={"COLUMNS": "200"}).stdout
        finally:
            holder.rollback()
            waiter.join()
    # an unreadable fact is neither a reason to wait nor to be silent
    assert code == 2
    assert "another session holds a lock" in said["next"]
    locks = {lock["pid"]: lock for lock in said["locks"]}
    held, waits = locks[holds], locks[waits_for_it]
    assert (held["granted"], held["mode"]) == (True, "AccessExclusiveLock")
    assert (waits["granted"], waits["waits_for"]) == (False, [holds])
    assert {held["table"], waits["table"]} == {"student_configs"}
    assert f"waits for {holds}" in shown
    assert status(database)[0] == 1


def test_a_drain_ends_though_something_is_locked(clone: Clone) -> None:
    database = clone("head")
    locked, free = (
        token
        for (token,) in database.query(
            "SELECT session_token FROM student_configs ORDER BY 1 LIMIT 2"
        )
    )
    update = "UPDATE student_configs SET ivr_greeting = 'late' WHERE session_token = ANY (%s)"
    with database.connect(autocommit=False) as holder, database.connect() as application:
        holder.execute("SELECT FROM sessions WHERE session_token = %s FOR UPDATE", (locked,))
        application.execute("UPDATE bridge.state SET sync = false")
        application.execute(update, ([locked, free],))
        application.execute("UPDATE bridge.state SET sync = true")
        code, said = status(database, "--drain")
        assert code == 1
        assert said["pending"] == {"legacy": 1, "unified": 0}
        assert said["next"].startswith("1 sessions were locked for too long")
        assert f"pid {holder.info.backend_pid} " in said["next"]
    code, said = status(database, "--drain")
    assert (code, said["pending"]) == (0, {"legacy": 0, "unified": 0})
    assert deviations(database) == []


def test_what_cannot_be_carried_over_needs_a_person(clone: Clone) -> None:
    database = clone("head")
    database.execute("ALTER TABLE sessions ADD CONSTRAINT odd CHECK (ivr_greeting <> 'geheim')")
    database.execute(
        "UPDATE student_configs SET ivr_greeting = 'geheim' WHERE session_token = "
        "(SELECT min(session_token) FROM student_configs)"
    )
    code, said = status(database, "--drain")
    assert code == 2
    ((token,),) = database.query("SELECT token FROM bridge.change_log")
    assert f"...{token[-4:]} (SQLSTATE 23514, constraint odd)" in said["problems"][0]
    assert "geheim" not in json.dumps(said)


# --- legacy names --------------------------------------------------------------------------------------

APPLICATION_AGAIN = """
CREATE TABLE student_configs (session_token varchar(99) PRIMARY KEY, student_email text, novel integer);
INSERT INTO student_configs VALUES ('ws_late', 'late@example.com', 1);
INSERT INTO student_configs (session_token, student_email)
SELECT min(session_token), 'other@example.com' FROM {}
"""


def clean_up_early(database: Database) -> None:
    """Step 7 of the earlier guide, and an application that creates its table again."""
    for name in ("workshop_students", "student_configs"):
        database.execute(f"ALTER TABLE {name} RENAME TO {name}_backup_20261128")
    database.execute(APPLICATION_AGAIN.format("student_configs_backup_20261128"))


def move_to_another_schema(database: Database) -> None:
    database.execute("CREATE SCHEMA old; ALTER TABLE student_configs SET SCHEMA old")


def put_a_view_in_place(database: Database) -> None:
    database.execute(
        "ALTER TABLE student_configs RENAME TO kept; CREATE VIEW student_configs AS SELECT * FROM kept"
    )


def put_a_table_in_place(database: Database) -> None:
    database.execute("DROP VIEW student_configs")
    database.execute(APPLICATION_AGAIN.format("sessions"))


def undo_the_cut_over(database: Database) -> None:
    backup = relations(database)["student_configs"]
    database.execute(f"DROP VIEW student_configs; ALTER TABLE {backup} RENAME TO student_configs")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        *((clean_up_early, state) for state in ("0003", "0006")),
        (move_to_another_schema, "0004"),
        (put_a_view_in_place, "0006"),
        (put_a_table_in_place, "head"),
        (undo_the_cut_over, "head"),
    ],
)
def test_a_legacy_name_that_is_not_what_the_bridge_knows(
    clone: Clone, change: Any, state: str
) -> None:
    database = clone(state)
    change(database)
    before = dump(database)
    for name in ("verify", "dry_run", "rollback_check"):
        module = importlib.import_module(f"scripts.commands.{name}")
        asked = ["base"] if name == "rollback_check" else []
        with (
            pytest.raises(ConnectionProblem, match=r"a legacy name was changed by hand: .*configs"),
            make_engine(resolve_url(database.url)).connect() as connection,
        ):
            module.examine(connection.execution_options(isolation_level="AUTOCOMMIT"), *asked)
    for run in (upgrade, downgrade):
        if (run, state) != (upgrade, "head"):
            with pytest.raises(CommandError, match="a legacy name was changed by hand"):
                run(database)
    assert changes(before, dump(database)) == []

    code, said = status(database)
    assert code == 2
    assert "student_configs" in said["misnamed"]
    assert all("changed by hand" in problem for problem in said["problems"])
    follow(database, said["commands"])
    assert status(database)[1]["problems"] == []
    upgrade(database)
    assert status(database)[0] == 0
    assert failed_checks(database) == []
    late = "SELECT count(*) FROM sessions WHERE session_token = 'ws_late'"
    # the application's writes to the table that it created again
    assert database.query(late) == [(int(change in (clean_up_early, put_a_table_in_place)),)]
    downgrade(database)
