"""The same rows and students in every locale: of the database, and of a column."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from support.databases import Database, Server, deviations, downgrade, failed_checks, upgrade
from support.eras import ERAS, load

LOCALES: dict[str, LiteralString] = {
    "C": "LC_COLLATE 'C' LC_CTYPE 'C'",
    "C.UTF-8": "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
    "icu tr-TR": "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C.UTF-8'",
    "icu en-US": "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'",
    "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'",
}
ADDRESSES = """
INSERT INTO workshop_students (session_token, student_email, student_name, exercises)
VALUES ('L1', 'INFO@IST.ORG', 'Ii', '{"step-1-connect-accounts": {"completed": "TRUE", "timeSpent": "٣"}}'),
       ('L2', 'İINFO@ist.org', 'İİ', '{}'), ('L3', 'É@X.org', 'E', '{}'), ('L4', 'é@x.org', 'e', '{}'),
       ('L5', 'STRASSE@X.org', 'S', '{}'), ('L6', 'STRAßE@X.org', 'ß', '{}'), ('L7', 'ıNFO@ist.org', 'ı', '{}');
-- of the same moment: the token decides which name a student has
INSERT INTO student_configs (session_token, student_email, student_name, created_at, updated_at)
SELECT t, 'Tie@X.org', 'name of ' || t, '2025-01-01', '2025-01-01'
FROM unnest(ARRAY['b', 'A', '_', 'É', 'a', 'Z']) AS t;
INSERT INTO student_configs (session_token, student_email) VALUES ('M1', 'info@ist.org'), ('M2', ' Info@Ist.org ')
"""
ROWS = (
    "SELECT student_id::text, student_email, student_name FROM students ORDER BY student_id",
    """SELECT session_token, student_id::text, exercises::text, total_time_spent FROM sessions
       ORDER BY session_token COLLATE "C" """,
    """SELECT session_token, step_number, time_spent, validation_passed FROM step_progress
       ORDER BY session_token COLLATE "C", step_number""",
)

CREATE = "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {options}"
UNKNOWN = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.SyntaxError,
    psycopg.errors.WrongObjectType,
)
Create = Callable[[str], Database]


@pytest.fixture
def create(server: Server) -> Iterator[Create]:
    """Return a function that makes databases with options of CREATE DATABASE; skips if the server lacks the locale."""
    with ExitStack() as stack:

        def make(locale: str) -> Database:
            name = "workshop_locale_" + locale.replace(" ", "_")
            names = {"name": sql.Identifier(name), "options": sql.SQL(LOCALES[locale])}
            try:
                server.execute(sql.SQL(CREATE).format(**names))
            except UNKNOWN as error:
                pytest.skip(f"{locale}: {error.diag.message_primary}")
            drop = sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names)
            stack.callback(server.execute, drop)
            return Database(server, name)

        yield make


def migrated(database: Database) -> list[list[tuple[Any, ...]]]:
    """The rows after the merge."""
    with database.connect() as connection:
        load(connection, ERAS["B"])
    database.execute(ADDRESSES)
    upgrade(database, "0006")
    assert deviations(database) == []
    assert failed_checks(database) == []
    return [database.query(query) for query in ROWS]


@pytest.fixture(scope="module")
def expected() -> list[list[tuple[Any, ...]]]:
    """The rows of the first database."""
    return []


@pytest.mark.parametrize("name", LOCALES)
def test_every_database_gets_the_same_rows(
    create: Create, expected: list[list[tuple[Any, ...]]], name: str
) -> None:
    database = create(name)
    rows = migrated(database)
    if not expected:
        expected.extend(rows)
    assert rows == expected
    emails = {row[1] for row in rows[0]}
    assert {"info@ist.org", "İinfo@ist.org", "É@x.org", "é@x.org", "straße@x.org"} <= emails
    assert [row[2] for row in rows[0] if row[1] == "tie@x.org"] == ["name of A"]
    downgrade(database)
