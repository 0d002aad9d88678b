"""Checks before the first change: refused by name with nothing changed, or a notice."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from alembic.util import CommandError

from scripts.commands.dry_run import Report, examine
from scripts.common import obstacles
from scripts.common.connection import make_engine, resolve_url
from support.commands import script
from support.databases import (
    ROOT,
    Clone,
    Database,
    alembic_cli,
    changes,
    downgrade,
    dump,
    failed_checks,
    psql,
    script_of,
    upgrade,
)
from support.eras import ERAS, load
from support.writers import NewApplication, OldApplication

SETTINGS = (ROOT / "alembic" / "sql" / "session.sql").read_text(encoding="utf-8")
CREATED = """
SELECT CASE WHEN relkind IN ('r', 'v') AND relname IN ('students', 'sessions', 'step_progress', 'events',
                'workshop_students', 'student_configs') THEN 'table' ELSE 'relation' END, relname::text
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'i')
UNION
SELECT 'function', oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
LOGS = """
CREATE TABLE ddl_log (tag text);
CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO {} VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION log_ddl()
"""
REFUSES = """
CREATE FUNCTION refuse_tables() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no tables here'; END $$;
CREATE EVENT TRIGGER refuse_tables ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
EXECUTE FUNCTION refuse_tables()
"""
ALTERS = """
CREATE FUNCTION add_tenant() RETURNS event_trigger LANGUAGE plpgsql AS
$$ BEGIN EXECUTE format('ALTER TABLE %s ADD COLUMN tenant uuid', (
    SELECT object_identity FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table')); END $$;
CREATE EVENT TRIGGER add_tenant ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION add_tenant()
"""


def created() -> dict[str, set[str]]:
    """The objects of the revisions in session.sql."""
    found: dict[str, set[str]] = {"table": set(), "relation": set(), "function": set()}
    for kind, some in re.findall(r"^\d{4} (\w+) (.+)$", SETTINGS, re.MULTILINE):
        found[kind] |= set(some.split())
    return found


def dry_run(database: Database) -> Report:
    """Run it in this process."""
    with make_engine(resolve_url(database.url)).connect() as connection:
        return examine(connection.execution_options(isolation_level="AUTOCOMMIT"))


def test_the_list_of_names_is_what_the_revisions_create(clone: Clone) -> None:
    before, after = (set(clone(state).query(CREATED)) for state in ("empty", "fresh"))
    expected = {f"{kind} {name}" for kind, name in after - before}
    expected = {e for e in expected if "alembic_version" not in e}
    expected |= {"table workshop_students", "table student_configs", "relation prior_attempt"}
    expected |= {
        f"relation bridge_token_of_{name}" for name in ("workshop_students", "student_configs")
    }
    listed = {
        f"{kind} {name}".replace(",timestamptz", ",timestamp with time zone")
        for kind, some in created().items()
        for name in some
    }
    assert listed == expected


def test_every_name_that_is_taken_is_told_at_once(legacy: Database) -> None:
    listed = created()
    functions = {name.split("(")[0] for name in listed["function"]} - {"update_session_progress"}
    types = {name for name in listed["relation"] if not re.match("(pk|uq|ix)_|bridge_token", name)}
    types |= {"students", "sessions", "step_progress", "events"}
    relations = listed["relation"] - types
    legacy.execute(
        "".join(f"CREATE SEQUENCE {name};" for name in relations)
        + "".join(f"CREATE TYPE {name} AS ENUM ('a');" for name in sorted(types)[::2])
        + "".join(f"CREATE DOMAIN {name} AS text;" for name in sorted(types)[1::2])
        # with other arguments than the migration's
        + "".join(
            f"CREATE FUNCTION {name}(box) RETURNS int LANGUAGE sql AS 'SELECT 1';"
            for name in functions
        )
    )
    before = dump(legacy)
    with pytest.raises(CommandError) as refused:
        upgrade(legacy)
    told = re.search(
        r"names already taken: (.*); types already there: (.*); functions already there: (.*); Nothing",
        str(refused.value),
    )
    assert told
    assert [set(some.split(", ")) for some in told.groups()] == [
        relations,
        types,
        {f"{name}(box)" for name in functions},
    ]
    assert changes(before, dump(legacy, without=("alembic_version",))) == []
    report = dry_run(legacy)
    assert not report.go
    assert "types already there" in report.reasons[0]


