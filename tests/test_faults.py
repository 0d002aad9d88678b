"""The migrator dies at named points, in several ways; the next run ends with the identical result.

About a dozen cases run with the suite, the rest with ``make faults`` (``--faults``).
"""

import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from scripts.common.server import EmbeddedServer, ServerUnavailable, embedded_server, restart_server
from scripts.development.sample_data import fill
from support.databases import (
    ROOT,
    Database,
    Server,
    changes,
    cloned,
    downgrade,
    dump,
    failed_checks,
    psql,
    script_of,
    upgrade,
)

SESSIONS = 1000


@dataclass(frozen=True)
class Point:
    """The point of a fault: the first moment at which the query is true."""

    command: tuple[str, str]
    query: str
    start: str
    """``Scene``: the state of the database at the start of the run."""


AT = "SELECT max(version_num) LIKE '{}%' FROM alembic_version"
STATE = "SELECT {} FROM bridge.state, alembic_version WHERE version_num LIKE '{}%'"
LOGGED = "(SELECT count(*) FROM bridge.change_log)"
SOME_APPLIED = f"{LOGGED} BETWEEN 1 AND {SESSIONS - 1}"
UP, DOWN = ("upgrade", "head"), ("downgrade", "base")
POINTS = {
    "tables created": Point(UP, AT.format("0001"), "base"),
    "sources": Point(UP, STATE.format("stage = 'sources' AND cursor_at <> ''", "0003"), "base"),
    "students": Point(UP, STATE.format("stage = 'students' AND cursor_at <> ''", "0003"), "base"),
    "sessions": Point(UP, STATE.format("stage = 'sessions' AND sessions > 0", "0003"), "base"),
    "backfill done": Point(UP, STATE.format("merged_at IS NOT NULL", "0003"), "base"),
    "drain": Point(UP, STATE.format(f"merged_at IS NOT NULL AND {SOME_APPLIED}", "0003"), "logged"),
    "keys": Point(UP, AT.format("0004"), "base"),
    "views": Point(UP, AT.format("0005"), "base"),
    "cut-over": Point(UP, AT.format("0006"), "base"),
    "names back": Point(DOWN, AT.format("0006"), "written"),
    "read-only": Point(DOWN, "SELECT bridge.is_read_only()", "written"),
    "drain of the hand-back": Point(
        DOWN, f"SELECT bridge.is_read_only() AND {SOME_APPLIED}", "written"
    ),
    "hand-back": Point(
        DOWN,
        f"SELECT bridge.is_read_only() AND {LOGGED} = 0 AND EXISTS (SELECT FROM bridge.override)",
        "written",
    ),
    "handed back": Point(DOWN, AT.format("0003"), "written"),
    "bridge gone": Point(DOWN, AT.format("0002"), "written"),
}
SCRIPTS = {"upgrade": "head", "downgrade": "head:base"}
WAYS = ("kill -9", "terminate", "immediate stop", "dropped connection", "psql, kill -9")
WITH_THE_SUITE = {
    *((point, "kill -9") for point in ("sources", "drain", "keys", "cut-over")),
    *((point, "kill -9") for point in ("drain of the hand-back", "hand-back", "bridge gone")),
    *(("sessions", way) for way in WAYS),
    ("handed back", "dropped connection"),
    ("handed back", "psql, kill -9"),
}


@dataclass(frozen=True)
class Scene:
    """A server that may be stopped, and the results of uninterrupted runs on the same database."""

    embedded: EmbeddedServer
    server: Server
    expected: dict[str, list[str]]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    if request.config.option.postgresql_host:
        pytest.skip("needs a server of its own, to stop it: not with --postgresql-host")
    try:
        major, durable = request.config.option.major, {"synchronous_commit": "on"}
        with embedded_server(major=major, settings=durable) as embedded:
            server = Server(embedded.host, embedded.port, embedded.user, None, embedded.bin_dir)
            make(server, "base", None, fill_it)
            make(server, "logged", "base", log_every_session)
            make(server, "head", "base", upgrade)
            make(server, "written", "head", write_to_every_session)
            make(server, "back", "written", downgrade)
            expected = {name: result(Database(server, name)) for name in ("head", "back")}
            yield Scene(embedded, server, expected)
    except ServerUnavailable as error:
        pytest.fail(str(error), pytrace=False)


def result(database: Database) -> list[str]:
    """The lines of the dump, without the events that count the runs; the order of pg_dump's objects varies."""
    return sorted(line for line in dump(database) if "legacy_merge\t" not in line)


