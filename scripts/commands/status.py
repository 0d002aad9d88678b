"""Where the migration stands: what is done, what waits, who locks what, and what to do next.

Reads in short transactions, and changes nothing without ``--drain``. Copes with what was dropped,
renamed or stamped by hand, and names the commands that lead back on track.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from scripts.common import limitations
from scripts.common.connection import ADVISORY_LOCK, VERSION_TABLE_ADVICE, explain
from scripts.common.obstacles import misnamed
from scripts.common.report import (
    VERSION_TABLE,
    Json,
    Url,
    console,
    database,
    known_revisions,
    progress,
    project,
    revisions_in,
    run,
    table,
)

# What is there, whatever the version table says. A view of a legacy name stands over its backup.
FACTS = """
SELECT
    current_database()::text AS database,
    to_regclass('bridge.state') IS NOT NULL AS bridge,
    ARRAY(SELECT name FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS name
          WHERE to_regclass('public.' || name) IS NULL) AS missing,
    ARRAY(SELECT c.relname::text FROM pg_class AS c
          WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
          ORDER BY c.relname DESC) AS legacy,
    ARRAY(SELECT DISTINCT format('DROP VIEW public.%I; ALTER TABLE %s RENAME TO %I',
                                 v.relname, d.refobjid::regclass, v.relname)
          FROM pg_class AS v
          JOIN pg_rewrite AS r ON r.ev_class = v.oid
          JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                             AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
          WHERE v.relkind = 'v' AND v.oid IN (to_regclass('public.workshop_students'),
                                              to_regclass('public.student_configs'))
          ORDER BY 1) AS names_back,
    ARRAY(SELECT relname::text FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname ~ '^(bridge_remainder|own_columns)_backup_[0-9]{8}(_[0-9]+)?$') AS kept_aside,
    to_regclass('public.legacy_tables_dropped') IS NOT NULL AS dropped,
    to_regprocedure('public.refuse_write()') IS NOT NULL AS of_0001,
    to_regprocedure('public.clean_sessions()') IS NOT NULL AS of_0002,
    to_regclass('public.ix_sessions_student_id') IS NOT NULL AS of_0003,
    to_regprocedure('public.follow_step_progress()') IS NOT NULL AS of_0004,
    to_regclass('public.ix_sessions_last_activity') IS NOT NULL AS of_0005,
    to_regclass('public.session_overview') IS NOT NULL AS of_0006,
    to_regprocedure('bridge.cut_over()') IS NOT NULL AS of_0007
"""
DROPPED = """
SELECT format('the old tables were dropped on %s; %s', (dropped_at AT TIME ZONE 'UTC')::date,
              coalesce('they are in the dump ' || dump, 'no dump of them was named'))