@pytest.mark.parametrize(
    ("obstacle", "clue"),
    [
        (
            'ALTER TABLE student_configs RENAME TO "StudentConfigs"',
            'public."StudentConfigs" is not',
        ),
        (
            'ALTER TABLE workshop_students RENAME TO "Workshop_Students";'
            'ALTER TABLE student_configs RENAME TO "STUDENT_CONFIGS"',
            'public."Workshop_Students" is not workshop_students',
        ),
        ("CREATE TABLE kid () INHERITS (student_configs)", "parent table: student_configs and kid"),
        (
            "CREATE TABLE parent (session_token text NOT NULL);"
            "ALTER TABLE student_configs INHERIT parent",
            "parent table: parent and student_configs",
        ),
        (
            "CREATE TABLE every (LIKE student_configs INCLUDING DEFAULTS) PARTITION BY LIST (demo_mode);"
            "ALTER TABLE every ATTACH PARTITION student_configs DEFAULT",
            "parent table: every and student_configs",
        ),
        (
            "CREATE RULE quiet AS ON DELETE TO workshop_students DO INSTEAD NOTHING",
            "no rule: quiet on workshop_students",
        ),
        (
            "CREATE TRIGGER bridge_insert BEFORE INSERT ON student_configs "
            "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger of this name: bridge_insert on student_configs",
        ),
        ("CREATE SEQUENCE sessions", "names already taken: sessions"),
        ("CREATE INDEX events ON student_configs (student_name)", "names already taken: events"),
        (LOGS.format("ddl_log"), 'search_path pg_catalog, pg_temp): relation "ddl_log" does not'),
        (REFUSES, "(refuse_tables (refuse_tables()); search_path public): no tables here"),
        (ALTERS, "(add_tenant (add_tenant()); search_path public): a new table gets other columns"),
    ],
)
def test_what_the_migration_cannot_take_is_refused(
    legacy: Database, obstacle: str, clue: str
) -> None:
    legacy.execute(obstacle)
    before = dump(legacy)
    with pytest.raises(CommandError, match=re.escape(clue)):
        upgrade(legacy)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []
    report = dry_run(legacy)
    assert not report.go
    assert clue in " ".join(report.reasons)


def test_an_event_trigger_that_keeps_a_log(legacy: Database) -> None:
    legacy.execute(LOGS.format("public.ddl_log"))
    assert dry_run(legacy).go
    upgrade(legacy)
    assert failed_checks(legacy) == []
    downgrade(legacy)


def test_functions_of_an_earlier_attempt_come_back(legacy: Database) -> None:
    legacy.execute(
        """
        CREATE FUNCTION update_session_progress(varchar) RETURNS text LANGUAGE sql AS 'SELECT ''early''';
        CREATE PROCEDURE update_session_progress(integer) LANGUAGE sql AS 'SELECT 1'
        """
    )
    before = dump(legacy)
    upgrade(legacy)
    legacy.execute("SELECT update_session_progress('of no session')")
    downgrade(legacy)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


@pytest.mark.parametrize(
    "uses",
    ["TG_TABLE_NAME", "tg_relname", "TG_RELID::regclass::text", "cast(TG_RELID AS regclass)"],
)
def test_triggers_that_know_their_table_by_name_are_named(
    legacy: Database, caplog: pytest.LogCaptureFixture, uses: str
) -> None:
    legacy.execute(
        f"""
        CREATE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {uses}; RETURN NULL; END $$;
        CREATE FUNCTION harmless() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM TG_OP; RETURN NULL; END $$;
        CREATE TRIGGER history AFTER UPDATE ON student_configs EXECUTE FUNCTION keep_history();
        CREATE TRIGGER harmless AFTER UPDATE ON student_configs EXECUTE FUNCTION harmless()
        """
    )
    told = (
        "trigger history of student_configs: its function keep_history() uses the name of its table"
    )
    upgrade(legacy, "0001")
    assert [
        told in record.getMessage() for record in caplog.records if record.levelname == "WARNING"
    ] == [True]
    report = dry_run(legacy)
    assert report.go
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith(told)


# --- before a downgrade -------------------------------------------------------------------------------

