"""workshop drop-backups: its refusals, its result, and the moved endpoints without the legacy tables."""

import json
import re
import subprocess
import time
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from alembic.util import CommandError

from support.backups import API_KEY, TOKEN, assert_silent, back_up, plant, restore, with_password
from support.catalogs import catalog
from support.commands import run_command
from support.databases import (
    Clone,
    Database,
    alembic_cli,
    changes,
    downgrade,
    dump,
    psql,
    script_of,
    upgrade,
)

CONFIRM = ("--confirm", "DELETE OLD TABLES")
OLD = "20250101"


def drop(database: Database, *options: str) -> "subprocess.CompletedProcess[str]":
    done = run_command("drop_backups", "--watch", "0", *options, url=with_password(database))
    assert_silent(done.stdout, done.stderr)
    return done


def backups(database: Database) -> list[str]:
    rows = database.query(
        """
        SELECT relname::text FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname ~ '_backup_'
        ORDER BY 1
        """
    )
    return [name for (name,) in rows]


def age(database: Database, date: str = OLD) -> None:
    """Age every dated backup."""
    for name in backups(database):
        stem = name.partition("_backup_")[0]
        database.execute(f'ALTER TABLE "{name}" RENAME TO "{stem}_backup_{date}"')


def undated(database: Database) -> list[str]:
    """The dump of a database; functions of the bridge may have a former name of a table."""
    return [re.sub(r"_backup_\d{8}\b", "_backup_", line) for line in dump(database)]


def use_unified(database: Database, token: str = "ws_after") -> None:
    """Every statement of the application on the unified tables."""
    student = f"{token}@example.com"
    database.execute(
        f"""
        INSERT INTO students (student_email, student_name) VALUES ('  {student.upper()} ', 'A')
        ON CONFLICT (student_email) DO UPDATE SET student_name = 'A';
        INSERT INTO sessions (session_token, student_id)
        SELECT '{token}', student_id FROM students WHERE student_email = '{student}'
        ON CONFLICT (session_token) DO UPDATE SET last_activity = now();
        UPDATE sessions SET tools = to_jsonb('[]'::text), call_direction_chosen = true
        WHERE session_token = '{token}';
        INSERT INTO step_progress (session_token, student_id, step_number, step_name, validation_passed)
        SELECT '{token}', student_id, 0, 'Connect Accounts', true FROM students
        WHERE student_email = '{student}'
        ON CONFLICT (session_token, step_number) DO UPDATE SET validation_passed = true;
        SELECT update_session_progress('{token}');
        INSERT INTO events (session_token, event_type, event_data) VALUES ('{token}', 'x', '"{{}}"');
        UPDATE students SET student_name = 'B' WHERE student_email = '{student}';
        """
    )
    query = """
        SELECT completion_rate, tools::text, exercises ? 'step-1-connect-accounts'
        FROM sessions WHERE session_token = %s
        """
    assert database.query(query, token) == [(22, "[]", True)]
    database.execute(
        f"""
        DELETE FROM step_progress WHERE session_token = '{token}';
        DELETE FROM sessions WHERE session_token = '{token}';
        DELETE FROM students WHERE student_email = '{student}';
        """
    )


