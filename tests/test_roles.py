"""docs/dba-review.md: its roles, with its own statements and nothing else; its locks."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from support.commands import run_command
from support.databases import (
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
    upgrade,
)
from support.writers import NewApplication, OldApplication

DOCUMENT = (ROOT / "docs" / "dba-review.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sql\n(.*?)^```", DOCUMENT, re.M | re.S)
(OWNER,) = (block for block in BLOCKS if "OWNER TO workshop_migrator" in block)
(MEMBER,) = (block for block in BLOCKS if "GRANT workshop_app TO workshop_migrator" in block)
(NEW_TABLES,) = (block for block in BLOCKS if "ON FUNCTION" in block)

# Some hosted databases revoke these: no right is left to PUBLIC.
HARDENED = """
REVOKE ALL ON DATABASE workshop FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE workshop TO workshop_app, workshop_other;
GRANT USAGE ON SCHEMA public TO workshop_app, workshop_other;
"""
# Of other projects: a grant to PUBLIC, one to another role, a foreign key, a view, hidden rows.
NEIGHBOURS = """
GRANT SELECT ON workshop_students TO PUBLIC;
GRANT SELECT, REFERENCES ON student_configs TO workshop_other;
CREATE TABLE conversations (session_token text REFERENCES student_configs ON DELETE CASCADE);
INSERT INTO conversations SELECT session_token FROM student_configs ORDER BY 1 LIMIT 50;
CREATE VIEW report AS SELECT session_token, student_email FROM workshop_students;
ALTER TABLE conversations OWNER TO workshop_other;
ALTER VIEW report OWNER TO workshop_other;
ALTER TABLE student_configs ENABLE ROW LEVEL SECURITY;
INSERT INTO student_configs (session_token, ivr_greeting) VALUES ('hidden_1', 'Hi'), ('hidden_2', 'Ho');
CREATE POLICY own ON student_configs TO workshop_app USING (session_token NOT LIKE 'hidden%');
CREATE POLICY every ON student_configs FOR SELECT TO workshop_other USING (true);
"""
APPLICATION = {
    OWNER: "GRANT SELECT, INSERT, UPDATE, DELETE ON workshop_students, student_configs TO workshop_app",
    MEMBER: "ALTER TABLE workshop_students OWNER TO workshop_app;"
    "ALTER TABLE student_configs OWNER TO workshop_app",
}


class Roles:
    """Three roles of this test, with their own names; statements name them as the document does."""

    names = ("workshop_migrator", "workshop_app", "workshop_other")

    def __init__(self, server: Server) -> None:
        self.server = server

    def execute(self, database: Database, script: str) -> None:
        for name in self.names:
            script = re.sub(rf"\b{name}\b", self.name(name), script)
        database.execute(script.replace("DATABASE workshop ", f"DATABASE {database.name} "))
        for name in self.names:
            if f"CREATE ROLE {self.name(name)} " in script:
                database.execute(f"ALTER ROLE {self.name(name)} PASSWORD '{name}'")

    def name(self, name: str) -> str:
        return f"{name}_of_{os.getpid()}"

    def of(self, database: Database, name: str) -> Database:
        """The database, with the connection of this role."""
        return replace(database, server=replace(self.server, user=self.name(name), password=name))


@pytest.fixture
def roles(server: Server) -> Iterator[Roles]:
    made = Roles(server)
    admin = Database(server, server.maintenance_dbname)
    made.execute(admin, "CREATE ROLE workshop_app LOGIN; CREATE ROLE workshop_other LOGIN")
    yield made
    for name in made.names:
        admin.execute(f"DROP ROLE IF EXISTS {made.name(name)}")


def seen_by(roles: Roles, database: Database) -> list[Any]:
    """The rights and rows of the application and of other projects, by the legacy names."""
    privileges = database.query(
        "SELECT r, t, p, has_table_privilege(r, 'public.' || t, p) "
        "FROM unnest(%s::text[]) AS r, unnest(ARRAY['workshop_students', 'student_configs']) AS t, "
        "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p "
        "ORDER BY 1, 2, 3",
        [roles.name("workshop_app"), roles.name("workshop_other")],
    )
    app, other = (roles.of(database, name) for name in ("workshop_app", "workshop_other"))
    return [
        privileges,
        app.query("SELECT session_token FROM student_configs ORDER BY 1"),
        app.query("SELECT session_token FROM workshop_students ORDER BY 1"),
        other.query("SELECT session_token, ivr_greeting FROM student_configs ORDER BY 1"),
        other.query("SELECT * FROM report ORDER BY 1, 2"),
        other.query("SELECT * FROM conversations ORDER BY 1"),
    ]


def denied(roles: Roles, database: Database, *relations: str) -> None:
    with psycopg.connect(roles.of(database, "workshop_app").url, autocommit=True) as connection:
        for relation in relations:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {relation}".encode())


def write(roles: Roles, database: Database, seed: int) -> None:
    """A morning of the legacy application, as its own role."""
    tokens = [row[0] for row in database.query("SELECT session_token FROM workshop_students")]
    with closing(OldApplication(roles.of(database, "workshop_app").url, seed, tokens)) as writer:
        writer.column("SELECT setseed(0.5)")  # one of its statements has random()
        for _ in range(25):
            writer.act()


@pytest.mark.parametrize("block", [OWNER, MEMBER], ids=["owner", "member"])
def test_the_migrating_role_has_all_it_needs(roles: Roles, legacy: Database, block: str) -> None:
    roles.execute(legacy, HARDENED + NEIGHBOURS + APPLICATION[block])
    roles.execute(legacy, block)
    migrator = roles.of(legacy, "workshop_migrator")
    before = seen_by(roles, legacy)
    steps = [(upgrade, stage) for stage in ("0003", "0004", "0006", "head")]
    for seed, (action, stage) in enumerate([*steps, (downgrade, "base"), (upgrade, "head")], 1):
        action(migrator, stage)
        # afterwards no role has different rights
        assert seen_by(roles, legacy) == before, stage
        if stage != "base":
            denied(
                roles,
                legacy,
                "students",
                "sessions",
                "step_progress",
                "events",
                "bridge.change_log",
            )
        write(roles, legacy, seed)
        before = [before[0], *seen_by(roles, legacy)[1:]]
    legacy.execute("CALL bridge.drain()")
    # a student keeps the name of a session that was deleted later
    assert [line for line in deviations(legacy) if line.startswith("session")] == []
    assert failed_checks(legacy) == []


def test_an_endpoint_that_has_moved(roles: Roles, legacy: Database) -> None:
    roles.execute(legacy, HARDENED + APPLICATION[OWNER])
    roles.execute(legacy, OWNER)
    roles.execute(
        legacy,
        "ALTER DEFAULT PRIVILEGES FOR ROLE workshop_migrator REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    )
    upgrade(roles.of(legacy, "workshop_migrator"))
    roles.execute(roles.of(legacy, "workshop_migrator"), NEW_TABLES)
    tokens = [row[0] for row in legacy.query("SELECT session_token FROM sessions")]
    app = roles.of(legacy, "workshop_app")
    with closing(NewApplication(app.url, 1, tokens)) as writer:
        done = {writer.act() for _ in range(150)}
    assert len(done) > 8
    write(roles, legacy, 2)
    denied(roles, legacy, "bridge.change_log", "bridge.override")
    legacy.execute("CALL bridge.drain()")
    assert failed_checks(legacy) == []


@pytest.mark.parametrize(
    ("revoked", "clue"),
    [
        ("REVOKE CREATE ON DATABASE workshop FROM workshop_migrator", "may not create a schema"),
        ("REVOKE TEMPORARY ON DATABASE workshop FROM workshop_migrator", "temporary"),
        ("REVOKE CREATE ON SCHEMA public FROM workshop_migrator", "schema public"),
        ("ALTER TABLE student_configs OWNER TO workshop_other", "does not own student_configs"),
        ("CREATE TABLE workshop_step_progress (id integer)", "read workshop_step_progress"),
        (
            "CREATE TABLE workshop_step_progress (id integer); GRANT SELECT ON workshop_step_progress TO PUBLIC;"
            "ALTER TABLE workshop_step_progress ENABLE ROW LEVEL SECURITY",
            "row security hides rows of workshop_step_progress",
        ),
        ("ALTER TABLE student_configs FORCE ROW LEVEL SECURITY", "row security"),
    ],
)
def test_one_privilege_less_is_refused(roles: Roles, clone: Clone, revoked: str, clue: str) -> None:
    database = clone("legacy")
    roles.execute(database, HARDENED + NEIGHBOURS)
    roles.execute(database, OWNER)
    upgrade(roles.of(database, "workshop_migrator"), "0001")
    downgrade(roles.of(database, "workshop_migrator"), "base")  # leaves alembic_version
    roles.execute(database, revoked)
    before = dump(database)
    done = alembic_cli("upgrade", "head", url=roles.of(database, "workshop_migrator").url)
    assert done.returncode != 0
    assert clue in done.stdout
    assert changes(before, dump(database)) == []


# Each hides every row of student_configs from the migrating role, and none from the application.
FORCED = "ALTER TABLE student_configs FORCE ROW LEVEL SECURITY"
ANOTHER_OWNER = """
ALTER TABLE student_configs OWNER TO workshop_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON student_configs TO workshop_migrator;
"""


@pytest.mark.parametrize("hidden", [FORCED, ANOTHER_OWNER], ids=["forced", "owner"])
def test_rows_that_are_hidden_later_are_not_deleted(
    roles: Roles, clone: Clone, hidden: str
) -> None:
    """The bridge must not mistake a hidden row for a deleted one."""
    database = clone("legacy")
    roles.execute(database, APPLICATION[OWNER] + "; GRANT USAGE ON SCHEMA public TO workshop_other")
    roles.execute(database, OWNER)
    migrator = roles.of(database, "workshop_migrator")
    upgrade(migrator, "0006")
    ((token, before),) = database.query(
        "SELECT session_token, (SELECT count(*) FROM sessions) FROM student_configs AS c "
        "WHERE NOT EXISTS (SELECT FROM workshop_students AS s WHERE s.session_token = c.session_token) LIMIT 1"
    )
    roles.execute(
        database,
        f"ALTER TABLE student_configs ENABLE ROW LEVEL SECURITY; {hidden};"
        "CREATE POLICY app ON student_configs TO workshop_app USING (true)",
    )
    app = roles.of(database, "workshop_app")
    app.execute(f"UPDATE student_configs SET ivr_greeting = 'new' WHERE session_token = '{token}'")
    assert database.query("SELECT count(*) FROM sessions") == [(before,)]
    assert database.query("SELECT token FROM bridge.change_log") == [(token,)]
    with pytest.raises(CommandError, match="row-level security policy"):
        upgrade(migrator)

    roles.execute(database, "ALTER TABLE student_configs DISABLE ROW LEVEL SECURITY")
    database.execute("CALL bridge.drain()")
    query = "SELECT ivr_greeting FROM sessions WHERE session_token = %s"
    assert database.query(query, token) == [("new",)]
    assert failed_checks(database) == []


AUDITED = """
CREATE TABLE audit (session_token text);
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
CREATE POLICY every ON audit USING (true);
GRANT ALL ON audit TO PUBLIC;
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO audit VALUES (NEW.session_token); RETURN NULL; END $$;
CREATE TRIGGER audited AFTER UPDATE ON student_configs FOR EACH ROW EXECUTE FUNCTION audited();
"""


def test_a_trigger_under_row_security_is_named(roles: Roles, clone: Clone) -> None:
    """It runs inside the bridge's write. The policies may decide only if its function says so."""
    database = clone("legacy")
    roles.execute(database, OWNER + AUDITED)
    upgrade(roles.of(database, "workshop_migrator"), "0006")
    ((token,),) = database.query("SELECT min(session_token) FROM student_configs")
    write = f"UPDATE sessions SET ivr_greeting = 'new' WHERE session_token = '{token}'"
    roles.of(database, "workshop_migrator").execute(write)
    assert database.query("SELECT token FROM bridge.change_log") == [(token,)]
    with pytest.raises(CommandError, match='row-level security policy for table "audit"'):
        upgrade(roles.of(database, "workshop_migrator"))
    database.execute("ALTER FUNCTION audited() SET row_security = on")
    upgrade(roles.of(database, "workshop_migrator"))
    assert database.query("SELECT session_token FROM audit") == [(token,)]
    query = "SELECT ivr_greeting FROM student_configs WHERE session_token = %s"
    assert database.query(query, token) == [("new",)]


