"""Dry run: what ``alembic upgrade head`` would make of the legacy tables, changing nothing.

The mapping views are created and asked inside one transaction, which is rolled back; where the
migration has put them in place already, they are only asked. So this is what the merge will do,
not a second opinion on it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
import typer
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from rich.console import Console, RenderableType
from rich.markup import escape
from sqlalchemy import Connection

from models.steps import FLAGS
from scripts.connection import ConnectionProblem
from scripts.report import (
    HAS,
    ROOT,
    Json,
    Url,
    calculation,
    console,
    database,
    revision_of,
    run,
    table,
)

SQL = ROOT / "alembic" / "sql"
UNIFIED = "0002_progress_tracking"
BEFORE_BRIDGE = (None, "0001_unified_schema", UNIFIED)

EXPECTED = {
    "workshop_students": """session_token student_email student_name exercises bug_reports
        started_at last_activity total_time_spent completion_rate repo_created demo_mode
        created_at updated_at""",
    "student_configs": f"""session_token student_name student_email openai_api_key system_prompt
        tools voice_settings use_case_description call_direction ivr_greeting tts_provider
        selected_voice selected_phone_number websocket_url codespace_url github_repo_url
        railway_url demo_mode current_step {" ".join(FLAGS)} created_at updated_at""",
}
"""Columns that the latest application writes."""

OBSTACLES = """
SELECT CASE
    WHEN c.relkind <> 'r' THEN format('%s is not an ordinary table', c.relname)
    ELSE format('role %s does not own %s, and may not rename it', current_user, c.relname)
END
FROM pg_class AS c
WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
  AND (c.relkind <> 'r' OR NOT pg_has_role(c.relowner, 'USAGE'))
ORDER BY c.relname
"""
BUILD = """
INSERT INTO bridge.source (legacy_name, relation, created_here)
SELECT name, to_regclass('public.' || name), false
FROM unnest(ARRAY['workshop_students', 'student_configs']) AS name
WHERE to_regclass('public.' || name) IS NOT NULL;
SELECT bridge.build_adapter(legacy_name) FROM bridge.source;
SELECT bridge.build_prior();
SELECT bridge.build_raw();
"""
WITH_TOKEN = "SELECT count(*) FROM {} WHERE session_token IS NOT NULL"
# What will result, read once: the old application's ALTER TABLE waits for as long as this takes.
PLAN = """
CREATE TEMPORARY TABLE plan ON COMMIT DROP AS
SELECT session_token, openai_api_key, exercises, steps, note FROM bridge.sessions
"""
# "addresses" is the raw COUNT(DISTINCT student_email).
TABLES = """
WITH r AS MATERIALIZED (
    SELECT source, token, student_email, bridge.known_email(student_email) AS email FROM bridge.raw
),
known AS MATERIALIZED (
    SELECT DISTINCT source, token FROM r WHERE email IS NOT NULL
)
SELECT
    s.legacy_name AS name,
    s.relation::text AS relation,
    ARRAY(SELECT name FROM bridge.columns_of(s.relation)) AS columns,
    ARRAY(
        SELECT name FROM bridge.columns_of(s.relation)
        WHERE name <> 'completion_rate' AND name NOT IN (
            SELECT attname FROM pg_attribute WHERE attrelid = 'bridge.legacy_row'::regclass
            UNION SELECT legacy_column FROM bridge.synonyms())
    ) AS extra,
    count(r.source) AS rows,
    count(r.token) - count(DISTINCT r.token) AS repeated,
    count(DISTINCT r.student_email) AS addresses,
    count(DISTINCT r.student_email) FILTER (WHERE r.email IS NULL) AS not_addresses,
    count(DISTINCT r.email) AS clean_addresses,
    count(r.source) FILTER (WHERE r.email IS NULL) AS missing,
    count(r.source) FILTER (WHERE r.email IS NULL AND k.token IS NOT NULL) AS known_elsewhere
