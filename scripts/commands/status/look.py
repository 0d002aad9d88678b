"""Read a database: every field of ``Status``."""

import time
from collections.abc import Callable, Iterator

import psycopg
from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.exc import OperationalError

from scripts.commands.status.advice import MERGE, what_next
from scripts.commands.status.damage import find_damage
from scripts.commands.status.facts import (
    BRIDGE,
    CHANGED,
    DRIFT,
    DROPPED,
    FACTS,
    LOCKS,
    MERGING,
    MIGRATOR,
    NOT_VERIFIED,
    OLD_TABLES,
    ROWS,
    SOURCES,
    STAGES,
    TOTAL,
    stage_of,
)
from scripts.commands.status.report import Status
from scripts.common import limitations
from scripts.common.database import revisions_in, run
from scripts.common.project import known_revisions, project


def examine(connection: Connection, say: Callable[[str], None] = lambda _: None) -> Status:
    """Read every field of ``Status``; ``say`` gets lines of progress."""
    head = str(project().get_current_head())
    # a locked table is reported; the command does not wait for it
    run(connection, "SET lock_timeout = '200ms'")
    has = run(connection, FACTS).mappings().one()
    found = revisions_in(connection)
    status = Status(has["database"], ", ".join(found) or None, head)
    unknown = status.revision not in {None, *known_revisions()}
    status.stage = "unknown" if unknown else STAGES[stage_of(status.revision)]
    migrator = run(connection, MIGRATOR).mappings().first()
    status.migrator = dict(migrator) if migrator else None
    status.locks = [
        dict(row) for row in connection.execute(text(LOCKS), {"tables": OLD_TABLES}).mappings()
    ]
    status.warnings = limitations.serializable(connection)
    bridge = run(connection, BRIDGE).mappings().one() if has["bridge"] else None
    if bridge:
        status.syncs_at_once, status.read_only = bridge["sync"], bridge["read_only"]
        status.pending = {"legacy": bridge["legacy"], "unified": bridge["unified"]}
        status.kept = bridge["kept"]
        if status.stage == STAGES["0003"] and (bridge["merging"] or bridge["merged"]):
            status.stage = NOT_VERIFIED if bridge["merged"] else MERGING
    sources = run(connection, SOURCES).mappings().all() if has["bridge"] else []
    status.tables = {source["name"]: source["relation"] for source in sources}
    # a running step is visible only in part, and its objects are no damage
    if status.migrator is None:
        find_damage(connection, status, unknown, has, bridge, sources)
    try:
        if status.revision is None or status.revision < "0003":
            status.rows = dict(_count_rows(connection))
        elif bridge and not status.problems and not has["missing"]:
            _read_tables(connection, status, bridge, say)
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        status.problems.append(
            "the sessions could not be counted: another session holds a lock on a table. Run this again when "
            "that has ended"
        )
    if status.problems:
        status.next = status.problems[0]
    else:
        what_next(status, has)
        if status.revision == status.head and not has["bridge"]:
            status.stage = "all done: there are no legacy tables"
        if has["dropped"]:
            status.next += f": {run(connection, DROPPED).scalar_one()}"
    return status


def _count_rows(connection: Connection) -> Iterator[tuple[str, int | None]]:
    """Yield the name of each legacy table with its rows."""
    for name, is_there, estimate in run(connection, ROWS).all():
        if is_there and estimate is None:
            estimate = run(connection, f"SELECT count(*) FROM public.{name}").scalar_one()
        yield name, estimate


def _read_tables(
    connection: Connection, status: Status, bridge: RowMapping, say: Callable[[str], None]
) -> None:
    """Read the legacy tables themselves, which may be locked."""
    if bridge["merging"]:
        status.merge = {
            "done": bridge["done"],
            **_add_up(connection, TOTAL, ("total",), say, "counted"),
        }
        # sessions deleted meanwhile are done, but no longer counted
        status.merge["done"] = min(status.merge["done"], status.merge["total"])
    elif bridge["merged"]:
        names = ("not_in_unified", "not_in_legacy")
        status.drift = _add_up(connection, DRIFT, names, say, "compared")
    status.columns_changed = changed = [*run(connection, CHANGED).scalars()]
    # the next revisions read new columns by themselves
    if changed and status.revision == status.head and status.migrator is None:
        status.problems.append(
            f"columns or a key of {' and '.join(changed)} changed, and the bridge does not know it yet: "
            f"{MERGE} reads them"
        )
        status.commands = [MERGE]


def _add_up(
    connection: Connection,
    query: str,
    names: tuple[str, ...],
    say: Callable[[str], None],
    what: str,
) -> dict[str, int]:
    """Sum a query over all tokens, in ranges of some 40 ms, because the application may have to wait."""
    sums, after, size, seen = dict.fromkeys(names, 0), "", 500, 0
    while True:
        began = time.monotonic()
        row = connection.execute(text(query), {"after": after, "size": size}).mappings().first()
        if row is None:
            return sums
        after = row["last"]
        for name in names:
            sums[name] += row[name]
        seen += row["sessions"]
        say(f"{what}: {seen:,} sessions")
        took = time.monotonic() - began
        size = min(2 * size, 2_000, max(100, int(size * 0.04 / max(took, 0.001))))
