"""Verification: whether the unified schema holds what the legacy tables say.

The checks are the bridge's own, ``bridge.run_checks``: every mapped value of every row, and counts
taken from the raw tables. Beside them the migration guide's queries of step 5, reconciled, and its six
success criteria, as far as a database can tell them. ``--differences`` opens what differs. Reads only, in
short transactions.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts.commands.rights import beyond
from scripts.common.connection import NotApplicable
from scripts.common.moment import Moment, moment
from scripts.common.report import (
    HAS,
    ROOT,
    Json,
    Url,
    calculation,
    console,
    database,
    masked,
    progress,
    refuse_damage,
    revision_of,
    run,
    table,
)

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

# --- the guide's counts, of one moment: copies of what they are about ----------------------------------

SOURCES = """
SELECT s.legacy_name AS name, s.relation::text AS relation, s.token_expression AS token,
       ARRAY(SELECT name FROM bridge.columns_of(s.relation)) AS columns
FROM bridge.source AS s ORDER BY s.legacy_name DESC
"""
COPIES = """
CREATE TEMPORARY TABLE told (source text, token text, student_email text, with_token boolean, not_null boolean);
CREATE TEMPORARY TABLE arrived (token text);
CREATE TEMPORARY TABLE known (student_email text);
CREATE TEMPORARY TABLE noted (token text);
CREATE TEMPORARY TABLE kept (table_name text, key text, column_name text)
"""
BY_TABLE = """
SELECT
    count(*) AS rows,
    count(*) FILTER (WHERE with_token) AS with_token,
    count(*) FILTER (WHERE not_null) AS not_null,
    count(*) - count(DISTINCT token) AS repeated,
    count(DISTINCT student_email) AS addresses,
    count(DISTINCT student_email) FILTER (WHERE bridge.known_email(student_email) IS NULL) AS not_addresses,
    count(DISTINCT bridge.known_email(student_email)) AS clean_addresses
FROM pg_temp.told WHERE source = '{}'
"""
# What the new tables lack is explained where it is noted, or was deleted or changed there since.
RECONCILED = """
WITH tokens AS MATERIALIZED (
    SELECT token, count(DISTINCT source) > 1 AS in_both FROM pg_temp.told GROUP BY token
),
emails AS MATERIALIZED (
    SELECT DISTINCT token, bridge.known_email(student_email) AS email FROM pg_temp.told
    WHERE bridge.known_email(student_email) IS NOT NULL
),
explained AS MATERIALIZED (
    SELECT token FROM pg_temp.noted
    UNION
    SELECT key FROM pg_temp.kept WHERE table_name = 'sessions' AND column_name = '(row)'
),
other_address AS MATERIALIZED (
    SELECT e.email FROM emails AS e JOIN explained AS x USING (token)
    UNION
    SELECT e.email FROM emails AS e
    JOIN pg_temp.kept AS k ON k.key = e.token AND k.table_name = 'sessions' AND k.column_name = 'student_email'
    UNION
    SELECT key FROM pg_temp.kept WHERE table_name = 'students' AND column_name = '(row)'
)
SELECT *
FROM (
    SELECT
        count(*) FILTER (WHERE t.in_both) AS in_both,
        count(a.token) AS sessions,
        count(*) FILTER (WHERE t.token IS NULL) AS further_sessions,
        count(*) FILTER (WHERE a.token IS NULL) AS sessions_gone,
        count(*) FILTER (WHERE a.token IS NULL AND x.token IS NULL) AS sessions_missing
    FROM tokens AS t
    FULL JOIN pg_temp.arrived AS a ON a.token = t.token
    LEFT JOIN explained AS x ON x.token = t.token
) AS sessions, (
    SELECT
        count(e.email) AS addresses,
        count(k.student_email) AS students,
        count(*) FILTER (WHERE k.student_email LIKE 'anonymous+%@workshop.invalid') AS placeholders,
        count(*) FILTER (WHERE e.email IS NULL
                           AND k.student_email NOT LIKE 'anonymous+%@workshop.invalid') AS further_students,
        count(*) FILTER (WHERE k.student_email IS NULL) AS students_gone,
        count(*) FILTER (WHERE k.student_email IS NULL AND o.email IS NULL) AS students_missing
    FROM (SELECT DISTINCT email FROM emails) AS e
    FULL JOIN pg_temp.known AS k ON k.student_email = e.email
    LEFT JOIN other_address AS o ON o.email = e.email
) AS students
"""

# --- differences ---------------------------------------------------------------------------------------

DIFFERENCES = """
SELECT r.last_token AS last, r.sessions, d.table_name, d.column_name, d.token
FROM bridge.next_range(CAST(:after AS text), 200) AS r
LEFT JOIN LATERAL bridge.differences(r.first_token, r.last_token) AS d ON true
WHERE r.last_token IS NOT NULL
ORDER BY d.token, d.table_name, d.column_name
"""
STUDENT_DIFFERENCES = """
SELECT table_name, column_name, token
FROM bridge.student_differences('', (SELECT max(student_email) FROM bridge.student_source))
ORDER BY token, column_name
"""
SESSION = """
SELECT coalesce(st.student_email, m.student_email) AS student, to_jsonb(v) AS new, to_jsonb(m) AS old,
       (SELECT jsonb_agg(to_jsonb(sp)) FROM public.step_progress AS sp WHERE sp.session_token = k.token) AS steps