FROM bridge.source AS s
LEFT JOIN r ON r.source = s.legacy_name
LEFT JOIN known AS k ON k.token = r.token AND k.source <> r.source
GROUP BY s.legacy_name, s.relation
ORDER BY s.legacy_name DESC
"""
# Encrypted: initialisation vector, tag and ciphertext in base64.
TOTALS = """
SELECT *
FROM (
    SELECT
        count(*) FILTER (WHERE p AND c) AS in_both,
        count(*) FILTER (WHERE p AND NOT c) AS only_workshop_students,
        count(*) FILTER (WHERE c AND NOT p) AS only_student_configs
    FROM (
        SELECT bool_or(source = 'workshop_students') AS p, bool_or(source = 'student_configs') AS c
        FROM bridge.raw
        GROUP BY token
    ) AS t
) AS tokens, (
    SELECT count(DISTINCT bridge.known_email(student_email)) AS addresses FROM bridge.raw
) AS raw, (
    SELECT count(*) AS students FROM bridge.students
) AS students, (
    SELECT
        count(*) AS sessions,
        count(*) FILTER (WHERE openai_api_key IS NULL) AS keys_none,
        count(*) FILTER (
            WHERE openai_api_key ~ '^([A-Za-z0-9+/=]+:){2}[A-Za-z0-9+/=]+$') AS keys_encrypted,
        count(*) FILTER (WHERE openai_api_key LIKE 'sk-%') AS keys_plaintext
    FROM plan
) AS sessions, (
    SELECT count(*) AS steps, count(*) FILTER (WHERE validation_passed) AS steps_completed
    FROM plan CROSS JOIN LATERAL unnest(steps)
) AS steps, (
    SELECT
        count(note) AS decided,
        count(*) FILTER (WHERE note ? 'placeholder_address') AS placeholders,
        count(*) FILTER (WHERE note -> 'conflicts' ? 'student_email') AS disagreeing
    FROM plan
) AS notes
"""
UNKNOWN_KEYS = r"""
SELECT
    CASE WHEN k.key ~ '^\d+$' THEN '0, 1, 2, ... (text spread into characters)'
         ELSE regexp_replace(left(k.key, 40), '[[:cntrl:]]', '?', 'g') END AS key,
    count(*) AS entries
