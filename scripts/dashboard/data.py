"""The dashboard's data as JSON: results of the queries, ``workshop status`` and ``workshop verify``."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from models.steps import FLAGS, STEPS
from scripts.commands import status, verify
from scripts.common.connection import ConnectionProblem, NotApplicable
from scripts.common.database import database, run
from scripts.dashboard import queries


def read(
    url: str | None, *, verified: bool, say: Callable[[str], None] = lambda _: None
) -> tuple[str, dict[str, Any]]:
    """Return the page's data as JSON text, and its facts; ``verified`` also runs the checks, which takes longer.

    The unified tables are read in one transaction, at one moment. The legacy tables are read
    afterwards, in short transactions, because the legacy application would wait for a long one.
    Without reporting views, or on an error of the database, the command ends.
    """
    with database(url, "REPEATABLE READ") as connection:
        run(connection, "SET LOCAL search_path = public")
        if missing := run(connection, queries.MISSING).scalar_one():
            raise NotApplicable(
                f"{', '.join(missing)} not found: the dashboard reads the views of revision "
                "0006_reporting_views. Nothing was changed; next: alembic upgrade head. If that has run: "
                "workshop status"
            )
        say("reading the unified tables")
        facts = _unified(connection)
        students = run(connection, queries.STUDENTS).scalars().all()
    with database(url, "AUTOCOMMIT") as connection:
        say("reading the legacy tables")
        facts["migration"] = _migration(connection)
        if verified:
            say("verifying")
        facts["migration"]["verification"] = verification(connection) if verified else None
    told = json.dumps(facts, ensure_ascii=False, default=float)
    return '{"facts": ' + told + ',\n"students": [\n' + ",\n".join(students) + "\n]}", facts


def _unified(connection: Connection) -> dict[str, Any]:
    def rows(query: str) -> list[dict[str, Any]]:
        return [dict(row) for row in run(connection, query).mappings()]

    def lists(query: str) -> list[list[Any]]:
        return [list(row) for row in run(connection, query)]

    return {
        **rows(queries.MADE)[0],
        "steps": [step.name for step in STEPS],
        "flags": [(flag, _step_of(flag)) for flag in FLAGS],
        "funnel": rows(queries.FUNNEL),
        "days": lists(queries.DAYS),
        "until": run(connection, queries.UNTIL).scalar_one(),
        "stuck": {**rows(queries.STUCK)[0], "rows": rows(queries.STUCK_ROWS)},
        "after": [_count(connection, name) for name in queries.AFTER],
        "merges": lists(queries.MERGES),
        "decisions": lists(queries.DECISIONS),
        "decided": run(connection, queries.DECIDED).scalar_one(),
    }


def _step_of(flag: str) -> int:
    """Return the step of a progress flag, 1 to 9."""
    for step in STEPS:
        if flag in step.done_when or flag.startswith(f"step{step.number}_"):
            return step.number
    return {"tools_configured": 8}[flag]


def _migration(connection: Connection) -> dict[str, Any]:
    run(connection, "SET search_path = public")
    found = status.examine(connection)
    before = []
    for catalog, query in queries.BEFORE.items():
        if run(connection, f"SELECT to_regclass('{catalog}')").scalar() is not None:
            before += [name for name in run(connection, query).scalars() if not name.isdigit()]
    return {
        "revision": found.revision,
        "head": found.head,
        "next": found.next,
        "problems": found.problems,
        "tables": list(found.tables.items()),
        "bridged": bool(found.pending),
        "syncs_at_once": found.syncs_at_once,
        "pending": found.pending,
        "drift": found.drift,
        "kept": found.kept,
        # names as regclass writes them, quoted if needed
        "before": [_count(connection, name) for name in before],
    }


def _count(connection: Connection, table: str) -> tuple[str, int]:
    return table, run(connection, f"SELECT count(*) FROM {table}").scalar_one()


def verification(connection: Connection) -> dict[str, Any]:
    """Return the result of ``workshop verify``, or ``{"problem": reason}``."""
    try:
        report = verify.examine(connection)
    except ConnectionProblem as problem:
        return {"problem": str(problem)}
    return {"ok": report.ok, "checks": report.checks, "criteria": report.criteria}