FROM public.legacy_tables_dropped ORDER BY dump IS NULL, dropped_at DESC LIMIT 1
"""
MIGRATOR = f"""
SELECT l.pid, a.usename::text AS "user", date_trunc('second', a.backend_start)::text AS since,
       round(extract(epoch FROM clock_timestamp() - a.backend_start))::integer AS seconds,
       pg_blocking_pids(l.pid) AS waits_for
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid::bigint = {ADVISORY_LOCK >> 32} AND l.objid::bigint = {ADVISORY_LOCK & 0xFFFFFFFF}
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
BRIDGE = """
SELECT
    s.sync,
    s.stage IS NOT NULL AS merging,
    s.sessions AS done,
    s.merged_at IS NOT NULL AS merged,
    s.retired_at IS NOT NULL AS handed_back,
    (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p WHERE p.side = 'legacy') AS legacy,
    (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p WHERE p.side = 'unified') AS unified,
    (SELECT count(*) FROM bridge.override) AS kept,
    to_regprocedure('bridge.is_read_only()') IS NOT NULL AND bridge.is_read_only() AS read_only
FROM bridge.state AS s
"""
SOURCES = """
SELECT s.legacy_name AS name, s.relation::text AS relation, c.relkind IS NOT NULL AS exists
FROM bridge.source AS s
LEFT JOIN pg_class AS c ON c.oid = s.relation
ORDER BY s.legacy_name DESC
"""
CHANGED = """
SELECT s.relation::text FROM bridge.source AS s JOIN pg_class AS c ON c.oid = s.relation
WHERE s.signature IS DISTINCT FROM bridge.signature_of(s.relation)
ORDER BY s.legacy_name DESC
"""
# A large table takes long to count: what the last ANALYZE saw.
ROWS = """
SELECT n.name, c.oid IS NOT NULL AS is_there,
       CASE WHEN pg_relation_size(c.oid) > 200000000 AND c.reltuples > 0 THEN c.reltuples::bigint END AS estimate
FROM unnest(ARRAY['workshop_students', 'student_configs']) AS n(name)
LEFT JOIN pg_class AS c ON c.oid = to_regclass('public.' || n.name)
WHERE has_table_privilege(c.oid, 'SELECT') IS NOT FALSE
"""
PENDING = "SELECT count(DISTINCT token) FROM bridge.change_log"
# Ranges of tokens, each read in a transaction of its own.
TOTAL = """
SELECT r.last_token AS last, r.sessions, r.sessions AS total
FROM bridge.next_range(CAST(:after AS text), :size) AS r
WHERE r.last_token IS NOT NULL
"""
# Sessions by their tokens alone: what one schema has and the other one lacks, logged ones left out.
DRIFT = """
SELECT r.last_token AS last, r.sessions, d.*
FROM bridge.next_range(CAST(:after AS text), :size) AS r
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE v.session_token IS NULL) AS not_in_unified,
           count(*) FILTER (WHERE t.token IS NULL) AS not_in_legacy
    FROM (SELECT o.token FROM bridge.tokens AS o WHERE o.token >= r.first_token AND o.token <= r.last_token) AS t
    FULL JOIN (SELECT o.session_token FROM public.sessions AS o
               WHERE o.session_token >= r.first_token AND o.session_token <= r.last_token) AS v
        ON v.session_token = t.token
    WHERE NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = coalesce(t.token, v.session_token))
) AS d
WHERE r.last_token IS NOT NULL
"""
OLD_TABLES = "^(workshop_students|student_configs)(_backup_[0-9]{8}(_[0-9]+)?)?$"
LOCKS = """
WITH prepared AS (
    SELECT t.virtualtransaction, x.gid, x.owner, x.prepared
    FROM pg_locks AS t JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
    WHERE t.locktype = 'transactionid' AND t.pid IS NULL
)
SELECT c.relname::text AS "table", l.mode, l.granted, l.pid,
       coalesce('prepared transaction ' || quote_literal(x.gid), nullif(a.application_name, ''), '-') AS application,
       coalesce(x.owner, a.usename)::text AS "user",
       round(extract(epoch FROM clock_timestamp() - coalesce(x.prepared, a.xact_start)))::integer AS seconds,
       CASE WHEN NOT l.granted THEN pg_blocking_pids(l.pid) END AS waits_for,
       'ROLLBACK PREPARED ' || quote_literal(x.gid) AS ended_by
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN prepared AS x ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
WHERE l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ :tables
  AND (NOT l.granted OR l.mode ~ 'Exclusive'
       OR coalesce(x.prepared, a.xact_start) < clock_timestamp() - interval '5 seconds')
ORDER BY l.granted DESC, seconds DESC NULLS LAST
LIMIT 20
"""
# Who writes and has not committed: a row lock itself is to be seen in no catalog.
WRITERS = """
SELECT public.lock_holders(ARRAY(
    SELECT c.oid::regclass FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ :tables), readers => false)
"""
STAGES = {
    None: "not migrated",
    "0001": "the new tables are there, and empty",
    "0002": "the new tables are there, and empty",
    "0003": "writes to the old tables are noted; nothing is merged yet",
    "0004": "merged; what is written now is carried over by the next revision",
    "0005": "merged, and in step at once, both ways",
    "0006": "merged, and in step at once, both ways",
    "0007": "all done: the old names are views over dated backups",
}
LAST_STAGE = "0007"
MERGING = "the merge has begun, and is not finished"
NOT_VERIFIED = "merged; not verified yet"
DRAIN = "workshop status --drain"
UPGRADE = "alembic upgrade head"
BACKUP, DRY_RUN = "workshop backup", "workshop dry-run"
VERIFY, MERGE = "workshop verify", "workshop merge"
LOOK = "a look at the dashboard (workshop dashboard --out dashboard.html)"


