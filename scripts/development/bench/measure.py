"""Measures one database up and down, and the two baselines."""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from psycopg import sql

from scripts.common.project import ROOT, SQL, configuration
from scripts.common.server import EmbeddedServer
from scripts.development.sample_data import fill

TABLES = ("students", "sessions", "step_progress", "events")
WRITES = 300
"""Number of single writes for a median."""
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
"""As on a server with real data; the floor pays for its commits as well."""

OBJECTS = """
SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint AS c
WHERE c.conrelid = ANY (%(tables)s::regclass[]) AND c.contype IN ('p', 'u')
UNION ALL
SELECT replace(pg_get_indexdef(i.indexrelid), ' ON public.', ' ON ')
FROM pg_index AS i
WHERE i.indrelid = ANY (%(tables)s::regclass[])
  AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
UNION ALL
SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint AS c
WHERE c.conrelid = ANY (%(tables)s::regclass[]) AND c.contype = 'f'
"""
"""Keys, indexes and foreign keys of the unified tables, in this order."""

ONE_SHOT = Path(__file__).with_name("one_shot.sql")
COUNTS = """
SELECT (SELECT count(*) FROM {0}.students), (SELECT count(*) FROM {0}.sessions),
       (SELECT count(*) FROM {0}.step_progress)
"""
BRIDGE = """
SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'bridge'::regnamespace),
       (SELECT count(*) FROM pg_class WHERE relnamespace = 'bridge'::regnamespace AND relkind = 'v'),
       (SELECT count(*) FROM pg_class WHERE relnamespace = 'bridge'::regnamespace AND relkind = 'r')
"""

Figures = dict[str, float]


