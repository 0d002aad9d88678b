"""Nothing is lost where an upgrade or a downgrade stops halfway: not the legacy writes since, not the kept values."""

from collections.abc import Callable

import psycopg
import pytest
from alembic.util import CommandError

from support.databases import (
    Clone,
    Database,
    deviations,
    downgrade,
    failed_checks,
    hand_back,
    upgrade,
)

CLEAR = """
    UPDATE student_configs SET system_prompt = NULL, twilio_connected = false, current_step = 0, ivr_greeting = NULL;
    UPDATE workshop_students SET total_time_spent = 0;
    DELETE FROM student_configs WHERE session_token = (SELECT max(session_token) FROM student_configs);
    DELETE FROM workshop_students WHERE session_token = (SELECT max(session_token) FROM workshop_students)
"""
OWN = "SELECT session_token, is_active, expires_at FROM sessions ORDER BY 1"


def drain(database: Database) -> None:
    """What ``workshop status --drain`` calls."""
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")


def merge(database: Database) -> None:
    """What ``workshop merge`` calls."""
    with database.connect() as connection:
        connection.execute("CALL bridge.merge()")


def stopped_downgrade(database: Database) -> None:
    """A downgrade of which only the hand-back is done: the next step gets no lock."""
    with database.connect() as connection:
        hand_back(connection)


def refuse(database: Database, table: str, event: str = "INSERT") -> None:
    """Let each such write fail, as if the process died there."""
    database.execute(
        f"""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'died'; END $$;
        CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION public.refuse()
        """
    )


def assert_as_mapped(database: Database) -> None:
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert database.query("SELECT * FROM bridge.override WHERE table_name !~ '^prior'") == []


def test_legacy_writes_after_a_downgrade_that_stops_at_0002(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = false")
    before = database.query(OWN)
    downgrade(database, "0002")
    database.execute(CLEAR)
    upgrade(database)
    assert deviations(database) == []
    assert failed_checks(database) == []
    assert set(database.query(OWN)) < set(before)
    assert len(database.query(OWN)) >= len(before) - 2


@pytest.mark.parametrize("first", [drain, stopped_downgrade])
def test_legacy_writes_after_a_drain_or_a_hand_back_before_the_backfill(
    clone: Clone, first: Callable[[Database], None]
) -> None:
    database = clone("0003")
    database.execute("UPDATE student_configs SET use_case_description = 'x'")
    first(database)
    database.execute(CLEAR)
    upgrade(database)
    assert_as_mapped(database)


@pytest.mark.parametrize("dies", [downgrade, upgrade, merge])
def test_a_comparison_of_a_later_column_that_died_is_repeated(
    clone: Clone, dies: Callable[[Database], None]
) -> None:
    database = clone("legacy")
    database.execute("ALTER TABLE student_configs DROP COLUMN ivr_greeting")
    upgrade(database, "0006")
    database.execute(
        "ALTER TABLE student_configs ADD COLUMN ivr_greeting text; UPDATE student_configs SET ivr_greeting = 'Hello'"
    )
    refuse(database, "bridge.change_log")
    with pytest.raises((CommandError, psycopg.Error), match="died"):
        dies(database)
    database.execute("DROP FUNCTION public.refuse() CASCADE")
    downgrade(database)
    assert database.query("SELECT DISTINCT ivr_greeting FROM student_configs") == [("Hello",)]


def test_a_drain_after_the_hand_back_keeps_what_was_kept(clone: Clone) -> None:
    database = clone("head")
    database.execute("UPDATE sessions SET is_active = NOT is_active, expires_at = '2031-01-01Z'")
    before = database.query(OWN)
    downgrade(database, "0003")
    database.execute("UPDATE student_configs SET use_case_description = 'later'")
    drain(database)
    downgrade(database)
    upgrade(database)
    assert database.query(OWN) == before
    assert failed_checks(database) == []
