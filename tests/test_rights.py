"""No role has rights on a new object that it lacks on the legacy tables."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.util import CommandError

from models import Base
from scripts.commands.dry_run import Report
from scripts.commands.dry_run import examine as dry_run
from scripts.commands.verify import examine as verify
from scripts.commands.verify.rights import beyond
from scripts.common.connection import make_engine, resolve_url
from support.databases import (
    ROOT,
    Clone,
    Database,
    Server,
    changes,
    deviations,
    downgrade,
    dump,
    failed_checks,
    psql,
    script_of,
    upgrade,
)

ENDPOINTS = (ROOT / "docs" / "moving-endpoints.md").read_text(encoding="utf-8")
UNIFIED = ("students", "sessions", "step_progress", "events")
VIEWS = ("session_overview", "student_overview", "step_funnel", "progress_by_day", "stuck_sessions")
NAMES = ("anon", "reader", "half", "full", "migrator")
# Allowed rights of each role on the relations of the migration; the backups are the former tables.
GRANTED = r"""
SELECT coalesce(r.rolname, 'PUBLIC'), c.relname, g.privilege_type
FROM (
    SELECT c.oid, format('%s.%s', c.relnamespace::regnamespace, c.relname) AS relname, c.relowner, c.relacl
    FROM pg_class AS c
    WHERE c.relnamespace IN ('public'::regnamespace, to_regnamespace('bridge'))
      AND c.relname !~ '^(workshop_students|student_configs)'
    UNION ALL
    SELECT p.oid, p.oid::regprocedure::text, p.proowner, p.proacl FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace('bridge')
    UNION ALL
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace AS n WHERE n.nspname = 'bridge'
) AS c(oid, relname, owner, acl)
CROSS JOIN LATERAL aclexplode(c.acl) AS g
LEFT JOIN pg_roles AS r ON r.oid = g.grantee
WHERE g.grantee <> c.owner
"""
TABLES = "workshop_students, student_configs"
DEFAULTS = """
ALTER DEFAULT PRIVILEGES {of} IN SCHEMA public GRANT ALL ON TABLES TO anon, half;
ALTER DEFAULT PRIVILEGES {of} GRANT ALL ON TABLES TO reader, full;
ALTER DEFAULT PRIVILEGES {of} GRANT SELECT, INSERT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES {of} GRANT ALL ON SEQUENCES TO anon, PUBLIC;
ALTER DEFAULT PRIVILEGES {of} GRANT ALL ON FUNCTIONS TO anon;
ALTER DEFAULT PRIVILEGES {of} GRANT ALL ON SCHEMAS TO anon, PUBLIC;
GRANT SELECT ON workshop_students, student_configs TO reader;
GRANT ALL ON student_configs TO half;
GRANT SELECT, INSERT, UPDATE, DELETE ON workshop_students, student_configs TO full;
"""


class Roles:
    """Roles of this process; statements name them without the suffix."""

    def __init__(self, server: Server) -> None:
        self.suffix = f"_rights_{os.getpid()}"
        self.server = server

    def sql(self, script: str) -> str:
        words = (w + self.suffix if w in NAMES else w for w in re.split(r"(\W+)", script))
        return "".join(words)

    def execute(self, database: Database, script: str) -> None:
        database.execute(self.sql(script))

    def read(self, database: Database, role: str, query: str, settings: str = "") -> Any:
        """One value, as this role sees it; the error's class if it is refused."""
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(self.sql(f"SET ROLE {role}; {settings}").encode())
            try:
                row = connection.execute(query.encode()).fetchone()
            except psycopg.errors.InsufficientPrivilege as error:
                return type(error)
            return row and row[0]

    def granted(self, database: Database) -> dict[str, set[str]]:
        """Relation: "role privilege" of every role except its owner."""
        found: dict[str, set[str]] = {}
        for role, relation, privilege in database.query(GRANTED):
            name = role.removesuffix(self.suffix)
            found.setdefault(relation.removeprefix("public."), set()).add(f"{name} {privilege}")
        return found

    def as_migrator(self, database: Database) -> Database:
        """The database, with the connection of the migrating role."""
        name = f"migrator{self.suffix}"
        return replace(database, server=replace(self.server, user=name, password=name))


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Roles]:
    roles = Roles(server)
    admin = Database(server, server.maintenance_dbname)
    for name in NAMES:
        admin.execute(f"CREATE ROLE {name}{roles.suffix} LOGIN PASSWORD '{name}{roles.suffix}'")
    yield roles
    for name in NAMES:
        admin.execute(f"DROP ROLE {name}{roles.suffix}")


