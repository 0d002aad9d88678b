"""Load: both applications write while upgrade, downgrade and upgrade run.

The suite calls ``run`` for a minute; by hand, on a server of its own::

    python tests/support/soak.py --writes 1000000

No code of the bridge judges the result: the oracle compares both sides, value by value, and plain
queries count. Waits are those of the applications; lock times are sampled from ``pg_locks``.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from scripts.common.server import embedded_server  # noqa: E402
from scripts.development.sample_data import fill  # noqa: E402
from support.databases import Database, Server, downgrade, failed_checks, upgrade  # noqa: E402
from support.oracle import CONFIG, PROGRESS, differences, predict, read_legacy, read_v2  # noqa: E402
from support.writers import NewApplication, OldApplication, Writer  # noqa: E402

# Errors of a moved endpoint before the unified tables exist, and while they are dropped.
NOT_THERE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.ForeignKeyViolation,
)
# Granted locks of clients other than writers, by transaction, on the legacy tables under either
# name.
HELD = """
SELECT l.virtualtransaction, l.mode, c.relname::text
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND c.relkind = 'r' AND a.application_name <> 'writer' AND l.pid <> pg_backend_pid()
  AND a.backend_type = 'client backend'
  AND c.relname ~ '^(workshop_students|student_configs)'
"""


@dataclass
class Load:
    """Results: requests by name, errors, waits in seconds, longest hold of each lock."""

    requests: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    held: dict[tuple[str, str], float] = field(default_factory=dict)

    def longest(self) -> float:
        return max(self.waits, default=0.0)


class Traffic:
    """Writers on threads of their own, until stopped; ``with Traffic(...) as load``."""

    def __init__(
        self, database: Database, *kinds: type[Writer], few: int = 200, pause: float = 0
    ) -> None:
        self.load = Load()
        self.pause = pause
        self.stop = threading.Event()
        query = "SELECT session_token FROM student_configs ORDER BY md5(session_token) LIMIT %s"
        tokens = [token for (token,) in database.query(query, few)]
        url = f"{database.url}&application_name=writer"
        self.threads = [
            threading.Thread(target=self._write, args=(kind, url, seed, tokens))
            for seed, kind in enumerate(kinds, 1)
        ]
        self.threads.append(threading.Thread(target=self._sample, args=(database,)))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self.load

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _write(self, kind: type[Writer], url: str, seed: int, tokens: list[str]) -> None:
        with closing(kind(url, seed, tokens)) as writer:
            while not self.stop.wait(self.pause):
                try:
                    self.load.requests[f"{kind.__name__} {writer.act()}"] += 1
                    self.load.waits.append(writer.seconds)
                except NOT_THERE as error:
                    if kind is OldApplication:
                        self.load.errors.append(f"{kind.__name__}: {error}")
                    time.sleep(0.05)
                except psycopg.Error as error:
                    self.load.errors.append(f"{kind.__name__}: {error}")

    def _sample(self, database: Database) -> None:
        since: dict[tuple[Any, ...], float] = {}
        with database.connect() as connection:
            while not self.stop.is_set():
                now = time.monotonic()
                found = connection.execute(HELD.encode()).fetchall()
                since = {lock: since.get(lock, now) for lock in found}
                for (_, mode, relation), began in since.items():
                    key = (relation.split("_backup_")[0], mode)
                    self.load.held[key] = max(self.load.held.get(key, 0.0), now - began)
                time.sleep(0.004)


def compare(database: Database) -> list[str]:
    """Drain, then compare every value of every session with the oracle."""
    with database.connect() as connection:
        connection.execute("CALL bridge.drain()")
        names = dict(
            connection.execute("SELECT legacy_name, relation::text FROM bridge.source").fetchall()
        )
        expected = predict(
            read_legacy(connection, names[PROGRESS]), read_legacy(connection, names[CONFIG])
        )
        found = read_v2(connection)
    lines = [line for line in differences(expected, found) if line.startswith("session")]
    # differences by design: overrides, and the value for a current_step that no legacy row has
    known = (".legacy_extra", ".exercises", ".current_step")
    lines = [line for line in lines if not any(column in line for column in known)]
    return lines + [str(check) for check in failed_checks(database)]


STAGES: tuple[tuple[str, Callable[[Database], None]], ...] = (
    ("upgrade head", upgrade),
    ("downgrade base", downgrade),
    ("upgrade head again", upgrade),
)


def report(title: str, load: Load, out: Callable[[str], object]) -> None:
    waits = sorted(load.waits) or [0.0]
    out(
        f"{title}: {sum(load.requests.values()):,} requests, {len(load.errors)} errors, "
        f"median {waits[len(waits) // 2] * 1000:.0f} ms, "
        f"99 % {waits[int(len(waits) * 0.99)] * 1000:.0f} ms, longest {load.longest() * 1000:.0f} ms"
    )
    for (relation, mode), seconds in sorted(load.held.items()):
        out(f"    {relation} {mode}: held for {seconds * 1000:.0f} ms at most")


def main(
    writes: Annotated[
        int, typer.Option(help="Requests after which the last stage ends.")
    ] = 1_000_000,
    sessions: Annotated[int, typer.Option(help="Sessions to begin with.")] = 32_000,
    pause: Annotated[float, typer.Option(help="Milliseconds between a writer's requests.")] = 10,
) -> None:
    """Write while upgrade, downgrade, upgrade run, then until the number is reached; compare after each."""
    writers = (OldApplication, OldApplication, NewApplication, NewApplication)
    with embedded_server() as embedded:
        server = Server(embedded.host, embedded.port, embedded.user, None, embedded.bin_dir)
        database = Database(server, server.maintenance_dbname)
        with database.connect() as connection:
            fill(connection, sessions)
        with Traffic(database, *writers[:2], pause=pause / 1000) as load:
            time.sleep(10)
        report("without the migration", load, typer.echo)
        wrong, done = list(load.errors), sum(load.requests.values())
        for title, action in STAGES:
            began = time.monotonic()
            with Traffic(database, *writers, pause=pause / 1000) as load:
                action(database)
            report(f"{title} ({time.monotonic() - began:.0f} s)", load, typer.echo)
            wrong += load.errors
            done += sum(load.requests.values())
            if title != "downgrade base":
                found = compare(database)
                typer.echo(
                    f"    {len(found)} differences{''.join(f'; {line}' for line in found[:5])}"
                )
                wrong += found
        # with sync at once there is no drain that they could outrun
        with Traffic(database, *writers) as load:
            while done + sum(load.requests.values()) < writes:
                time.sleep(1)
        report("in step", load, typer.echo)
        wrong += load.errors + compare(database)
    for line in wrong[:20]:
        typer.echo(f"WRONG: {line[:300]}", err=True)
    typer.echo(f"{len(wrong)} differences and errors")
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
