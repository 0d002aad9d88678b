"""Where the migration stands: what is done, what waits to be carried over, what to do next.

Reads in short transactions, and changes nothing without ``--drain``.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import typer
from alembic.config import Config
from alembic.script import ScriptDirectory
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts.report import ROOT, Json, Url, console, database, revision_of, run, table

TABLES = """
SELECT
    current_database()::text AS database,
    to_regnamespace('bridge') IS NOT NULL AS bridge,
    ARRAY(SELECT name FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS name
          WHERE to_regclass('public.' || name) IS NULL) AS missing,
    ARRAY(SELECT name FROM unnest(ARRAY['workshop_students', 'student_configs']) AS name
          WHERE to_regclass('public.' || name) IS NOT NULL) AS legacy,
    ARRAY(SELECT relname::text FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
            AND relname ~ '^bridge_remainder_backup_[0-9]{8}(_[0-9]+)?$') AS kept_aside,
    to_regclass('public.legacy_tables_dropped') IS NOT NULL AS dropped
"""
DROPPED = """
SELECT format('the old tables were dropped on %s; %s', (dropped_at AT TIME ZONE 'UTC')::date,
              coalesce('they are in the dump ' || dump, 'no dump of them was named'))
FROM public.legacy_tables_dropped ORDER BY dump IS NULL, dropped_at DESC LIMIT 1
"""
BRIDGE = """
SELECT
    s.sync,
    s.merged_at IS NOT NULL AS merged,
    (SELECT count(DISTINCT p.token) FROM bridge.pending AS p WHERE p.side = 'legacy') AS legacy,
    (SELECT count(DISTINCT p.token) FROM bridge.pending AS p WHERE p.side = 'unified') AS unified,
    (SELECT count(*) FROM bridge.remainder) AS kept,
    to_regprocedure('bridge.is_read_only()') IS NOT NULL AND bridge.is_read_only() AS read_only
FROM bridge.state AS s
"""
SOURCES = """
SELECT s.legacy_name AS name, s.relation::text AS relation, c.relkind IS NOT NULL AS exists,
       s.signature IS DISTINCT FROM bridge.signature_of(s.relation) AS changed
FROM bridge.source AS s LEFT JOIN pg_class AS c ON c.oid = s.relation
ORDER BY s.legacy_name
"""
# Sessions by their tokens alone: what each world has that the other one lacks, pending ones left out.
DRIFT = """
SELECT
    n.tokens[cardinality(n.tokens)] AS last,
    count(*) FILTER (WHERE v.session_token IS NULL) AS not_in_unified,
    count(*) FILTER (WHERE t.token IS NULL) AS not_in_legacy
FROM (SELECT bridge.next_tokens(CAST(:after AS text), 2000, unified => true) AS tokens) AS n
CROSS JOIN LATERAL unnest(n.tokens) AS k(token)
LEFT JOIN bridge.tokens AS t ON t.token = k.token AND t.token = ANY (n.tokens)
LEFT JOIN public.sessions AS v ON v.session_token = k.token
WHERE NOT EXISTS (SELECT FROM bridge.pending AS p WHERE p.token = k.token)
GROUP BY 1
"""
LOCKS = """
SELECT c.relname::text AS "table", l.mode, l.granted, l.pid,
       coalesce(nullif(a.application_name, ''), '-') AS application, a.usename::text AS "user",
       round(extract(epoch FROM clock_timestamp() - a.xact_start))::integer AS seconds
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
  AND c.relname ~ '^(workshop_students|student_configs)(_backup_[0-9]{8}(_[0-9]+)?)?$'
  AND (NOT l.granted OR l.mode ~ 'Exclusive' OR a.xact_start < clock_timestamp() - interval '5 seconds')
ORDER BY l.granted DESC, seconds DESC NULLS LAST
LIMIT 20
"""


@dataclass
class Status:
    """``problems`` need a person; ``next`` is what to do now, a command where there is one."""

    database: str
    revision: str | None
    head: str
    next: str = ""
    problems: list[str] = field(default_factory=list)
    syncs_at_once: bool = False
    read_only: bool = False
    pending: dict[str, int] = field(default_factory=dict)
    drift: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    tables: dict[str, str] = field(default_factory=dict)
    locks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: done; 1: more to do; 2: a person is needed."""
        if self.problems:
            return 2
        waiting = any(self.pending.values()) or any(self.drift.values())
        return 1 if waiting or self.revision != self.head else 0


def examine(connection: Connection) -> Status:
    """Look at everything that ``Status`` tells."""
    head = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini"))).get_current_head()
    has = run(connection, TABLES).mappings().one()
    status = Status(has["database"], revision_of(connection), str(head))
    if has["bridge"]:
        _examine_bridge(connection, status, has["missing"])
    elif has["dropped"] and has["legacy"]:
        status.problems.append(
            f"{' and '.join(has['legacy'])} came after the old tables were dropped for good: an old endpoint "
            "still creates and fills them, and nothing carries that over. Move that endpoint, take over by "
            "hand what they hold, and drop them"
        )
    elif status.revision and status.revision >= "0003" and has["legacy"]:
        status.problems.append(
            f"{' and '.join(has['legacy'])} came after the migration, which does not know of them; "
            "alembic downgrade 0002 and alembic upgrade head merge them"
        )
    if status.revision and has["missing"]:
        status.problems.append(
            f"{', '.join(has['missing'])} dropped by hand; what only they held is gone, the old tables "
            "are as they were. To start over: alembic downgrade base, then alembic upgrade head"
        )
    status.next = _next(status, has["legacy"], has["kept_aside"])
    if has["dropped"] and not status.problems:
        status.next += f": {run(connection, DROPPED).scalar_one()}"
    return status


