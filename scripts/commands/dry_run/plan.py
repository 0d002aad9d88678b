"""Find out what an upgrade to head would do."""

from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scripts.commands.dry_run.counts import count
from scripts.commands.dry_run.report import Report
from scripts.commands.dry_run.shadow import build
from scripts.common import limitations
from scripts.common.connection import ConnectionProblem, explain
from scripts.common.database import (
    HAS,
    VERSION_TABLE,
    apply_settings,
    refuse_damage,
    revision_of,
    run,
)
from scripts.common.project import sql_text

BEFORE_BRIDGE = (None, "0001_unified_schema", "0002_progress_tracking")
NOT_ORDINARY = f"""
SELECT format('%s is not an ordinary table', relname) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm', 'f', 'p') AND (
    relname IN ('workshop_students', 'student_configs')
    OR relname IN ('students', 'sessions', 'step_progress', 'events') AND NOT EXISTS (
        SELECT FROM pg_class WHERE oid = to_regclass('{VERSION_TABLE}')))
ORDER BY relname
"""
NOT_OWNED = """
SELECT format('role %s does not own %s, and may not rename it', current_user, relname) FROM pg_class
WHERE oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
  AND NOT pg_has_role(relowner, 'USAGE')
ORDER BY relname
"""
NAMED_BY_TRIGGERS = r"""
SELECT format('trigger %s of %s: its function %s uses the name of its table, which 0007 changes; '
              'see docs/dba-review.md', t.tgname, c.relname, t.tgfoid::regprocedure)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
  AND c.relkind = 'r' AND NOT t.tgisinternal AND p.pronamespace IS DISTINCT FROM to_regnamespace('bridge')
  AND p.prosrc ~* 'tg_(table_name|relname|relid)|td\s*\[.(table_name|relid)|_td\s*->\s*\{.?(table_name|relname|relid)'
ORDER BY 1
"""
MERGED = """
SELECT to_char(s.merged_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS merged_at,
       (SELECT count(DISTINCT p.token) FROM bridge.change_log AS p) AS pending
FROM bridge.state AS s WHERE s.merged_at IS NOT NULL
"""
ARRIVED = """
SELECT (SELECT count(*) FROM students) AS students, (SELECT count(*) FROM sessions) AS sessions,
       (SELECT count(*) FROM step_progress) AS steps
"""


def examine(connection: Connection, say: Callable[[str], None] = lambda _: None) -> Report:
    """Find out what the migration would do. The connection is in AUTOCOMMIT.

    Raises ConnectionProblem on a standby, behind a transaction pooler, and while a migration runs.
    """
    apply_settings(connection)
    has = run(connection, HAS).mappings().one()
    revision = revision_of(connection)
    report = Report(has["database"], revision)
    report.warnings = [
        *run(connection, NAMED_BY_TRIGGERS).scalars(),
        *limitations.found(connection),
        *limitations.serializable(connection),
    ]
    if revision and has["bridge"]:  # else the schema is not this project's
        refuse_damage(connection)
    merged = run(connection, MERGED).mappings().first() if revision and has["bridge"] else None
    bridged = has["bridge"] and revision == "0003_legacy_bridge"
    if merged or not (revision in BEFORE_BRIDGE or bridged):
        _after(connection, report, has, merged)
        return report

    report.reasons = list(run(connection, NOT_ORDINARY).scalars())
    if report.reasons:
        return report
    if revision is None:
        _preflight(connection, report)
    else:
        report.reasons = list(run(connection, NOT_OWNED).scalars())

    # event triggers also fire for temporary tables; hidden rows cannot be copied
    if any(
        cause in r for r in report.reasons for cause in ("event triggers", "row security hides")
    ):
        return report
    prior = has["unified"] if revision is None else _has_prior(connection)
    if not has["legacy"] and not prior:
        report.go = not report.reasons
        report.reasons = report.reasons or [
            f"neither legacy table exists in database {report.database}: a fresh install has nothing to "
            "merge; check that this is the right database"
        ]
        return report
    _merge_copies(connection, report, say)
    return report


def _merge_copies(connection: Connection, report: Report, say: Callable[[str], None]) -> None:
    """Merge temporary copies, and report go or no-go."""
    shadow = build(connection, report.revision, say)
    if revision_of(connection) != report.revision:
        raise ConnectionProblem("a migration ran meanwhile. Run this again when it has ended")
    report.reasons += shadow.refused
    if not shadow.refused:
        count(connection, report, shadow)
        report.reasons += [
            f"{check['check_name']}: expected {check['expected']:,}, would be {check['actual']:,}"
            for check in report.checks
            if not check["ok"]
        ]
    run(connection, "DISCARD TEMP")
    report.go = not report.reasons
    if report.go:
        report.reasons = [
            f"every row is merged, and all {len(report.checks)} checks of the merge hold"
        ]
        if not any(entry["rows"] for entry in report.tables) and not report.earlier_attempt:
            report.warnings.insert(
                0, f"database {report.database} has no row to merge: check that it is the right one"
            )


def _preflight(connection: Connection, report: Report) -> None:
    """Run the preflight of 0001: its errors become reasons, its notices on rights warnings."""
    raw: Any = connection.connection.driver_connection

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        report.warnings.append(notice.message_primary or "")

    try:
        run(connection, sql_text("0001_unified_schema", "00_preflight.sql"))
        raw.add_notice_handler(hear)
        try:
            run(connection, sql_text("rights", "preflight.sql"))
        finally:
            raw.remove_notice_handler(hear)
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.RaiseException):
            raise
        report.reasons = [explain(error)]


def _has_prior(connection: Connection) -> bool:
    return bool(run(connection, "SELECT to_regclass('public.prior_attempt') IS NOT NULL").scalar())


def _after(connection: Connection, report: Report, has: Any, merged: Any) -> None:
    if not merged and has["bridge"]:
        report.reasons = [
            "a downgrade has begun: alembic downgrade base continues it, alembic upgrade head undoes it"
        ]
        return
    if not merged and has["legacy"]:
        report.reasons = [
            f"the database reached revision {report.revision} without "
            f"{' and '.join(has['legacy'])}, which no later revision merges: run alembic downgrade "
            f"{BEFORE_BRIDGE[-1]} first"
        ]
        return
    report.go = True
    if has["unified"]:
        report.totals = dict(run(connection, ARRIVED).mappings().one())
    report.reasons = ["there is nothing to merge: no legacy table is left"]
    if merged:
        report.reasons = [
            f"merged already, at {merged['merged_at']} UTC",
            "'workshop verify' compares every value",
            "'workshop merge' merges again",
        ]
        if merged["pending"]:
            report.reasons.append(f"{merged['pending']:,} sessions are logged and not applied yet")
