"""The report of a dry run, and its print."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape

from scripts.common.terminal import calculation, nonzero, size_of, table

WHY = {
    "conflicts": "both rows have different values; configuration: student_configs wins, progress and "
    "address: workshop_students",
    "placeholder_address": "no row of the session has an address: a placeholder student",
    "unreadable": "neither JSON nor a number as the column needs: kept unchanged in legacy_extra",
    "clamped": "out of range: replaced by the nearest allowed number",
    "row_without_token": "becomes an inactive session named after the row's key",
    "token_shared_by_many_browsers": "the literal text null or undefined: kept, as one session",
    "written_on_both_sides": "written in the unified tables as well: later values win, flags add up",
}
"""Kinds of ``merge_note`` of mapping, backfill and apply, in words."""


FURTHER = "only in an earlier attempt, or in the unified tables"


@dataclass
class Report:
    """The report: the verdict, and what the merge will read and write.

    ``warnings`` do not stop the migration, but need a decision of the operator. ``checks`` are the
    bridge's checks on the temporary tables. ``expected`` has seconds, bytes and their basis.
    ``rehearsal`` is None unless requested.
    """

    database: str
    revision: str | None
    go: bool = False
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    earlier_attempt: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    unknown_exercise_keys: dict[str, int] = field(default_factory=dict)
    decided: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, Any] = field(default_factory=dict)
    rehearsal: dict[str, Any] | None = None


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision or '(base)'}")
    out.print("A dry run: it changes nothing.\n")
    parts = _parts(report) if report.expected else _arrived(report)
    for part in (*parts, *_rehearsed(report)):
        out.print(part)
        out.print()
    for warning in report.warnings:
        out.print(f"[yellow]NOTE:[/] {escape(warning)}")
    verdict = "[green]GO[/]" if report.go else "[red]NO-GO[/]"
    out.print(f"{verdict}: {escape('; '.join(report.reasons))}")


def _rehearsed(report: Report) -> Iterator[RenderableType]:
    if report.rehearsal:
        yield table(
            "The rehearsal",
            ("Revision", "Seconds"),
            ((name, f"{took:.2f}") for name, took in report.rehearsal["seconds"].items()),
        )
        yield (
            "Rolled back. Verification: every check holds."
            if report.rehearsal["ok"]
            else f"Rolled back. FAILED: {escape('; '.join(report.rehearsal['failed']))}"
        )


def _arrived(report: Report) -> Iterator[RenderableType]:
    if report.totals:
        yield table("Rows there are", ("Table", "Rows"), list(report.totals.items()))


def _parts(report: Report) -> Iterator[RenderableType]:
    tables, n = report.tables, report.totals
    yield table(
        "Legacy tables",
        ("Table", "Rows", "Lacks", "Kept in sessions.legacy_extra"),
        (
            (t["name"], t["rows"], *(escape(", ".join(t[k])) or "-" for k in ("lacking", "extra")))
            for t in tables
        ),
    )
    if len(tables) == 1:
        yield "The other legacy table does not exist: 0003 will create it, empty."
    if report.earlier_attempt:
        yield table(
            "An earlier attempt: renamed to ..._prior_backup_YYYYMMDD, its rows are merged",
            ("Table", "Rows"),
            list(report.earlier_attempt.items()),
        )
    total = Counter[str]()
    for t in tables:
        total.update({name: count for name, count in t.items() if isinstance(count, int)})
    yield _sessions(tables, total, n)
    yield _students(tables, total, n)
    yield calculation(
        "Addresses",
        *(("", t["missing"], f"rows of {t['name']} without an address") for t in tables),
        ("", total["known_elsewhere"], "of them have one in the other table"),
        ("", n["disagreeing"], "sessions with different addresses in their two rows"),
    )
    yield _content(report)
    yield table(
        f"Decided in {n['decided']:,} sessions, each recorded in an event",
        ("What", "Sessions", "Why"),
        (
            (
                escape(f"  {d['column']}" if d["column"] else d["kind"]),
                d["sessions"],
                "" if d["column"] else WHY.get(d["kind"], ""),
            )
            for d in report.decided
        ),
    )
    yield "\n".join(_expected(report))


def _sessions(
    tables: list[dict[str, Any]], total: Counter[str], n: dict[str, int]
) -> RenderableType:
    return calculation(
        "Sessions",
        *(("+", t["with_token"], f"rows of {t['name']} with a session_token") for t in tables),
        ("+", total["rows"] - total["with_token"], "rows without one: each becomes a session"),
        ("-", total["repeated"], "rows that repeat a token of their own table"),
        ("-", n["in_both"], "tokens in both tables: two rows become one"),
        *nonzero(
            ("+", n["further_sessions"], FURTHER),
            ("-", n["sessions_gone"], "deleted in the unified tables"),
        ),
        ("=", n["sessions"], "sessions will result"),
        *(("", n[f"only_{t['name']}"], f"of them only in {t['name']}") for t in tables),
    )


def _students(
    tables: list[dict[str, Any]], total: Counter[str], n: dict[str, int]
) -> RenderableType:
    spellings = total["addresses"] - total["not_addresses"] - total["clean_addresses"]
    return calculation(
        "Students",
        *(("+", t["addresses"], f"COUNT(DISTINCT student_email) of {t['name']}") for t in tables),
        ("-", spellings, "differ in case or white space only"),
        ("-", total["not_addresses"], "are no address: empty, or unknown@example.com"),
        ("-", total["clean_addresses"] - n["addresses"], "are in both tables"),
        ("+", n["placeholders"], "placeholders, one for each session without any address"),
        *nonzero(
            ("+", n["further_students"], FURTHER),
            ("-", n["students_gone"], "deleted or given another address in the unified tables"),
        ),
        ("=", n["students"], "students will result"),
    )


def _content(report: Report) -> RenderableType:
    n, unknown = report.totals, report.unknown_exercise_keys
    other = n["sessions"] - n["keys_none"] - n["keys_encrypted"] - n["keys_plaintext"]
    return calculation(
        "Content",
        ("", n["steps"], "rows of step_progress"),
        ("", n["steps_completed"], "of them completed"),
        ("", sum(unknown.values()), "exercises under an unknown key, which stay in exercises"),
        *(("", entries, escape(f"  {key}")) for key, entries in list(unknown.items())[:10]),
        ("", n["keys_none"], "sessions without an API key"),
        ("", n["keys_encrypted"], "with an encrypted one"),
        ("", n["keys_plaintext"], "with one in plain text (sk-...)"),
        ("", other, "with one of another form"),
    )


def _expected(report: Report) -> Iterator[str]:
    expected, measured = report.expected, report.expected["measured"]
    yield (
        f"Expected: about {expected['seconds']:,.0f} s for all revisions, "
        f"{size_of(expected['bytes'])} for the unified tables with their indexes "
        f"(the legacy tables have {size_of(expected['legacy_bytes'])}, and stay)."
    )
    yield (
        f"Measured just now, on temporary copies of all rows: merge {measured['merge']:.1f} s, indexes "
        f"{measured['indexes']:.1f} s, verification {measured['verify']:.1f} s. Temporary tables write no "
        "write-ahead log, so merge and indexes count 1.5 times. Verification counts twice, because 0007 "
        "repeats it. One second is for the rest."
    )