# Better matches than the built-in ones: PostgreSQL prefers a function whose types are those of the call. Each notes the
# role that runs it, and returns what the built-in one returns.
TRAPS = """
CREATE TABLE public.trapped (by_role text DEFAULT current_user, what text);
GRANT INSERT ON public.trapped TO PUBLIC;
"""
TRAP = """
CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.trapped (what) VALUES (pg_catalog.concat('{name}(', '{arguments}', ')'));
    RETURN {call};
END $$;
"""
TYPES = ("text", "regclass", "name", "bigint")
TRAPPED = {
    **{("format", ("text", *types)): "text" for n in (1, 2, 3) for types in itertools.product(TYPES, repeat=n)},
    ("format", ("text", "regclass", "text", "text", "text")): "text",
    ("concat", ("text", "text")): "text",
    ("concat_ws", ("text", "text", "text")): "text",
    ("jsonb_build_object", ("text", "text")): "jsonb",
    ("jsonb_build_object", ("text", "jsonb")): "jsonb",
    ("jsonb_build_object", ("text", "uuid")): "jsonb",
    ("to_jsonb", ("text",)): "jsonb",
    ("quote_ident", ("name",)): "text",
    ("unnest", ("text[]",)): "SETOF text",
    ("cardinality", ("text[]",)): "integer",
    ("array_to_string", ("text[]", "text")): "text",
    ("pg_has_role", ("oid", "text")): "boolean",
}  # fmt: skip
OPERATORS = (
    ("=", "varchar", "varchar"),
    ("=", "regclass", "regclass"),
    ("<>", "regclass", "regclass"),
    ("=", "oid", "regclass"),
    ("=", "varchar", "text"),
    ("||", "text", "integer"),
    ("||", "text[]", "text"),
)