FROM (SELECT CAST(:token AS text) AS token) AS k
LEFT JOIN public.sessions AS v ON v.session_token = k.token
LEFT JOIN public.students AS st ON st.student_id = v.student_id
LEFT JOIN bridge.mapped(k.token, k.token) AS m ON true
"""
STUDENT = """
SELECT m.student_email AS student, to_jsonb(st) AS new, to_jsonb(m) AS old
FROM bridge.students AS m
LEFT JOIN public.students AS st USING (student_email)
WHERE m.first_token = :token AND m.student_email = ANY (
    ARRAY(SELECT s.student_email FROM bridge.student_source AS s WHERE s.token = :token))
"""
WIDTH = 60


@dataclass
class Report:
    """``criteria`` says yes, no, or (None) that the database cannot tell; ``notes`` say more on each.

    ``guide`` holds the guide's queries with their results, ``reconciled`` what makes them add up;
    ``differences`` are filled where they are asked for, at most as many as asked for; ``rights`` are those
    that no role should have.
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


def examine(
    connection: Connection, say: Callable[[str], None] = lambda _: None, differences: int = 0
) -> Report:
    """Run every check, in AUTOCOMMIT or in the caller's transaction; open so many differences.

    NotApplicable says what comes first where there is nothing to check.
    """
    run(connection, (ROOT / "alembic" / "sql" / "session.sql").read_text(encoding="utf-8"))
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
            _count(now, report)
        say("comparing every value")
        report.checks = run(connection, CHECKS).scalar_one()
        report.rights = beyond(connection)
        report.checks.append(
            {
                "check_name": "rights that the legacy tables do not give",
                "expected": 0,
                "actual": len(report.rights),
                "ok": not report.rights,
            }
        )
    elif revision is None or not has["unified"]:
        raise NotApplicable(f"the database is not migrated; next: {STATUS}")
    elif has["legacy"]:
        raise NotApplicable(
            f"at revision {revision} nothing connects {' and '.join(has['legacy'])} with the "
            f"unified schema; next: {STATUS}"
        )
    report.counts = {name: run(connection, sql).scalar_one() for name, sql in COUNTS.items()}
    report.guide[" ".join(ORPHANS.split())] = report.counts["orphaned_sessions"]
    _judge(connection, report)
    report.ok = all(c["ok"] for c in report.checks) and False not in report.criteria.values()
    if differences and has["bridge"]:
        for found in _differences(connection, say):
            report.differences.append(found)
            if len(report.differences) >= differences:
                break
    return report


def _count(now: Moment, report: Report) -> None:
    """The guide's counts and what reconciles them, of one moment."""
    connection = now.connection
    run(connection, COPIES)
    sources = run(connection, SOURCES).mappings().all()
    for source in sources:
        columns = (
            ("source", f"'{source['name']}'"),
            ("token", source["token"]),
            (
                "student_email",
                "t.student_email::text" if "student_email" in source["columns"] else "NULL",
            ),
            (
                "with_token",
                "t.session_token::text <> ''" if "session_token" in source["columns"] else "false",
            ),
            (
                "not_null",
                "t.session_token IS NOT NULL" if "session_token" in source["columns"] else "false",
            ),
        )
        now.copy(source["relation"], "told", columns)
    now.copy("public.sessions", "arrived", [("token", "t.session_token")])
    now.copy("public.students", "known", [("student_email", "t.student_email")])
    now.copy("bridge.change_log", "noted", [("token", "t.token")])
    kept = [(name, f"t.{name}") for name in ("table_name", "key", "column_name")]
    now.copy("bridge.override", "kept", kept)

    for source in sources:
        counted = dict(run(connection, BY_TABLE.format(source["name"])).mappings().one())
        report.tables[source["name"]] = counted
    report.reconciled = dict(run(connection, RECONCILED).mappings().one())
    run(
        connection,
        "DROP TABLE pg_temp.told, pg_temp.arrived, pg_temp.known, pg_temp.noted, pg_temp.kept",
    )

    report.guide["SELECT COUNT(*) FROM students"] = report.reconciled["students"]
    for name, counted in report.tables.items():
        report.guide[f"SELECT COUNT(DISTINCT student_email) FROM {name}"] = counted["addresses"]
    report.guide["SELECT COUNT(*) FROM sessions"] = report.reconciled["sessions"]
    for source in sources:
        query = f"SELECT COUNT(*) FROM {source['name']} WHERE session_token IS NOT NULL"
        has_column = "session_token" in source["columns"]
        report.guide[query] = report.tables[source["name"]]["not_null"] if has_column else None


