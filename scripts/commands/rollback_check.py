"""Before a downgrade: what it would write back, what it would keep, and which obstacles it has.

Changes nothing and blocks no application: it reads the legacy tables in short transactions. Added
columns of the unified tables are kept in a transaction that is rolled back.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from alembic.util import CommandError
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts.common.connection import ConnectionProblem, NotApplicable
from scripts.common.database import (
    HAS,
    Url,
    apply_settings,
    database,
    refuse_damage,
    revision_of,
    run,
)
from scripts.common.obstacles import dependents
from scripts.common.project import project, sql_text
from scripts.common.terminal import Json, finish, table

DROPPED = """
SELECT 'the legacy tables were dropped for good (workshop drop-backups)'
WHERE to_regclass('public.legacy_tables_dropped') IS NOT NULL
"""
# Logged sessions that are not applied yet: the columns that differ, and the legacy columns that
# receive them.
WRITTEN_BACK = """
SELECT c.token AS last, coalesce(f.found, '[]') AS found
FROM (SELECT DISTINCT o.token FROM bridge.change_log AS o WHERE o.side <> 'legacy' AND o.token > :after
      ORDER BY o.token LIMIT 1) AS c
CROSS JOIN LATERAL (
    SELECT jsonb_agg(DISTINCT d.name) AS found
    FROM bridge.mapped(c.token, c.token) AS m
    JOIN bridge.unified AS u ON u.session_token = m.session_token
    CROSS JOIN LATERAL bridge.diff(
        bridge.session_json(u.student_email, u.shared), bridge.session_json(m.student_email, m.shared)) AS d
    WHERE d.name <> 'completion_rate'
) AS f
"""
INTO = """
SELECT column_name, string_agg(legacy_name || '.' || legacy_column, ', ' ORDER BY legacy_name DESC, legacy_column)
FROM bridge.legacy_column GROUP BY column_name
"""
DELETED = """
SELECT count(*) FROM bridge.tokens AS t
WHERE t.token = ANY (ARRAY(
    SELECT c.token FROM bridge.change_log AS c
    WHERE c.side <> 'legacy' AND NOT EXISTS (SELECT FROM public.sessions AS v WHERE v.session_token = c.token)))
"""
# Values of sessions that hand_back() keeps. Logged values go to the legacy tables first, if these
# have the column.
OWN_VALUES = """
SELECT r.last_token AS last, coalesce(f.found, '[]') AS found
FROM bridge.next_range(CAST(:after AS text), 500) AS r
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(k.table_name, k.column_name, k.n)) AS found
    FROM (
        SELECT o.table_name, o.column_name, count(*) AS n
        FROM pg_temp.own_values(r.first_token, r.last_token) AS o
        WHERE o.table_name <> 'sessions' OR NOT EXISTS (SELECT FROM bridge.change_log AS c WHERE c.token = o.key)
           OR o.column_name <> '(row)' AND o.column_name NOT IN (SELECT l.column_name FROM bridge.legacy_column AS l)
        GROUP BY 1, 2
    ) AS k
) AS f
WHERE r.last_token IS NOT NULL
"""
OWN_ROWS = """
SELECT k.table_name, k.column_name, count(*) AS n
FROM (
    SELECT o.table_name, o.column_name, o.key FROM pg_temp.own_rows() AS o
    UNION
    SELECT o.table_name, o.column_name, o.key FROM bridge.override AS o
    WHERE o.table_name = 'students' AND o.column_name NOT IN ('student_id', 'github_username')
      AND NOT (o.column_name = '(row)' AND o.key LIKE 'anonymous+%@workshop.invalid')
) AS k
GROUP BY 1, 2
"""
# A downgrade has handed back already: 0003 keeps these values.
HANDED_BACK = """
SELECT regexp_replace(table_name, '^kept ', '') AS table_name, column_name, count(*) AS n
FROM bridge.override WHERE table_name NOT LIKE 'prior %' GROUP BY 1, 2
"""
STATE = "SELECT merged_at IS NOT NULL AS merged, retired_at IS NOT NULL AS handed_back FROM bridge.state"
OWN = """
SELECT table_name, name AS column_name, count(key) AS "values",
       coalesce(bool_or(definition !~ '^ALTER TABLE \\S+ ADD COLUMN '), false) AS other
FROM {} GROUP BY 1, 2 ORDER BY 1, 2
"""
UNSAVED = """
SELECT jsonb_object_agg(name, rows) FROM (
    SELECT 'students' AS name, count(*) AS rows FROM students
    UNION ALL SELECT 'sessions', count(*) FROM sessions
    UNION ALL SELECT 'step_progress', count(*) FROM step_progress
    UNION ALL SELECT 'events', count(*) FROM events) AS c
