"""Columns and other objects added to the unified tables: kept, named, and restored."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config

from scripts.commands.rollback_check import Report, examine
from scripts.common.connection import make_engine, resolve_url
from support.databases import (
    REVISIONS,
    ROOT,
    Clone,
    Database,
    alembic_config,
    changes,
    deviations,
    downgrade,
    dump,
    failed_checks,
    psql,
    upgrade,
)

OWN = """
CREATE TYPE plan AS ENUM ('free', 'pro');
CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
ALTER TABLE students ADD COLUMN phone text, ADD COLUMN "Nick Name" varchar(20) COLLATE "C";
ALTER TABLE sessions
    ADD COLUMN plan plan DEFAULT 'free',
    ADD COLUMN tags text[],
    ADD COLUMN number serial,
    ADD COLUMN score double precision,
    ADD COLUMN twice integer GENERATED ALWAYS AS (total_time_spent * 2) STORED;
ALTER TABLE step_progress ADD COLUMN note jsonb;
ALTER TABLE events ADD COLUMN seen timestamptz;
UPDATE students SET phone = '+1 555 ' || left(student_email, 9), "Nick Name" = E'a\\n"b' WHERE student_email < 'm';
UPDATE sessions SET plan = CASE WHEN session_token < 'ws_1757' THEN 'pro'::plan END, tags = ARRAY['a,b', NULL],
    score = 0.1 + 0.2;
UPDATE step_progress SET note = '{"a": [1, null]}' WHERE step_number = 3;
INSERT INTO events (event_type) VALUES ('of the application');
UPDATE events SET seen = '2026-01-02 03:04:05.678901+00' WHERE event_type = 'of the application';
CREATE INDEX own_prompt ON sessions (system_prompt);
CREATE TRIGGER own BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION own();
ALTER TABLE students ADD CONSTRAINT own_phone CHECK (phone <> '');
CREATE RULE own AS ON DELETE TO events WHERE OLD.event_type = 'x' DO INSTEAD NOTHING;
CREATE POLICY own ON events FOR SELECT USING (event_type <> 'x');
CREATE STATISTICS own_steps ON step_number, attempts FROM step_progress;
CREATE PUBLICATION own FOR TABLE sessions
"""
VALUES = """
SELECT 'students', student_id::text, concat_ws('|', phone, "Nick Name") FROM students
UNION ALL SELECT 'sessions', session_token, concat_ws('|', plan, tags, number, score, twice, updated_at) FROM sessions
UNION ALL SELECT 'steps', session_token || step_number, note::text FROM step_progress WHERE note IS NOT NULL
UNION ALL SELECT 'events', event_type, seen::text FROM events WHERE seen IS NOT NULL
ORDER BY 1, 2
"""
KEPT = """
SELECT relname::text FROM pg_class WHERE relname ~ '^own_columns_backup' AND relkind = 'r'
"""
DEFINITIONS = {
    "constraint own_phone of students",
    "index own_prompt of sessions",
    "policy own of events",
    "publication own of sessions",
    "rule own of events",
    "statistics own_steps of step_progress",
    "trigger own of sessions",
}


def rollback_check(database: Database, target: str) -> Report:
    """Run it in this process."""
    with make_engine(resolve_url(database.url)).connect() as connection:
        return examine(connection.execution_options(isolation_level="AUTOCOMMIT"), target)


def test_base_and_back_again(migrated: Database, role: str) -> None:
    migrated.execute(OWN)
    migrated.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}")
    before = migrated.query(VALUES)
    whole = dump(migrated)
    report = rollback_check(migrated, "base")
    assert report.ok
    assert set(report.definitions) == DEFINITIONS
    kept = {f"{k['table_name']}.{k['column_name']}": k["values"] for k in report.kept}
    assert {name: kept[name] for name in ("sessions.tags", "sessions.twice", "events.seen")} == {
        "sessions.tags": 213,
        "sessions.twice": 0,
        "events.seen": 1,
    }
    assert changes(whole, dump(migrated)) == []

    downgrade(migrated)
    ((aside,),) = migrated.query(KEPT)
    assert migrated.query(f"SELECT has_table_privilege(%s, '{aside}', 'SELECT')", role) == [
        (False,)
    ]
    held = migrated.query(
        f"SELECT count(DISTINCT (table_name, name)) FROM {aside} WHERE definition <> ''"
    )
    assert held == [(9 + len(DEFINITIONS),)]

    upgrade(migrated)
    assert migrated.query(VALUES) == before
    assert failed_checks(migrated) == []
    assert migrated.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
    # the definitions of the rest run unchanged
    for (definition,) in migrated.query(f"SELECT definition FROM {aside} ORDER BY definition"):
        migrated.execute(definition)
    assert migrated.query(f"SELECT count(*) FROM {aside}") == [(len(DEFINITIONS),)]
    migrated.execute("INSERT INTO students (student_email) VALUES ('own@example.com')")


@pytest.mark.parametrize("target", ["0004", "0003", "0001"])
def test_a_part_of_the_way_and_back_again(migrated: Database, target: str) -> None:
    migrated.execute(
        """
        ALTER TABLE sessions ADD COLUMN plan text DEFAULT 'free';
        ALTER TABLE students ADD COLUMN phone text;
        UPDATE sessions SET plan = session_token;
        UPDATE students SET phone = student_email
        """
    )
    values = "SELECT session_token, plan, phone FROM sessions JOIN students USING (student_id) ORDER BY 1"
    before = migrated.query(values)
    downgrade(migrated, target)
    upgrade(migrated)
    assert migrated.query(values) == before
    assert deviations(migrated) == []


def test_a_column_that_cannot_come_back_is_named(
    migrated: Database, caplog: pytest.LogCaptureFixture
) -> None:
    migrated.execute(
        """
        CREATE TYPE plan AS ENUM ('pro');
        ALTER TABLE sessions ADD COLUMN plan plan, ADD COLUMN score integer;
        UPDATE sessions SET plan = 'pro', score = 7
        """
    )
    downgrade(migrated)
    migrated.execute("DROP TYPE plan")
    upgrade(migrated, "0004")
    migrated.execute("ALTER TABLE sessions ADD score boolean[]")
    upgrade(migrated)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    ((aside,),) = migrated.query(KEPT)
    assert "column sessions.plan could not be added again" in told[0]
    assert (
        f"values of sessions.score do not fit the column (SQLSTATE 22P02); they stay in {aside}"
        in told[1]
    )
    assert migrated.query(f"SELECT name, count(value) FROM {aside} GROUP BY 1 ORDER BY 1") == [
        ("plan", 213),
        ("score", 213),
    ]
    assert failed_checks(migrated) == []


LATER = '''
"""Sessions get a plan."""

import sqlalchemy as sa
from alembic import op

revision = "0008_plan"
down_revision = "0007_retire_legacy_tables"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("plan", sa.Text(), server_default="free"))


def downgrade() -> None:
    op.drop_column("sessions", "plan")
'''


@pytest.fixture
def later(tmp_path: Path) -> Any:
    """Alembic's configuration with a further revision, which adds a column."""
    (tmp_path / "0008_plan.py").write_text(LATER, encoding="utf-8")

    def configure(url: str) -> Config:
        config = alembic_config(url)
        config.set_main_option("path_separator", "os")
        config.set_main_option("version_locations", f"{ROOT}/alembic/versions:{tmp_path}")
        return config

    return configure


