"""The report of a verification, and its print."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape

from scripts.common.terminal import calculation, nonzero, table


@dataclass
class Report:
    """``criteria``: True, False, or None if the database does not know; ``notes`` explain each.

    ``guide`` has the guide's queries with their results, ``reconciled`` the numbers that make them
    add up. ``differences`` are filled on request, up to the limit; ``rights`` are rights that no
    role should have.
    """

    database: str
    revision: str | None
    ok: bool
    checks: list[dict[str, Any]]
    counts: dict[str, int]
    pending: int
    criteria: dict[str, bool | None]
    notes: dict[str, str] = field(default_factory=dict)
    guide: dict[str, int | None] = field(default_factory=dict)
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    reconciled: dict[str, int] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    rights: list[str] = field(default_factory=list)


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    for part in _parts(report):
        out.print(part)
        out.print()
    if report.ok:
        out.print("[green]Every check holds.[/]")
    else:
        opened = "" if report.differences else "'workshop verify --differences' shows them; "
        out.print(
            f"[red]NOT OK: see above.[/] {opened}'workshop merge' merges what the unified tables lack"
        )


ONLY_NEW = "only in the unified tables: written there, or in an earlier attempt"
MARKS = {True: "[green]yes[/]", False: "[red]NO[/]", None: "look for yourself"}


def _parts(report: Report) -> Iterator[RenderableType]:
    if report.checks:
        yield table(
            "Checks",
            ("Check", "Expected", "Found", ""),
            (
                (escape(c["check_name"]), c["expected"], c["actual"], MARKS[c["ok"]])
                for c in report.checks
            ),
        )
        if report.rights:
            yield "\n".join(escape(line) for line in report.rights)
        yield f"{report.pending:,} sessions written meanwhile, left out until applied"
    else:
        yield "No legacy table to compare with: a fresh install, or they were dropped for good."
    yield table(
        "The guide's queries",
        ("Query", "Result"),
        (
            (escape(query), "no such column" if result is None else f"{result:,}")
            for query, result in report.guide.items()
        ),
    )
    if report.reconciled:
        yield from _reconciled(report)
    yield table(
        "Success criteria",
        ("Criterion", "Met", "What was seen"),
        ((name, MARKS[met], escape(report.notes[name])) for name, met in report.criteria.items()),
    )
    if report.differences:
        yield table(
            f"Differences, the first {len(report.differences)}",
            ("Student", "Session", "Value", "Legacy tables", "Unified tables"),
            (
                (
                    escape(d["student"] or "-"),
                    escape(d["session"]),
                    escape(
                        f"{d['table']}.{d['column']}" + (f", step {d['step']}" if d["step"] else "")
                    ),
                    escape(d["old_tables"]),
                    escape(d["new_tables"]),
                )
                for d in report.differences
            ),
        )


def _reconciled(report: Report) -> Iterator[RenderableType]:
    yield _sessions(report.tables, report.reconciled)
    yield _students(report.tables, report.reconciled)


def _sessions(tables: dict[str, dict[str, int]], n: dict[str, int]) -> RenderableType:
    rows, with_token, repeated = (
        sum(counted[name] for counted in tables.values())
        for name in ("rows", "with_token", "repeated")
    )
    return calculation(
        "Sessions: why the counts agree",
        *(
            ("+", t["with_token"], f"rows of {name} with a session_token")
            for name, t in tables.items()
        ),
        *nonzero(
            ("+", rows - with_token, "rows without one: each became a session"),
            ("-", repeated, "rows that repeat a token of their own table"),
        ),
        ("-", n["in_both"], "tokens in both tables: two rows became one"),
        *nonzero(
            ("+", n["further_sessions"], ONLY_NEW),
            (
                "-",
                n["sessions_gone"] - n["sessions_missing"],
                "deleted there, or logged and not applied yet",
            ),
            ("-", n["sessions_missing"], "MISSING"),
        ),
        ("=", n["sessions"], "sessions"),
    )


def _students(tables: dict[str, dict[str, int]], n: dict[str, int]) -> RenderableType:
    addresses, not_addresses, clean = (
        sum(counted[name] for counted in tables.values())
        for name in ("addresses", "not_addresses", "clean_addresses")
    )
    return calculation(
        "Students: why the counts agree",
        *(
            ("+", t["addresses"], f"COUNT(DISTINCT student_email) of {name}")
            for name, t in tables.items()
        ),
        ("-", addresses - not_addresses - clean, "differ in case or white space only"),
        *nonzero(("-", not_addresses, "are no address: empty, or unknown@example.com")),
        ("-", clean - n["addresses"], "are in both tables"),
        ("+", n["placeholders"], "placeholders, one for each session without any address"),
        *nonzero(
            ("+", n["further_students"], ONLY_NEW),
            (
                "-",
                n["students_gone"] - n["students_missing"],
                "changed there, or logged and not applied yet",
            ),
            ("-", n["students_missing"], "MISSING"),
        ),
        ("=", n["students"], "students"),
    )
