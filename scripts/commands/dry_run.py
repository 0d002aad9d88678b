"""Dry run: what ``alembic upgrade head`` would make of the legacy tables, changing nothing.

The merge is done, and verified, on temporary copies, by the SQL text of the revisions (``shadow``): so
this is what the migration will do, not a second opinion on it. The tables themselves are only read,
in transactions of some 40 ms, so that it is safe while the application is in use. ``--rehearse`` goes
further: the revisions themselves, on the real tables, in one transaction that is rolled back.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Annotated, Any

import psycopg
import typer
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from rich.console import Console, RenderableType
from rich.markup import escape
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from models.steps import FLAGS
from scripts.commands import verify
from scripts.commands.shadow import SQL, Shadow, build
from scripts.common import limitations
from scripts.common.connection import ConnectionProblem, connect, explain
from scripts.common.report import (
    HAS,
    ROOT,
    VERSION_TABLE,
    Json,
    Url,
    calculation,
    console,
    database,
    masked,
    passes,
    progress,
    refuse_damage,
    revision_of,
    run,
    size_of,
    table,
)

BEFORE_BRIDGE = (None, "0001_unified_schema", "0002_progress_tracking")

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

WHY = {
    "conflicts": "both rows say something else; configuration: student_configs wins, progress and "
    "address: workshop_students",
    "placeholder_address": "no row of the session has an address: a student of its own",
    "unreadable": "not the JSON or number that its column is for: kept in legacy_extra as it is",
    "clamped": "out of range: the nearest number that is allowed",
    "row_without_token": "a session of its own, named after the row's key, not active",
    "token_shared_by_many_browsers": "the literal text null or undefined: kept, as one session",
    "written_on_both_sides": "written in the new tables as well: later values win, flags add up",
}
"""Kinds of ``merge_note``, as the mapping, the backfill and apply write them, for people."""

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
              'docs/dba-review.md says what to do', t.tgname, c.relname, t.tgfoid::regprocedure)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
  AND c.relkind = 'r' AND NOT t.tgisinternal
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
WITH_TOKEN = "SELECT COUNT(*) FROM pg_temp.{} WHERE session_token::text <> ''"
# "addresses" is the raw COUNT(DISTINCT student_email).
TABLES = """
WITH r AS MATERIALIZED (
    SELECT source, token, student_email, bridge.known_email(student_email) AS email
    FROM bridge.raw('', bridge.last_token())
),
known AS MATERIALIZED (
    SELECT DISTINCT source, token FROM r WHERE email IS NOT NULL
)
SELECT
    s.legacy_name AS name,
    ARRAY(SELECT name FROM bridge.columns_of(s.relation)) AS columns,
    ARRAY(
        SELECT name FROM bridge.columns_of(s.relation)
        WHERE name <> 'completion_rate' AND name NOT IN (
            SELECT attname FROM pg_attribute
            WHERE attrelid = 'bridge.known_columns'::regclass AND NOT attisdropped)
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
WHERE NOT s.created_here
GROUP BY s.legacy_name, s.relation
ORDER BY s.legacy_name DESC
"""
# Encrypted: initialisation vector, tag and ciphertext in base64. further: of an earlier attempt, of the
# new tables, or kept from before a downgrade; gone: deleted there, though a legacy row goes on telling.
TOTALS = """
WITH raw AS MATERIALIZED (
    SELECT source, token, bridge.known_email(student_email) AS email
    FROM bridge.raw('', bridge.last_token())
),
tokens AS MATERIALIZED (
    SELECT token, bool_or(source = 'workshop_students') AS p, bool_or(source = 'student_configs') AS c
    FROM raw
    GROUP BY token
),
emails AS MATERIALIZED (
    SELECT DISTINCT email FROM raw WHERE email IS NOT NULL
),
notes AS MATERIALIZED (
    SELECT session_token, event_data AS note FROM public.events
    WHERE event_type = 'merge_note' AND jsonb_typeof(event_data) = 'object'
)
SELECT *
FROM (
    SELECT
        count(*) FILTER (WHERE p AND c) AS in_both,
        count(*) FILTER (WHERE p AND NOT c) AS only_workshop_students,
        count(*) FILTER (WHERE c AND NOT p) AS only_student_configs
    FROM tokens
) AS k, (
    SELECT
        count(e.email) AS addresses,
        count(st.student_email) AS students,
        count(*) FILTER (WHERE st.student_email LIKE 'anonymous+%@workshop.invalid') AS placeholders,
        count(*) FILTER (WHERE e.email IS NULL
                           AND st.student_email NOT LIKE 'anonymous+%@workshop.invalid') AS further_students,
        count(*) FILTER (WHERE st.student_email IS NULL) AS students_gone
    FROM emails AS e FULL JOIN public.students AS st ON st.student_email = e.email
) AS students, (
    SELECT
        count(v.session_token) AS sessions,
        count(*) FILTER (WHERE t.token IS NULL) AS further_sessions,
        count(*) FILTER (WHERE v.session_token IS NULL) AS sessions_gone
    FROM tokens AS t FULL JOIN public.sessions AS v ON v.session_token = t.token
) AS sessions, (
    SELECT
        count(*) FILTER (WHERE openai_api_key IS NULL) AS keys_none,
        count(*) FILTER (
            WHERE openai_api_key ~ '^([A-Za-z0-9+/=]+:){2}[A-Za-z0-9+/=]+$') AS keys_encrypted,
        count(*) FILTER (WHERE openai_api_key LIKE 'sk-%') AS keys_plaintext
    FROM public.sessions
) AS keys, (
    SELECT count(*) AS steps, count(*) FILTER (WHERE validation_passed) AS steps_completed
    FROM public.step_progress
) AS steps, (
    SELECT
        count(DISTINCT session_token) AS decided,
        count(*) FILTER (WHERE note -> 'conflicts' ? 'student_email') AS disagreeing
    FROM notes
) AS notes
"""
EVENTS = "SELECT event_type, count(*) FROM public.events GROUP BY 1 ORDER BY 1"
UNKNOWN_KEYS = r"""
SELECT
    CASE WHEN k.key ~ '^\d+$' THEN '0, 1, 2, ... (text spread into characters)'
         ELSE regexp_replace(left(k.key, 40), '[[:cntrl:]]', '?', 'g') END AS key,
    count(*) AS entries
FROM public.sessions
CROSS JOIN LATERAL jsonb_object_keys(exercises) AS k(key)
WHERE public.step_number_of(k.key) IS NULL
GROUP BY 1
ORDER BY entries DESC, key
"""
# A note is {kind: true}, {kind: [column]} or {kind: {column: which source wins, or a value}}.
DECIDED = """
SELECT k.kind, d.detail AS column, count(DISTINCT session_token) AS sessions
FROM public.events
CROSS JOIN LATERAL jsonb_each(event_data) AS k(kind, value)
LEFT JOIN LATERAL (
    SELECT o.key || CASE WHEN k.kind IN ('conflicts', 'written_on_both_sides')
                         THEN ': ' || o.value || ' wins' ELSE '' END
    FROM jsonb_each_text(CASE jsonb_typeof(k.value) WHEN 'object' THEN k.value ELSE '{}' END) AS o
    UNION ALL
    SELECT a FROM jsonb_array_elements_text(
        CASE jsonb_typeof(k.value) WHEN 'array' THEN k.value ELSE '[]' END) AS a
) AS d(detail) ON true
WHERE event_type = 'merge_note' AND jsonb_typeof(event_data) = 'object'
GROUP BY GROUPING SETS ((k.kind), (k.kind, d.detail))
HAVING grouping(d.detail) = 1 OR d.detail IS NOT NULL
ORDER BY k.kind, d.detail NULLS FIRST
"""
ATTEMPT = "SELECT original_name, relation::text FROM public.prior_attempt ORDER BY 1"
BYTES = """
SELECT sum(pg_total_relation_size(to_regclass('{}.' || name)))::bigint
FROM unnest(ARRAY[{}]) AS name WHERE to_regclass('{}.' || name) IS NOT NULL
"""

REHEARSAL = """
The rehearsal runs the revisions themselves on the tables of database {database}, in one transaction, and
takes all of it back. Until then ({seconds}) it holds locks on the old tables: the application can neither
save nor, towards the end, read. It is meant for a copy of the database, or for a quiet moment.
Ctrl+C takes it back as well. Nothing stays but unused space in tables that it wrote to, and numbers
of events that are skipped."""


@dataclass
class Report:
    """The answer: the verdict, and what the merge will read and write.

    ``warnings`` do not stop the migration, and need a person; ``checks`` are the bridge's, of the merge on
    temporary tables; ``expected`` holds seconds, bytes
    and what they are based on; ``rehearsal`` is None unless it was asked for.
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


def examine(connection: Connection, say: Callable[[str], None] = lambda _: None) -> Report:
    """Find out what the migration would do. The connection is in AUTOCOMMIT.

    Raises ConnectionProblem where that cannot be found out: on a standby, behind a transaction
    pooler, while a migration runs.
    """
    run(connection, (SQL / "session.sql").read_text(encoding="utf-8"))
    has = run(connection, HAS).mappings().one()
    revision = revision_of(connection)
    report = Report(has["database"], revision)
    report.warnings = [
        *run(connection, NAMED_BY_TRIGGERS).scalars(),
        *limitations.found(connection),
        *limitations.serializable(connection),
    ]
    if revision and has["bridge"]:  # else the schema is somebody else's
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

    # event triggers see the temporary tables as well; hidden rows cannot be copied
    if any(
        cause in r for r in report.reasons for cause in ("event triggers", "row security hides")
    ):
        return report
    prior = has["unified"] if revision is None else _has_prior(connection)
    if not has["legacy"] and not prior:
        report.go = not report.reasons
        report.reasons = report.reasons or [
            f"neither legacy table exists in database {report.database}: a fresh install has nothing to "
            "merge; did you mean another database?"
        ]
        return report
    shadow = build(connection, revision, say)
    if revision_of(connection) != revision:
        raise ConnectionProblem("a migration ran meanwhile; run this again when it has ended")
    report.reasons += shadow.refused
    if not shadow.refused:
        _count(connection, report, shadow)
        report.reasons += [
            f"{check['check_name']}: expected {check['expected']:,}, would be {check['actual']:,}"
            for check in report.checks
            if not check["ok"]
        ]
    run(connection, "DISCARD TEMP")
    report.go = not report.reasons
    if report.go:
        report.reasons = [
            f"every row has a place, and the merge passes all of its {len(report.checks)} checks"
        ]
        if not any(entry["rows"] for entry in report.tables) and not report.earlier_attempt:
            report.warnings.insert(
                0, f"database {report.database} has no row to merge: is it the right one?"
            )
    return report


def _preflight(connection: Connection, report: Report) -> None:
    """Run what 0001 runs first: its errors are reasons, its notices on rights are warnings."""
    raw: Any = connection.connection.driver_connection

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        report.warnings.append(notice.message_primary or "")

    try:
        run(connection, (SQL / "0001_unified_schema" / "00_preflight.sql").read_text("utf-8"))
        raw.add_notice_handler(hear)
        try:
            run(connection, (SQL / "rights" / "preflight.sql").read_text("utf-8"))
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
            "a downgrade has begun: alembic downgrade base goes on with it, alembic upgrade head returns"
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
            "'workshop verify' compares what has arrived",
            "'workshop merge' merges again",
        ]
        if merged["pending"]:
            report.reasons.append(f"{merged['pending']:,} sessions wait to be carried over")