WRITES = (
    "INSERT INTO public.sessions (session_token, student_id) SELECT 'ws_new', student_id FROM public.students LIMIT 1",
    "UPDATE public.sessions SET ivr_greeting = 'new', exercises = '{}'",
    "DELETE FROM public.sessions WHERE session_token = (SELECT min(session_token) FROM public.student_configs)",
    "CALL bridge.drain()",
)


def traps() -> str:
    """Return the SQL that sets them."""
    parts = [TRAPS]
    for (name, types), result in TRAPPED.items():
        values = ", ".join(f"${number}" for number in range(1, len(types) + 1))
        given = f"pg_catalog.{name}({values})"
        body = (
            TRAP.replace("RETURN {call}", "RETURN QUERY SELECT {call}")
            if "SETOF" in result
            else TRAP
        )
        parts.append(body.format(name=name, arguments=", ".join(types), result=result, call=given))
    for number, (operator, left, right) in enumerate(OPERATORS):
        name, result = (
            f"trap_{number}",
            {"||": "text[]" if "[]" in left else "text"}.get(operator, "boolean"),
        )
        cast = {"regclass": "oid", "varchar": "text"}
        given = (
            f"$1::pg_catalog.{cast[left]} OPERATOR(pg_catalog.{operator}) $2::pg_catalog.{cast[right]}"
            if left in cast and right in cast
            else f"$1 OPERATOR(pg_catalog.{operator}) $2"
        )
        parts.append(
            TRAP.format(name=name, arguments=f"{left}, {right}", result=result, call=given)
        )
        parts.append(
            f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.{name});"
        )
    return "".join(parts)


