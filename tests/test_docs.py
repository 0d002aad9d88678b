"""The documentation: its commands run, its links and names exist.

Two kinds of fenced blocks are executed, in every document; all others are for reading.

``console``: the lines after ``$`` (and continuation lines after ``>``), all of a document in order,
in one bash, in a copy of the repository, against the demo's legacy database. Each has to end with
0; a command that fails prints its exit code: ``... || echo "exit code $?"``. The lines below it
have to be in its output, in this order. ``...`` stands for anything; times, sizes, dates, ids and
versions may differ.

``sql``: at 0006 and at head, in a transaction that is rolled back. A first line ``-- name: $1
what`` names the parameters. moving-endpoints.md has its own test, which compares results. So has
dba-review.md: test_roles.py works as the roles of its blocks.

The language of the documents: support/language.py.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from models import FLAGS, Base
from scripts.development.diagram import diagram, fenced
from support.commands import script
from support.databases import ROOT, Clone, Database, copy_project, failed_checks, upgrade
from support.eras import ERAS
from support.language import LONGEST, forbidden_words, long_sentences, sentences
from support.oracle import CONFIG, EARLY_FLAGS, HOMES, JSON_COLUMNS, PROGRESS, TEXT_COLUMNS

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ENDPOINTS = ROOT / "docs" / "moving-endpoints.md"
DBA_REVIEW = ROOT / "docs" / "dba-review.md"
MERGE_RULES = ROOT / "docs" / "merge-rules.md"
LANGUAGES = ("console", "sql", "mermaid", "text", "json", "js")
"""The first two are executed."""


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a document in this language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    text = document.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_no_block_escapes_execution(document: Path) -> None:
    """Neither by an unknown language, nor by a place that is not searched."""
    fences = re.findall(r"^( *)```(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    for indent, language in fences[::2]:
        assert (indent, language) in {("", name) for name in LANGUAGES}


# --- transcripts ----------------------------------------------------------------------------------


@dataclass
class Command:
    """A command of a transcript, and the output shown below it."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands(document: Path) -> list[Command]:
    found: list[Command] = []
    for line in "".join(blocks(document, "console")).splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:]))
        elif line.startswith("> ") and not found[-1].shown:
            found[-1].text += "\n" + line[2:]
        elif line.strip():
            assert found, f"{document.name}: output before the first command: {line}"
            found[-1].shown.append(line)
    return found


VARYING = (
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[-+]\d\d(:?\d\d)?)?)?",
    r"\b\d\d:\d\d(:\d\d)?\b",
    r"(?<=[-_])20\d{6}(_\d+)?\b",
    r"\b\d[\d,.]*\s?(ms|s|seconds?|minutes?|B|bytes|kB|KB|MB|GB|a second)\b",
    r"(?<=PostgreSQL )\d+(\.\d+)*",
    r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b[0-9a-f]{32,}\b",
)


def masked(line: str) -> str:
    """A line without the parts that differ from run to run, and without its spacing."""
    return " ".join(re.sub("|".join(VARYING), "#", line).split())


def first_missing(shown: list[str], output: str) -> str | None:
    """The first line that is not in the output after the lines before it."""
    lines = iter([masked(line) for line in output.splitlines()])
    for line in shown:
        pattern = re.escape(masked(line)).replace(r"\.\.\.", ".*")
        if pattern != ".*" and not any(re.fullmatch(pattern, found) for found in lines):
            return line
    return None