DEPENDENTS = (
    (
        "CREATE TABLE leads (email text, updated_at timestamptz); CREATE TRIGGER touch BEFORE UPDATE "
        "ON leads FOR EACH ROW EXECUTE FUNCTION touch_updated_at()",
        "0002",
        "trigger touch on table leads",
    ),
    (
        "CREATE TRIGGER touch_too BEFORE UPDATE ON sessions FOR EACH ROW "
        "EXECUTE FUNCTION touch_updated_at()",
        "0002",
        "trigger touch_too on table sessions",
    ),
    (
        "CREATE TABLE leads (email text); CREATE INDEX by_email ON leads (clean_email(email))",
        "0002",
        "index by_email",
    ),
    (
        "CREATE TABLE leads (email text CHECK (email = clean_email(email)))",
        "0002",
        "constraint leads_email_check on table leads",
    ),
    (
        "CREATE TABLE leads (email text, clean text GENERATED ALWAYS AS (clean_email(email)) STORED)",
        "0002",
        "column clean of table leads",
    ),
    (
        "ALTER TABLE sessions ADD COLUMN mail text DEFAULT clean_email(' A@x.y ')",
        "0002",
        "default value for column mail of table sessions",
    ),
    (
        "CREATE POLICY mine ON student_configs_backup USING (clean_email(student_email) <> '')",
        "0002",
        "policy mine on table student_configs_backup",
    ),
    (
        "CREATE FUNCTION shown(session_overview) RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
        "0006",
        "function shown(session_overview)",
    ),
    (
        "CREATE FUNCTION saved(student_configs[]) RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
        "0007",
        "function saved(student_configs[])",
    ),
    ("CREATE VIEW mine AS SELECT * FROM stuck_sessions", "0006", "view mine"),
    ("CREATE MATERIALIZED VIEW mine AS SELECT * FROM student_configs", "0007", "view mine"),
    ("CREATE VIEW mine AS SELECT * FROM bridge.change_log", "0003", "view mine"),
    ("CREATE VIEW mine AS SELECT * FROM students", "0001", "view mine"),
    ("CREATE TABLE child () INHERITS (sessions)", "0001", "table child"),
    ("CREATE TABLE holder (held students)", "0001", "column held of table holder"),
    ("CREATE TABLE bridge.mine (x integer)", "0003", "table bridge.mine, with its rows"),
    ("CREATE TABLE holder (held bridge.step[])", "0003", "column held of table holder"),
    (
        "CREATE TABLE notes (student_id uuid REFERENCES students)",
        "0001",
        "constraint notes_student_id_fkey on table notes",
    ),
    (
        "CREATE RULE also AS ON INSERT TO leads DO ALSO INSERT INTO events (event_type) VALUES ('x')",
        "0001",
        "rule of leads",
    ),
)


@pytest.mark.parametrize("name", ["E", "B", "C2"])
def test_columns_without_a_place_are_named_alike(clone: Clone, name: str) -> None:
    database = clone("empty")
    with database.connect() as connection:
        load(connection, ERAS[name])
    plan = dry_run(database)
    done = alembic_cli("upgrade", "0001", url=database.url)
    found = re.findall(
        r"INFO +(\w+) lacks: (.*); kept in sessions.legacy_extra: (.*)",
        done.stdout + done.stderr,
    )
    assert {t["name"] for t in plan.tables} >= {table for table, _, _ in found} != set()
    for table, lacking, extra in found:
        (told,) = (t for t in plan.tables if t["name"] == table)
        assert [*filter("nothing".__ne__, lacking.split(", "))] == told["lacking"]
        assert {*filter("nothing".__ne__, extra.split(", "))} == {*told["extra"]}, table


@pytest.fixture
def with_backup_of_own(migrated: Database) -> Database:
    """Tables of another project with the objects below."""
    migrated.execute(
        "CREATE TABLE student_configs_backup (student_email text); CREATE TABLE leads (email text)"
    )
    return migrated


def test_what_depends_on_a_dropped_object_stops_a_downgrade_before_it_begins(
    with_backup_of_own: Database,
) -> None:
    """Each by itself, at the revision that drops its dependency, and not at the one above."""
    with closing(with_backup_of_own.connect()) as own:
        own.execute(SETTINGS.encode())
        below = {"0001": "base", "0002": "0001", "0003": "0002", "0006": "0005", "0007": "0006"}
        for statement, revision, named in DEPENDENTS:
            with own.transaction(force_rollback=True):
                if "CREATE TABLE leads" in statement:
                    own.execute("DROP TABLE leads")
                own.execute(statement.encode())
                for target, expected in ((below[revision], True), (revision, False)):
                    own.execute(
                        "SELECT set_config('bridge.target', %s, false)",
                        ("0000" if target == "base" else target,),
                    )
                    found = own.execute(obstacles.DEPENDENTS.encode()).fetchall()
                    assert [named in what for (what,) in found] == [True] * expected, (
                        statement,
                        found,
                    )


