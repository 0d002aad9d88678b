"""Writes of an application on one side or the other."""

from collections.abc import Iterator
from contextlib import contextmanager

from support.databases import Database
from support.oracle import CONFIG, PROGRESS


def token_of(database: Database) -> str:
    """A session in both legacy tables."""
    ((token,),) = database.query(
        f"SELECT max(session_token) FROM {CONFIG} JOIN {PROGRESS} USING (session_token)"
    )
    return str(token)


def legacy(database: Database, token: str, assignments: str) -> None:
    database.execute(f"UPDATE {CONFIG} SET {assignments} WHERE session_token = '{token}'")


def unified(database: Database, token: str, assignments: str) -> None:
    database.execute(f"UPDATE sessions SET {assignments} WHERE session_token = '{token}'")


@contextmanager
def logged_only(database: Database) -> Iterator[None]:
    """Writes in the block are applied together at its end."""
    database.execute("UPDATE bridge.state SET sync = false")
    yield
    database.execute("UPDATE bridge.state SET sync = true")
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")