def perform(transcript: list[Command], folder: Path, database: Database) -> None:
    """Run a transcript in this folder; AssertionError shows the command and its output."""
    copy_project(folder / "copy")
    (folder / "copy" / ".venv").symlink_to(sys.prefix)
    file = folder / "transcript.sh"
    file.write_text(
        "".join(
            f"exec > '{folder}/{n}.output' 2>&1\n{command.text}\n"
            f"code=$?; echo $code > '{folder}/{n}.code'; [ $code = 0 ] || exit\n"
            for n, command in enumerate(transcript)
        ),
        encoding="utf-8",
    )
    workshop = folder / "bin" / "workshop"  # the installed one uses the repository, not its copy
    workshop.parent.mkdir()
    run = "exec python -c 'from scripts.cli import workshop; workshop()'"
    workshop.write_text(f'#!/bin/sh\n{run} "$@"\n')
    workshop.chmod(0o755)
    programs = (
        workshop.parent,
        folder / "copy" / ".venv" / "bin",
        database.server.bin_dir,
        os.environ["PATH"],
    )
    environ = os.environ | {"PATH": ":".join(map(str, programs)), "COLUMNS": "100"}
    environ |= dict.fromkeys(("POSTGRES_URL_NON_POOLING", "POSTGRES_URL"), database.url)
    subprocess.run(
        ["bash", file], cwd=folder / "copy", env=environ, stdin=subprocess.DEVNULL, timeout=300
    )
    for n, command in enumerate(transcript):
        output = (folder / f"{n}.output").read_text(encoding="utf-8")
        code = folder / f"{n}.code"
        ended = code.read_text().strip() if code.exists() else "the shell"
        told = f"$ {command.text}\n{output}"
        assert ended == "0", f"ended with {ended}, not 0:\n{told}"
        missing = first_missing(command.shown, output)
        assert missing is None, f"not in the output (in this order): {missing}\n{told}"


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "console")], ids=name_of)
def test_transcripts(document: Path, clone: Clone, tmp_path: Path) -> None:
    perform(commands(document), tmp_path, clone("legacy"))


@pytest.mark.parametrize(
    ("transcript", "complaint"),
    [
        (
            "$ export N=213\n$ echo $N rows in 1.5 s\n213 rows in 22.7 s\n$ exit 0\n",
            "ended with the shell, not 0",
        ),
        ("$ psql -XAtc 'SELECT 1' $POSTGRES_URL\n2\n", "not in the output (in this order): 2"),
        ("$ printf 'a\\nb'\nb\na\n", "not in the output (in this order): a"),
        ("$ printf '213 rows'\n214 rows\n", "not in the output (in this order): 214 rows"),
        ("$ false\n", "ended with 1, not 0"),
        ('$ echo a \\\n> b\na b\n$ false || echo "exit code $?"\nexit code 1\n', None),
    ],
)
def test_a_transcript_that_is_not_true(
    transcript: str, complaint: str | None, clone: Clone, tmp_path: Path
) -> None:
    document = tmp_path / "guide.md"
    document.write_text(f"# A guide\n\n```console\n{transcript}```\n", encoding="utf-8")
    if complaint is None:
        perform(commands(document), tmp_path, clone("empty"))
        return
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        perform(commands(document), tmp_path, clone("empty"))


# --- statements -----------------------------------------------------------------------------------


@dataclass
class Statement:
    """An SQL block: its first line's name and parameters, in order, and the whole text."""

    name: str
    parameters: list[str]
    text: str


def statements(document: Path) -> list[Statement]:
    found = []
    for text in blocks(document, "sql"):
        first = re.match(r"-- ([^:\n]+)(.*)", text)
        named = re.findall(r"\$\d+ (\w+)", first[2]) if first else []
        found.append(Statement(first[1] if first else "", named, text))
    return found


@pytest.mark.parametrize("state", ["0006", "head"])
@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if blocks(d, "sql") and d not in (ENDPOINTS, DBA_REVIEW)],
    ids=name_of,
)
def test_statements_run(document: Path, state: str, clone: Clone) -> None:
    """With NULL for each parameter."""
    with psycopg.connect(clone(state).url, cursor_factory=psycopg.RawCursor) as connection:
        for statement in statements(document):
            nothing = [None] * len(statement.parameters) or None
            assert connection.execute(statement.text.encode(), nothing).statusmessage
            connection.rollback()


class Application:
    """A moved endpoint: the statements of moving-endpoints.md, as the application's role."""

    def __init__(self, database: Database, role: str) -> None:
        self.database = database
        self.role = role
        self.statements = {s.name: s for s in statements(ENDPOINTS)}
        self.used: set[str] = set()
        self.connection: psycopg.Connection[DictRow] = psycopg.connect(
            database.server.url(database.name, role, role),
            autocommit=True,
            row_factory=dict_row,
            cursor_factory=psycopg.RawCursor,
        )

    def __call__(self, name: str, **parameters: object) -> list[DictRow]:
        """Execute a statement with the parameters' names of the document."""
        statement = self.statements[name]
        self.used.add(name)
        assert statement.parameters == list(parameters)
        found = self.connection.execute(statement.text.encode(), list(parameters.values()) or None)
        return found.fetchall() if found.description else []

    def by_owner(self, name: str) -> None:
        """Execute a statement of the owner, for this role."""
        self.used.add(name)
        self.database.execute(self.statements[name].text.replace("workshop_app", self.role))

    def save(self, token: str, email: str | None, name: str | None, **config: object) -> None:
        """student-config-save, as one request."""
        with self.connection.transaction():
            if email is not None:
                (student,) = self("student", student_email=email, student_name=name)
            else:
                (student,) = self("student of a session", session_token=token, student_name=name)
            self("session", session_token=token, **student)
            self("configuration", session_token=token, configuration=json.dumps(config))

    def track(self, token: str, step: str, completed: bool, seconds: int) -> list[DictRow]:
        """track-student-progress, as one request."""
        with self.connection.transaction():
            found = self(
                "step", session_token=token, step_name=step, completed=completed, seconds=seconds
            )
            self("progress made", session_token=token)
            details = json.dumps({"step": step})
            self("event", session_token=token, event_type="step_tracked", details=details)
        return found

    def get(self, token: str) -> DictRow | None:
        return next(iter(self("get", session_token=token)), None)


