"""Facts with several copies, and the reasons: the columns, the nine steps, the flags.

- SQL has its copy because it runs as a script, without Python, and because a released revision is
frozen.
- ``models`` is the copy of Python: the dashboard, the sample data and the dry run use it.
- The oracle has its copy because it judges both, and shares nothing with them except in these
tests.

A change begins at the first place that a test names; the test then names the others.
"""

import re

import pytest
from sqlalchemy import Boolean

from models import FLAGS, STEPS, Base, WorkshopSession
from scripts.commands.dry_run.counts import EXPECTED
from scripts.commands.verify.checks import WRONG_RATES
from scripts.development.sample_data.tables import TABLE_DDL
from support import oracle
from support.databases import ROOT, Clone, Database, upgrade

SQL = ROOT / "alembic" / "sql"
LEGACY = ("workshop_students", "student_configs")
EARLY = set(oracle.EARLY_FLAGS.values())
NOT_READ = {"repo_created"}  # the application never reads it: it goes to legacy_extra
ADDED_BY_HAND = {
    "ci_service_sid",
    "twilio_account_sid",
    "twilio_auth_token",
    "enable_persistent_memory",
    "memory_retention_days",
}


def words(text: str) -> list[str]:
    """The words in the SQL strings of a text."""
    return " ".join(re.findall(r"'([^']*)'", text)).split()


def created(ddl: str, table: str) -> list[str]:
    """The columns of a CREATE TABLE, in its order."""
    body = re.search(rf"CREATE TABLE (?:public\.)?{table} \((.*?)\n *\);", ddl, re.DOTALL)
    assert body
    return [column.split()[0] for column in body[1].split(",")]


# --- the columns of the latest application ------------------------------------------------------------


@pytest.mark.parametrize("table", LEGACY)
def test_the_columns_that_the_application_writes(table: str) -> None:
    """0003 creates a missing table with them; 0001 and the dry run report missing ones."""
    columns = created((SQL / "0003_legacy_bridge" / "12_install.sql").read_text("utf-8"), table)
    assert EXPECTED[table].split() == columns
    preflight = (SQL / "0001_unified_schema" / "00_preflight.sql").read_text("utf-8")
    told = re.search(rf"\('{table}', ARRAY.*?string_to_table\((.*?), ' '\)\)", preflight, re.S)
    assert told
    assert words(told[1]) == columns
    sample = created(TABLE_DDL, table)
    assert [name for name in sample if name not in ADDED_BY_HAND] == columns


def test_the_columns_that_the_adapters_read(clone: Clone) -> None:
    ((read,),) = clone("0003").query(
        "SELECT array_agg(attname::text) FROM pg_attribute "
        "WHERE attrelid = 'bridge.known_columns'::regclass AND attnum > 0"
    )
    written = {name for table in LEGACY for name in EXPECTED[table].split()}
    assert set(read) == written - NOT_READ | EARLY
    assert {*oracle.HOMES} <= set(read)


def test_a_table_that_0003_creates_is_one_that_the_bridge_knows(legacy: Database) -> None:
    """Types as well: a table created with them is mapped without a loss."""
    types = """
        SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = 'student_configs'::regclass AND attnum > 0
    """
    expected = dict(legacy.query(types))
    legacy.execute("DROP TABLE student_configs")
    upgrade(legacy, "0003")
    found = dict(legacy.query(types))
    assert found == {name: kind for name, kind in expected.items() if name not in ADDED_BY_HAND}


# --- the columns of the unified tables ----------------------------------------------------------------


def test_the_columns_of_the_unified_tables() -> None:
    """A downgrade has no models: a column outside this list is an added one, and kept.

    ``test_rights.py`` compares the list of the preflight, which has types, in the same way.
    """
    keep = (SQL / "own_columns" / "98_keep.sql").read_text("utf-8")
    ours = re.search(r"of_0001 CONSTANT jsonb := jsonb_build_object\((.*?)\);", keep, re.DOTALL)
    assert ours
    for table in Base.metadata.sorted_tables:
        columns = [column.name for column in table.columns]
        listed = re.search(rf"'{table.name}',\s*((?:'[^']*'\s*)+)", ours[1])
        assert listed
        assert words(listed[1]) == columns


# --- the nine steps and the flags ---------------------------------------------------------------------


def test_the_flags() -> None:
    """``models.FLAGS`` has the order of the columns: it decides how many flags make a step."""
    table = WorkshopSession.__table__
    flags = [c.name for c in table.columns if isinstance(c.type, Boolean)]
    assert [name for name in flags if name not in ("demo_mode", "is_active")] == [*FLAGS]
    assert oracle.FLAGS == FLAGS
    finishing = [flag for step in STEPS for flag in step.done_when]
    assert re.findall(r"s\.(\w+),", WRONG_RATES.split("session_steps_done(")[1])[:10] == finishing


def test_the_nine_steps() -> None:
    """``test_schema.py`` compares ``models.STEPS`` with ``workshop_steps()``."""
    assert {step.number: (step.name, step.done_when) for step in STEPS} == oracle.STEPS
    assert {step.number: step.exercise_key for step in STEPS} == oracle.CURRENT_KEYS
    assert {step.early_key: step.number for step in STEPS} == oracle.EARLY_EXERCISES