def test_the_bridge_runs_no_function_of_another_role(roles: Roles, clone: Clone) -> None:
    """A role that may create in schema public must not become the migrating role, or the application's."""
    database = clone("head")
    roles.execute(database, "GRANT USAGE, CREATE ON SCHEMA public TO workshop_other")
    roles.of(database, "workshop_other").execute(traps())
    with database.connect() as connection:
        connection.execute("SET search_path = pg_catalog")
        for statement in WRITES:
            connection.execute(statement.encode())
    assert database.query("SELECT DISTINCT by_role::text, what FROM public.trapped") == []


@pytest.mark.parametrize("state", ["legacy", "head"])
def test_a_function_that_hides_one_of_postgresql_is_refused(
    roles: Roles, clone: Clone, state: str
) -> None:
    """The migration has public in its path. It refuses before public enters it."""
    database = clone(state)
    other = roles.of(database, "workshop_other")
    roles.execute(database, "GRANT USAGE, CREATE ON SCHEMA public TO workshop_other")
    other.execute(traps())
    message = r"another role hides .*function public.concat\(text,text\).*operator public.=\(regclass,regclass\)"
    with pytest.raises(CommandError, match=message):
        upgrade(database)
    if state == "head":
        with pytest.raises(CommandError, match=message):
            downgrade(database)
        done = run_command("verify", url=database.url)
        assert done.returncode == 2
        assert "another role hides" in done.stderr
    assert database.query("SELECT by_role::text, what FROM public.trapped") == []

    # a function of its own name, or of a trusted role, is no obstacle
    roles.execute(database, "DROP OWNED BY workshop_other")
    roles.execute(database, "GRANT USAGE, CREATE ON SCHEMA public TO workshop_other")
    other.execute("CREATE FUNCTION public.badge(text) RETURNS text LANGUAGE sql RETURN 'x'")
    database.execute("CREATE FUNCTION public.length(date) RETURNS integer LANGUAGE sql RETURN 1")
    upgrade(database)
    assert failed_checks(database) == []