WHERE rows > 0 AND to_regclass('public.prior_attempt') IS NULL AND NOT EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = 'public.sessions'::regclass AND tgname = 'read_only')
"""


@dataclass
class Report:
    """The effect of the downgrade. ``ok``: no obstacle, and no loss."""

    database: str
    revision: str | None
    target: str
    ok: bool = True
    in_the_way: list[str] = field(default_factory=list)
    would_be_lost: list[str] = field(default_factory=list)
    written_back: list[dict[str, Any]] = field(default_factory=list)
    deleted_sessions: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)


def examine(connection: Connection, target: str) -> Report:
    """Find out the effect of a downgrade to ``target`` (a full revision id, or ``base``)."""
    apply_settings(connection)
    has = run(connection, HAS).mappings().one()
    report = Report(has["database"], revision_of(connection), target)
    if report.revision is None:
        raise NotApplicable("the database is not migrated: there is nothing to downgrade")
    if target != "base" and target >= report.revision:
        raise NotApplicable(f"{target} is no downgrade from {report.revision}")
    if has["bridge"]:
        refuse_damage(connection)
    below = "0000" if target == "base" else target
    report.in_the_way = [f"{what}: drop it first" for what in dependents(connection, target)]
    if below < "0007":
        report.in_the_way += run(connection, DROPPED).scalars()
    if has["bridge"] and below < "0004":
        _way_back(connection, report)
    elif not has["bridge"] and below < "0001" and has["unified"]:
        rows = run(connection, UNSAVED).scalar() or {}
        report.would_be_lost = [f"{count:,} rows of {name}" for name, count in rows.items()]
    if below < "0001" or report.revision >= "0008":
        _own_columns(connection, report)
    report.ok = not report.in_the_way and not report.would_be_lost
    return report


def _ranges(connection: Connection, query: str) -> Iterator[list[Any]]:
    """Yield the result of a query for each range of tokens; each range is a transaction of its own."""
    after = ""
    while row := connection.execute(text(query), {"after": after}).mappings().first():
        after = row["last"]
        yield row["found"]


def _way_back(connection: Connection, report: Report) -> None:
    state = run(connection, STATE).mappings().one()
    into = {column: where for column, where in run(connection, INTO)}
    columns = Counter(name for found in _ranges(connection, WRITTEN_BACK) for name in found)
    report.written_back = [
        {"table": "sessions", "column": name, "sessions": n, "into": into.get(name, "kept aside")}
        for name, n in sorted(columns.items())
    ]
    report.deleted_sessions = run(connection, DELETED).scalar_one()

    kept: Counter[tuple[str, str]] = Counter()
    if not state["handed_back"]:
        run(connection, sql_text("hand_back", "functions.sql"))  # of this session
        for found in _ranges(connection, OWN_VALUES):
            for name, column, n in found:
                kept[name, column] += n
    for name, column, n in run(connection, HANDED_BACK if state["handed_back"] else OWN_ROWS):
        kept[name, column] += n
    report.kept = [
        {"table_name": name, "column_name": column, "values": n}
        for (name, column), n in sorted(kept.items())
    ]
    if state["merged"]:
        checks = run(connection, "CALL bridge.run_checks(NULL)").scalar_one()
        report.would_be_lost = [
            f"a check does not hold: {check['check_name']}" for check in checks if not check["ok"]
        ]


def _own_columns(connection: Connection, report: Report) -> None:
    """List columns and objects that were added to the unified tables: kept, read, and rolled back."""
    keep = sql_text("own_columns", "98_keep.sql")
    run(connection, "BEGIN")
    try:
        run(connection, keep)
        kept = run(connection, "SELECT current_setting('bridge.kept')").scalar_one()
        rows = run(connection, OWN.format(kept)).mappings().all() if kept else []
    finally:
        run(connection, "ROLLBACK")
    report.kept += [
        {name: row[name] for name in ("table_name", "column_name", "values")}
        for row in rows
        if not row["other"]
    ]
    if report.target == "base":
        report.definitions = [
            f"{row['column_name']} of {row['table_name']}" for row in rows if row["other"]
        ]


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}: from {report.revision} back to {report.target}")
    out.print("This changes nothing.\n")
    if report.written_back:
        rows = (
            (f"{w['table']}.{w['column']}", w["sessions"], escape(w["into"]))
            for w in report.written_back
        )
        out.print(table("Not applied yet", ("Column", "Sessions", "Goes to"), rows))
    elif not report.would_be_lost:
        out.print("Every write to the unified tables is in the legacy tables, or kept (below).")
    if report.deleted_sessions:
        out.print(
            f"{report.deleted_sessions:,} sessions, deleted in the unified tables, will be deleted."
        )
    out.print()
    if report.kept:
        out.print(
            table(
                "The downgrade keeps, and the next upgrade restores",
                ("Of", "Values"),
                ((f"{k['table_name']}.{k['column_name']}", k["values"]) for k in report.kept),
            )
        )
        out.print()
    if report.definitions:
        out.print(f"Only the definitions are kept: {escape(', '.join(report.definitions))}.\n")
    for obstacle in report.in_the_way:
        out.print(f"[red]IN THE WAY:[/] {escape(obstacle)}")
    for lost in report.would_be_lost:
        out.print(f"[red]WOULD BE LOST:[/] {escape(lost)}")
    out.print("[green]OK:[/] nothing would be lost" if report.ok else "[red]NOT OK:[/] see above")


def main(
    target: Annotated[str, typer.Argument(help="Revision to go back to: 0006, 0003, base ...")] = (
        "base"
    ),
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what "alembic downgrade TARGET" would do, without doing it.

    Exits with 0 (no obstacle, nothing would be lost), 1 (not so) or 2 (unknown).

    Example: workshop rollback-check base
    """
    with database(url, "AUTOCOMMIT") as connection:
        if target != "base":
            try:
                found = project().get_revision(target)
            except CommandError as error:
                raise ConnectionProblem(str(error)) from error
            target = found.revision
        report = examine(connection, target)
    finish(report, show, as_json, 0 if report.ok else 1)
