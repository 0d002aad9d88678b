"""The differences, value by value: student, session and both values. No secret is shown."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, text

from scripts.common.database import run
from scripts.common.terminal import masked

DIFFERENCES = """
SELECT r.last_token AS last, r.sessions, d.table_name, d.column_name, d.token
FROM bridge.next_range(CAST(:after AS text), 200) AS r
LEFT JOIN LATERAL bridge.differences(r.first_token, r.last_token) AS d ON true
WHERE r.last_token IS NOT NULL
ORDER BY d.token, d.table_name, d.column_name
"""
STUDENT_DIFFERENCES = """
SELECT table_name, column_name, token
FROM bridge.student_differences(ARRAY(SELECT DISTINCT student_email FROM bridge.student_source))
ORDER BY token, column_name
"""
SESSION = """
SELECT coalesce(st.student_email, m.student_email) AS student, to_jsonb(v) AS new,
       to_jsonb(m) || to_jsonb(m.shared) AS old,
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


def differing(connection: Connection, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Return one entry for each value that differs, the secrets masked."""
    after, looked = "", 0
    while found := connection.execute(text(DIFFERENCES), {"after": after}).mappings().all():
        after = found[0]["last"]
        looked += found[0]["sessions"]
        say(f"compared {looked:,} sessions")
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
    """Return both values for people: no secret, and of long values the part where they begin to differ."""
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
        return ("(differs in the masked part)",) * 2
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
    """Return the names of the legacy columns with values that the other object lacks."""
    names = [
        f"{source}.{column}"
        for source, columns in (value or {}).items()
        for column, content in columns.items()
        if ((other or {}).get(source) or {}).get(column) != content
    ]
    return ", ".join(names) or "-"