@contextmanager
def application(database: Database, role: str) -> Iterator[Application]:
    endpoints = Application(database, role)
    endpoints.by_owner("grants")
    try:
        yield endpoints
    finally:
        endpoints.connection.close()


def old(database: Database, query: str, *parameters: object) -> list[DictRow]:
    """The rows that a legacy endpoint reads, with the legacy application's statement."""
    with psycopg.connect(database.url, row_factory=dict_row) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


CONFIG_ROW = "SELECT * FROM student_configs WHERE session_token = %s"
PROGRESS_ROW = "SELECT * FROM workshop_students WHERE session_token = %s"


def unwrapped(value: Any, kind: type) -> Any:
    """Unwrap JSON strings by hand; the empty value if jsonb has none of this type."""
    while isinstance(value, str) and "\\u0000" not in value:
        try:
            value = json.loads(value)
        except ValueError:
            break
    return value if isinstance(value, kind) else kind()


def clean(email: str | None) -> str | None:
    email = (email or "").strip().lower()
    return None if email in ("", "unknown@example.com") else email


@pytest.mark.parametrize("state", ["0006", "head"])
def test_moved_endpoints_read_what_the_old_ones_did(state: str, clone: Clone, role: str) -> None:
    database = clone(state)
    configs = {row["session_token"]: row for row in old(database, "SELECT * FROM student_configs")}
    rows = {row["session_token"]: row for row in old(database, "SELECT * FROM workshop_students")}
    assert (len(configs), len(rows)) == (177, 153)
    with application(database, role) as moved:
        listed = {row["session_token"]: row for row in moved("list", limit=1000)}
        assert listed.keys() == configs.keys() | rows.keys()
        for token, was in configs.items():
            also = rows.get(token, {})
            now = moved.get(token)
            assert now is not None
            assert {name: now[name] for name in TEXT_COLUMNS} == {
                name: was[name] or None for name in TEXT_COLUMNS
            }
            for name in ("tools", "voice_settings"):
                assert now[name] == unwrapped(was[name], JSON_COLUMNS[name][0])
            assert {name: now[name] for name in FLAGS} == {name: bool(was[name]) for name in FLAGS}
            assert now["demo_mode"] == bool(was["demo_mode"] or also.get("demo_mode"))
            assert was["current_step"] in (None, now["current_step"])
            email = clean(also.get("student_email")) or clean(was["student_email"])
            assert now["student_email"] == email
            assert listed[token]["has_api_key"] == bool(was["openai_api_key"])
            (further,) = moved("further", session_token=token)
            assert further["ci_service_sid"] == was["ci_service_sid"]
            assert was["memory_retention_days"] in (None, further["memory_retention_days"])
        for token, was in rows.items():
            (now,) = moved("progress", session_token=token)
            assert clean(was["student_email"]) in (None, now["student_email"])
            assert now["total_time_spent"] == (was["total_time_spent"] or 0)
            assert was["started_at"] in (None, now["started_at"])
            for name in ("exercises", "bug_reports"):
                assert (
                    now[name] == listed[token][name] == unwrapped(was[name], JSON_COLUMNS[name][0])
                )
        first = [row["last_activity"] for row in moved("list", limit=100)]
        assert len(first) == 100
        known = [at for at in first if at is not None]
        assert known == sorted(known, reverse=True)
        assert moved.get("ws_nobody") is None


