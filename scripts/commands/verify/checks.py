"""The bridge's checks, the guide's criteria, and their results."""

from collections.abc import Callable

from sqlalchemy import Connection

from scripts.commands.verify.counts import count
from scripts.commands.verify.differences import differing
from scripts.commands.verify.report import Report
from scripts.commands.verify.rights import beyond
from scripts.common.connection import NotApplicable
from scripts.common.database import HAS, apply_settings, refuse_damage, revision_of, run
from scripts.common.moment import moment

STATUS = "workshop status"
CHECKS = "CALL bridge.run_checks(NULL)"
MERGE = """
SELECT merged_at IS NOT NULL AS done, (SELECT count(DISTINCT token) FROM bridge.change_log) AS pending
FROM bridge.state
"""
ORPHANS = """
SELECT COUNT(*)
FROM sessions s
LEFT JOIN students st ON s.student_id = st.student_id
WHERE st.student_id IS NULL
"""
COUNTS = {
    "students": "SELECT COUNT(*) FROM students",
    "sessions": "SELECT COUNT(*) FROM sessions",
    "orphaned_sessions": ORPHANS,
}
FOREIGN_KEY = """
SELECT count(*) FROM pg_constraint
WHERE conrelid = to_regclass('public.sessions') AND confrelid = to_regclass('public.students')
  AND contype = 'f' AND convalidated
"""
WRONG_RATES = """
SELECT count(*)
FROM sessions AS s
WHERE s.completion_rate <> session_completion_rate(session_steps_done(
    s.twilio_connected, s.openai_connected, s.call_direction_chosen, s.services_ready,
    s.step4_deployed, s.step5_deployed, s.step6_deployed, s.system_prompt_saved,
    s.step8_deployed, s.project_deployed,
    ARRAY(SELECT sp.step_number FROM step_progress AS sp
          WHERE sp.session_token = s.session_token AND sp.validation_passed)))
"""
OVERVIEW = """
SELECT (SELECT count(*) FROM session_overview) AS shown, (SELECT count(*) FROM sessions) AS sessions
"""


def examine(
    connection: Connection, say: Callable[[str], None] = lambda _: None, differences: int = 0
) -> Report:
    """Run every check, in AUTOCOMMIT or in the caller's transaction; list at most ``limit`` differences.

    NotApplicable names the command to run first if there is nothing to check.
    """
    apply_settings(connection)
    has = run(connection, HAS).mappings().one()
    revision = revision_of(connection)
    report = Report(has["database"], revision, False, [], {}, 0, {})
    if has["bridge"]:
        refuse_damage(connection)
        merge = run(connection, MERGE).mappings().one()
        if not merge["done"]:
            raise NotApplicable(f"revision {revision} has not merged anything yet; next: {STATUS}")
        report.pending = merge["pending"]
        with moment(connection, say) as now:
            count(now, report)
        say("comparing every value")
        report.checks = run(connection, CHECKS).scalar_one()
        report.rights = beyond(connection)
        report.checks.append(
            {
                "check_name": "rights that the legacy tables do not grant",
                "expected": 0,
                "actual": len(report.rights),
                "ok": not report.rights,
            }
        )
    elif revision is None or not has["unified"]:
        raise NotApplicable(f"the database is not migrated; next: {STATUS}")
    elif has["legacy"]:
        raise NotApplicable(
            f"at revision {revision} no bridge connects {' and '.join(has['legacy'])} with the "
            f"unified tables; next: {STATUS}"
        )
    report.counts = {name: run(connection, sql).scalar_one() for name, sql in COUNTS.items()}
    report.guide[" ".join(ORPHANS.split())] = report.counts["orphaned_sessions"]
    _judge(connection, report)
    report.ok = all(c["ok"] for c in report.checks) and False not in report.criteria.values()
    if differences and has["bridge"]:
        for found in differing(connection, say):
            report.differences.append(found)
            if len(report.differences) >= differences:
                break
    return report


def _judge(connection: Connection, report: Report) -> None:
    """Return the six criteria, with the names of the guide."""
    counts, missing = report.counts, report.reconciled

    def hold(*subjects: str) -> bool:
        return all(c["ok"] for c in report.checks if c["check_name"].startswith(subjects))

    # the revision after the merge adds the foreign keys
    constrained = report.revision == "0004_merge_legacy_data" or bool(
        run(connection, FOREIGN_KEY).scalar()
    )
    wrong = run(connection, WRONG_RATES).scalar_one()
    shown: bool | None = None
    note = "comes with revision 0006; then check the page by eye as well"
    if run(connection, "SELECT to_regclass('public.session_overview') IS NOT NULL").scalar():
        seen = run(connection, OVERVIEW).mappings().one()
        shown = seen["shown"] == seen["sessions"]
        note = (
            f"session_overview answers, with {seen['shown']:,} rows for {seen['sessions']:,} sessions; "
            "check the page by eye as well"
        )
    elif report.revision is not None and report.revision >= "0006":
        shown, note = False, "there is no view session_overview"
    told = (
        ("All students migrated", hold("students", "cells: students")
            and not missing.get("students_missing"), f"{counts['students']:,} students"),
        ("All sessions migrated", hold("sessions", "cells", "API keys", "exercises")
            and not missing.get("sessions_missing"), f"{counts['sessions']:,} sessions"),
        ("No orphaned sessions: foreign keys intact", not counts["orphaned_sessions"] and constrained,
            f"{counts['orphaned_sessions']:,} orphans"
            + ("" if constrained else "; the foreign key is missing, or not validated")),
        ("Instructor dashboard loads and shows correct data", shown, note),
        ("Progress percentages calculated correctly", wrong == 0,
            f"{wrong:,} sessions with a completion_rate that differs from their flags and steps"),
        ("No API errors in production logs", None, "the database does not know: check the logs by hand"),
    )  # fmt: skip
    report.criteria = {name: met for name, met, _ in told}
    report.notes = {name: more for name, _, more in told}