def _count(connection: Connection, report: Report, shadow: Shadow) -> None:
    for counted in shadow.run(TABLES).mappings():
        entry = dict(counted)
        found = entry.pop("columns")
        entry["lacking"] = [c for c in EXPECTED[counted["name"]].split() if c not in found]
        entry["with_token"] = 0
        if "session_token" in found:
            counting = WITH_TOKEN.format(counted["name"])
            entry["with_token"] = run(connection, counting).scalar_one()
        report.tables.append(entry)
    report.totals = dict(shadow.run(TOTALS).mappings().one())
    report.events = {kind: rows for kind, rows in shadow.run(EVENTS)}
    report.unknown_exercise_keys = {
        masked(key): entries for key, entries in shadow.run(UNKNOWN_KEYS)
    }
    report.decided = [dict(row) for row in shadow.run(DECIDED).mappings()]
    report.checks = shadow.checks
    if run(connection, "SELECT to_regclass('pg_temp.prior_attempt') IS NOT NULL").scalar():
        for name, relation in shadow.run(ATTEMPT).all():
            rows = run(connection, f"SELECT count(*) FROM {relation}").scalar_one()
            report.earlier_attempt[name] = rows

    legacy = ", ".join(f"'{entry['name']}'" for entry in report.tables)
    unified = "'students', 'sessions', 'step_progress', 'events'"
    seconds = shadow.seconds
    report.expected = {
        # what temporary tables are spared: the write-ahead log; what 0007 does: verify again
        "seconds": round(
            1.5 * (seconds["merge"] + seconds["indexes"]) + 2 * seconds["verify"] + 1, 1
        ),
        "bytes": run(connection, BYTES.format("pg_temp", unified, "pg_temp")).scalar_one(),
        "legacy_bytes": run(connection, BYTES.format("public", legacy, "public")).scalar() or 0
        if legacy
        else 0,
        "measured": {part: round(took, 2) for part, took in seconds.items()},
    }


