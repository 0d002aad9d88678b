"""docs/limitations.md: each line is true, and the dry run finds the cases that it can find."""

import re

import psycopg
import pytest

from support.commands import predicted
from support.databases import ROOT, Clone, Database, failed_checks

DOCUMENT = (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8")
AFTER_0007, FROM_0003 = DOCUMENT.split("\n## ")[2:4]
LINE = re.compile(r"^\| `([A-Z].*?)` \| (.*?) \|(?: (.*) \|)?$", re.M)
KEYWORDS = ("SELECT", "INSERT", "UPDATE", "DELETE", "COPY", "CREATE")
BADGE = "CREATE FUNCTION badge({}) RETURNS text LANGUAGE sql RETURN ($1).current_step::text"


def attempt(database: Database, statement: str) -> str:
    """The errors of PostgreSQL; empty without one. Everything is rolled back."""
    with database.connect(autocommit=False) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return f"{error.diag.message_primary} {error.diag.message_detail} {error.diag.message_hint}"
        finally:
            connection.rollback()
    return ""


def test_each_line_about_the_views_is_true(clone: Clone) -> None:
    legacy, head = clone("legacy"), clone("head")
    ((table,),) = head.query(
        "SELECT relation::text FROM bridge.source WHERE legacy_name ~ 'configs'"
    )
    legacy.execute(BADGE.format("student_configs"))
    head.execute(BADGE.format(table))
    lines = LINE.findall(AFTER_0007)
    assert len(lines) == AFTER_0007.count("\n| `") > 15
    for statement, says, instead in lines:
        assert attempt(legacy, statement) == "", statement
        assert says in attempt(head, statement), statement
        for better in re.findall(r"`(.*?)`", instead):
            if better.startswith(KEYWORDS) and " " in better:
                assert attempt(head, better) == "", better
    works = "SELECT FROM student_configs FOR UPDATE; LOCK TABLE student_configs; ANALYZE student_configs"
    assert attempt(head, works) == ""
    merge = (
        "MERGE INTO student_configs AS c USING (SELECT 'x' AS t) AS s ON c.session_token = s.t "
        "WHEN NOT MATCHED THEN INSERT (session_token) VALUES (s.t)"
    )
    ((major,),) = head.query("SELECT current_setting('server_version_num')::integer / 10000")
    assert (attempt(head, merge) == "") == (major >= 17)


@pytest.mark.parametrize("state", ["0003", "0006"])
def test_each_line_about_the_bridge_is_true(clone: Clone, state: str) -> None:
    legacy, bridged = clone("legacy"), clone(state)
    lines = LINE.findall(FROM_0003)
    assert len(lines) == 3
    for statement, says, _ in lines:
        assert attempt(legacy, statement) == "", statement
        assert says in attempt(bridged, statement), statement
    works = (
        "ADD COLUMN x text, ALTER ivr_greeting SET DEFAULT 'x', ALTER session_token SET NOT NULL"
    )
    assert attempt(bridged, f"ALTER TABLE student_configs {works}") == ""


def test_a_renamed_column_is_named(clone: Clone) -> None:
    database = clone("0006")
    database.execute("ALTER TABLE student_configs RENAME COLUMN ivr_greeting TO greeting")
    assert [check[0] for check in failed_checks(database) if "columns or key changed" in check[0]]
    database.execute("ALTER TABLE student_configs RENAME COLUMN greeting TO ivr_greeting")
    assert failed_checks(database) == []


BODIES = {
    "a_conflict": (
        "INSERT INTO student_configs VALUES ('x') ON CONFLICT ON CONSTRAINT k DO NOTHING",
        "CONSTRAINT",
    ),
    "an_upsert": (
        "INSERT INTO workshop_students VALUES ('x') RETURNING (xmax = 0)",
        "system column",
    ),
    "a_group": (
        "SELECT c.session_token, count(*) FROM student_configs c GROUP BY c.session_token",
        "groups by",
    ),
    "a_cursor": ("UPDATE student_configs SET x = 1 WHERE CURRENT OF k", "WHERE CURRENT OF"),
    "a_sample": ("SELECT FROM public.student_configs TABLESAMPLE SYSTEM (1)", "TABLESAMPLE"),
    "a_copy": ("COPY public.student_configs TO STDOUT", "COPY"),
    "a_truncate": ("TRUNCATE events, workshop_students", "TRUNCATE"),
    "a_column": ('ALTER TABLE IF EXISTS "student_configs" ADD x text', "ALTER TABLE"),
    "an_index": ("CREATE INDEX IF NOT EXISTS i ON student_configs (x)", "CREATE INDEX"),
    "a_key": ("CREATE TABLE t (x text REFERENCES student_configs)", "REFERENCES"),
}
FINE = (
    "SELECT c.session_token, c.x FROM student_configs c GROUP BY c.session_token, c.x",
    "INSERT INTO student_configs VALUES ('x') ON CONFLICT (session_token) DO NOTHING",
    "TRUNCATE leads; SELECT ctid FROM leads",
    "COPY (SELECT * FROM student_configs) TO STDOUT",
)


def test_the_dry_run_names_functions_and_views(legacy: Database) -> None:
    assert predicted(legacy).warnings == []
    legacy.execute("CREATE TABLE leads (x text)")
    everything = {name: body for name, (body, _) in BODIES.items()}
    everything |= {f"fine_{n}": body for n, body in enumerate(FINE)}
    for name, body in everything.items():
        legacy.execute(
            f"CREATE FUNCTION {name}() RETURNS void LANGUAGE plpgsql AS $_$ BEGIN {body}; END $_$"
        )
    legacy.execute(
        BADGE.format("student_configs") + ";"
        "CREATE VIEW sampled AS SELECT session_token FROM student_configs TABLESAMPLE SYSTEM (10);"
        "CREATE VIEW grouped AS SELECT c.session_token, c.student_name, count(*) FROM student_configs AS c "
        "JOIN workshop_students USING (session_token) GROUP BY c.session_token;"
        "CREATE VIEW harmless AS SELECT session_token FROM student_configs"
    )
    found = (re.sub("^(function|view) ", "", line) for line in predicted(legacy).warnings)
    named = dict(line.split(" ", 1) for line in found)
    expected = {f"{name}()": clue for name, (_, clue) in BODIES.items()}
    expected |= {"badge(student_configs)": "takes rows of student_configs"}
    expected |= {"sampled": "TABLESAMPLE", "grouped": "primary key"}
    assert named.keys() == expected.keys()
    for what, clue in expected.items():
        assert clue in named[what], what