class Bench:
    """One database of ``sessions`` sessions; ``figures`` has seconds, bytes and rows by name.

    ``jit``: the server compiles queries, as those of distributions do; the embedded one cannot.
    """

    def __init__(self, server: EmbeddedServer, sessions: int, say: Callable[[str], None]) -> None:
        self.server = server
        self.sessions = sessions
        self.say = say
        self.figures: Figures = {"sessions": sessions}
        self.legacy, self.database = f"legacy_{sessions}", f"bench_{sessions}"
        with self.connect("postgres") as admin:
            row = admin.execute("SELECT pg_jit_available()").fetchone()
            self.figures["jit"] = row is not None and row[0]
        self._create(self.legacy, "template0")
        with psycopg.connect(server.url(self.legacy)) as connection:
            fill(connection, sessions)
        with self.connect(self.legacy) as connection:
            connection.execute("VACUUM ANALYZE workshop_students")
            connection.execute("VACUUM ANALYZE student_configs")

    def connect(self, name: str | None = None) -> psycopg.Connection[Any]:
        """Return a connection in autocommit mode, by default to the benchmark's database."""
        return psycopg.connect(self.server.url(name or self.database), autocommit=True)

    def _create(self, name: str, template: str) -> None:
        with self.connect("postgres") as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            admin.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )

    def fresh(self) -> None:
        """Start again with the legacy tables only."""
        self._create(self.database, self.legacy)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the block: ``<name>``, and its WAL and temporary files."""
        self.say(f"{self.sessions:,} sessions: {name}")
        with self.connect("postgres") as admin:
            before = self._written(admin)
            began = time.perf_counter()
            yield
            self.figures[name] = time.perf_counter() - began
            wal, temporary = (a - b for a, b in zip(self._written(admin), before, strict=True))
        self.figures[f"{name}: WAL bytes"] = wal
        self.figures[f"{name}: temporary bytes"] = temporary

    def _written(self, admin: psycopg.Connection[Any]) -> tuple[float, float]:
        admin.execute("SELECT pg_stat_clear_snapshot()")
        row = admin.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0', "
            "coalesce((SELECT temp_bytes FROM pg_stat_database WHERE datname = %s), 0)",
            (self.database,),
        ).fetchone()
        assert row is not None
        return float(row[0]), float(row[1])

    def alembic(self, *command: str) -> None:
        """Run the command as a process; its start is part of the time."""
        subprocess.run(
            [sys.executable, "-m", "alembic", "-x", "drop_existing=false", *command],
            cwd=ROOT,
            env={"POSTGRES_URL": self.server.url(self.database), "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
        )

    def step(self, revision: str) -> None:
        """Upgrade in this process, without the start of Python."""
        command.upgrade(configuration(self.server.url(self.database)), revision)

    def call(self, procedure: str) -> None:
        """``CALL`` a procedure that commits chunk by chunk."""
        with self.connect() as connection:
            connection.execute(f"CALL {procedure}".encode())

    @contextmanager
    def _beside(self, schema: str) -> Iterator[tuple[psycopg.Connection[Any], list[str]]]:
        """Create a schema for a baseline and drop it at the end; yield its keys and indexes."""
        with self.connect() as connection:
            connection.execute("SET search_path = public")
            found = connection.execute(OBJECTS.encode(), {"tables": list(TABLES)}).fetchall()
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
            yield connection, [statement for (statement,) in found]
            connection.execute("SET client_min_messages = warning")
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))

    def floor(self) -> float:
        """Return the seconds for copying the finished rows and building keys and indexes."""
        with self._beside("floor") as (connection, objects):
            began = time.perf_counter()
            for name in TABLES:
                connection.execute(
                    sql.SQL("CREATE TABLE {0} AS SELECT * FROM public.{0}").format(
                        sql.Identifier(name)
                    )
                )
            for statement in objects:
                connection.execute(statement.encode())
            return time.perf_counter() - began

    def one_shot(self) -> float:
        """Return the seconds of the script by hand. Raises AssertionError if its row counts differ."""
        with self._beside("one_shot") as (connection, objects):
            began = time.perf_counter()
            with connection.transaction():
                connection.execute(ONE_SHOT.read_bytes())
                for statement in objects:
                    connection.execute(statement.encode())
            seconds = time.perf_counter() - began
            mine, theirs = (
                connection.execute(COUNTS.format(schema).encode()).fetchone()
                for schema in ("one_shot", "public")
            )
            assert mine == theirs, (mine, theirs)
            return seconds

    def write(self, name: str | None = None) -> float:
        """Return the median milliseconds of one saved configuration, in a transaction of its own."""
        with self.connect(name) as connection:
            tokens = connection.execute(
                "SELECT session_token FROM student_configs ORDER BY md5(session_token) LIMIT %s",
                (WRITES,),
            ).fetchall()
            taken = []
            for number, (token,) in enumerate(tokens):
                began = time.perf_counter()
                connection.execute(
                    "UPDATE student_configs SET system_prompt = %s, updated_at = now() WHERE session_token = %s",
                    (f"prompt {number}", token),
                )
                taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1000

    def overview(self) -> float:
        """Return the median milliseconds of ``session_overview`` for one student."""
        with self.connect() as connection:
            addresses = connection.execute(
                "SELECT student_email FROM students ORDER BY md5(student_email) LIMIT %s", (WRITES,)
            ).fetchall()
            taken = []
            for address in addresses:
                began = time.perf_counter()
                connection.execute(
                    "SELECT * FROM session_overview WHERE student_email = %s", address
                ).fetchall()
                taken.append(time.perf_counter() - began)
        return statistics.median(taken) * 1000

    def run(self) -> Figures:
        """Measure everything, with the floor before and after."""
        f = self.figures
        self.fresh()
        with self.timed("upgrade head"), self._memory():
            self.alembic("upgrade", "head")
        floors = [self.floor(), self.floor()]
        shots = [self.one_shot(), self.one_shot()]
        with self.timed("second merge"):
            self.call("bridge.merge()")
        with self.timed("verify"):
            self.call("bridge.run_checks(NULL)")
        floors.append(self.floor())
        shots.append(self.one_shot())
        self._count()
        f["session_overview of one student, ms"] = self.overview()
        with self.timed("downgrade base"):
            self.alembic("downgrade", "base")
        f["floor"] = statistics.median(floors)
        f["one-shot"] = statistics.median(shots)
        f["upgrade head / one-shot"] = f["upgrade head"] / f["one-shot"]

        self.fresh()
        self.alembic("upgrade", "0003")
        with self.timed("merge alone"):
            self.step("0004")
        with self.timed("keys and indexes"):
            self.step("0005")
        self.alembic("upgrade", "head")
        f["a write without the bridge, ms"] = self.write(self.legacy)
        f["a write carried over, ms"] = self.write()
        with self.connect("postgres") as admin:
            for name in (self.database, self.legacy):
                admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
        return f

    def _count(self) -> None:
        """Count the lines of the script and the objects of the bridge."""
        script = subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        files = [
            path
            for revision in ("0003", "0004", "0007")
            for path in SQL.glob(f"{revision}_*/[0-8]*.sql")
        ]
        self.figures["lines of the script"] = len(script.splitlines())
        self.figures["lines of SQL of 0003, 0004 and 0007"] = sum(
            len(path.read_text(encoding="utf-8").splitlines()) for path in files
        )
        with self.connect() as connection:
            row = connection.execute(BRIDGE.encode()).fetchone()
        assert row is not None
        names = ("functions and procedures of the bridge", "its views", "its tables")
        self.figures |= dict(zip(names, row, strict=True))

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Sample the peak of the private memory of a backend of the database (RssAnon)."""
        stop, peak = threading.Event(), [0.0]

        def sample() -> None:
            with self.connect("postgres") as admin:
                while not stop.wait(0.05):
                    for (pid,) in admin.execute(
                        "SELECT pid FROM pg_stat_activity WHERE datname = %s", (self.database,)
                    ):
                        try:
                            status = Path(f"/proc/{pid}/status").read_text()
                        except OSError:  # the process has ended, or this is not Linux
                            continue
                        for line in status.splitlines():
                            if line.startswith("RssAnon:"):
                                peak[0] = max(peak[0], float(line.split()[1]) * 1024)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.figures["memory of a backend, bytes"] = peak[0]
