"""The migrator dies at named points, in three ways; the next run finishes to the identical result.

About ten cases run with the suite, the rest with ``make faults`` (``--faults``).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from databases import ROOT, Database, Server, changes, cloned, downgrade, dump, upgrade
from scripts.sample_data import fill
from scripts.server import EmbeddedServer, ServerUnavailable, embedded_server, restart_server

SESSIONS = 1500


@dataclass(frozen=True)
class Point:
    """Where a run is struck: the first moment at which the query says true."""

    command: tuple[str, str]
    query: str


AT = "SELECT max(version_num) LIKE '{}%' FROM alembic_version"
STATE = "SELECT {} FROM bridge.state, alembic_version WHERE version_num LIKE '{}%'"
POINTS = {
    "tables created": Point(("upgrade", "head"), AT.format("0001")),
    "merge begun": Point(("upgrade", "head"), STATE.format("merge_cursor > ''", "0003")),
    "merge done": Point(("upgrade", "head"), STATE.format("merged_at IS NOT NULL", "0003")),
    "keys": Point(("upgrade", "head"), AT.format("0004")),
    "views": Point(("upgrade", "head"), AT.format("0005")),
    "cut-over": Point(("upgrade", "head"), AT.format("0006")),
    "names back": Point(("downgrade", "base"), AT.format("0006")),
    "read-only": Point(("downgrade", "base"), "SELECT bridge.is_read_only()"),
    "carried back": Point(("downgrade", "base"), AT.format("0003")),
    "bridge gone": Point(("downgrade", "base"), AT.format("0002")),
}
WAYS = ("kill -9", "terminate", "immediate stop")
WITH_THE_SUITE = {
    *((point, "kill -9") for point in POINTS if point not in ("views", "names back")),
    ("merge begun", "terminate"),
    ("merge begun", "immediate stop"),
}


@dataclass(frozen=True)
class Scene:
    """A server that may be stopped, and what uninterrupted runs make of the same database."""

    embedded: EmbeddedServer
    server: Server
    expected: dict[str, list[str]]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.config.option.postgresql_host:
        pytest.skip("needs a server of its own, to stop it: not with --postgresql-host")
    try:
        with embedded_server(major=request.config.option.major) as embedded:
            server = Server(embedded.host, embedded.port, embedded.user, None, embedded.bin_dir)
            make(server, "base", None, fill_it)
            make(server, "head", "base", upgrade)
            make(server, "back", "head", downgrade)
            expected = {name: result(Database(server, name)) for name in ("head", "back")}
            yield Scene(embedded, server, expected)
    except ServerUnavailable as error:
        pytest.fail(str(error), pytrace=False)


def result(database: Database) -> list[str]:
    """The whole dump, but for the events that count the runs."""
    return [line for line in dump(database) if "legacy_merge\t" not in line]


def fill_it(database: Database) -> None:
    with database.connect() as connection:
        fill(connection, SESSIONS)


def make(
    server: Server, name: str, template: str | None, action: Callable[[Database], object]
) -> None:
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template or "template0")}
    server.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
    action(Database(server, name))


@contextmanager
def running(database: Database, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "alembic", *command],
        cwd=ROOT,
        env={**os.environ, "POSTGRES_URL_NON_POOLING": database.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(database: Database, point: Point, process: "subprocess.Popen[bytes]") -> None:
    """Until the point is reached, or the run is over: then it is struck too late, harmlessly."""
    with database.connect() as connection:
        while process.poll() is None:
            with suppress(psycopg.Error):
                if connection.execute(point.query.encode()).fetchone() == (True,):
                    return
            time.sleep(0.005)


MIGRATORS = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def strike(scene: Scene, database: Database, way: str, process: "subprocess.Popen[bytes]") -> None:
    if way == "kill -9":
        process.kill()
    elif way == "terminate":
        database.query(f"SELECT pg_terminate_backend(pid) {MIGRATORS}")
    else:
        restart_server(scene.embedded)
    process.wait()


def cases() -> list[object]:
    return [
        pytest.param(point, way, marks=() if (point, way) in WITH_THE_SUITE else pytest.mark.faults)
        for point in POINTS
        for way in WAYS
    ]


@pytest.mark.parametrize(("point", "way"), cases())
def test_the_next_run_finishes(scene: Scene, point: str, way: str) -> None:
    command = POINTS[point].command
    start, end = ("base", "head") if command[0] == "upgrade" else ("head", "back")
    with cloned(scene.server, start) as database:
        with running(database, *command) as process:
            wait_for(database, POINTS[point], process)
            strike(scene, database, way, process)
        struck = time.monotonic()
        while database.query(f"SELECT count(*) {MIGRATORS}") != [(0,)]:
            assert time.monotonic() - struck < 5, "its locks are still held"
            time.sleep(0.05)
        (upgrade if command[0] == "upgrade" else downgrade)(database)
        assert changes(scene.expected[end], result(database)) == []