def left(report: Report) -> list[str]:
    """The revisions that an upgrade to head would run."""
    scripts = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    done = revisions.index(report.revision) + 1 if report.revision in revisions else 0
    return revisions[done:]


def rehearse(connection: Connection, report: Report, say: Callable[[str], None]) -> None:
    """Upgrade to head in one transaction, verify, and roll it back; ``report`` gets the result.

    Raises ConnectionProblem where it could not be done: a lock was not free, another migration runs.
    """
    config = Config(str(ROOT / "alembic.ini"), stdout=StringIO())
    seconds: dict[str, float] = {}
    result: dict[str, Any] = {"ok": False, "seconds": seconds, "failed": []}
    report.rehearsal = result
    with connect(connection.engine) as own:
        transaction = own.begin()
        config.attributes["connection"] = own
        try:
            for revision in left(report):
                say(f"rehearsing {revision}")
                began = time.monotonic()
                command.upgrade(config, revision)
                seconds[revision] = round(time.monotonic() - began, 2)
            say("verifying")
            began = time.monotonic()
            verified = verify.examine(own)
            seconds["verification"] = round(time.monotonic() - began, 2)
            result["failed"] = [c["check_name"] for c in verified.checks if not c["ok"]]
            result["failed"] += [name for name, met in verified.criteria.items() if met is False]
            result["ok"] = verified.ok
            result["totals"] = dict(run(own, ARRIVED).mappings().one())
        except CommandError as error:
            cause = error.__cause__
            if not isinstance(cause, DBAPIError) or passes(cause):
                raise ConnectionProblem(f"the rehearsal broke off: {error}") from error
            result["failed"] = [str(error)]
        finally:
            if own.invalidated is False:
                transaction.rollback()
    if not result["ok"]:
        report.go = False
        report.reasons = [f"the rehearsal failed: {'; '.join(result['failed'])}"]


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision or '(base)'}")
    out.print("A dry run: nothing is changed.\n")
    parts = _parts(report) if report.expected else _arrived(report)
    for part in (*parts, *_rehearsed(report)):
        out.print(part)
        out.print()
    for warning in report.warnings:
        out.print(f"[yellow]MIND:[/] {escape(warning)}")
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
        yield "The other legacy table does not exist: it will be created, empty."
    if report.earlier_attempt:
        yield table(
            "An earlier attempt: moved aside as ..._prior_backup_YYYYMMDD, its rows are merged in",
            ("Table", "Rows"),
            list(report.earlier_attempt.items()),
        )

    def total(name: str) -> int:
        return sum(t[name] for t in tables)

    def unless_none(*lines: tuple[str, int, str]) -> list[tuple[str, int, str]]:
        return [line for line in lines if line[1]]

    yield calculation(
        "Sessions",
        *(("+", t["with_token"], f"rows of {t['name']} with a session_token") for t in tables),
        ("+", total("rows") - total("with_token"), "rows without one: a session each"),
        ("-", total("repeated"), "rows that repeat a token of their own table"),
        ("-", n["in_both"], "tokens in both tables: two rows become one"),
        *unless_none(
            ("+", n["further_sessions"], "only in an earlier attempt, or in the new tables"),
            ("-", n["sessions_gone"], "deleted in the new tables"),
        ),
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
        *unless_none(
            ("+", n["further_students"], "only in an earlier attempt, or in the new tables"),
            ("-", n["students_gone"], "deleted or given another address in the new tables"),
        ),
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
        f"Decided in {n['decided']:,} sessions, each noted in an event",
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


def _expected(report: Report) -> Iterator[str]:
    expected, measured = report.expected, report.expected["measured"]
    yield (
        f"Expected: about {expected['seconds']:,.0f} s for all revisions, "
        f"{size_of(expected['bytes'])} for the new tables with their indexes "
        f"(the old ones have {size_of(expected['legacy_bytes'])}, and stay)."
    )
    yield (
        f"Measured just now, on temporary copies of all rows: merge {measured['merge']:.1f} s, indexes "
        f"{measured['indexes']:.1f} s, verification {measured['verify']:.1f} s. Temporary tables write no "
        "log: merge and indexes are counted 1.5 times, verification twice, because 0007 repeats it, "
        "and a second for the rest."
    )


def main(
    url: Url = None,
    as_json: Json = False,
    with_rehearsal: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Then run the whole migration for real, in one transaction that is rolled back, and "
            "verify it. Locks the old tables for as long as it takes: for a copy, or a quiet moment.",
        ),
    ] = False,
) -> None:
    """Show what the migration would do: how many students and sessions, from where, what is odd.

    Changes nothing, and keeps nobody waiting: the tables are read in transactions of some 40 ms,
    and merged as temporary copies, which need about three times their space until the end.
    Exits with 0 (go), 1 (no-go) or 2 (could not tell).

    Example: workshop dry-run --url postgresql://localhost/workshop

    Example: workshop dry-run --rehearse
    """
    with database(url, "AUTOCOMMIT") as connection:
        with progress("dry run") as say:
            report = examine(connection, say)
        if with_rehearsal and report.go and left(report):
            seconds = report.expected.get("seconds")
            expected = f"some {seconds:,.0f} s" if seconds else "for as long as it takes"
            typer.echo(REHEARSAL.format(database=report.database, seconds=expected), err=True)
            if not sys.stdin.isatty() or typer.confirm("Go on?", err=True):
                with progress("rehearsal") as say:
                    rehearse(connection, report, say)
        elif with_rehearsal:
            why = "the last revision is reached" if report.go else "the answer is NO-GO without it"
            typer.echo(f"Nothing was rehearsed: {why}.", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(0 if report.go else 1)