def examined(database: Database, examine: Any) -> Any:
    with make_engine(resolve_url(database.url)).connect() as connection:
        return examine(connection.execution_options(isolation_level="AUTOCOMMIT"))


def expected(*views: str) -> dict[str, set[str]]:
    of_full = {f"full {p}" for p in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    return {name: {"reader SELECT", *of_full} for name in (*UNIFIED, "alembic_version", *views)}


@pytest.mark.parametrize("by", ["superuser", "migrator"])
def test_default_privileges_give_nothing_new(made: Roles, legacy: Database, by: str) -> None:
    of, database = "", legacy
    if by == "migrator":
        of, database = "FOR ROLE migrator", made.as_migrator(legacy)
        made.execute(
            legacy,
            f"GRANT CREATE, TEMPORARY ON DATABASE {legacy.name} TO migrator;"
            "GRANT USAGE, CREATE ON SCHEMA public TO migrator;"
            "ALTER TABLE workshop_students OWNER TO migrator; ALTER TABLE student_configs OWNER TO migrator",
        )
    made.execute(legacy, DEFAULTS.format(of=of))
    told: Report = examined(database, dry_run)
    assert told.go
    assert any("default privileges would open" in warning for warning in told.warnings)
    kept: dict[str, set[str]] = {}
    for stage in ("0001", "0003", "0004", "0006"):
        upgrade(database, stage)
        kept = expected(*(VIEWS if stage == "0006" else ()))
        assert made.granted(legacy) == kept, stage
    upgrade(database)
    assert made.granted(legacy) == kept
    assert beyond_of(database) == []
    report = examined(database, verify)
    assert report.ok
    # the downgrade keeps a value that has no legacy column
    legacy.execute("UPDATE students SET github_username = 'someone'")
    legacy.execute("CALL bridge.drain()")
    downgrade(database)
    assert set(made.granted(legacy)) == {"alembic_version"}
    assert legacy.query("SELECT relname FROM pg_class WHERE relname ~ '^bridge_remainder_backup_'")
    upgrade(database)
    assert made.granted(legacy) == kept


def beyond_of(database: Database) -> list[str]:
    found: list[str] = examined(database, beyond)
    return found


def test_column_grants_do_not_open_the_view_under_the_old_name(made: Roles, clone: Clone) -> None:
    database = clone("legacy")
    made.execute(
        database,
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, PUBLIC;"
        "GRANT SELECT (session_token) ON student_configs TO reader",
    )
    upgrade(database)
    for role, query, seen in (
        ("anon", "SELECT count(*) FROM student_configs", psycopg.errors.InsufficientPrivilege),
        ("anon", "SELECT count(*) FROM sessions", psycopg.errors.InsufficientPrivilege),
        ("reader", "SELECT count(session_token) FROM student_configs", 177),
        ("reader", "SELECT count(openai_api_key) FROM student_configs", psycopg.errors.InsufficientPrivilege),
    ):  # fmt: skip
        assert made.read(database, role, query) == seen, (role, query)
    assert beyond_of(database) == []


@pytest.mark.parametrize(
    ("protected", "forced"),
    [("workshop_students", False), ("student_configs", False), ("student_configs", True)],
)
def test_row_security_of_one_legacy_table_protects_all(
    made: Roles, clone: Clone, protected: str, forced: bool
) -> None:
    database = clone("legacy")
    made.execute(
        database,
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO full;"
        f"GRANT ALL ON {TABLES} TO full; ALTER TABLE {protected} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY own ON {protected} TO full USING (session_token = current_setting('request.token', true))"
        + (f"; ALTER TABLE {protected} FORCE ROW LEVEL SECURITY" if forced else ""),
    )
    told: Report = examined(database, dry_run)
    assert any(f"row security is on for {protected}" in warning for warning in told.warnings)
    upgrade(database)
    for name in UNIFIED:
        query = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
        assert database.query(query, name) == [(True, forced)]
        assert made.read(database, "full", f"SELECT count(*) FROM {name}") == 0
    for name in ("session_overview", "student_overview", "progress_by_day", "stuck_sessions"):
        assert made.read(database, "full", f"SELECT count(*) FROM {name}") == 0
    # has no row security
    refused = psycopg.errors.InsufficientPrivilege
    assert made.read(database, "full", "DELETE FROM alembic_version RETURNING 1") is refused
    # the application's write under its own policy is applied, and its policy still holds
    (token,) = database.query(
        f"SELECT session_token FROM {protected} JOIN sessions USING (session_token)"
    )[0]
    request = f"SET request.token = '{token}'"
    assert made.read(database, "full", f"SELECT count(*) FROM {protected}", request) == 1
    made.read(database, "full", f"UPDATE {protected} SET student_name = 'Ada' RETURNING 1", request)
    query = "SELECT student_name FROM students JOIN sessions USING (student_id) WHERE session_token = %s"
    database.execute("CALL bridge.drain()")
    assert database.query(query, token) == [("Ada",)]
    assert examined(database, verify).ok
    # with the policies of the document
    (policies,) = re.findall(r"^```text\n(-- policies.*?)^```", ENDPOINTS, re.MULTILINE | re.DOTALL)
    made.execute(database, policies.replace("workshop_app", "full").replace("browser", "anon"))
    made.execute(database, "GRANT SELECT ON students, sessions TO anon")
    assert made.read(database, "full", "SELECT count(*) FROM sessions") == 213
    for name in ("sessions", "students"):
        assert made.read(database, "anon", f"SELECT count(*) FROM {name}") == 0
        assert made.read(database, "anon", f"SELECT count(*) FROM {name}", request) == 1
    assert examined(database, verify).ok
    downgrade(database)
    assert made.read(database, "full", f"SELECT count(*) FROM {protected}") == 0


def test_a_legacy_table_that_is_created_is_protected_like_the_other(
    made: Roles, clone: Clone
) -> None:
    database = clone("legacy")
    made.execute(
        database,
        "DROP TABLE student_configs CASCADE; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon;"
        "GRANT SELECT, INSERT ON workshop_students TO reader; ALTER TABLE workshop_students ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON workshop_students TO reader USING (session_token = 'mine');"
        "CREATE POLICY late ON workshop_students TO reader USING (total_time_spent = 1)",
    )
    upgrade(database, "0003")
    policies = "SELECT polname FROM pg_policy WHERE polrelid = 'student_configs'::regclass"
    assert database.query(policies) == [("own",)]
    denied = psycopg.errors.InsufficientPrivilege
    write = (
        "INSERT INTO student_configs (session_token, openai_api_key) VALUES ('{}', 'x') RETURNING 1"
    )
    assert made.read(database, "reader", write.format("mine")) == 1
    assert made.read(database, "reader", write.format("other")) is denied
    assert made.read(database, "anon", "SELECT 1 FROM student_configs") is denied


def test_no_role_can_use_a_function_that_runs_with_the_rights_of_its_owner(
    migrated: Database, role: str
) -> None:
    """The triggers that keep steps and exercises in line work; a role cannot create them on its own table."""
    query = "SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace"
    functions = [name for (name,) in migrated.query(query)]
    assert len(functions) == 3
    migrated.execute(f"CREATE SCHEMA own AUTHORIZATION {role}")
    for number, name in enumerate(functions):
        table = f"own.t{number}"
        with migrated.connect() as connection:
            connection.execute(f"SET ROLE {role}".encode())
            connection.execute(f"CREATE TABLE {table} (session_token text)".encode())
            connection.execute(
                f"CREATE TRIGGER t BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}".encode()
            )
            with pytest.raises(
                psycopg.errors.InsufficientPrivilege, match="serves the unified tables only"
            ):
                connection.execute(f"INSERT INTO {table} VALUES ('x')".encode())


@pytest.mark.parametrize(
    ("damage", "clue"),
    [
        ("GRANT SELECT ON sessions TO anon", "anon: SELECT on sessions"),
        ("GRANT INSERT ON step_progress TO reader", "reader: INSERT on step_progress"),
        ("GRANT SELECT (openai_api_key) ON sessions TO anon", "anon: SELECT on sessions"),
        ("GRANT SELECT ON session_overview TO PUBLIC", "PUBLIC: SELECT on session_overview"),
        ("GRANT UPDATE ON SEQUENCE events_id_seq TO anon", "anon: UPDATE on events_id_seq"),
        ("GRANT USAGE ON SCHEMA bridge TO PUBLIC", "PUBLIC: USAGE on schema bridge"),
        ("GRANT SELECT ON bridge.override TO anon", "anon: SELECT on override"),
        (
            "ALTER VIEW student_configs SET (security_invoker = false); GRANT SELECT ON student_configs TO anon",
            "anon: SELECT on student_configs",
        ),
        (
            "DO $$ BEGIN EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', "
            "(SELECT relation FROM bridge.source WHERE legacy_name = 'student_configs')); END $$",
            "sessions has no row security, but student_configs_backup_",
        ),
        (
            "GRANT SELECT ON stuck_sessions TO reader; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY",
            "stuck_sessions shows rows past the row security",
        ),
    ],
)
def test_verification_names_a_right_too_many(
    made: Roles, clone: Clone, damage: str, clue: str
) -> None:
    database = clone("head")
    made.execute(database, f"GRANT SELECT ON {TABLES} TO reader")
    made.execute(database, "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT relation FROM bridge.source LOOP "
                 "EXECUTE format('GRANT SELECT ON %s TO reader', t); END LOOP; END $$")  # fmt: skip
    made.execute(database, "GRANT SELECT ON sessions, session_overview TO reader")
    made.execute(database, "GRANT SELECT ON step_funnel TO anon")  # a role for reports
    assert beyond_of(database) == []
    made.execute(database, damage)
    found = [line.replace(made.suffix, "") for line in beyond_of(database)]
    assert any(line.startswith(clue) for line in found), found
    report = examined(database, verify)
    assert not report.ok
    assert [c["check_name"] for c in report.checks if not c["ok"]] == [
        "rights that the legacy tables do not grant"
    ]


# --- an earlier attempt --------------------------------------------------------------------------------

EARLIER = """
CREATE TABLE students (student_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), student_email text UNIQUE NOT NULL,
                       updated_at timestamptz);
CREATE TABLE sessions (session_token text PRIMARY KEY, student_id uuid REFERENCES students, openai_api_key text);
INSERT INTO students (student_email) VALUES ('v2@example.com'), ('second@example.com');
INSERT INTO sessions SELECT 'ws_' || left(student_email, 2), student_id, 'sk-not-a-real-key' FROM students;
CREATE TABLE certificates (student_id uuid NOT NULL REFERENCES students ON DELETE CASCADE);
CREATE TABLE visits (token text, CONSTRAINT known FOREIGN KEY (token) REFERENCES sessions);
INSERT INTO certificates SELECT student_id FROM students WHERE student_email = 'v2@example.com';
INSERT INTO visits VALUES ('ws_v2');
ALTER TABLE students ENABLE ROW LEVEL SECURITY;
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sessions TO anon USING (session_token = current_setting('request.token', true));
CREATE POLICY own ON students TO anon, reader USING (EXISTS (
    SELECT FROM sessions AS s WHERE s.student_id = students.student_id
                                AND s.session_token = current_setting('request.token', true)));
CREATE POLICY never ON sessions AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (session_token <> 'x') WITH CHECK (true);
CREATE POLICY all_of_them ON students FOR SELECT TO half USING (true);
GRANT SELECT, TRUNCATE ON students, sessions TO anon;
GRANT SELECT ON students TO half;
GRANT SELECT, INSERT ON students, sessions TO full;
GRANT SELECT ON workshop_students, student_configs TO full;
CREATE FUNCTION update_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = NOW(); -- as everywhere
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE UPDATE ON students FOR EACH ROW EXECUTE FUNCTION update_updated_at();
"""
POLICIES = """
SELECT polname, polrelid::regclass::text, polpermissive, polcmd, polroles::regrole[]::text,
       pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy WHERE polrelid IN ('students'::regclass, 'sessions'::regclass) ORDER BY 1, 2
"""
REFERENCES = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND conrelid IN ('certificates'::regclass, 'visits'::regclass) ORDER BY 1
"""


@pytest.mark.parametrize("how", ["online", "script"])
def test_an_earlier_attempt_keeps_its_protection(
    made: Roles, legacy: Database, how: str, tmp_path: Path
) -> None:
    made.execute(legacy, EARLIER)
    before = dump(legacy, without=("alembic_version",))
    policies, references = legacy.query(POLICIES), legacy.query(REFERENCES)
    told: Report = examined(legacy, dry_run)
    assert told.go, told.reasons
    (warned,) = (w for w in told.warnings if "policies of an earlier attempt are copied" in w)
    assert "sessions (" in warned
    assert "students (" in warned
    if how == "online":
        upgrade(legacy)
    else:
        done = psql(legacy, script_of("upgrade", "head"), tmp_path)
        assert done.returncode == 0, done.stderr
    assert legacy.query(POLICIES) == policies
    assert legacy.query(REFERENCES) == references
    mine = "SET request.token = 'ws_v2'"
    for role, query, settings, seen in (
        ("anon", "SELECT count(openai_api_key) FROM sessions", "", 0),
        ("anon", "SELECT count(openai_api_key) FROM sessions", mine, 1),
        ("anon", "SELECT min(student_email) FROM students", mine, "v2@example.com"),
        ("half", "SELECT 1 FROM students", "", psycopg.errors.InsufficientPrivilege),
        ("full", "SELECT count(*) FROM students", "", 0),
    ):
        assert made.read(legacy, role, query, settings) == seen, (role, query)
    granted = made.granted(legacy)
    # full may not INSERT into the legacy tables, and no policy allows it here
    assert granted["sessions"] == {"anon SELECT", "full SELECT", "full INSERT"}
    assert granted["students"] == {"anon SELECT", "full SELECT", "full INSERT"}
    report = examined(legacy, verify)
    assert report.ok, report.rights
    assert deviations(legacy) == [] or failed_checks(legacy) == []
    downgrade(legacy)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


def test_a_foreign_key_follows_there_and_back(made: Roles, legacy: Database) -> None:
    made.execute(legacy, EARLIER)
    references = legacy.query(REFERENCES)
    upgrade(legacy)
    legacy.execute("INSERT INTO students (student_email) VALUES ('new@example.com')")
    legacy.execute(
        "INSERT INTO certificates SELECT student_id FROM students WHERE student_email LIKE 'new@%'"
    )
    downgrade(legacy)
    # the row stays; the key holds for new writes
    assert legacy.query("SELECT count(*) FROM certificates") == [(2,)]
    (certificates, visits) = references
    assert legacy.query(REFERENCES) == [(*certificates[:2], f"{certificates[2]} NOT VALID"), visits]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        legacy.execute("INSERT INTO certificates VALUES (gen_random_uuid())")
    upgrade(legacy)
    assert legacy.query("SELECT count(*) FROM certificates JOIN students USING (student_id)") == [(2,)]  # fmt: skip


@pytest.mark.parametrize(
    ("further", "clue"),
    [
        (
            "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER audit AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION audit()",
            "trigger audit of sessions",
        ),
        ("CREATE RULE quiet AS ON DELETE TO students DO INSTEAD NOTHING", "rule quiet of students"),
        (
            "ALTER TABLE sessions ADD COLUMN tenant text; CREATE POLICY tenant ON sessions USING (tenant = 'x')",
            "policy tenant of sessions uses column tenant of sessions, which the unified table does not have",
        ),
        (
            "ALTER TABLE students ADD COLUMN github_username integer;"
            "CREATE POLICY hub ON sessions USING (EXISTS (SELECT FROM students WHERE github_username = 1))",
            "policy hub of sessions uses column github_username of students, which the unified table has as text",
        ),
        (
            "INSERT INTO students (student_email) VALUES (' V2@example.com');"
            "INSERT INTO certificates SELECT student_id FROM students WHERE student_email LIKE '%2@%'",
            "foreign key certificates_student_id_fkey of certificates refers with",
        ),
        (
            "INSERT INTO sessions VALUES ('ws_alone'); INSERT INTO visits VALUES ('ws_alone')",
            "foreign key known of visits refers with 1 rows to sessions",
        ),
        (
            "ALTER TABLE students ADD COLUMN badge text UNIQUE;"
            "CREATE TABLE badges (badge text REFERENCES students (badge))",
            "foreign key badges_badge_fkey of badges refers to students(badge)",
        ),
        (
            "ALTER TABLE students FORCE ROW LEVEL SECURITY; ALTER TABLE students OWNER TO migrator",
            "row security hides rows of students",
        ),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(
    made: Roles, legacy: Database, further: str, clue: str
) -> None:
    made.execute(legacy, EARLIER)
    made.execute(legacy, further)
    database = legacy
    if "migrator" in further:
        made.execute(
            legacy,
            f"GRANT CREATE, TEMPORARY ON DATABASE {legacy.name} TO migrator;"
            "GRANT USAGE, CREATE ON SCHEMA public TO migrator;"
            "ALTER TABLE workshop_students OWNER TO migrator; ALTER TABLE student_configs OWNER TO migrator;"
            "ALTER TABLE sessions OWNER TO migrator; ALTER TABLE certificates OWNER TO migrator;"
            "ALTER TABLE visits OWNER TO migrator",
        )
        database = made.as_migrator(legacy)
    before = dump(legacy, without=("alembic_version",))
    told: Report = examined(database, dry_run)
    assert not told.go
    assert any(clue in reason for reason in told.reasons), told.reasons
    with pytest.raises(CommandError, match="earlier attempt cannot be replaced") as refused:
        upgrade(database)
    assert clue in str(refused.value)
    assert changes(before, dump(legacy, without=("alembic_version",))) == []


def test_grants_without_row_security_do_not_open_legacy_rows(made: Roles, legacy: Database) -> None:
    script = EARLIER.split("ALTER TABLE students ENABLE", maxsplit=1)[0]
    made.execute(
        legacy,
        f"{script}; GRANT ALL ON students, sessions TO half, full; GRANT SELECT (session_token) ON sessions TO anon;"
        f"GRANT SELECT, INSERT ON {TABLES} TO full; GRANT ALL ON student_configs TO half",
    )
    upgrade(legacy, "0003")
    granted = made.granted(legacy)
    assert {name: granted[name] for name in ("students", "sessions")} == {
        name: {"full SELECT", "full INSERT"} for name in ("students", "sessions")
    }
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attacl IS NOT NULL"
    assert legacy.query(columns) == [(0,)]


def test_the_preflight_knows_the_columns_of_the_new_tables() -> None:
    text = (ROOT / "alembic" / "sql" / "rights" / "preflight.sql").read_text("utf-8")
    told = json.loads(re.search(r"jsonb := '(\{.*?\})';", text, re.DOTALL)[1])  # type: ignore[index]
    for table in Base.metadata.sorted_tables:
        known = {name for names in told[table.name].values() for name in names.split()}
        assert known == {column.name for column in table.columns}