def test_the_whole_way_to_the_end(clone: Clone, tmp_path: Path) -> None:
    database = clone("legacy")
    database.execute(
        """
        CREATE TABLE conversation_sessions (
            id serial PRIMARY KEY,
            session_token text CONSTRAINT of_session REFERENCES student_configs (session_token)
                ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED
        );
        INSERT INTO conversation_sessions (session_token) SELECT session_token FROM student_configs;
        CREATE TABLE student_use_cases (session_token varchar(200));
        ALTER TABLE student_use_cases ADD FOREIGN KEY (session_token) REFERENCES student_configs
            ON DELETE CASCADE NOT VALID;
        CREATE TABLE workshop_students_backup_1761155999000 AS SELECT * FROM workshop_students;
        CREATE FUNCTION report() RETURNS bigint LANGUAGE plpgsql AS
            'BEGIN RETURN (SELECT count(*) FROM student_configs); END'
        """
    )
    before_it = tmp_path / "before.dump"
    back_up(database, before_it)
    upgrade(database)
    plant(database)
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    ((key,),) = database.query(definition, "of_session")

    # the list, and the wait for the 30 days
    before = dump(database)
    done = drop(database, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert [b["was"] for b in report["backups"]] == ["student_configs", "workshop_students"]
    assert [b["rows"] for b in report["backups"]] == [178, 153]
    assert all(b["age"] == 0 and b["bytes"] > 0 for b in report["backups"])
    assert report["not_ours"] == ["workshop_students_backup_1761155999000"]
    assert [k["name"] for k in report["keys"]] == [
        "of_session",
        "student_use_cases_session_token_fkey",
    ]
    assert report["mentions"] == ["public.report()"]
    assert len(report["reasons"]) == 2
    assert "0 days old" in report["reasons"][0]
    assert drop(database, *CONFIRM, "--waive-dump").returncode == 1
    assert changes(before, dump(database)) == []

    # 29 days are too few: by the server's clock
    for days, code in ((29, 1), (30, 0)):
        ((date,),) = database.query(
            "SELECT to_char((now() AT TIME ZONE 'UTC')::date - %s::int, 'YYYYMMDD')", days
        )
        for name in backups(database)[:1] + backups(database)[2:]:
            stem = name.partition("_backup_")[0]
            if name.endswith("1761155999000"):
                continue
            database.execute(f"ALTER TABLE {name} RENAME TO {stem}_backup_{date}")
        assert drop(database).returncode == code

    # the exact text, and a proven dump with the present rows
    before = dump(database)
    wrong = drop(database, "--confirm", "delete old tables", "--waive-dump")
    assert (wrong.returncode, "nothing was changed" in wrong.stderr) == (1, True)
    assert drop(database, *CONFIRM).returncode == 1
    early = drop(database, *CONFIRM, "--dump", str(before_it))
    assert early.returncode == 1
    assert "was made at revision (base), and the database is at 0007" in early.stderr
    file = tmp_path / "last.dump"
    back_up(database, file)
    database.execute(
        "UPDATE student_configs SET ivr_greeting = 'written after the dump' WHERE session_token = "
        "(SELECT min(session_token) FROM student_configs)"
    )
    stale = drop(database, *CONFIRM, "--dump", str(file))
    assert stale.returncode == 1
    assert "does not have the present rows of student_configs_backup" in stale.stderr
    done = run_command(
        "backup", "--no-prove", "--file", str(tmp_path / "bad.dump"), url=database.url
    )
    assert done.returncode == 0
    unproven = drop(database, *CONFIRM, "--dump", str(tmp_path / "bad.dump"))
    assert (unproven.returncode, "was not proven" in unproven.stderr) == (1, True)
    assert len(before) == len(dump(database))

    file = tmp_path / "really-last.dump"
    back_up(database, file)
    unified = catalog(database)
    done = drop(database, *CONFIRM, "--dump", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DROPPED" in done.stdout
    assert backups(database) == ["workshop_students_backup_1761155999000"]

    # nothing of the bridge is left, everything else is unchanged
    after = catalog(database)
    gone = {name for name in unified if name not in after}
    of_bridge = ("bridge", "workshop_students", "student_configs", "trigger")
    assert [n for n in gone if not any(word in n + unified[n] for word in of_bridge)] == []
    assert [
        name for name in after if name not in unified and "legacy_tables_dropped" not in name
    ] == []
    # a trigger may read a setting of that name, which needs no schema
    setting = re.compile(r"current_setting\('bridge\.\w+'")
    assert not [d for d in after.values() if "bridge." in setting.sub("", d)]
    assert database.query("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'bridge%'") == [(0,)]
    ((moved,),) = database.query(definition, "of_session")
    assert moved == re.sub(r"student_configs_backup_\d+", "sessions", key)
    ((loose,),) = database.query(definition, "student_use_cases_session_token_fkey")
    assert "REFERENCES sessions(session_token) ON DELETE CASCADE NOT VALID" in loose
    use_unified(database)
    database.execute(f"DELETE FROM sessions WHERE session_token = '{TOKEN}'")

    # the event, and the answers of every other command
    ((data,),) = database.query(
        "SELECT event_data FROM events WHERE event_type = 'legacy_tables_dropped'"
    )
    assert data["dump"]["name"] == "really-last.dump"
    assert sorted(data["tables"].values()) == [153, 178]
    assert_silent(json.dumps(data))
    for command in (("upgrade", "head"), ("current",), ("check",)):
        assert alembic_cli(*command, url=database.url).returncode == 0
    status = run_command("status", url=database.url)
    assert status.returncode == 0
    assert "really-last.dump" in " ".join(status.stdout.split())
    assert "there are no legacy tables" in " ".join(status.stdout.split())
    assert run_command("verify", url=database.url).returncode == 0
    assert run_command("rollback_check", "0006", url=database.url).returncode == 1
    back = run_command("rollback_check", "base", url=database.url)
    assert back.returncode == 1
    assert "WOULD BE LOST" in back.stdout
    assert "Every write to the unified tables" not in back.stdout
    assert drop(database, *CONFIRM).returncode == 0

    # a downgrade is refused, online or by script, with the name of the dump
    with pytest.raises(CommandError, match=r"were dropped on .*really-last\.dump"):
        downgrade(database, "0006")
    done = psql(database, script_of("downgrade", "head:base"), tmp_path)
    assert done.returncode != 0
    assert "really-last.dump" in done.stderr
    assert database.query("SELECT version_num FROM alembic_version") == [
        ("0007_retire_legacy_tables",)
    ]
    elsewhere = clone("empty")
    assert restore(file, elsewhere).returncode == 0
    downgrade(elsewhere)
    count = f"SELECT count(*) FROM student_configs WHERE openai_api_key = '{API_KEY}'"
    assert elsewhere.query(count) == [(1,)]

    # a legacy endpoint that is still in use
    database.execute("CREATE TABLE IF NOT EXISTS student_configs (session_token text PRIMARY KEY)")
    status = run_command("status", url=database.url)
    assert status.returncode == 2
    assert "after the legacy tables were dropped" in " ".join(status.stdout.split())


def test_it_sees_who_still_uses_them(migrated: Database) -> None:
    stop = Event()

    def old_endpoint() -> None:
        while not stop.is_set():
            migrated.execute("UPDATE student_configs SET ivr_greeting = 'x' WHERE demo_mode")
            time.sleep(0.05)

    endpoint = Thread(target=old_endpoint)
    endpoint.start()
    try:
        done = run_command("drop_backups", "--watch", "1.5", "--json", url=migrated.url)
    finally:
        stop.set()
        endpoint.join()
    used = {b["was"]: (b["reads"] > 0, b["writes"] > 0) for b in json.loads(done.stdout)["backups"]}
    assert used["student_configs"] == (True, True)
    assert not used["workshop_students"][1]


def test_what_stands_in_the_way_is_named_and_nothing_changes(clone: Clone, tmp_path: Path) -> None:
    database = clone("head")
    age(database)
    obstacles = {
        "CREATE VIEW mine AS SELECT session_token FROM student_configs": "view public.mine",
        f"CREATE VIEW deep AS SELECT session_token FROM student_configs_backup_{OLD}": "view public.deep",
        "CREATE VIEW of_bridge AS SELECT count(*) FROM bridge.tokens": "view public.of_bridge",
        f"CREATE FUNCTION f(student_configs_backup_{OLD}) RETURNS int LANGUAGE sql AS 'SELECT 1'": (
            "function public.f"
        ),
        f"""CREATE UNIQUE INDEX odd ON workshop_students_backup_{OLD} (session_token, student_email);
            CREATE TABLE other (a text, b text, FOREIGN KEY (a, b)
            REFERENCES workshop_students_backup_{OLD} (session_token, student_email))""": (
            "constraint other_a_b_fkey on table public.other"
        ),
        f"""CREATE TABLE orphan (session_token text REFERENCES student_configs_backup_{OLD} ON DELETE CASCADE);
            ALTER TABLE orphan DISABLE TRIGGER ALL;
            INSERT INTO orphan VALUES ('nowhere');
            ALTER TABLE orphan ENABLE TRIGGER ALL""": "1 rows of public.orphan",
    }
    for statements in obstacles:
        database.execute(statements)
    before = undated(database)
    done = drop(database, *CONFIRM, "--waive-dump", "--json")
    assert done.returncode == 1
    reasons = json.loads(done.stdout)["reasons"]
    for clue in obstacles.values():
        assert [reason for reason in reasons if clue in reason], clue
    assert changes(before, undated(database)) == []


def test_a_failed_check_or_a_lock_changes_nothing(clone: Clone) -> None:
    database = clone("head")
    age(database)
    database.execute(
        f"""
        CREATE TABLE conversation_sessions (session_token text REFERENCES student_configs_backup_{OLD});
        INSERT INTO conversation_sessions SELECT session_token FROM student_configs LIMIT 5
        """
    )
    ((token,),) = database.query("SELECT min(session_token) FROM student_configs")
    database.execute(
        f"SET bridge.applying = 'on'; UPDATE sessions SET ivr_greeting = 'x' WHERE session_token = '{token}'"
    )
    before = undated(database)
    done = drop(database, *CONFIRM, "--waive-dump")
    assert done.returncode == 1
    assert "sessions.ivr_greeting differs" in done.stderr
    assert token not in done.stdout + done.stderr
    assert changes(before, undated(database)) == []
    # a logged write that a lock blocks: the tables are not dropped without it
    database.execute(
        f"UPDATE student_configs SET ivr_greeting = 'y' WHERE session_token = '{token}'"
    )
    with database.connect(autocommit=False) as holder:
        holder.execute(
            f"SELECT FROM student_configs_backup_{OLD} WHERE session_token = %s FOR UPDATE", [token]
        )
        database.execute(f"UPDATE sessions SET ivr_greeting = 'z' WHERE session_token = '{token}'")
        done = drop(database, *CONFIRM, "--waive-dump")
        assert done.returncode == 1
        assert "1 sessions are logged and not applied yet" in done.stderr
    assert len(backups(database)) == 2
    done = drop(database, *CONFIRM, "--waive-dump")
    assert done.returncode == 0, done.stdout + done.stderr
    greeting = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"
    assert database.query(greeting, token) == [("z",)]
    with pytest.raises(CommandError, match="No dump of them was named"):
        downgrade(database)


def test_an_unknown_dependent_stops_the_drop_itself(clone: Clone) -> None:
    """No CASCADE: a dependent that the check missed stops the transaction, which is rolled back."""
    database = clone("head")
    age(database)
    database.execute(
        f"""
        CREATE TABLE conversation_sessions (session_token text REFERENCES student_configs_backup_{OLD});
        CREATE FUNCTION late() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF tg_tag = 'ALTER TABLE' AND to_regclass('public.late') IS NULL THEN
                CREATE VIEW public.late AS SELECT session_token FROM public.student_configs_backup_{OLD};
            END IF;
        END $$;
        CREATE EVENT TRIGGER late ON ddl_command_end EXECUTE FUNCTION late()
        """
    )
    before = undated(database)
    done = drop(database, *CONFIRM, "--waive-dump")
    assert done.returncode == 1
    assert "view public.late" in done.stderr
    assert changes(before, undated(database)) == []
    database.execute("DROP EVENT TRIGGER late")
    assert drop(database, *CONFIRM, "--waive-dump").returncode == 0


@pytest.mark.parametrize("child", ["student_configs", "workshop_students"])
def test_legacy_tables_of_which_one_refers_to_the_other(clone: Clone, child: str) -> None:
    database = clone("head")
    age(database)
    (parent,) = {"student_configs", "workshop_students"} - {child}
    database.execute(
        f"ALTER TABLE {child}_backup_{OLD} ADD FOREIGN KEY (session_token) REFERENCES {parent}_backup_{OLD} NOT VALID"
    )
    done = drop(database, *CONFIRM, "--waive-dump")
    assert done.returncode == 0, done.stderr
    assert backups(database) == []


@pytest.mark.parametrize("both", [True, False])
def test_dropped_by_hand(clone: Clone, both: bool) -> None:
    """The guide's DROP TABLE ... CASCADE: moved endpoints still work, status explains, and the rest can be dropped."""
    database = clone("head")
    age(database)
    database.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    for name in backups(database) if both else backups(database)[:1]:
        database.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
    use_unified(database)
    database.execute("UPDATE sessions SET ivr_greeting = 'V2 goes on'")
    status = run_command("status", url=database.url)
    assert status.returncode == 2
    assert "workshop drop-backups" in " ".join(status.stdout.split())
    with pytest.raises(CommandError, match="was dropped by hand"):
        downgrade(database)
    listed = json.loads(drop(database, "--json").stdout)
    assert listed["gone"] == (
        ["student_configs", "workshop_students"] if both else ["student_configs"]
    )
    done = drop(database, *CONFIRM)
    assert done.returncode == (0 if both else 1)
    if not both:
        assert "--waive-dump" in done.stderr
        assert drop(database, *CONFIRM, "--waive-dump").returncode == 0
    use_unified(database)
    open_to_all = "SELECT has_table_privilege('public', 'legacy_tables_dropped', 'SELECT')"
    assert database.query(open_to_all) == [(False,)]
    assert database.query("SELECT to_regnamespace('bridge')") == [(None,)]
    assert run_command("status", url=database.url).returncode == 0
    with pytest.raises(CommandError, match="a downgrade cannot restore them"):
        downgrade(database)


def test_tables_of_an_earlier_attempt_go_as_well(clone: Clone, tmp_path: Path) -> None:
    database = clone("legacy")
    database.execute(
        """
        CREATE TABLE students (student_id uuid PRIMARY KEY, student_email text UNIQUE);
        CREATE TABLE sessions (session_token text PRIMARY KEY, student_id uuid);
        INSERT INTO students VALUES ('11111111-1111-4111-8111-111111111111', 'early@example.com');
        INSERT INTO sessions VALUES ('ws_early', '11111111-1111-4111-8111-111111111111');
        CREATE TABLE notes (session_token text REFERENCES sessions ON DELETE CASCADE);
        INSERT INTO notes VALUES ('ws_early');
        CREATE TABLE bridge_remainder_backup_20240101 (table_name text, key text, step_number integer,
            column_name text, value jsonb, over jsonb)
        """
    )
    upgrade(database, "0006")
    assert drop(database, *CONFIRM, "--waive-dump").returncode == 1  # in use
    upgrade(database)
    # the upgrade loads the newest kept overrides; older ones stay
    database.execute("CREATE TABLE bridge_remainder_backup_20230101 (key text)")
    age(database)
    file = tmp_path / "prior.dump"
    back_up(database, file)
    done = drop(database, *CONFIRM, "--dump", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert backups(database) == []
    assert database.query("SELECT to_regclass('prior_attempt')") == [(None,)]
    database.execute("DELETE FROM sessions WHERE session_token = 'ws_early'")
    assert database.query("SELECT * FROM notes") == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.execute("INSERT INTO notes VALUES ('nowhere')")
