"""The dashboard in a real browser: its figures are those of plain SQL on the tables.

Runs Debian's chromium, driven by Playwright; without one these tests are skipped. The SQL here
reads tables only, no view.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.commands import script
from support.databases import ROOT, Clone, Database, Server, cloned

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync"""
PASSWORD = "größer als nichts"
HOSTILE = (
    '<img src=x onerror="document.title=1">',
    "</script><script>document.title=1</script>",
    "<!--<script>",
    "\"'`&amp;\u2028${1}",
)
expect.set_options(timeout=20_000)
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def workshop(server: Server, template_head: Any) -> Iterator[Database]:
    """The migrated sample with live sessions, odd dates, hostile texts, a student without a session."""
    with cloned(server, template_head.template_dbname) as database:
        database.execute(
            """
            INSERT INTO students (student_email, github_username) VALUES ('nobody@example.com', 'nobody');
            UPDATE sessions SET expires_at = now() + interval '5 days', is_active = true,
                                last_activity = now() - interval '3 days'
            WHERE session_token IN (SELECT session_token FROM sessions ORDER BY md5(session_token) LIMIT 40);
            UPDATE sessions SET expires_at = now() + interval '5 days', is_active = false
            WHERE session_token = (SELECT session_token FROM sessions ORDER BY md5(session_token) OFFSET 40 LIMIT 1);
            UPDATE sessions AS s SET started_at = stray.started_at
            FROM (VALUES (30, '1983-05-01Z'::timestamptz), (31, now() - interval '1 day'), (32, '2087-01-01Z'))
                AS stray(place, started_at),
                (SELECT session_token, row_number() OVER (ORDER BY session_token) AS place FROM sessions) AS o
            WHERE o.place = stray.place AND o.session_token = s.session_token;
            UPDATE sessions SET started_at = '-infinity', created_at = '290000-01-01Z'
            WHERE session_token = (SELECT min(session_token) FROM sessions);
            INSERT INTO events (event_type, event_data)
            VALUES ('legacy_merge', '"an application was here"'), ('merge_note', '[1]'),
                   ('legacy_merge', '{"students": "sk-not-a-number", "sessions": 7}');
            """
        )
        with database.connect() as connection:
            for number, text in enumerate(HOSTILE):
                connection.execute(
                    """
                    WITH s AS (
                        UPDATE sessions SET use_case_description = %(text)s, selected_voice = %(text)s,
                                            selected_phone_number = %(text)s
                        WHERE session_token = (SELECT session_token FROM sessions
                                               ORDER BY session_token OFFSET %(number)s LIMIT 1)
                        RETURNING student_id
                    )
                    UPDATE students SET student_name = %(text)s, github_username = %(text)s
                    WHERE student_id IN (TABLE s)
                    """,
                    {"text": text, "number": 20 + number},
                )
        yield database