# --- other claims of the document --------------------------------------------------------------------

MODES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
LOG_ONE = """
INSERT INTO bridge.change_log (side, token) SELECT 'legacy', min(session_token) FROM sessions
"""
HELD = """
SELECT DISTINCT l.mode FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.granted AND c.relkind = 'r'
  AND c.relname ~ '^(workshop_students|student_configs)'
"""


def strongest(connection: Connection) -> str | None:
    """The strongest lock of the transaction on the legacy tables."""
    names = {mode.replace(" ", "").lower() + "lock": mode for mode in MODES}
    held = [names[mode.lower()] for mode in connection.scalars(text(HELD))]
    return max(held, key=MODES.index, default=None)


def test_the_locks_are_those_of_the_table(legacy: Database) -> None:
    """Run each step in a transaction of its own, which keeps its locks until they are read."""
    rows = re.findall(r"^\| `(\d{4})`( undone)? \| ([A-Z ]+) \|", DOCUMENT, re.M)
    told = {revision + undone: mode for revision, undone, mode in rows}
    found: dict[str, str | None] = {}
    states = ("base", *REVISIONS)
    with legacy.engine() as engine, engine.connect() as connection:

        def take(run: Callable[[Config, str], None], name: str, end: str) -> None:
            config = alembic_config()
            config.attributes["connection"] = connection
            with connection.begin():
                run(config, end)
                found[name] = strongest(connection)

        def write(table: str, state: str) -> None:
            # a change to drain later: at 0004 it is only logged
            if state.startswith("0004"):
                with connection.begin():
                    connection.execute(text(f"UPDATE {table} SET ivr_greeting = 'new'"))
            # as if a session had been locked
            if state.startswith("0005"):
                with connection.begin():
                    connection.execute(text("SET LOCAL bridge.applying = on"))
                    connection.execute(text(LOG_ONE))

        for end in states[1:]:
            take(command.upgrade, end[:4], end)
            write("student_configs", end)
        for end, start in reversed([*itertools.pairwise(states)]):
            take(command.downgrade, f"{start[:4]} undone", end)
            write("sessions", end)
    assert {name: mode for name, mode in found.items() if mode} == told


def test_a_trigger_function_of_another_role_is_not_taken_over(roles: Roles, clone: Clone) -> None:
    """Its owner could change what the trigger does, later and unseen."""
    database = clone("0003")
    other = roles.name("workshop_other")
    database.execute(
        "CREATE FUNCTION completion_rate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
        f"ALTER FUNCTION completion_rate() OWNER TO {other}"
    )
    with pytest.raises(CommandError, match="belongs to another role"):
        upgrade(database, "0004")
    database.execute("DROP FUNCTION completion_rate()")
    upgrade(database)
    assert failed_checks(database) == []