def _judge(connection: Connection, report: Report) -> None:
    """The six criteria, by the guide's names."""
    counts, missing = report.counts, report.reconciled

    def hold(*subjects: str) -> bool:
        return all(c["ok"] for c in report.checks if c["check_name"].startswith(subjects))

    # the revision after the merge adds the foreign keys
    constrained = report.revision == "0004_merge_legacy_data" or bool(
        run(connection, FOREIGN_KEY).scalar()
    )
    wrong = run(connection, WRONG_RATES).scalar_one()
    shown: bool | None = None
    note = "comes with revision 0006; then look at the page yourself as well"
    if run(connection, "SELECT to_regclass('public.session_overview') IS NOT NULL").scalar():
        seen = run(connection, OVERVIEW).mappings().one()
        shown = seen["shown"] == seen["sessions"]
        note = (
            f"session_overview answers, with {seen['shown']:,} rows for {seen['sessions']:,} sessions; "
            "look at the page yourself as well"
        )
    elif report.revision is not None and report.revision >= "0006":
        shown, note = False, "the view session_overview is not there"
    told = (
        ("All students migrated", hold("students", "cells: students")
            and not missing.get("students_missing"), f"{counts['students']:,} students"),
        ("All sessions migrated", hold("sessions", "cells", "API keys", "exercises")
            and not missing.get("sessions_missing"), f"{counts['sessions']:,} sessions"),
        ("No orphaned sessions: foreign keys intact", not counts["orphaned_sessions"] and constrained,
            f"{counts['orphaned_sessions']:,} orphans"
            + ("" if constrained else "; the foreign key is not there, or not validated")),
        ("Instructor dashboard loads and shows correct data", shown, note),
        ("Progress percentages calculated correctly", wrong == 0,
            f"{wrong:,} sessions whose completion_rate is not what their flags and steps say"),
        ("No API errors in production logs", None, "no database can tell: look at them yourself"),
    )  # fmt: skip
    report.criteria = {name: met for name, met, _ in told}
    report.notes = {name: more for name, _, more in told}