def _examine_bridge(connection: Connection, status: Status, missing: list[str]) -> None:
    bridge = run(connection, BRIDGE).mappings().one()
    status.syncs_at_once, status.read_only = bridge["sync"], bridge["read_only"]
    status.pending = {"legacy": bridge["legacy"], "unified": bridge["unified"]}
    status.kept = bridge["kept"]
    for source in run(connection, SOURCES).mappings():
        status.tables[source["name"]] = source["relation"]
        if not source["exists"]:
            status.problems.append(
                f"the table behind {source['name']} was dropped by hand: the new tables go on working, "
                "nothing keeps an old one in step any more, and only a backup can bring it back; python -m "
                "scripts.drop_backups shows what is left, and takes it off"
            )
        elif source["changed"]:
            status.problems.append(
                f"columns of {source['relation']} changed, and the bridge does not read the new ones "
                "yet: CALL bridge.refresh_adapters()"
            )
    if bridge["merged"] and not missing and not status.problems:
        status.drift = _drift(connection)
    status.locks = [dict(row) for row in run(connection, LOCKS).mappings()]


def _drift(connection: Connection) -> dict[str, int]:
    drift = {"not_in_unified": 0, "not_in_legacy": 0}
    after = ""
    while True:
        found = connection.execute(text(DRIFT), {"after": after}).mappings().first()
        if found is None:
            return drift
        after = found["last"]
        for name in drift:
            drift[name] += found[name]


def _next(status: Status, legacy: list[str], kept_aside: list[str]) -> str:
    if status.problems:
        return status.problems[0]
    if any(status.pending.values()) and status.syncs_at_once:
        return "python -m scripts.status --drain carries over what is pending"
    if any(status.drift.values()):
        return "python -m scripts.verify shows what differs"
    if status.revision is None or status.revision < "0003":
        aside = f"; {', '.join(kept_aside)} will be taken up again" if kept_aside else ""
        return f"python -m scripts.dry_run, then alembic upgrade head{aside if legacy else ''}"
    if status.read_only:
        return "alembic downgrade base goes on with the way back, alembic upgrade head returns"
    if status.revision != status.head:
        return "alembic upgrade head"
    return "nothing: move endpoints at your pace" if status.tables else "nothing"


def show(status: Status, out: Console) -> None:
    """Print the status for people."""
    out.print(f"Database {escape(status.database)}, revision {status.revision or '(base)'}\n")
    facts: list[tuple[str, str | int]] = []
    for name, relation in status.tables.items():
        facts.append((name, "in use" if relation == name else f"a view over {escape(relation)}"))
    if status.pending:
        mode = "at once" if status.syncs_at_once else "with the next revision"
        facts.append(("Writes are carried over", mode))
        facts.append(("Pending: written to the old tables", status.pending["legacy"]))
        facts.append(("Pending: written to the new tables", status.pending["unified"]))
    if status.drift:
        facts.append(("Sessions that only the old tables have", status.drift["not_in_unified"]))
        facts.append(("Sessions that only the new tables have", status.drift["not_in_legacy"]))
    if status.tables:
        facts.append(("Values that the old tables cannot say", status.kept))
    if status.read_only:
        facts.append(("New tables", "read-only: a downgrade has begun"))
    if facts:
        out.print(table("State", ("What", ""), ((a, f"{b}") for a, b in facts)))
        out.print()
    if status.locks:
        out.print(
            table(
                "Locks on the old tables",
                ("Table", "Mode", "Held", "Pid", "Application", "Seconds"),
                (
                    (
                        escape(k["table"]),
                        k["mode"],
                        "yes" if k["granted"] else "[red]waits[/]",
                        str(k["pid"]),
                        escape(k["application"]),
                        str(k["seconds"]),
                    )
                    for k in status.locks
                ),
            )
        )
        out.print()
    for problem in status.problems:
        out.print(f"[red]PROBLEM:[/] {escape(problem)}")
    out.print(f"Next: {escape(status.next)}")


def main(
    url: Url = None,
    as_json: Json = False,
    drain: bool = typer.Option(False, help="Carry over what is pending, before looking."),
) -> None:
    """Tell where the migration stands, and what to do next.

    Changes nothing without --drain. Exits with 0 (done, nothing waits), 1 (more to do) or 2 (needs a
    person, or could not tell).

    Example: python -m scripts.status --drain
    """
    with database(url, "AUTOCOMMIT") as connection:
        status = examine(connection)
        if drain and status.pending and not status.problems:
            run(connection, "CALL bridge.drain()")
            status = examine(connection)
    if as_json:
        typer.echo(json.dumps(asdict(status), indent=2))
    else:
        show(status, console())
    raise typer.Exit(status.exit_code)


if __name__ == "__main__":
    typer.run(main)
