"""The instructor's dashboard: one HTML page with everything in it, or served live behind a password.

The page needs no network: styles, script and data are in it. What students typed is data in JSON,
which the script shows as text; the Content-Security-Policy lets nothing else run. No API key, no
prompt and no whole token is read. Figures are those of the reporting views (revision 0006).
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import Connection

from models.steps import FLAGS, STEPS
from scripts.commands import status, verify
from scripts.common.connection import ConnectionProblem, NotApplicable
from scripts.common.report import Url, database, progress, run, run_app

FOLDER = Path(__file__).parent
STUCK_LISTED = 1000
MARK = b'<meta name="generator" content="workshop-dashboard">'
"""Stands near the top of every page, so that a page may replace a page and no other file."""

READY = """
SELECT array_agg(name) FILTER (WHERE to_regclass('public.' || name) IS NULL) AS missing
FROM unnest(ARRAY['session_overview', 'student_overview', 'step_funnel', 'progress_by_day',
                  'stuck_sessions']) AS name
"""
WHEN = "CASE WHEN isfinite(o.{0}) THEN floor(extract(epoch FROM o.{0}))::bigint END"
# What links name a student by: as stable as the address, and not student_id, which the merge derives
# from a token as well.
ROW_ID = "left(encode(sha256(convert_to({0}.student_email, 'UTF8')), 'hex'), 16)"
# People type long texts; the page need not hold all of them.
SHORT = "CASE WHEN length({0}) > {1} THEN left({0}, {1}) || ' ...' ELSE {0} END"
TYPED = ("selected_phone_number", "selected_voice", "tts_provider", "call_direction")
# One JSON array for each student: row id, address, name, GitHub account, and an array for each session
# in the order of SESSION in dashboard.js. PostgreSQL writes it, so that no row is taken apart here.
STUDENTS = f"""
SELECT json_build_array(
    {ROW_ID.format("st")}, st.student_email, {SHORT.format("st.student_name", 200)},
    {SHORT.format("st.github_username", 200)},
    coalesce(json_agg(s.shown ORDER BY s.started_at, s.session_token)
             FILTER (WHERE s.session_token IS NOT NULL), '[]'))::text
FROM students AS st
LEFT JOIN (
    SELECT
        o.student_id,
        o.session_token,
        o.started_at,
        json_build_array(
            right(o.session_token, 4), o.completion_rate, o.current_step, o.total_time_spent,
            session_steps_done(
                o.twilio_connected, o.openai_connected, o.call_direction_chosen, o.services_ready,
                o.step4_deployed, o.step5_deployed, o.step6_deployed, o.system_prompt_saved,
                o.step8_deployed, o.project_deployed, p.passed),
            concat({", ".join(f"o.{flag}::integer" for flag in FLAGS)}),
            coalesce(p.steps, '[]'),
            {", ".join(WHEN.format(c) for c in ("started_at", "last_activity", "expires_at"))},
            o.is_active AND o.expires_at > now(), o.demo_mode,
            o.has_api_key, o.has_system_prompt, o.has_tools,
            {", ".join(SHORT.format(f"o.{column}", 200) for column in TYPED)},
            {SHORT.format("o.use_case_description", 1000)}) AS shown
    FROM session_overview AS o
    LEFT JOIN (
        SELECT
            sp.session_token,
            array_agg(sp.step_number) FILTER (WHERE sp.validation_passed) AS passed,
            json_agg(json_build_array(sp.step_number, sp.time_spent, sp.attempts)) AS steps
        FROM step_progress AS sp
        GROUP BY sp.session_token
    ) AS p ON p.session_token = o.session_token
) AS s ON s.student_id = st.student_id
GROUP BY st.student_id
ORDER BY st.student_email
"""
MADE = """
SELECT current_database()::text AS database, floor(extract(epoch FROM now()))::bigint AS made
"""
FUNNEL = "SELECT * FROM step_funnel ORDER BY step_number"
DAYS = """
SELECT day::text, sessions_started, steps_completed, sessions_last_active
FROM progress_by_day ORDER BY day
"""
STUCK = "SELECT count(*) AS count, count(*) FILTER (WHERE is_active) AS active FROM stuck_sessions"
STUCK_ROWS = f"""
SELECT {ROW_ID.format("stuck_sessions")} AS row_id, student_email, {SHORT.format("student_name", 200)} AS student_name,
       token_end, is_active, demo_mode, completion_rate, next_step, next_step_name, attempts, time_spent, quiet_days