@pytest.fixture(scope="module")
def page_file(workshop: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that database, made by the command."""
    file = tmp_path_factory.mktemp("dashboard") / "dashboard.html"
    done = script("dashboard", "--out", str(file), url=workshop.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "213 sessions of 126 students" in done.stdout
    return file


# --- the file -------------------------------------------------------------------------------------


def test_the_page_holds_no_secret(workshop: Database, page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    secrets = workshop.query(
        """
        SELECT openai_api_key FROM sessions WHERE openai_api_key IS NOT NULL
        UNION SELECT system_prompt FROM sessions WHERE system_prompt IS NOT NULL
        UNION SELECT session_token FROM sessions WHERE length(session_token) > 9
        UNION SELECT student_id::text FROM students
        UNION SELECT x.value FROM sessions, jsonb_each(legacy_extra) AS e, jsonb_each_text(e.value) AS x
        WHERE length(x.value) > 8
        """
    )
    assert len(secrets) > 300
    assert [secret for (secret,) in secrets if secret in text] == []
    # and nothing to fetch
    assert re.findall(r"(?:src|href)=[\"'](?!data:|#)", text.split('id="data"')[0]) == []
    assert "</script><script>document" not in text
    assert "sk-not-a-number" not in text


def test_the_file_is_for_its_owner_and_replaces_a_dashboard_only(
    workshop: Database, page_file: Path, tmp_path: Path
) -> None:
    assert stat.S_IMODE(page_file.stat().st_mode) == 0o600
    again = tmp_path / "again.html"
    again.write_text(page_file.read_text() + "<!-- yesterday's -->")
    again.chmod(0o644)
    assert script("dashboard", "--out", str(again), url=workshop.url).returncode == 0
    assert "yesterday's" not in again.read_text()
    assert stat.S_IMODE(again.stat().st_mode) == 0o600
    (tmp_path / "thesis.html").write_text("years of work")
    for name in ("thesis.html", ".", "no/such/folder.html"):
        done = script("dashboard", "--out", str(tmp_path / name), url=workshop.url)
        assert done.returncode == 2
        assert re.fullmatch(r"error: the page was not written: .*\n", done.stderr), done.stderr
    assert (tmp_path / "thesis.html").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.html", "thesis.html"]


def test_where_there_is_nothing_to_show(clone: Clone, tmp_path: Path) -> None:
    """Too early: a message. A fresh install: an empty page. Not verified: exit code 1, and the reason."""
    out = str(tmp_path / "dashboard.html")
    done = script("dashboard", "--out", out, url=clone("0004").url)
    assert done.returncode == 2
    assert "alembic upgrade head" in done.stderr
    assert not Path(out).exists()
    fresh = clone("fresh")
    assert script("dashboard", "--out", out, url=fresh.url).returncode == 0
    fresh.execute("CREATE TABLE student_configs (session_token text PRIMARY KEY)")
    done = script("dashboard", "--out", out, url=fresh.url)
    assert done.returncode == 1
    assert "not verified: " in done.stdout
    wrong = clone("head")
    wrong.execute(
        "SET bridge.applying = 'on'; UPDATE sessions SET ivr_greeting = 'x' WHERE session_token = "
        "(SELECT min(session_token) FROM sessions)"
    )
    done = script("dashboard", "--out", out, url=wrong.url)
    assert done.returncode == 1
    assert "NOT OK" in done.stdout


ALL_ROWS = """
(table) => {
  const rows = [];
  for (;;) {
    for (const row of document.querySelectorAll(`${table} tbody tr`)) {
      rows.push([...row.cells].map((cell) => cell.innerText));
    }
    const next = document.querySelector(`${table} .pager button:last-child`);
    if (!next || next.disabled) return rows;
    next.click();
  }
}
"""
# The text beside a radio button draws it.
OUTLINE = """
() => {
  const one = document.activeElement;
  return getComputedStyle(one.type === "radio" ? one.nextSibling : one).outlineStyle;
}
"""
CONTRAST = """
() => {
  const channel = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.disabled) continue;
    if (element.matches("script, noscript, option")) continue;
    const style = getComputedStyle(element);
    const fill = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [one, other] = [light(rgb(fill)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
  }
  return poor;
}
"""
# Text that leaves the box of its element overlaps the next one.
OVERFLOWING = """
() => [...document.querySelectorAll("dt, dd, th, td, p, li, small, h2, h3, figcaption")].filter((element) => {
  const head = element.closest("thead");
  const clipped = element.closest(".unseen") || (head && getComputedStyle(head).clipPath !== "none");
  if (clipped || !element.checkVisibility()) return false;
  const text = document.createRange();
  text.selectNodeContents(element);
  return text.getBoundingClientRect().right > element.getBoundingClientRect().right + 1;
}).map((element) => element.outerHTML.slice(0, 80))
"""


# --- in the browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS.split())
        yield started
        started.close()


@dataclass
class Seen:
    """A page, and its errors."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def rows(self, table: str) -> list[list[str]]:
        """The rows of a table, all its pages, as shown."""
        rows: list[list[str]] = self.page.evaluate(ALL_ROWS, table)
        return rows

    def total(self, name: str) -> str:
        return self.page.inner_text(f"#total-{name}")


@contextmanager
def opened(browser: Browser, url: str, wait: bool = True, **options: Any) -> Iterator[Seen]:
    """A page in its own context; at the end it must have no errors."""
    context = browser.new_context(**options)
    seen = Seen(context.new_page())
    seen.page.set_default_timeout(20_000)
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
    seen.page.on(
        "request",
        lambda request: (
            seen.complaints.append(request.url)
            if not request.url.startswith(("file:", "data:", "http://127.0.0.1:"))
            else None
        ),
    )
    try:
        seen.page.goto(url)
        if wait:
            seen.page.wait_for_selector("html[data-drawn]", state="attached")
        yield seen
        assert seen.complaints == []
    finally:
        context.close()


@NEEDS_BROWSER
def test_every_figure(browser: Browser, workshop: Database, page_file: Path) -> None:
    def one(query: str) -> Any:
        ((found,),) = workshop.query(query)
        return found

    def count(rows: str) -> str:
        return f"{one(f'SELECT count(*) FROM {rows}'):,}"

    with opened(browser, page_file.as_uri()) as seen:
        assert seen.total("students") == count("students")
        assert seen.total("sessions") == count("sessions")
        assert (
            seen.total("active") == count("sessions WHERE is_active AND expires_at > now()") == "40"
        )
        assert seen.total("finished") == count("sessions WHERE completion_rate = 100")
        assert (
            seen.total("progress") == f"{one('SELECT round(avg(completion_rate)) FROM sessions')} %"
        )
        assert (
            seen.total("time")
            == f"{one('SELECT round(sum(total_time_spent) / 3600.0) FROM sessions')} h"
        )
        quiet = "sessions WHERE completion_rate < 100 AND is_active AND expires_at > now()"
        assert seen.total("stuck") == count(
            f"{quiet} AND last_activity <= now() - interval '1 day'"
        )

        # each session: student, progress, duration, time, and configuration
        shown = [
            (
                name.split("\n")[0],
                re.findall(r"session …(\S{1,4})", name)[0],
                progress.strip(),
                at,
                last,
                configured,
            )
            for name, progress, at, _, last, configured, _ in seen.rows("#session-table")
        ]
        expected = workshop.query(
            """
            SELECT coalesce(student_name, student_email), right(session_token, 4), completion_rate || ' %',
                   current_step::text,
                   coalesce(to_char(last_activity AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'unknown')
                       || CASE WHEN expires_at <= now() THEN E'\\nexpired'
                               WHEN is_active THEN E'\\nactive' ELSE E'\\ninactive' END,
                   coalesce(nullif(concat_ws(', ', selected_phone_number, call_direction), ''), 'no phone number')
                       || coalesce(E'\\n' || nullif(concat_ws(', ', selected_voice, tts_provider), ''), '')
                       || E'\\n' || CASE WHEN openai_api_key IS NULL THEN 'no key' ELSE 'has key' END
                       || E'\\n' || CASE WHEN system_prompt IS NULL THEN 'no prompt' ELSE 'has prompt' END
                       || E'\\n' || CASE WHEN tools = '[]' THEN 'no tools' ELSE 'has tools' END
            FROM sessions JOIN students USING (student_id)
            """
        )

        def plain(row: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(re.sub(r"[✓–\s]+", " ", cell).strip() for cell in row)

        assert sorted(map(plain, shown)) == sorted(map(plain, expected))

        # every student, with as many sessions
        seen.page.click(".switch span:has-text('Students')")
        expect(seen.page.locator("#count")).to_contain_text("students")
        people = [(row[0].split("\n")[-1], row[1]) for row in seen.rows("#student-table")]
        assert sorted(people) == sorted(
            workshop.query(
                "SELECT student_email, (SELECT count(*)::text FROM sessions AS s WHERE s.student_id = st.student_id) "
                "FROM students AS st"
            )
        )

        # steps by their flags and rows, days by their times
        done = ["twilio_connected AND openai_connected", "call_direction_chosen", "services_ready"]
        done += ["step4_deployed", "step5_deployed", "step6_deployed", "system_prompt_saved"]
        done += ["step8_deployed", "project_deployed"]
        funnel = seen.rows("#funnel")
        for step, (row, flags) in enumerate(zip(funnel, done, strict=True), 1):
            passed = f"SELECT session_token FROM step_progress WHERE step_number = {step} AND validation_passed"
            assert row[0].startswith(f"{step} ")
            assert row[2] == count(f"sessions WHERE ({flags}) OR session_token IN ({passed})")
            assert re.fullmatch(r"\d+ min", row[4])
        seen.page.click("summary")
        completed = workshop.query(
            "SELECT (completed_at AT TIME ZONE 'UTC')::date::text, count(*)::text FROM step_progress "
            "WHERE validation_passed AND completed_at IS NOT NULL GROUP BY 1"
        )
        assert sorted((d[0], d[2]) for d in seen.rows("#day-table") if d[2] != "0") == sorted(
            completed
        )
        charts = seen.page.eval_on_selector_all(
            "svg[role=img]", "all => all.map(one => one.ariaLabel)"
        )
        assert len(charts) == 2
        # the charts end with the data: a single session of yesterday does not move them
        ended = one(
            "SELECT max((at AT TIME ZONE 'UTC')::date)::text FROM (SELECT started_at FROM sessions UNION ALL "
            "SELECT completed_at FROM step_progress WHERE validation_passed) AS happened(at) "
            "WHERE isfinite(at) AND at < now() - interval '30 days'"
        )
        assert all(f" to {ended}, " in chart for chart in charts)

        stuck = seen.rows("#stuck-table")
        assert sum(row[-1] == "active" for row in stuck) == int(seen.total("stuck"))
        assert len(stuck) == one(
            "SELECT count(*) FROM sessions WHERE completion_rate < 100 "
            "AND last_activity <= now() - interval '1 day'"
        )

        # the state of the migration
        assert seen.page.inner_text("#verdict") == "✓ Every check holds."
        migration = seen.page.inner_text("#migration")
        for table in ("students", "sessions", "step_progress", "events"):
            assert re.search(rf"^{table}\s+{count(table)}$", migration, re.MULTILINE), table
        for (backup,) in workshop.query("SELECT relation::text FROM bridge.source"):
            assert re.search(rf"^{backup}\s+{count(backup)}$", migration, re.MULTILINE), backup
        noted = "events WHERE event_type = 'merge_note' AND event_data ? 'placeholder_address'"
        assert re.search(rf"^placeholder address\s+{count(noted)}$", migration, re.MULTILINE)


@NEEDS_BROWSER
def test_what_students_typed_stays_text(
    browser: Browser, workshop: Database, page_file: Path
) -> None:
    with opened(browser, page_file.as_uri()) as seen:
        for text in HOSTILE:
            seen.page.fill("#search", text)
            expect(seen.page.locator("#count")).to_have_text(re.compile("^[1-9] of"))
            link = seen.page.locator("#session-table tbody a").first
            expect(link).to_have_text(text)
            link.click()
            expect(seen.page.locator("#student-title")).to_have_text(text)
            assert seen.page.title() == f"{text} - Instructor dashboard"
            seen.page.go_back()
            expect(seen.page.locator("#sessions")).to_be_visible()
        assert seen.page.evaluate("document.images.length") == 0
        assert seen.page.evaluate("document.scripts.length") == 2


@NEEDS_BROWSER
def test_a_students_page(browser: Browser, workshop: Database, page_file: Path) -> None:
    ((number, email, many),) = workshop.query(
        "SELECT student_id::text, student_email, count(*) FROM sessions JOIN students USING (student_id) "
        "GROUP BY 1, 2 ORDER BY 3 DESC, 1 LIMIT 1"
    )
    assert many > 2
    student = hashlib.sha256(email.encode()).hexdigest()[:16]
    with opened(browser, f"{page_file.as_uri()}#student/{student}") as seen:
        shown = seen.page.inner_text("#student")
        assert email in shown
        assert not seen.page.is_visible("#sessions")
        panels = seen.page.locator("#student .panel h3").all_inner_texts()
        tokens = workshop.query(
            "SELECT 'Session …' || right(session_token, 4) FROM sessions WHERE student_id = %s "
            "ORDER BY started_at, session_token",
            number,
        )
        assert [(panel,) for panel in panels] == tokens
        ((done,),) = workshop.query(
            "SELECT sum(round(completion_rate * 9 / 100.0))::integer FROM sessions WHERE student_id = %s",
            number,
        )
        assert seen.page.locator("#student .steps li.done").count() == done
        assert seen.page.evaluate("document.activeElement.id") == "student-title"
        # the skip link stays on the page; another link leads to one session of the student
        seen.page.focus(".skip")
        seen.page.keyboard.press("Enter")
        assert seen.page.evaluate("document.activeElement.id") == "main"
        assert seen.page.is_visible("#student-title")
        seen.page.goto(f"{page_file.as_uri()}#student/{student}/2")
        expect(seen.page.locator("#student h3").nth(1)).to_be_focused()
        seen.page.click("text=All sessions")
        expect(seen.page.locator("#sessions")).to_be_visible()
        seen.page.goto(f"{page_file.as_uri()}#student/unknown")
        expect(seen.page.locator("#student-title")).to_have_text("Unknown student")


@NEEDS_BROWSER
def test_by_keyboard_alone(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file.as_uri()) as seen:
        press = seen.page.keyboard.press
        focused = "document.activeElement.{}"

        def tab_to(selector: str) -> None:
            for _ in range(60):
                press("Tab")
                if seen.page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                    assert seen.page.evaluate(OUTLINE) != "none", selector
                    return
            pytest.fail(f"Tab does not reach {selector}")

        press("Tab")
        assert seen.page.evaluate(focused.format("textContent")) == "Skip to content"
        tab_to("#nav a[href='#sessions']")
        press("Enter")
        tab_to("input[name=list]")
        press("ArrowRight")
        expect(seen.page.locator("#count")).to_contain_text("students")
        press("ArrowLeft")
        tab_to("#search")
        seen.page.keyboard.type("example.org")
        expect(seen.page.locator("#count")).not_to_contain_text("213 of 213")
        expect(seen.page.locator("#count")).to_contain_text("of 213 sessions")
        assert seen.page.get_attribute("#count", "role") == "status"
        tab_to("#session-table th button")
        press("Enter")
        assert seen.page.get_attribute("#session-table th", "aria-sort") == "ascending"
        press("Enter")
        assert seen.page.get_attribute("#session-table th", "aria-sort") == "descending"
        tab_to("#session-table tbody a")
        press("Enter")
        expect(seen.page.locator("#student-title")).to_be_focused()
        seen.page.go_back()
        expect(seen.page.locator("#session-table tbody a").first).to_be_focused()


@NEEDS_BROWSER
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 360])
def test_landmarks_headers_contrast_and_width(
    browser: Browser, page_file: Path, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with opened(browser, page_file.as_uri(), color_scheme=scheme, viewport=size) as seen:
        assert seen.page.evaluate(CONTRAST) == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        assert seen.page.evaluate(OVERFLOWING) == []
        for landmark in ("header", "nav[aria-label]", "main", "footer"):
            assert seen.page.locator(landmark).count() == 1
        assert seen.page.locator("th:not([scope])").count() == 0
        assert seen.page.locator("table:not(:has(caption))").count() == 0
        assert seen.page.locator("progress:not([aria-label])").count() == 0
        levels = seen.page.eval_on_selector_all(
            "h1, h2, h3", "all => all.map(one => +one.tagName[1])"
        )
        assert levels[0] == 1
        assert max(b - a for a, b in pairwise(levels)) == 1
        unnamed = "all => all.filter(one => !one.labels.length && !one.ariaLabel).length"
        assert seen.page.eval_on_selector_all("input, select", unnamed) == 0
        if width == 1280:
            seen.page.emulate_media(media="print")
            assert not seen.page.is_visible("#filter")
            assert len(seen.page.pdf(prefer_css_page_size=True)) > 100_000


@NEEDS_BROWSER
def test_search_and_filter(browser: Browser, workshop: Database, page_file: Path) -> None:
    def found(condition: str) -> str:
        ((number,),) = workshop.query(
            f"SELECT count(*) FROM sessions JOIN students USING (student_id) WHERE {condition}"
        )
        assert 0 < number < 213
        return f"{number} of 213 sessions"

    with opened(browser, page_file.as_uri()) as seen:

        def shows(expected: str) -> None:
            expect(seen.page.locator("#count")).to_have_text(expected)

        for state, condition in (
            ("active", "is_active AND expires_at > now()"),
            ("unfinished", "completion_rate < 100"),
            ("finished", "completion_rate = 100"),
            ("untouched", "completion_rate = 0"),
            ("demo", "demo_mode"),
        ):
            seen.page.select_option("#state", state)
            shows(found(condition))
        seen.page.click("button[type=reset]")
        shows("213 of 213 sessions")
        seen.page.fill("#search", "ADA  example.org")
        shows(
            found(
                "concat_ws(' ', student_email, student_name) ILIKE '%ada%' "
                "AND concat_ws(' ', student_email, student_name) ILIKE '%example.org%'"
            )
        )
        seen.page.fill("#search", "")
        seen.page.select_option("#next", "1")
        shows(
            found(
                "NOT (twilio_connected AND openai_connected) AND session_token NOT IN ("
                "SELECT session_token FROM step_progress WHERE step_number = 1 AND validation_passed)"
            )
        )
        # the search covers name, address and GitHub account of a student only
        seen.page.click("button[type=reset]")
        ((voice, phone),) = workshop.query(
            "SELECT selected_voice, selected_phone_number FROM sessions WHERE selected_voice ~ '^[a-zA-Z-]+$' "
            "AND selected_phone_number IS NOT NULL ORDER BY session_token LIMIT 1"
        )
        for listed, typed, expected in (
            ("Sessions", voice, "0 of 213 sessions"),
            ("Students", voice, "0 of 126 students"),
            ("Students", phone, "0 of 126 students"),
            ("Students", "nobody", "1 of 126 students"),
        ):
            seen.page.click(f".switch span:has-text('{listed}')")
            seen.page.fill("#search", typed)
            shows(expected)


@NEEDS_BROWSER
def test_students_without_a_session(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file.as_uri()) as seen:
        seen.page.fill("#search", "example.org")
        seen.page.click("text=1 without a session")
        expect(seen.page.locator("#count")).to_have_text("1 of 126 students")
        assert "nobody@example.com" in seen.rows("#student-table")[0][0]
        seen.page.click(".switch span:has-text('Sessions')")
        expect(seen.page.locator("#count")).to_have_text("213 of 213 sessions")


@NEEDS_BROWSER
def test_charts_without_data(browser: Browser, clone: Clone, tmp_path: Path) -> None:
    database, page = clone("fresh"), tmp_path / "dashboard.html"

    def texts(selector: str) -> list[str]:
        done = script("dashboard", "--out", str(page), url=database.url)
        assert done.returncode == 0, done.stderr
        with opened(browser, page.as_uri()) as seen:
            return seen.page.locator(selector).all_inner_texts()

    assert texts("#day-charts") == ["No session has been started, and no step completed."]
    database.execute(
        """
        INSERT INTO students (student_email) VALUES ('a@example.com');
        INSERT INTO sessions (session_token, student_id, started_at)
        SELECT 'ws_1_' || n, student_id, now() FROM students, generate_series(1, 3) AS n
        """
    )
    assert texts("figcaption") == [
        "Steps completed: none in these 12 weeks",
        "Sessions started, 3 at most on a day",
    ]


# --- live -----------------------------------------------------------------------------------------


@contextmanager
def served(url: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The server on a free port; its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "scripts.dashboard", "--serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "POSTGRES_URL_NON_POOLING": url, "ADMIN_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.communicate()
        yield line.split("/ ")[0], process
    finally:
        process.terminate()
        process.communicate()


def ask(
    url: str, body: str | None = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers of an answer; POST if there is a body."""
    request = urllib.request.Request(
        url, None if body is None else body.encode(), {k.title(): v for k, v in headers.items()}
    )
    for attempt in range(50):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
                told = json.loads(text) if text.startswith("{") else {"error": text}
                return error.code, told, dict(error.headers)
        except urllib.error.URLError:
            if attempt == 49:
                raise
            time.sleep(0.1)
    raise AssertionError("not reached")


@NEEDS_BROWSER
def test_login_load_and_logout(browser: Browser, workshop: Database) -> None:
    with served(workshop.url) as (url, _), opened(browser, url, wait=False) as seen:
        assert not seen.page.is_visible("text=Load Sessions")
        seen.page.click("text=Admin Login")
        seen.page.fill("#password", "wrong")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("text=Wrong password.")
        # the browser itself reports the answer's status, and no other error occurs
        assert [text for text in seen.complaints if "401" not in text] == []
        seen.complaints.clear()
        seen.page.fill("#password", PASSWORD)
        seen.page.keyboard.press("Enter")
        seen.page.click("button:has-text('Load Sessions')")
        seen.page.wait_for_selector("html[data-drawn]", state="attached")
        assert seen.page.inner_text("#count") == "213 of 213 sessions"
        assert seen.page.evaluate(CONTRAST) == []
        assert seen.page.evaluate("document.cookie") == ""
        (cookie,) = seen.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

        seen.page.click("text=Verify now")
        seen.page.wait_for_selector("text=Every check holds.")
        workshop.execute("INSERT INTO students (student_email) VALUES ('live@example.com')")
        seen.page.click("button:has-text('Load Sessions')")
        expect(seen.page.locator("#total-students")).to_have_text("127")
        workshop.execute("DELETE FROM students WHERE student_email = 'live@example.com'")

        seen.page.reload()
        assert seen.page.is_visible("button:has-text('Load Sessions')")
        seen.page.click("text=Log out")
        seen.page.wait_for_selector("text=Admin Login")
        status, _, _ = ask(f"{url}/data", cookie=f"{cookie['name']}={cookie['value']}")
        assert status == 401


def test_who_is_let_in(workshop: Database) -> None:
    with served(workshop.url) as (url, process):
        for path in ("data", "verification"):
            status, told, headers = ask(f"{url}/{path}", cookie="workshop_dashboard=guessed")
            assert (status, told) == (401, {"error": "Log in first."})
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert ask(f"{url}/login", PASSWORD, origin="http://evil.example")[0] == 403
        assert ask(f"{url}/data", host="evil.example")[0] == 400
        assert ask(f"{url}/login", "x" * 100_000)[0] == 401
        status, _, headers = ask(f"{url}/login", PASSWORD, origin=url)
        assert status == 200
        cookie = headers["set-cookie"].split(";")[0]
        status, told, _ = ask(f"{url}/data", cookie=cookie)
        assert (status, told["facts"]["database"]) == (200, workshop.name)
        name, _, signed = cookie.partition("=")
        payload, _, signature = signed.partition(".")
        for forged in (f"{payload}.x{signature[1:]}", f"{payload}=.{signature}", payload):
            assert ask(f"{url}/data", cookie=f"{name}={forged}")[0] == 401

        # ten logins a minute, even the right password has to wait; an existing login stays
        assert {ask(f"{url}/login", "wrong")[0] for _ in range(8)} == {401}
        assert ask(f"{url}/login", PASSWORD)[0] == 429
        assert ask(f"{url}/verification", cookie=cookie)[0] == 200
        process.terminate()
        output, errors = process.communicate()
        assert PASSWORD not in output + errors


def test_a_database_that_is_gone(server: Server) -> None:
    """The reason is on the terminal; the page points there."""
    with served(server.url("no_such_database")) as (url, process):
        _, _, headers = ask(f"{url}/login", PASSWORD)
        status, told, _ = ask(f"{url}/data", cookie=headers["set-cookie"].split(";")[0])
        assert status == 503
        assert "terminal" in told["error"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert '"no_such_database" does not exist' in errors
        assert "Traceback" not in errors


def test_the_command_explains_itself() -> None:
    done = script("dashboard", "--help")
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert "Example: workshop dashboard --out" in told
    assert "Exits with 0" in told
    nowhere = script("dashboard")
    assert nowhere.returncode == 2
    assert "POSTGRES_URL_NON_POOLING" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


@pytest.mark.parametrize(
    ("environ", "prelude", "clue"),
    [
        ({}, "", "ADMIN_PASSWORD"),
        ({"ADMIN_PASSWORD": ""}, "", "ADMIN_PASSWORD"),
        ({"ADMIN_PASSWORD": "x"}, "sys.modules['starlette'] = None; ", "pip install -e '.[serve]'"),
    ],
)
def test_what_keeps_it_from_serving(environ: dict[str, str], prelude: str, clue: str) -> None:
    code = (
        f"import sys, runpy; {prelude}sys.argv = ['dashboard', '--serve', '--port', '0']; "
        "runpy.run_module('scripts.dashboard', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "ADMIN_PASSWORD"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"error: .*{re.escape(clue)}.*\n", done.stderr), done.stderr