def fill_it(database: Database, sessions: int = SESSIONS) -> None:
    with database.connect() as connection:
        fill(connection, sessions)
        # a time of the run could not be compared
        connection.execute("""
            ALTER TABLE workshop_students DISABLE TRIGGER USER;
            ALTER TABLE student_configs ALTER created_at DROP DEFAULT, ALTER updated_at DROP DEFAULT;
            ALTER TABLE student_configs ADD CHECK (ivr_greeting <> 'refused')
        """)


def log_every_session(database: Database) -> None:
    """As after a write to each of them between 0003 and 0004."""
    upgrade(database, "0003")
    database.execute(
        "INSERT INTO bridge.change_log (side, token) SELECT 'legacy', token FROM bridge.tokens"
    )


def write_to_every_session(database: Database) -> None:
    """Values that the legacy tables accept, that they refuse, and that they have no column for."""
    database.execute("""
        UPDATE bridge.state SET sync = false;
        UPDATE sessions SET use_case_description = 'written to ' || session_token,
                            ivr_greeting = CASE WHEN session_token ~ '[08]$' THEN 'refused' ELSE ivr_greeting END,
                            expires_at = expires_at + interval '1 day';
        UPDATE students SET github_username = 'gh ' || student_email;
    """)
    database.execute("UPDATE bridge.state SET sync = true")


def make(
    server: Server, name: str, template: str | None, action: Callable[[Database], object]
) -> None:
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template or "template0")}
    server.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
    action(Database(server, name))


@contextmanager
def running(*command: str | Path, url: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "POSTGRES_URL_NON_POOLING": url},
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


class Line:
    """A connection to the server that can be cut: bytes flow both ways until ``cut()`` closes both ends."""

    def __init__(self, server: Server) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="line-", dir="/tmp")
        self.server = replace(server, host=self.folder.name)
        self.target = f"{server.host}/.s.PGSQL.{server.port}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.folder.name}/.s.PGSQL.{server.port}")
        self.listener.listen()
        self.peers = selectors.DefaultSelector()
        self.peers.register(self.listener, selectors.EVENT_READ)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._carry)
        self.thread.start()

    def _carry(self) -> None:
        with self.listener, ExitStack() as ends:
            while not self.over.is_set():
                for key, _ in self.peers.select(0.05):
                    if key.fileobj is self.listener:
                        near = ends.enter_context(self.listener.accept()[0])
                        far = ends.enter_context(socket.socket(socket.AF_UNIX))
                        far.connect(self.target)
                        self.peers.register(near, selectors.EVENT_READ, far)
                        self.peers.register(far, selectors.EVENT_READ, near)
                    else:
                        self._pass_on(key.fileobj, key.data)

    def _pass_on(self, source: Any, sink: socket.socket) -> None:
        data = b""
        with suppress(OSError):  # one end is closed already
            data = source.recv(65536)
            sink.sendall(data)
        if not data:
            for end in (source, sink):
                with suppress(KeyError, ValueError):
                    self.peers.unregister(end)
                end.close()

    def cut(self) -> None:
        self.over.set()
        self.thread.join()
        self.folder.cleanup()


WATCHER = "watcher"
MIGRATORS = f"""
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
      AND application_name <> '{WATCHER}'
"""


class Unseen(Exception):
    """The run ended before its point was seen: it proves nothing."""


def hold_at(
    database: Database, point: Point, process: "subprocess.Popen[bytes]"
) -> psycopg.Connection[Any]:
    """Wait until the point is reached; no other revision commits while the connection is open.

    Some revisions take a few milliseconds: polling at long intervals would miss them.
    """
    while process.poll() is None and database.query(f"SELECT count(*) {MIGRATORS}") == [(0,)]:
        time.sleep(0.02)  # the run imports its modules
    # so that the run and the watcher never wait long for each other
    limit = "-c lock_timeout=100ms"
    url = f"{database.url}&application_name={WATCHER}"
    watcher = psycopg.connect(url, autocommit=True, options=limit)
    hold = f"BEGIN; LOCK TABLE alembic_version IN SHARE MODE; {point.query}"
    while process.poll() is None:
        with suppress(psycopg.Error):
            if watcher.execute(hold.encode()).set_result(-1).fetchone() == (True,):
                return watcher
        watcher.execute("ROLLBACK")
        time.sleep(0.001)
    watcher.close()
    raise Unseen(
        f"the run ended (status {process.returncode}) and was never seen at: {point.query}"
    )


def gone_after(database: Database, struck: float) -> float:
    """Seconds from the fault until the migrator has no session and no lock left."""
    while database.query(f"SELECT count(*) {MIGRATORS}") != [(0,)]:
        assert time.monotonic() - struck < 2, "its locks are still held"
        time.sleep(0.02)
    return time.monotonic() - struck