FROM stuck_sessions
ORDER BY is_active DESC, quiet_since DESC NULLS LAST
LIMIT {STUCK_LISTED}
"""
# What the sessions came from: the legacy tables, and an earlier attempt that was moved aside.
BEFORE = {
    "bridge.source": "SELECT relation::text FROM bridge.source ORDER BY legacy_name DESC",
    "public.prior_attempt": "SELECT relation::text FROM prior_attempt ORDER BY original_name",
}
AFTER = ("students", "sessions", "step_progress", "events")
# Of the event the four counts only: whatever else an application may have written there.
MERGES = """
SELECT
    floor(extract(epoch FROM e.created_at))::bigint,
    ARRAY(
        SELECT CASE jsonb_typeof(e.event_data -> n.name) WHEN 'number' THEN (e.event_data ->> n.name)::float END
        FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'merge_notes']) WITH ORDINALITY AS n(name, place)
        ORDER BY n.place)
FROM events AS e
WHERE e.event_type = 'legacy_merge' AND isfinite(e.created_at)
ORDER BY e.id
"""
# As the dry run tells them, those of sessions deleted since as well: a note is {kind: true},
# {kind: [column]} or {kind: {column: winner}}.
DECISIONS = """
SELECT k.kind, d.detail, count(DISTINCT coalesce(e.session_token, e.id::text))
FROM events AS e
CROSS JOIN LATERAL jsonb_each(e.event_data) AS k(kind, value)
LEFT JOIN LATERAL (
    SELECT o.key || CASE WHEN k.kind = 'conflicts' THEN ': ' || o.value || ' wins' ELSE '' END
    FROM jsonb_each_text(CASE jsonb_typeof(k.value) WHEN 'object' THEN k.value ELSE '{}' END) AS o
    UNION ALL
    SELECT a FROM jsonb_array_elements_text(
        CASE jsonb_typeof(k.value) WHEN 'array' THEN k.value ELSE '[]' END) AS a
) AS d(detail) ON true
WHERE e.event_type = 'merge_note' AND jsonb_typeof(e.event_data) = 'object'
GROUP BY GROUPING SETS ((k.kind), (k.kind, d.detail))
HAVING grouping(d.detail) = 1 OR d.detail IS NOT NULL
ORDER BY k.kind, d.detail NULLS FIRST
"""
DECIDED = """
SELECT count(DISTINCT coalesce(session_token, id::text)) FROM events WHERE event_type = 'merge_note'
"""


def read(
    url: str | None, *, verified: bool, say: Callable[[str], None] = lambda _: None
) -> tuple[str, dict[str, Any]]:
    """The page's data as JSON text, and its facts; ``verified`` runs the checks, which takes longer.

    What is about the new tables is of one moment. The old tables are read afterwards, in short
    transactions: the old application would wait for a long one. A database that has no reporting
    views yet, or cannot be read, ends the command.
    """
    with database(url, "REPEATABLE READ") as connection:
        run(connection, "SET LOCAL search_path = public")
        missing = run(connection, READY).scalar_one()
        if missing:
            raise NotApplicable(
                f"{', '.join(missing)} not found: the dashboard reads the views of revision "
                "0006_reporting_views; next: alembic upgrade head, or where that has run python -m "
                "scripts.status"
            )
        say("reading the new tables")
        facts: dict[str, Any] = dict(run(connection, MADE).mappings().one())
        students = run(connection, STUDENTS).scalars().all()
        facts["steps"] = [step.name for step in STEPS]
        facts["flags"] = [(flag, _step_of(flag)) for flag in FLAGS]
        facts["funnel"] = [dict(row) for row in run(connection, FUNNEL).mappings()]
        facts["days"] = [list(row) for row in run(connection, DAYS)]
        facts["stuck"] = dict(run(connection, STUCK).mappings().one())
        facts["stuck"]["rows"] = [dict(row) for row in run(connection, STUCK_ROWS).mappings()]
        facts["after"] = [_count(connection, name) for name in AFTER]
        facts["merges"] = [list(row) for row in run(connection, MERGES)]
        facts["decisions"] = [list(row) for row in run(connection, DECISIONS)]
        facts["decided"] = run(connection, DECIDED).scalar_one()
    with database(url, "AUTOCOMMIT") as connection:
        say("reading the old tables")
        facts["migration"] = _migration(connection)
        if verified:
            say("verifying")
        facts["migration"]["verification"] = verification(connection) if verified else None
    told = json.dumps(facts, ensure_ascii=False, default=float)
    return '{"facts": ' + told + ',\n"students": [\n' + ",\n".join(students) + "\n]}", facts


def _step_of(flag: str) -> int:
    """The step that a progress flag belongs to, 1 to 9."""
    for step in STEPS:
        if flag in step.done_when or flag.startswith(f"step{step.number}_"):
            return step.number
    return {"tools_configured": 8}[flag]


def _migration(connection: Connection) -> dict[str, Any]:
    run(connection, "SET search_path = public")
    found = status.examine(connection)
    before = []
    for catalog, query in BEFORE.items():
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
        # names as regclass writes them, quoted where they have to be
        "before": [_count(connection, name) for name in before],
    }


def _count(connection: Connection, table: str) -> tuple[str, int]:
    return table, run(connection, f"SELECT count(*) FROM {table}").scalar_one()


def verification(connection: Connection) -> dict[str, Any]:
    """What scripts.verify finds, or ``{"problem": why not}``."""
    try:
        report = verify.examine(connection)
    except ConnectionProblem as problem:
        return {"problem": str(problem)}
    return {"ok": report.ok, "checks": report.checks, "criteria": report.criteria}


Mode = Literal["file", "live"]


def policy(texts: Mapping[str, str], mode: Mode) -> str:
    """The Content-Security-Policy: the page's own style and script, by their hashes."""

    def source(text: str) -> str:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {source(texts['style'])}",
            f"script-src {source(texts['script'])}",
            "img-src data:",
            "connect-src 'self'" if mode == "live" else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def render(data: str, mode: Mode = "file", *, logged_in: bool = False) -> tuple[str, str]:
    """The page and its Content-Security-Policy. ``data``: JSON text, escaped here for its place."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined
    )
    texts = {
        "style": (FOLDER / "dashboard.css").read_text(encoding="utf-8"),
        "script": (FOLDER / "dashboard.js").read_text(encoding="utf-8"),
    }
    allowed = policy(texts, mode)
    page = environment.get_template("dashboard.html.j2").render(
        mode=mode,
        logged_in=logged_in,
        policy=allowed,
        # the project's own files; "<" in a string of JSON is as well written \\u003c
        style=Markup(texts["style"]),
        script=Markup(texts["script"]),
        data=Markup(data.replace("<", "\\u003c")),
    )
    return page, allowed


def check_target(path: Path) -> None:
    """OSError where no page may be written.

    A dashboard is made anew every day, so a page replaces an earlier page; any other file is left
    alone.
    """
    if path.exists():
        with path.open("rb") as file:
            if MARK not in file.read(1000):
                raise FileExistsError(f"{path} exists, and is no dashboard")
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder")


def write(path: Path, page: str) -> None:
    """Put the page there at once or not at all, readable for its owner only."""
    # mkstemp makes it 0600
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def refuse(reason: str) -> NoReturn:
    """End the command: one line on stderr, exit code 2."""
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(2)


def main(
    url: Url = None,
    out: Annotated[
        Path, typer.Option(help="File to write; an earlier dashboard there is replaced.")
    ] = Path("dashboard.html"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it live behind ADMIN_PASSWORD instead.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8765,
) -> None:
    """Make the instructor's dashboard: one HTML page that needs no network.

    The page holds names and addresses, but no key, no prompt and no whole token; it is readable for
    you alone (mode 0600). It replaces an earlier dashboard, and no other file. With --serve it is
    served live, from the database as it is at the moment, to whoever knows ADMIN_PASSWORD.

    Exits with 0 (written, and every check holds), 1 (written, and it shows a check that does not) or
    2 (not written).

    Example: python -m scripts.dashboard --out dashboard.html

    Example: ADMIN_PASSWORD=... python -m scripts.dashboard --serve
    """
    if serve:
        try:
            from scripts import dashboard_server
        except ModuleNotFoundError as error:
            refuse(f"--serve needs {error.name}: pip install -e '.[serve]'")
        dashboard_server.serve(url, host, port)
        return
    try:
        check_target(out)
        with progress("reading the database") as say:
            data, facts = read(url, verified=True, say=say)
        page, _ = render(data)
        write(out, page)
    except OSError as error:
        refuse(f"the page was not written: {error}")
    checked, rows = facts["migration"]["verification"], dict(facts["after"])
    size = len(page.encode()) / 1e6
    typer.echo(
        f"{out}: {rows['sessions']:,} sessions of {rows['students']:,} students, {size:.1f} MB"
    )
    if "problem" in checked:
        typer.echo(f"not verified: {checked['problem']}")
    elif not checked["ok"]:
        typer.echo("NOT OK: a check does not hold; the page and python -m scripts.verify say which")
    raise typer.Exit(0 if checked.get("ok") else 1)


if __name__ == "__main__":
    run_app(main)