def test_a_downgrade_that_cannot_end_does_not_begin(migrated: Database, tmp_path: Path) -> None:
    migrated.execute(DEPENDENTS[0][0])
    before = dump(migrated)
    clue = "trigger touch on table leads, built on function touch_updated_at()"
    with pytest.raises(CommandError, match=re.escape(clue)):
        downgrade(migrated)
    done = psql(migrated, script_of("downgrade", "head:base"), tmp_path)
    assert done.returncode == 3
    assert clue in done.stderr
    assert changes(before, dump(migrated)) == []
    downgrade(migrated, "0002")
    migrated.execute("DROP TABLE leads")
    downgrade(migrated)


def test_tables_that_refer_to_each_other_are_dropped_together(migrated: Database) -> None:
    migrated.execute(
        "ALTER TABLE students ADD COLUMN latest text REFERENCES sessions ON DELETE SET NULL;"
        "CREATE INDEX own ON sessions (system_prompt)"
    )
    downgrade(migrated)
    assert migrated.query("SELECT to_regclass('students'), to_regclass('sessions')") == [
        (None, None)
    ]


def test_a_table_that_0003_created_stays_where_something_depends_on_it(legacy: Database) -> None:
    legacy.execute("DROP TABLE workshop_students CASCADE")
    upgrade(legacy, "0003")
    legacy.execute("CREATE FUNCTION late(workshop_students) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    downgrade(legacy)
    assert legacy.query("SELECT count(*) FROM workshop_students") == [(0,)]


# --- settings of a role or a database -------------------------------------------------------------------

COMPILED = """
SET plpgsql.extra_errors = 'all';
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
        WHERE l.lanname = 'plpgsql' AND p.pronamespace IN ('public'::regnamespace, 'bridge'::regnamespace)
    LOOP
        EXECUTE pg_get_functiondef(f);
    END LOOP;
END
$$
"""


def test_a_database_where_plpgsql_takes_warnings_for_errors(legacy: Database) -> None:
    """The migration has its own settings; functions in an application's session need none."""
    for name in ("errors", "warnings"):
        legacy.execute(f"ALTER DATABASE {legacy.name} SET plpgsql.extra_{name} = 'all'")
    assert dry_run(legacy).go
    upgrade(legacy)
    legacy.execute(COMPILED)
    tokens = [token for (token,) in legacy.query("SELECT session_token FROM sessions")]
    for application in (OldApplication, NewApplication):
        with closing(application(legacy.url, 1, tokens)) as writer:
            assert len({writer.act() for _ in range(60)}) > 5
    assert legacy.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    assert failed_checks(legacy) == []
    downgrade(legacy)


def test_a_publication_for_all_tables(legacy: Database) -> None:
    """It refuses to update or delete rows of a table without a replica identity."""
    legacy.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    upgrade(legacy)
    legacy.execute("ALTER TABLE students ADD COLUMN room text; UPDATE students SET room = 'b'")
    tokens = [token for (token,) in legacy.query("SELECT session_token FROM sessions")]
    for application in (OldApplication, NewApplication):
        with closing(application(legacy.url, 1, tokens)) as writer:
            assert len({writer.act() for _ in range(60)}) > 5
    assert legacy.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    rooms = legacy.query("SELECT count(room) FROM students")
    downgrade(legacy)
    upgrade(legacy)
    assert legacy.query("SELECT count(room) FROM students") == rooms
    assert failed_checks(legacy) == []


def test_a_serializable_default_is_told_by_dry_run_and_status(clone: Clone) -> None:
    """Its transactions leave every change in the log."""
    legacy, head = clone("legacy"), clone("head")
    for database in (legacy, head):
        database.execute(
            f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'"
        )
    (told,) = [w for w in dry_run(legacy).warnings if "serializable" in w]
    assert f"(database {legacy.name})" in told
    done = script("status", url=head.url)
    assert done.returncode == 0, done.stderr
    assert "default_transaction_isolation is serializable" in " ".join(done.stdout.split())
    head.execute("UPDATE student_configs SET ivr_greeting = 'x' WHERE session_token = "
                 "(SELECT min(session_token) FROM student_configs)")  # fmt: skip
    assert "--drain" in script("status", url=head.url).stdout.split("Next:")[1]
    assert script("status", "--drain", url=head.url).returncode == 0
    assert failed_checks(head) == []