@dataclass
class Status:
    """``problems`` need a person; ``commands`` are what ``next`` says, in order, for a shell.

    ``columns_changed`` names legacy tables with columns that the bridge does not read yet. ``rows`` counts
    the legacy tables while nothing is migrated; None: there is no such table.
    """

    database: str
    revision: str | None
    head: str
    stage: str = ""
    next: str = ""
    commands: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    migrator: dict[str, Any] | None = None
    merge: dict[str, int] = field(default_factory=dict)
    syncs_at_once: bool = False
    read_only: bool = False
    pending: dict[str, int] = field(default_factory=dict)
    drift: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    tables: dict[str, str] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)
    columns_changed: list[str] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: done; 1: more to do; 2: a person is needed."""
        if self.problems:
            return 2
        waiting = any(self.pending.values()) or any(self.drift.values())
        return 1 if waiting or self.migrator or self.revision != self.head else 0


def examine(connection: Connection, say: Callable[[str], None] = lambda _: None) -> Status:
    """Look at everything that ``Status`` tells; ``say`` hears how far it is."""
    head = str(project().get_current_head())
    # a table that is locked is told of, not waited for
    run(connection, "SET lock_timeout = '200ms'")
    has = run(connection, FACTS).mappings().one()
    found = revisions_in(connection)
    status = Status(has["database"], ", ".join(found) or None, head)
    unknown = status.revision not in {None, *known_revisions()}
    status.stage = "unknown" if unknown else STAGES[_stage_of(status.revision)]
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
    # a step that is under way is seen in part, and is nothing to be mended
    if status.migrator is None:
        _find_damage(connection, status, unknown, has, bridge, sources)
    try:
        if status.revision is None or status.revision < "0003":
            status.rows = dict(_count_rows(connection))
        elif bridge and not status.problems and not has["missing"]:
            _read_tables(connection, status, bridge, say)
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        status.problems.append(
            "the sessions could not be counted: somebody holds a lock on a table. Look again when "
            "that has ended"
        )
    if status.problems:
        status.next = status.problems[0]
    else:
        _what_next(status, has)
        if status.revision == status.head and not has["bridge"]:
            status.stage = "all done: there are no old tables"
        if has["dropped"]:
            status.next += f": {run(connection, DROPPED).scalar_one()}"
    return status


def _stage_of(revision: str | None) -> str | None:
    """The stage of the migration: a revision after the last one changes nothing of it."""
    return revision and min(revision[:4], LAST_STAGE)


def _count_rows(connection: Connection) -> Iterator[tuple[str, int | None]]:
    """Yield the name of each legacy table with its rows."""
    for name, is_there, estimate in run(connection, ROWS).all():
        if is_there and estimate is None:
            estimate = run(connection, f"SELECT count(*) FROM public.{name}").scalar_one()
        yield name, estimate


def _read_tables(
    connection: Connection, status: Status, bridge: RowMapping, say: Callable[[str], None]
) -> None:
    """What is found out from the old tables themselves, which may be locked."""
    if bridge["merging"]:
        status.merge = {
            "done": bridge["done"],
            **_add_up(connection, TOTAL, ("total",), say, "counted"),
        }
        # sessions that were deleted meanwhile are done, and no longer there
        status.merge["done"] = min(status.merge["done"], status.merge["total"])
    elif bridge["merged"]:
        names = ("not_in_unified", "not_in_legacy")
        status.drift = _add_up(connection, DRIFT, names, say, "compared")
    status.columns_changed = changed = [*run(connection, CHANGED).scalars()]
    # the revisions on the way read new columns by themselves
    if changed and status.revision == status.head and status.migrator is None:
        status.problems.append(
            f"columns of {' and '.join(changed)} changed, and the bridge does not read the new ones yet: "
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
    """Sums over all tokens, in ranges that take some 40 ms: the application may have to wait."""
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


AFTERWARDS = (
    ". What stands there gets the name ..._stray_<number>. Rows that only it has are copied; compare the others, "
    "then drop it"
)

# --- what was done by hand ------------------------------------------------------------------------


def _psql(*statements: str) -> str:
    """A shell command; more statements than one are one transaction."""
    return f"""psql "$POSTGRES_URL_NON_POOLING" -c '{"; ".join(statements)}'"""


def _find_damage(
    connection: Connection,
    status: Status,
    unknown: bool,
    has: RowMapping,
    bridge: RowMapping | None,
    sources: Any,
) -> None:
    """Say what was dropped, renamed or stamped by hand, and how to get back on track from there."""
    names_back = [_psql("SET lock_timeout = 200", *has["names_back"])] if has["names_back"] else []
    whole = not has["missing"]
    possible = _revisions_of(has, bridge)
    said = _stage_of(status.revision)
    stamp: list[str] = []
    is_at = possible[0 if whole else -1] or "base"
    if unknown:
        # it may be another project's: never deleted
        status.problems.append(
            f"{VERSION_TABLE} holds revision {status.revision}, which this project does not have. "
            f"{VERSION_TABLE_ADVICE}"
        )
        if is_at != "base":
            status.problems[0] += (
                f". What is there is of revision {is_at}: with a table of its own, alembic stamp {is_at}"
            )
        return
    if said not in possible if whole or said is None else not has["of_0001"]:
        stamp = [f"alembic stamp --purge {is_at}"]
        status.problems.append(
            f"{VERSION_TABLE} says {status.revision or 'nothing'}, but what is there is of revision "
            f"{is_at}: somebody changed it by hand"
        )
        if is_at == LAST_STAGE and status.head[:4] > LAST_STAGE:
            status.problems[-1] += (
                f". A later revision, up to {status.head}, may be there as well: stamp that one instead"
            )
        said = None if is_at == "base" else is_at

    gone = [source["name"] for source in sources if not source["exists"]]
    if said and not whole and has["of_0001"]:
        names = ", ".join(has["missing"])
        if len(has["missing"]) == 4:
            status.problems.append(
                f"{names} dropped by hand; what only they held is gone, the old tables are as they "
                "were. To start over: alembic downgrade base, then alembic upgrade head"
            )
            back = ["alembic downgrade base", UPGRADE]
        else:
            status.problems.append(
                f"{names} dropped by hand; what only they held is gone, the old tables are as they "
                "were. To start over from these, the rest of the new tables has to go as well: take a "
                "copy first (pg_dump) if an application has written to them"
            )
            back = ["alembic -x drop_existing=true downgrade base", UPGRADE]
        status.commands = [*stamp, *([] if bridge else names_back), *back]
    elif said and gone:
        status.problems.append(
            f"the table behind {' and '.join(gone)} was dropped by hand: nothing keeps it in step any "
            "more, and only a backup can bring back what the new tables do not hold. The bridge has to go"
        )
        status.commands = [*stamp, _psql("DROP SCHEMA bridge CASCADE")]
        if len(gone) == len(sources):
            status.commands += [] if said == "0007" else [UPGRADE]
        else:
            status.problems[-1] += ", and can be built anew with the table that is left"
            status.commands += [*names_back, "alembic downgrade 0002", UPGRADE]
        if said == "0007":
            status.problems[-1] += (
                ". Or, for good: 'workshop drop-backups' shows what is left, and takes it off"
            )
    elif said and has["dropped"] and has["legacy"]:
        status.problems.append(
            f"{' and '.join(has['legacy'])} came after the old tables were dropped for good: an old endpoint "
            "still creates and fills them, and nothing carries that over. Move that endpoint, take over by "
            "hand what they hold, and drop them"
        )
    elif said and said >= "0003" and not bridge and has["legacy"]:
        status.problems.append(
            f"nothing keeps {' and '.join(has['legacy'])} in step with the new tables: schema bridge was "
            "dropped by hand, or the old tables came later. Merging anew: where the two differ the old "
            "tables win, and what either of them still has comes back"
        )
        status.commands = [*stamp, *names_back, "alembic downgrade 0002", UPGRADE]
    elif stamp:
        status.commands = [*stamp, UPGRADE]
    if bridge and said and not status.problems:
        for renamed in misnamed(connection, status.revision):
            status.problems.append(
                f"a legacy name was changed by hand: {renamed['what']}{AFTERWARDS if renamed['kind'] else ''}"
            )
            status.misnamed.append(renamed["legacy_name"])
            status.commands.append(_psql("SET lock_timeout = 200", *renamed["way_back"]))


def _revisions_of(has: RowMapping, bridge: RowMapping | None) -> list[str | None]:
    """The revisions that the database may be at, by what is there; the lowest one first."""
    if not has["of_0001"]:
        return [None]
    if not has["of_0002"]:
        return ["0001"]
    # with a bridge the view of a legacy name may be somebody's own
    cut_over = has["of_0007"] or (has["names_back"] and not bridge)
    # the indexes of 0005 go with the tables, the state of the bridge does not
    if not (bridge["sync"] if bridge and has["missing"] else has["of_0005"]):
        if bridge:
            return ["0003", "0004"] if bridge["merged"] or bridge["handed_back"] else ["0003"]
        if has["missing"] and has["of_0004"]:
            return ["0007"] if cut_over else ["0004", "0005", "0006"]
        if has["missing"]:
            return ["0002", "0003"]
        # without legacy tables nothing tells these two apart
        return ["0003", "0004"] if has["of_0003"] else ["0002"]
    if has["missing"]:
        return ["0007"] if cut_over else ["0005", "0006"]
    if not has["of_0006"]:
        return ["0005"]
    if cut_over:
        return ["0007"]
    return ["0006"] if bridge else ["0006", "0007"]


# --- what to do -----------------------------------------------------------------------------------


def _what_next(status: Status, has: RowMapping) -> None:
    if status.migrator:
        status.next = "a migration is running: look again when it has ended"
    elif any(status.pending.values()) and status.syncs_at_once:
        status.next, status.commands = f"{DRAIN} carries over what is pending", [DRAIN]
    elif any(status.drift.values()):
        status.next, status.commands = f"{VERIFY} shows what differs", [VERIFY]
    elif status.revision is None or status.revision < "0003":
        _first_steps(status, has)
    elif status.read_only:
        status.next = (
            "alembic downgrade base goes on with the way back, alembic upgrade head returns"
        )
        status.commands = ["alembic downgrade base"]
    elif status.revision < "0006" and status.tables:
        status.next = step = "alembic upgrade 0006"
        status.commands = [step]
        if status.merge:
            status.next += " goes on with the merge where it was"
        elif status.revision < "0004":
            status.next = f"{DRY_RUN} shows what will be merged, then {step}"
            status.commands = [DRY_RUN, step]
    elif status.revision < "0007" and status.tables and not status.columns_changed:
        status.next, status.commands = f"{VERIFY}, {LOOK}, then {UPGRADE}", [VERIFY, UPGRADE]
    elif status.revision != status.head:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        endpoints = "nothing: move endpoints at your pace; 'workshop verify' compares every value"
        status.next = endpoints if status.tables else "nothing"


def _first_steps(status: Status, has: RowMapping) -> None:
    """Before the bridge is there; a database without rows may be the wrong one."""
    step = "alembic upgrade 0003"
    if has["legacy"]:
        status.next = f"{BACKUP}, then {DRY_RUN}, then {step}"
        status.commands = [BACKUP, DRY_RUN, step]
        if status.rows.keys() >= {*has["legacy"]} and not any(status.rows.values()):
            status.next = (
                f"the old tables have no rows: is this the right database? If so: {status.next}"
            )
    elif has["kept_aside"]:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        status.commands = [UPGRADE]
        status.next = (
            "neither workshop_students nor student_configs is there: is this the right database? "
            f"For a new installation: {UPGRADE}"
        )
    if has["kept_aside"]:
        status.next += f"; {', '.join(has['kept_aside'])} will be taken up again"


def carry_over(connection: Connection, say: Callable[[str], None]) -> tuple[str, bool]:
    """Drain; why something is still pending, and whether that is for a person to mend."""
    with ThreadPoolExecutor(1) as worker, connection.engine.connect() as observer:
        observer = observer.execution_options(isolation_level="AUTOCOMMIT")
        draining = worker.submit(run, connection, "CALL bridge.drain()")
        while not draining.done():
            try:
                time.sleep(0.2)
                say(f"{run(observer, PENDING).scalar():,} sessions are still to be carried over")
            except KeyboardInterrupt:
                connection.connection.driver_connection.cancel()  # type: ignore[union-attr]
                raise
        error = draining.exception()
        if error is None:
            return "", False
        if not isinstance(error, DBAPIError):
            raise error
        left = run(observer, PENDING).scalar()
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            tables = {"tables": f"{OLD_TABLES}|^(students|sessions|step_progress)$"}
            who = observer.execute(text(WRITERS), tables).scalar_one()
            return f"{left:,} sessions were locked for too long. Held by: {who}", False
        if isinstance(error, (DataError, IntegrityError)):
            # the server quotes the value that it objects to, which may be a secret
            reason = f"the server refused a value ({type(error.orig).__name__}); its log says which"
        else:
            reason = explain(error)
        return f"{left:,} sessions could not be carried over: {reason}", True


# --- output ---------------------------------------------------------------------------------------


def _pids(waits_for: list[int]) -> str:
    """The sessions that are waited for; 0 stands for a prepared transaction."""
    return ", ".join(str(pid) if pid else "a prepared transaction" for pid in waits_for)


def _facts(status: Status) -> Iterator[tuple[str, str | int]]:
    yield "Stage", escape(status.stage)
    if status.migrator:
        pid, since = status.migrator["pid"], status.migrator["since"]
        waits = _pids(status.migrator["waits_for"])
        yield (
            "Migrator",
            f"running, pid {pid}, since {since}{f', waits for {waits}' if waits else ''}",
        )
    if status.merge:
        yield "Merged so far", f"{status.merge['done']:,} of {status.merge['total']:,} sessions"
    for name, rows in status.rows.items():
        yield name, "not there" if rows is None else f"{rows:,} rows"
    for name, relation in status.tables.items():
        gone = relation.isdigit()  # the number is all that is left of it
        view = "dropped by hand" if gone else f"a view over {escape(relation)}"
        if name in status.misnamed:
            view = f"not what the bridge knows, which is {escape(relation)}"
        yield name, "in use" if relation == name else view
    if status.pending:
        mode = "at once" if status.syncs_at_once else "with the next revision"
        yield "Writes are carried over", mode
        yield "Pending: written to the old tables", status.pending["legacy"]
        yield "Pending: written to the new tables", status.pending["unified"]
    if status.drift:
        yield "Sessions that only the old tables have", status.drift["not_in_unified"]
        yield "Sessions that only the new tables have", status.drift["not_in_legacy"]
    if status.tables:
        # a downgrade adds those of students and events: rollback_check counts them
        yield "Values that the bridge keeps now", status.kept
    if status.read_only:
        yield "New tables", "read-only: a downgrade has begun"


def show(status: Status, out: Console) -> None:
    """Print the status for people."""
    out.print(
        f"Database {escape(status.database)}, revision {escape(status.revision or '(base)')}\n"
    )
    out.print(table("State", ("What", ""), ((a, f"{b}") for a, b in _facts(status))))
    out.print()
    if status.locks:
        out.print(
            table(
                "Locks on the old tables",
                ("Table", "Mode", "Held", "Pid", "Application", "User", "Seconds"),
                (
                    (
                        escape(k["table"]),
                        k["mode"],
                        "yes" if k["granted"] else f"[red]waits for {_pids(k['waits_for'])}[/]",
                        str(k["pid"] or "-"),
                        escape(k["application"]),
                        escape(k["user"] or "-"),
                        str(k["seconds"]),
                    )
                    for k in status.locks
                ),
            )
        )
        out.print()
        for ended_by in sorted({k["ended_by"] for k in status.locks if k["ended_by"]}):
            out.print(
                f"[red]MIND:[/] a prepared transaction keeps its locks until somebody ends it. {escape(ended_by)} "
                "undoes it, COMMIT PREPARED keeps it",
                soft_wrap=True,
            )
    for warning in status.warnings:
        out.print(f"[red]MIND:[/] {escape(warning)}", soft_wrap=True)
    for problem in status.problems:
        out.print(f"[red]PROBLEM:[/] {escape(problem)}")
    if status.problems and status.commands:
        out.print("Next:")
        for command in status.commands:
            out.print(f"    {escape(command)}", soft_wrap=True)
    else:
        out.print(f"Next: {escape(status.next)}", soft_wrap=True)


def main(
    url: Url = None,
    as_json: Json = False,
    drain: bool = typer.Option(False, help="Carry over what is pending, before looking."),
) -> None:
    """Tell where the migration stands, and what to do next.

    Changes nothing without --drain. Exits with 0 (done, nothing waits), 1 (more to do) or 2 (needs a
    person, or could not tell).

    Example: workshop status --drain
    """
    with database(url, "AUTOCOMMIT") as connection, progress("looking") as say:
        status = examine(connection, say)
        if drain and any(status.pending.values()) and not status.problems:
            reason, needs_a_person = carry_over(connection, say)
            status = examine(connection, say)
            if needs_a_person:
                status.problems.append(reason)
                status.next, status.commands = reason, []
            elif reason:
                status.next = (
                    f"{reason}. Everything else is carried over; when that has ended: {DRAIN}"
                )
    if as_json:
        typer.echo(json.dumps(asdict(status), indent=2))
    else:
        show(status, console())
    raise typer.Exit(status.exit_code)