@pytest.mark.parametrize("state", ["before", "after"])
def test_moved_endpoints_write_what_the_old_ones_read(state: str, clone: Clone, role: str) -> None:
    """Before the cut-over of 0007 and after it, which copies the application's grants."""
    database = clone("0006")
    database.execute(f"GRANT ALL ON workshop_students, student_configs TO {role}")
    if state == "after":
        upgrade(database)
    with application(database, role) as moved:
        # a full configuration, and a small one
        full: dict[str, object] = {name: f"{name}: 50% of 'é'" for name in TEXT_COLUMNS}
        full |= dict.fromkeys(FLAGS, True) | {"demo_mode": True, "current_step": 4}
        full |= {"tools": [{"name": "look_up"}], "voice_settings": {"speed": 1.5}}
        moved.save("ws_full", " New@Example.EDU", "Ada", **full)
        moved.save("ws_full", "new@example.edu", "", selected_voice="alloy", tts_provider=None,
                   ivr_greeting="", step4_deployed=False, session_token="ws_other")  # fmt: skip
        expected = full | {"selected_voice": "alloy", "ivr_greeting": None, "step4_deployed": False}
        expected |= {"student_email": "new@example.edu", "student_name": "Ada"}
        for row in (moved.get("ws_full"), *old(database, CONFIG_ROW, "ws_full")):
            assert row is not None
            assert {name: row[name] for name in expected} == expected
        assert moved.get("ws_other") is None

        # no address, and JSON that was stringified twice
        moved.save("ws_none", None, None, tools=json.dumps([{"name": "twice"}]))
        moved.save("ws_none", None, "Not new")
        now = moved.get("ws_none")
        assert now is not None
        assert (now["student_email"], now["tools"]) == (None, [{"name": "twice"}])
        (was,) = old(database, CONFIG_ROW, "ws_none")
        assert (was["student_email"], was["tools"]) == (None, [{"name": "twice"}])

        # progress, by key and by title
        assert moved.track("ws_full", "step-2-choose-use-case", True, 60) == [
            {"step_number": 2, "validation_passed": True}
        ]
        assert moved.track("ws_none", "Basic TwiML", False, 30)[0]["step_number"] == 4
        assert moved.track("ws_none", "create-basic-twiml", True, 12)[0]["validation_passed"]
        assert moved.track("ws_none", "exercise-4", False, 0)[0]["validation_passed"]
        assert moved.track("ws_none", "unknown", True, 1) == []
        assert moved.track("ws_nobody", "exercise-4", True, 1) == []
        (progress,) = moved("progress", session_token="ws_none")
        (was,) = old(database, PROGRESS_ROW, "ws_none")
        for row in (progress, was):
            step = row["exercises"]["step-4-basic-twiml"]
            assert (step["completed"], step["timeSpent"], step["attempts"]) == (True, 42, 3)
            assert (row["completion_rate"], row["total_time_spent"]) == (11, 42)
            assert row["last_activity"] == progress["last_activity"]
        events = "SELECT session_token, event_data FROM events WHERE event_type = 'step_tracked'"
        assert ("ws_none", {"step": "Basic TwiML"}) in database.query(events)
        assert len(database.query(events)) == 5

        # the session finds its student; its steps move along
        moved.save("ws_none", "found@example.edu", "Bruno")
        assert moved("progress", session_token="ws_none")[0]["student_email"] == "found@example.edu"
        (was,) = old(database, CONFIG_ROW, "ws_none")
        assert (was["student_email"], was["student_name"]) == ("found@example.edu", "Bruno")
        strays = (
            "SELECT count(*) FROM step_progress AS p JOIN sessions AS s USING (session_token) "
            "WHERE p.student_id <> s.student_id"
        )
        assert database.query(strays) == [(0,)]

        # the other direction: a legacy endpoint
        save = "UPDATE student_configs SET ivr_greeting = 'old' WHERE session_token = 'ws_full'"
        moved.connection.execute(save)
        now = moved.get("ws_full")
        assert now is not None
        assert now["ivr_greeting"] == "old"

        moved("delete", student_email="FOUND@example.edu ")
        for query in (CONFIG_ROW, PROGRESS_ROW):
            assert old(database, query, "ws_none") == []
        assert moved.get("ws_none") is None

        # after the clean-up: the legacy names are closed, the bridge still writes behind them
        if state == "before":
            upgrade(database)
        moved.by_owner("no more legacy writes")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            moved.connection.execute(save)
        moved.save("ws_full", None, None, ivr_greeting="new")
        assert old(database, CONFIG_ROW, "ws_full")[0]["ivr_greeting"] == "new"
        assert database.query("SELECT count(*) FROM bridge.change_log") == [(0,)]
        assert failed_checks(database) == []
        reads = {"list", "further"}
        assert moved.used | reads == moved.statements.keys()