def _differences(connection: Connection, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """One entry for each value that differs, the secrets masked."""
    after, looked = "", 0
    while found := connection.execute(text(DIFFERENCES), {"after": after}).mappings().all():
        after = found[0]["last"]
        looked += found[0]["sessions"]
        say(f"looked for differences in {looked:,} sessions")
        for cell in found:
            if cell["token"] is not None:
                yield from _opened(
                    connection, cell["table_name"], cell["column_name"], cell["token"]
                )
    for cell in run(connection, STUDENT_DIFFERENCES).mappings():
        yield from _opened(connection, cell["table_name"], cell["column_name"], cell["token"])


def _opened(connection: Connection, name: str, column: str, token: str) -> Iterator[dict[str, Any]]:
    sql = STUDENT if name == "students" else SESSION
    for row in connection.execute(text(sql), {"token": token}).mappings():
        old, new = row["old"] or {}, row["new"] or {}
        pairs: list[tuple[int | None, Any, Any]] = [(None, old.get(column), new.get(column))]
        if name == "step_progress":
            olds = {step["step_number"]: step for step in old.get("steps") or ()}
            news = {step["step_number"]: step for step in row["steps"] or ()}
            pairs = [
                (number, olds.get(number, {}).get(column), news.get(number, {}).get(column))
                for number in sorted(olds.keys() | news.keys())
            ]
            if column.startswith("("):
                pairs = [
                    (n, n in olds or None, n in news or None)
                    for n in sorted(olds.keys() ^ news.keys())
                ]
        elif column.startswith("("):
            pairs = [(None, bool(old) or None, bool(new) or None)]
        for step, before, after in pairs:
            if before != after:
                shown = _shown(column, before, after)
                yield {
                    "table": name,
                    "column": column,
                    "step": step,
                    "student": row["student"],
                    "session": f"...{token[-4:]}",
                    "old_tables": shown[0],
                    "new_tables": shown[1],
                }


def _shown(column: str, old: Any, new: Any) -> tuple[str, str]:
    """Both values for people: no secret, and of long ones the part where they begin to differ."""
    if column.startswith("("):
        return ("there" if old else "not there"), ("there" if new else "not there")
    if column == "openai_api_key":
        return _key(old), _key(new)
    if column == "legacy_extra":
        return _names(old, new), _names(new, old)
    texts = [
        masked(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for v in (old, new)
    ]
    if texts[0] == texts[1]:
        return ("(differs in what is masked)",) * 2
    same = next(
        (i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts))
    )
    start = 0 if max(map(len, texts)) <= WIDTH else max(0, same - WIDTH // 4)

    def part(value: Any, shown: str) -> str:
        if value is None:
            return "NULL"
        piece = ("..." if start else "") + shown[start : start + WIDTH]
        piece += "..." if len(shown) > start + WIDTH else ""
        return "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in piece)

    return part(old, texts[0]), part(new, texts[1])


def _key(value: str | None) -> str:
    if value is None:
        return "NULL"
    return f"{'plain text' if value.startswith('sk-') else 'a key'}, {len(value)} characters"


def _names(value: dict[str, Any] | None, other: dict[str, Any] | None) -> str:
    """Names of the legacy columns whose values the other one has not."""
    names = [
        f"{source}.{column}"
        for source, columns in (value or {}).items()
        for column, content in columns.items()
        if ((other or {}).get(source) or {}).get(column) != content
    ]
    return ", ".join(names) or "-"


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
            f"[red]NOT OK: see above.[/] {opened}'workshop merge' brings what the new tables lack"
        )


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
        yield f"{report.pending:,} sessions written meanwhile, left out until carried over"
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
            ("Student", "Session", "Value", "Old tables say", "New tables hold"),
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
    tables, n = report.tables, report.reconciled

    def total(name: str) -> int:
        return sum(counted[name] for counted in tables.values())

    def unless_none(*lines: tuple[str, int, str]) -> list[tuple[str, int, str]]:
        return [line for line in lines if line[1]]

    yield calculation(
        "Sessions: why the counts agree",
        *(
            ("+", t["with_token"], f"rows of {name} with a session_token")
            for name, t in tables.items()
        ),
        *unless_none(
            ("+", total("rows") - total("with_token"), "rows without one: a session each"),
            ("-", total("repeated"), "rows that repeat a token of their own table"),
        ),
        ("-", n["in_both"], "tokens in both tables: two rows became one"),
        *unless_none(
            (
                "+",
                n["further_sessions"],
                "only in the new tables: written there, or an earlier attempt's",
            ),
            (
                "-",
                n["sessions_gone"] - n["sessions_missing"],
                "deleted there, or about to be carried over",
            ),
            ("-", n["sessions_missing"], "MISSING"),
        ),
        ("=", n["sessions"], "sessions"),
    )
    spellings = total("addresses") - total("not_addresses") - total("clean_addresses")
    yield calculation(
        "Students: why the counts agree",
        *(
            ("+", t["addresses"], f"COUNT(DISTINCT student_email) of {name}")
            for name, t in tables.items()
        ),
        ("-", spellings, "differ in case or white space only"),
        *unless_none(("-", total("not_addresses"), "are none: empty, or unknown@example.com")),
        ("-", total("clean_addresses") - n["addresses"], "stand in both tables"),
        ("+", n["placeholders"], "placeholders, one for each session without any address"),
        *unless_none(
            (
                "+",
                n["further_students"],
                "only in the new tables: written there, or an earlier attempt's",
            ),
            (
                "-",
                n["students_gone"] - n["students_missing"],
                "changed there, or about to be carried over",
            ),
            ("-", n["students_missing"], "MISSING"),
        ),
        ("=", n["students"], "students"),
    )


def main(
    url: Url = None,
    as_json: Json = False,
    differences: Annotated[
        bool,
        typer.Option(
            help="Show what differs: whose session, which value, and what both sides say."
        ),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many differences at most.")] = 50,
) -> None:
    """Check that nothing was lost: students, sessions, every value, orphans, percentages.

    Changes nothing, and keeps nobody waiting. A session is shown as its student and the last four
    characters of its token; keys are masked, and of other columns of the old tables only the names are shown.
    Exits with 0 (every check holds), 1 (one does not) or 2 (could not tell).

    Example: workshop verify --url postgresql://localhost/workshop

    Example: workshop verify --differences --limit 10
    """
    with database(url, "AUTOCOMMIT") as connection, progress("verifying") as say:
        report = examine(connection, say, limit if differences else 0)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(0 if report.ok else 1)
