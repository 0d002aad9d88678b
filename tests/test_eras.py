"""Databases of every era: head equals the oracle's prediction, and the downgrade restores them."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.util import CommandError

from support.databases import (
    Database,
    Server,
    changes,
    cloned,
    downgrade,
    failed_checks,
    psql,
    script_of,
    upgrade,
)
from support.eras import ERAS, Era, load
from support.oracle import (
    CONFIG,
    PROGRESS,
    Prediction,
    differences,
    predict,
    read_further,
    read_legacy,
    read_v2,
)


def exact_dump(database: Database) -> list[str]:
    """pg_dump's output unchanged: every row in its place, every sequence's value, every time."""
    done = subprocess.run(
        [database.server.bin_dir / "pg_dump", "--exclude-table=alembic_version", database.url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


def rows_of(database: Database, *relations: str) -> dict[str, list[tuple[str]]]:
    return {
        name: database.query(f'SELECT t::text FROM "{name}" t ORDER BY 1') for name in relations
    }


@dataclass
class Run:
    """A database at head, and its state before."""

    era: Era
    database: Database
    dump: list[str]
    bystanders: dict[str, list[tuple[str]]]
    expected: Prediction


@pytest.fixture(scope="module", params=ERAS)
def run(request: pytest.FixtureRequest, server: Server) -> Iterator[Run]:
    """One upgrade for all tests of an era; the last test downgrades it."""
    era = ERAS[request.param]
    template = request.getfixturevalue("postgresql_proc").template_dbname
    with cloned(server, template) as database:
        with database.connect() as connection:
            load(connection, era)
            expected = predict(
                read_legacy(connection, PROGRESS),
                read_legacy(connection, CONFIG),
                read_further(connection),
            )
        before = exact_dump(database)
        bystanders = rows_of(database, *era.bystanders)
        upgrade(database)
        yield Run(era, database, before, bystanders, expected)


def test_the_new_tables_hold_what_the_oracle_says(run: Run) -> None:
    with run.database.connect() as connection:
        found = read_v2(connection, details=True)
    assert len(run.expected.sessions) >= 15
    assert differences(run.expected, found) == []


def has_bridge(database: Database) -> bool:
    return database.query("SELECT to_regnamespace('bridge') IS NOT NULL") == [(True,)]


def test_verification_agrees(run: Run) -> None:
    if run.era.has_legacy_tables or has_bridge(run.database):
        assert failed_checks(run.database) == []
        assert run.database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]


def test_a_second_merge_finds_nothing_to_do(run: Run) -> None:
    if run.era.has_legacy_tables or has_bridge(run.database):
        with run.database.connect() as connection:
            connection.execute("CALL bridge.merge()")
        assert run.database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]


def test_what_lies_beside_is_left_alone(run: Run) -> None:
    assert rows_of(run.database, *run.era.bystanders) == run.bystanders


# Table -> the legacy table of its foreign key, and the column.
HANGING = {
    "conversation_sessions": (CONFIG, "session_token"),
    "student_use_cases": (CONFIG, "session_token"),
    "workshop_sessions": (PROGRESS, "student_id"),
    "workshop_events": (PROGRESS, "student_id"),
}


def test_what_hangs_on_a_legacy_table_goes_with_its_row(run: Run) -> None:
    for child in HANGING.keys() & set(run.era.bystanders):
        parent, column = HANGING[child]
        with run.database.connect(autocommit=False) as connection:
            key = connection.execute(f"SELECT min({column}) FROM {child}".encode()).fetchone()
            gone = connection.execute(f"DELETE FROM {parent} WHERE {column} = %s".encode(), key)
            left = connection.execute(
                f"SELECT count(*) FROM {child} WHERE {column} = %s".encode(), key
            )
            assert (gone.rowcount, left.fetchone()) == (1, (0,)), child
            connection.rollback()


def test_downgrade_brings_back_what_was_there(run: Run) -> None:
    """The last test of an era: nothing is left to compare."""
    downgrade(run.database)
    assert changes(run.dump, exact_dump(run.database)) == []


# Tables of another application, with names that the unified tables need.
FOREIGN = {
    "sessions": "CREATE TABLE sessions (sid varchar PRIMARY KEY, sess json, expire timestamp(6))",
    "students": "CREATE TABLE students (matriculation integer PRIMARY KEY, surname text)",
    "step_progress": "CREATE TABLE step_progress (id serial PRIMARY KEY, percent integer)",
    "events": "CREATE TABLE events (id serial PRIMARY KEY, title text, starts_at timestamp)",
}
NAMED = {
    "sessions": ("sid", "sess", "expire"),
    "students": ("matriculation", "surname"),
    "step_progress": ("id", "percent"),
    "events": ("id", "title", "starts_at"),
}


@pytest.mark.parametrize("table", FOREIGN)
def test_a_shape_that_cannot_be_understood_is_refused(table: str, legacy: Database) -> None:
    legacy.execute(FOREIGN[table])
    before = exact_dump(legacy)
    with pytest.raises(CommandError) as refusal:
        upgrade(legacy)
    assert all(name in str(refusal.value) for name in (table, *NAMED[table]))
    assert changes(before, exact_dump(legacy)) == []


@pytest.mark.parametrize("name", ERAS)
def test_the_scripts_do_the_same(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path, name: str
) -> None:
    """Both scripts, applied by psql: the oracle's prediction, and back to the former state."""
    template = request.getfixturevalue("postgresql_proc").template_dbname
    with cloned(server, template) as database:
        with database.connect() as connection:
            load(connection, ERAS[name])
            expected = predict(
                read_legacy(connection, PROGRESS),
                read_legacy(connection, CONFIG),
                read_further(connection),
            )
        before = exact_dump(database)
        for direction, revisions in (("upgrade", "head"), ("downgrade", "head:base")):
            done = psql(database, script_of(direction, revisions), tmp_path)
            assert done.returncode == 0, done.stderr
            if direction == "upgrade":
                with database.connect() as connection:
                    found = read_v2(connection, details=True)
                assert differences(expected, found) == []
        assert exact_dump(database) == before