def test_moved_endpoints_need_no_bridge(clone: Clone, role: str) -> None:
    database = clone("fresh")
    assert database.query("SELECT to_regnamespace('bridge')") == [(None,)]
    with application(database, role) as moved:
        moved.save("ws_new", None, None, call_direction_chosen=True)
        moved.track("ws_new", "Basic TwiML", True, 42)
        moved.save("ws_new", "Ada@example.com", "Ada")
        (progress,) = moved("progress", session_token="ws_new")
        assert (progress["student_email"], progress["completion_rate"]) == ("ada@example.com", 22)
        owners = "SELECT s.student_id = p.student_id FROM sessions AS s JOIN step_progress AS p USING (session_token)"
        assert database.query(owners) == [(True,)]
        moved("delete", student_email="ada@example.com")
        assert moved("list", limit=5) == []


def test_the_queries_of_the_review_run(clone: Clone) -> None:
    """Its other blocks make roles: test_roles.py."""
    queries = [block for block in blocks(DBA_REVIEW, "sql") if "\nSELECT " in block]
    assert len(queries) == 5
    database = clone("head")
    for query in queries:
        database.query(query)


# --- the merge rules ------------------------------------------------------------------------------


def tables(document: Path) -> dict[str, list[list[str]]]:
    """The tables of a document, by the heading above them: their rows, cell by cell."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in prose(document).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found.setdefault(heading, []).append(cells)
    return {heading: rows[1:] for heading, rows in found.items()}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_new_column_has_its_rule_in_its_place() -> None:
    rules = tables(MERGE_RULES)
    for table in Base.metadata.sorted_tables:
        told = [name for row in rules[table.name] for name in names(row[0])]
        assert told == list(table.columns.keys())
        assert all(len(row) == 2 and row[1] for row in rules[table.name])
    rule = {name: row[1] for row in rules["sessions"] for name in names(row[0])}
    first = {name: CONFIG for name in TEXT_COLUMNS} | {n: t for n, (_, t) in JSON_COLUMNS.items()}
    for name, table_name in (first | {"student_id": PROGRESS}).items():
        order = "c, p" if table_name == CONFIG else "p, c"
        assert f"`coalesce({order})`" in rule[name]


def test_every_legacy_column_has_its_home(empty: Database) -> None:
    """For every era: the result of each column, and no column that no era has."""
    rules = tables(MERGE_RULES)
    found: dict[str, set[str]] = {}
    for name, era in ERAS.items():
        if name == "other types":  # the columns of the others, and some of no era
            continue
        with empty.connect(autocommit=False) as connection:
            connection.execute(era.ddl.encode())
            columns = connection.execute(
                "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid "
                "WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0"
            )
            for table, column in columns.fetchall():
                found.setdefault(table, set()).add(column)
            connection.rollback()
    renamed = {early: name for name, early in EARLY_FLAGS.items()}
    for table in (PROGRESS, CONFIG):
        told = {name: row[1] for row in rules[table] for name in names(row[0])}
        assert told.keys() == found[table]
        for column, home in told.items():
            if column in renamed:
                assert names(home) == [f"sessions.{renamed[column]}"]
            elif column in HOMES:
                assert "legacy_extra" not in home, column
                assert "computed" in home if column == "completion_rate" else "." in home
            else:
                assert "legacy_extra" in home, column
    told_steps = {name for row in rules["workshop_step_progress"] for name in names(row[0])}
    assert told_steps == found["workshop_step_progress"]
    told_prior = [name for row in rules["An earlier attempt"] for name in names(row[0])]
    for table in ("students", "sessions", "step_progress", "events"):
        known = {n.split(".")[1] for n in told_prior if n.startswith(f"{table}.")}
        same = set(Base.metadata.tables[table].columns.keys())
        assert found[table] - same - known == set(), table


def test_the_diagram_is_the_models(tmp_path: Path) -> None:
    text = MERGE_RULES.read_text(encoding="utf-8")
    assert fenced(diagram()) in text, "workshop diagram --into docs/merge-rules.md"
    stale = tmp_path / "stale.md"
    stale.write_text(text.replace("uuid student_id PK", "text who"), encoding="utf-8")
    assert script("diagram", "--into", str(stale)).returncode == 0
    assert stale.read_text(encoding="utf-8") == text
    done = script("diagram", "--into", str(ROOT / "LICENSE"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nothing was changed" in done.stderr
    assert script("diagram").stdout == diagram()
    for table in Base.metadata.sorted_tables:
        body = diagram().split(f"    {table.name} {{\n")[1].split("}")[0]
        assert [line.split()[1] for line in body.strip().splitlines()] == list(table.columns.keys())
    assert diagram().count("--o{") == 5


# --- language -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_language_is_plain(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert forbidden_words(text) == []
    assert long_sentences(text) == [], f"more than {LONGEST} words"


@pytest.mark.parametrize(("document", "most"), [("README.md", 100), ("docs/performance.md", 80)])
def test_a_short_document_stays_short(document: str, most: int) -> None:
    assert len((ROOT / document).read_text(encoding="utf-8").splitlines()) <= most


def test_what_the_check_of_the_language_finds() -> None:
    text = (
        "# Whoever reads\n\nFine, `who is code`, and [a link](who.md).\n- One. Two `x`! And 3?\n\n"
        f"    someone typed this\n\n| nobody | {'w ' * 30}|\n\n```text\nwho\n```\n\n{'word ' * 26}end.\n"
    )
    assert forbidden_words(text) == ["Whoever", "nobody"]
    assert sentences(text)[:4] == ["Fine, code, and a link.", "One.", "Two code!", "And 3?"]
    assert long_sentences(text) == [f"{'word ' * 26}end."]


# --- links and names ------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_names_are_those_of_the_project(document: Path) -> None:
    """Files, commands and objects of the bridge in a document."""
    text = document.read_text(encoding="utf-8")
    files = {str(path.relative_to(ROOT)) for path in project_files()}
    bases = {file.rsplit("/", 1)[-1] for file in files}
    for name in re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sql|md|toml|ini|mako|txt))`", text):
        of_a_user = "/" not in name and re.search(r"^(?!\d\d_).*\.(sql|txt)$", name)
        assert of_a_user or name in files or name in bases, f"there is no file {name}"
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module in ("pytest", "pip", "venv") or f"{module.replace('.', '/')}.py" in files
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"make has no target {target}"
    sql = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "alembic" / "sql").rglob("*.sql"))
    for name in re.findall(r"`bridge\.(\w+)", text):
        assert re.search(rf"\bbridge\.{name}\b", sql), f"the bridge has no {name}"


def project_files() -> list[Path]:
    folders = ("alembic", "docs", "models", "scripts", "tests")
    return [
        *(path for path in ROOT.iterdir() if path.is_file()),
        *(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()),
    ]


# --- every refusal is explained -------------------------------------------------------------------


def refusals() -> set[str]:
    """Refusals of the migration: RAISE EXCEPTION, the preflight's reasons, and Python's two errors."""
    found: set[str] = set()
    for path in (ROOT / "alembic").rglob("*.sql"):
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"RAISE EXCEPTION '((?:[^']|'')+)'", text))
        found.update(
            re.findall(r"(?:problems := problems \|\||named :=) (?:format\()?'([^']+)'", text)
        )
        if path.name in ("00_preflight.sql", "preflight.sql"):  # lists of checks
            found.update(re.findall(r"^ {8}\('([^']+)',$", text, re.MULTILINE))
    python = (
        ROOT / "alembic" / "env.py",
        ROOT / "scripts" / "common" / "connection.py",
        *(ROOT / "scripts" / "migration").glob("*.py"),
    )
    for path in python:
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"RAISE EXCEPTION '([^']+)'", text))
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(ast.Name("CommandError" | "ConnectionProblem"), [told]):
                    pieces = [c.value for c in ast.walk(told) if isinstance(c, ast.Constant)]
                    found.update(["%".join(map(str, pieces))] if pieces else [])
    return found - {"%"}


def test_every_refusal_is_explained() -> None:
    """By their first fixed words, up to names or advice."""
    guide = " ".join((ROOT / "docs" / "guide.md").read_text(encoding="utf-8").split())
    messages = refusals()
    assert len(messages) > 35
    for message in messages:
        pieces = re.split(r"%(?:\d\$)?s?|[;:(]", message)
        words = next((p for p in pieces if len(p.split()) > 2), max(pieces, key=len)).strip()
        assert words in guide, f"docs/guide.md does not explain: {message}"