FROM plan
CROSS JOIN LATERAL jsonb_object_keys(exercises) AS k(key)
WHERE step_number_of(k.key) IS NULL
GROUP BY 1
ORDER BY entries DESC, key
"""
# A note is {kind: true}, {kind: [column]} or {kind: {column: which source wins, or a value}}.
DECIDED = """
SELECT k.kind, d.detail AS column, count(DISTINCT session_token) AS sessions
FROM plan
CROSS JOIN LATERAL jsonb_each(note) AS k(kind, value)
LEFT JOIN LATERAL (
    SELECT o.key || CASE WHEN k.kind = 'conflicts' THEN ': ' || o.value || ' wins' ELSE '' END
    FROM jsonb_each_text(CASE jsonb_typeof(k.value) WHEN 'object' THEN k.value ELSE '{}' END) AS o
    UNION ALL
    SELECT a FROM jsonb_array_elements_text(
        CASE jsonb_typeof(k.value) WHEN 'array' THEN k.value ELSE '[]' END) AS a
) AS d(detail) ON true
GROUP BY GROUPING SETS ((k.kind), (k.kind, d.detail))
HAVING grouping(d.detail) = 1 OR d.detail IS NOT NULL
ORDER BY k.kind, d.detail NULLS FIRST
"""


@dataclass
class Report:
    """The answer: the verdict, and what the merge will read and write."""

    database: str
    revision: str | None
    go: bool = False
    reasons: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    unknown_exercise_keys: dict[str, int] = field(default_factory=dict)
    decided: list[dict[str, Any]] = field(default_factory=list)


def examine(connection: Connection) -> Report:
    """Find out what the migration would do. The caller rolls the transaction back."""
    run(connection, (SQL / "session.sql").read_text(encoding="utf-8"))
    run(connection, "SET LOCAL lock_timeout = '2s'")
    has = run(connection, HAS).mappings().one()
    report = Report(has["database"], revision_of(connection))
    if not has["bridge"]:
        report.reasons = _obstacles(connection, report.revision, has["legacy"])
        if report.reasons:
            return report
        if not has["legacy"]:
            report.go = True
            report.reasons = ["neither legacy table exists: a fresh install has nothing to merge"]
            return report
        for path in sorted((SQL / "0003_legacy_bridge").glob("0[1-9]_*.sql")):
            run(connection, path.read_text(encoding="utf-8"))
        run(connection, BUILD)
    _count(connection, report)
    totals = report.totals
    rows = sum(t["rows"] - t["repeated"] for t in report.tables) - totals["in_both"]
    report.reasons = [
        f"the counts contradict each other: {expected:,} {what} by the legacy tables, "
        f"{totals[what]:,} by the mapping"
        for what, expected in (
            ("sessions", rows),
            ("students", totals["addresses"] + totals["placeholders"]),
        )
        if expected != totals[what]
    ]
    if not report.reasons:
        report.go = True
        report.reasons = ["every row has a place, and the counts add up"]
        if has["bridge"]:
            report.reasons.append("python -m scripts.verify compares what has arrived")
    return report


def _obstacles(connection: Connection, revision: str | None, legacy: list[str]) -> list[str]:
    """Create the unified schema in this transaction; say what forbids it, or the merge."""
    if revision not in BEFORE_BRIDGE and legacy:
        return [
            f"the database reached revision {revision} without {' and '.join(legacy)}, which no "
            f"later revision merges: run alembic downgrade {UNIFIED} first"
        ]
    if revision in BEFORE_BRIDGE:
        config = Config(str(ROOT / "alembic.ini"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, UNIFIED)
        except CommandError as error:
            # a refusal that the SQL words itself, unlike a lock or a permission
            if isinstance(getattr(error.__cause__, "orig", None), psycopg.errors.RaiseException):
                return [str(error)]
            raise ConnectionProblem(str(error)) from error
    return list(run(connection, OBSTACLES).scalars())


def _count(connection: Connection, report: Report) -> None:
    for counted in run(connection, TABLES).mappings():
        entry = dict(counted)
        found = entry.pop("columns")
        entry["lacking"] = [c for c in EXPECTED[counted["name"]].split() if c not in found]
        entry["with_token"] = 0
        if "session_token" in found:
            counting = WITH_TOKEN.format(counted["relation"])
            entry["with_token"] = run(connection, counting).scalar_one()
        report.tables.append(entry)
    run(connection, PLAN)
    report.totals = dict(run(connection, TOTALS).mappings().one())
    report.unknown_exercise_keys = {key: entries for key, entries in run(connection, UNKNOWN_KEYS)}
    report.decided = [dict(row) for row in run(connection, DECIDED).mappings()]


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision or '(base)'}")
    out.print("A dry run: nothing is changed.\n")
    for part in _parts(report) if report.totals else ():
        out.print(part)
        out.print()
    verdict = "[green]GO[/]" if report.go else "[red]NO-GO[/]"
    out.print(f"{verdict}: {escape('; '.join(report.reasons))}")


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
        yield "The other legacy table does not exist: it will be created, empty."

    def total(name: str) -> int:
        return sum(t[name] for t in tables)

    yield calculation(
        "Sessions",
        *(("+", t["with_token"], f"rows of {t['name']} with a session_token") for t in tables),
        ("+", total("rows") - total("with_token"), "rows without one: a session each"),
        ("-", total("repeated"), "rows that repeat a token of their own table"),
        ("-", n["in_both"], "tokens in both tables: two rows become one"),
        ("=", n["sessions"], "sessions will result"),
        *(("", n[f"only_{t['name']}"], f"of them only in {t['name']}") for t in tables),
    )
    spellings = total("addresses") - total("not_addresses") - total("clean_addresses")
    yield calculation(
        "Students",
        *(("+", t["addresses"], f"COUNT(DISTINCT student_email) of {t['name']}") for t in tables),
        ("-", spellings, "differ in case or white space only"),
        ("-", total("not_addresses"), "are none: empty, or unknown@example.com"),
        ("-", total("clean_addresses") - n["addresses"], "stand in both tables"),
        ("+", n["placeholders"], "placeholders, one for each session without any address"),
        ("=", n["students"], "students will result"),
    )
    yield calculation(
        "Addresses",
        *(("", t["missing"], f"rows of {t['name']} without an address") for t in tables),
        ("", total("known_elsewhere"), "of them have one in the other table"),
        ("", n["disagreeing"], "sessions whose two rows name different addresses"),
    )
    unknown = report.unknown_exercise_keys
    other = n["sessions"] - n["keys_none"] - n["keys_encrypted"] - n["keys_plaintext"]
    yield calculation(
        "Content",
        ("", n["steps"], "rows of step_progress will result"),
        ("", n["steps_completed"], "of them completed"),
        ("", sum(unknown.values()), "exercises under an unknown key, which stay in exercises"),
        *(("", entries, escape(f"  {key}")) for key, entries in list(unknown.items())[:10]),
        ("", n["keys_none"], "sessions without an API key"),
        ("", n["keys_encrypted"], "with an encrypted one"),
        ("", n["keys_plaintext"], "with one in plain text (sk-...)"),
        ("", other, "with one of another form"),
    )
    yield table(
        f"Decided in {n['decided']:,} sessions",
        ("What", "Sessions"),
        (
            (escape(f"  {d['column']}" if d["column"] else d["kind"]), d["sessions"])
            for d in report.decided
        ),
    )


def main(url: Url = None, as_json: Json = False) -> None:
    """Show what the migration would do: how many students and sessions, from where, what is odd.

    Changes nothing. Exits with 0 (go), 1 (no-go) or 2 (could not tell).

    Example: python -m scripts.dry_run --url postgresql://localhost/workshop
    """
    with database(url, "REPEATABLE READ") as connection:
        report = examine(connection)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(0 if report.go else 1)


if __name__ == "__main__":
    typer.run(main)