@pytest.mark.parametrize("target", ["0007_retire_legacy_tables", "base"])
def test_a_column_of_a_later_revision(
    migrated: Database, later: Any, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "scripts.common.database.known_revisions", lambda: {*REVISIONS, "0008_plan"}
    )
    config = later(migrated.url)
    command.upgrade(config, "head")
    migrated.execute("UPDATE sessions SET plan = nullif('p' || session_token, 'pundefined')")
    values = "SELECT session_token, plan, updated_at FROM sessions ORDER BY 1"
    before = migrated.query(values)
    report = rollback_check(migrated, target)
    assert report.ok
    assert {"table_name": "sessions", "column_name": "plan", "values": 213} in report.kept
    command.downgrade(config, target)
    assert len(migrated.query(KEPT)) == 1
    command.upgrade(config, "head")
    assert migrated.query(values) == before
    assert migrated.query(KEPT) == []
    assert failed_checks(migrated) == []


def test_a_column_of_a_later_revision_by_script(clone: Clone, later: Any, tmp_path: Path) -> None:
    database = clone("head")
    command.upgrade(later(database.url), "head")
    database.execute("UPDATE sessions SET plan = 'p'")
    before = dump(database)
    for run, revisions in (
        (command.downgrade, "0008_plan:0007_retire_legacy_tables"),
        (command.upgrade, "0007_retire_legacy_tables:0008_plan"),
    ):
        config = later("")
        run(config, revisions, sql=True)
        done = psql(database, config.output_buffer.getvalue(), tmp_path)
        assert done.returncode == 0, done.stderr
    assert changes(before, dump(database)) == []


def test_nothing_of_others_leaves_nothing(clone: Clone) -> None:
    database = clone("head")
    assert rollback_check(database, "base").definitions == []
    downgrade(database)
    assert database.query(KEPT) == []
    with pytest.raises(psycopg.errors.UndefinedTable):
        database.query("SELECT count(*) FROM sessions")
