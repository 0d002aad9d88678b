"""A short load test: both applications write while the migration runs. The long one is soak.py.

Also the cost of a write on a server as distributions install it, which compiles queries (JIT).
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from scripts.commands.status import examine
from scripts.common.database import database
from scripts.common.server import ServerUnavailable, embedded_server
from scripts.development.bench import DURABLE
from scripts.development.sample_data import fill
from support.databases import Clone, Database, Server, upgrade
from support.soak import Traffic, compare
from support.writers import NewApplication, OldApplication

MANY = 60_000
"""Number of sessions with which a slow command is noticed."""
MANY_SESSIONS = f"""
SET session_replication_role = replica;
INSERT INTO students (student_email) VALUES ('many@example.com');
INSERT INTO sessions (session_token, student_id)
SELECT 'many-' || n, student_id FROM students CROSS JOIN generate_series(1, {MANY}) AS n
WHERE student_email = 'many@example.com';
INSERT INTO workshop_students (session_token, student_email)
SELECT 'many-' || n, 'many@example.com' FROM generate_series(1, {MANY}) AS n;
RESET session_replication_role;
ANALYZE
"""
"""Insert the same sessions on both sides, without triggers."""
SAVE = "UPDATE student_configs SET system_prompt = %s, updated_at = now() WHERE session_token = %s"


@pytest.mark.parametrize("writers", [(OldApplication, OldApplication, NewApplication)])
def test_no_request_fails_and_no_write_is_lost(clone: Clone, writers: tuple[type, ...]) -> None:
    """Both applications write while the upgrade runs."""
    database = clone("legacy")
    with Traffic(database, *writers, few=100, pause=0.01) as load:
        upgrade(database)
    assert load.errors == []
    assert sum(load.requests.values()) > 50
    assert compare(database) == []


@pytest.fixture(scope="module")
def stock() -> Iterator[tuple[Database, Database]]:
    """A database at base and one at head, on a durable server that compiles queries."""
    try:
        with embedded_server(jit=True, settings=DURABLE) as embedded:
            server = Server(embedded.host, embedded.port, embedded.user, None, Path())
            base, head = Database(server, "base"), Database(server, "head")
            server.execute(sql.SQL("CREATE DATABASE base"))
            with base.connect() as connection:
                fill(connection, 1000)
                connection.execute("VACUUM ANALYZE")
            server.execute(sql.SQL("CREATE DATABASE head TEMPLATE base"))
            upgrade(head)
            assert head.query("SELECT pg_jit_available()") == [(True,)]
            yield base, head
    except ServerUnavailable as error:
        pytest.skip(f"no packaged PostgreSQL: {error}")


def test_a_write_at_head_costs_little_more_than_one_at_base(
    stock: tuple[Database, Database],
) -> None:
    """In turns, so that other load on the machine affects all of them equally."""
    with stock[0].connect() as base, stock[1].connect() as head, stock[1].connect() as without_jit:
        without_jit.execute("SET jit = off")
        tokens = base.execute("SELECT session_token FROM student_configs LIMIT 200").fetchall()
        seconds: dict[str, list[float]] = {"base": [], "head": [], "without JIT": []}
        for number, (token,) in enumerate(tokens):
            for name, connection in zip(seconds, (base, head, without_jit), strict=True):
                began = time.perf_counter()
                connection.execute(SAVE, (f"prompt {number} {name}", token))
                seconds[name].append(time.perf_counter() - began)
    applied = "SELECT count(*) FROM sessions WHERE system_prompt LIKE 'prompt % without JIT'"
    assert stock[1].query(applied) == [(200,)]
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    assert median["head"] < 15 * median["base"]
    assert median["head"] < 2 * median["without JIT"]


def test_status_of_many_sessions_takes_seconds(stock: tuple[Database, Database]) -> None:
    head = stock[1]
    head.execute(MANY_SESSIONS)
    began = time.monotonic()
    with database(head.url, "AUTOCOMMIT") as connection:
        status = examine(connection)
    assert time.monotonic() - began < 5
    assert status.problems == []
    assert status.drift == {"not_in_unified": 0, "not_in_legacy": 0}
    assert head.query("SELECT count(*) > %s FROM sessions", MANY) == [(True,)]