def strike(scene: Scene, database: Database, point: str, way: str, folder: Path) -> None:
    """Run the point's command until it is reached, and end the run in that way."""
    command = POINTS[point].command
    alembic: tuple[str | Path, ...] = (sys.executable, "-m", "alembic", *command)
    url = database.url
    with ExitStack() as stack:
        if way == "dropped connection":
            line = Line(database.server)
            stack.callback(line.cut)
            url = replace(database, server=line.server).url
        elif way.startswith("psql"):
            script = folder / "script.sql"
            script.write_text(script_of(command[0], revisions_of(point)), encoding="utf-8")
            alembic = (database.server.bin_dir / "psql", "-X", "-f", script, database.url)
        process = stack.enter_context(running(*alembic, url=url))
        watcher = stack.enter_context(closing(hold_at(database, POINTS[point], process)))
        struck = time.monotonic()
        if way.endswith("kill -9"):
            process.kill()
        elif way == "dropped connection":
            line.cut()
        elif way == "terminate":
            database.query(f"SELECT pg_terminate_backend(pid) {MIGRATORS}")
        else:
            restart_server(scene.embedded)
            struck = time.monotonic()
        watcher.close()
        gone_after(database, struck)
        process.wait(30)


def go_on(
    database: Database, command: tuple[str, str], way: str, folder: Path, revisions: str
) -> None:
    """The operator's next step: the same command again, or the same script."""
    if not way.startswith("psql"):
        (upgrade if command[0] == "upgrade" else downgrade)(database)
        return
    done = psql(database, script_of(command[0], revisions), folder)
    assert done.returncode == 0, done.stderr


def revisions_of(point: str) -> str:
    """The script of this point."""
    return "0003:head" if POINTS[point].start == "logged" else SCRIPTS[POINTS[point].command[0]]


def cases() -> list[object]:
    return [
        pytest.param(point, way, marks=() if (point, way) in WITH_THE_SUITE else pytest.mark.faults)
        for point in POINTS
        for way in WAYS
    ]


@contextmanager
def struck(scene: Scene, point: str, way: str, folder: Path) -> Iterator[Database]:
    """A database after a run that ended at that point, in that way."""
    for attempts_left in (2, 1, 0):
        with cloned(scene.server, POINTS[point].start) as database:
            try:
                strike(scene, database, point, way, folder)
            except Unseen:
                assert attempts_left, "never seen"
                continue
            yield database
            return


@pytest.mark.parametrize(("point", "way"), cases())
def test_the_next_run_finishes(scene: Scene, tmp_path: Path, point: str, way: str) -> None:
    command = POINTS[point].command
    with struck(scene, point, way, tmp_path) as database:
        go_on(database, command, way, tmp_path, revisions_of(point))
        end = "head" if command == UP else "back"
        found = changes(scene.expected[end], result(database))
        assert not found, "\n".join(found)


@pytest.mark.parametrize("point", ["drain of the hand-back", "hand-back"])
def test_an_upgrade_after_a_killed_hand_back_loses_nothing(
    scene: Scene, tmp_path: Path, point: str
) -> None:
    values = """
        SELECT session_token, student_email, github_username, use_case_description, ivr_greeting, expires_at
        FROM sessions JOIN students USING (student_id) ORDER BY session_token
    """
    with struck(scene, point, "kill -9", tmp_path) as database:
        upgrade(database)
        assert database.query(values) == Database(scene.server, "written").query(values)
        assert failed_checks(database) == []


@pytest.mark.faults
def test_eight_kills_at_random_moments(scene: Scene) -> None:
    """One upgrade of 3,000 sessions that is killed repeatedly, and then completes."""
    moments = random.Random(20261124)
    make(scene.server, "large", None, lambda database: fill_it(database, 3 * SESSIONS))
    with cloned(scene.server, "large") as database:
        began = time.monotonic()
        upgrade(database)
        whole = time.monotonic() - began
        expected = result(database)
    with cloned(scene.server, "large") as database:
        for _ in range(8):
            alembic = (sys.executable, "-m", "alembic", "upgrade", "head")
            with running(*alembic, url=database.url) as process:
                while database.query(f"SELECT count(*) {MIGRATORS}") == [(0,)]:
                    assert process.poll() is None, "it was over before the last kill"
                    time.sleep(0.005)
                time.sleep(moments.uniform(0, whole / 4))
                process.kill()
                gone_after(database, time.monotonic())
        upgrade(database)
        assert changes(expected, result(database)) == []
