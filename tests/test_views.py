"""The reporting views: each figure equals plain SQL on the tables, and no secret is shown.

The SQL here reads tables only: no view, and none of the project's functions.
"""

from typing import Any

import psycopg
import pytest

from support.databases import Clone, Database

VIEWS = ("session_overview", "student_overview", "step_funnel", "progress_by_day", "stuck_sessions")
PLAIN = {"text", "uuid", "boolean", "integer", "bigint", "date", "double precision"} | {
    "timestamp with time zone"
}
# Step: the flags for "done", and the flags for "begun".
DONE = {
    1: "twilio_connected AND openai_connected",
    2: "call_direction_chosen",
    3: "services_ready",
    4: "step4_deployed",
    5: "step5_deployed",
    6: "step6_deployed",
    7: "system_prompt_saved",
    8: "step8_deployed",
    9: "project_deployed",
}
BEGUN = {
    1: "twilio_connected OR openai_connected",
    4: "step4_code_validated OR step4_committed OR step4_deployed",
    5: "step5_code_validated OR step5_committed OR step5_deployed",
    6: "step6_code_validated OR step6_committed OR step6_deployed",
    7: "system_prompt_saved OR step7_committed OR step7_deployed",
    8: "tools_configured OR step8_code_validated OR step8_committed OR step8_deployed",
}


def is_done(step: int) -> str:
    """SQL: whether the session ``s`` is done with a step."""
    return f"""({DONE[step]} OR EXISTS (
        SELECT FROM step_progress AS x WHERE x.session_token = s.session_token
        AND x.step_number = {step} AND x.validation_passed))"""


@pytest.fixture
def odd(clone: Clone) -> Database:
    """The migrated sample, with additions: live sessions, lone flags, unknown and odd times."""
    database = clone("head")
    database.execute(
        """
        INSERT INTO students (student_email) VALUES ('nobody@example.com');
        UPDATE sessions SET expires_at = now() + interval '5 days', is_active = true,
                            last_activity = now() - interval '3 days'
        WHERE session_token IN (SELECT session_token FROM sessions ORDER BY md5(session_token) LIMIT 40);
        UPDATE sessions SET last_activity = now() - interval '1 hour'
        WHERE session_token IN (SELECT session_token FROM sessions ORDER BY md5(session_token) LIMIT 9);
        UPDATE sessions SET step5_committed = true, tools_configured = true, step7_deployed = true
        WHERE session_token LIKE '%3';
        UPDATE step_progress SET time_spent = 0 WHERE step_number = 9 AND session_token LIKE '%a';
        UPDATE sessions SET last_activity = NULL, started_at = NULL, created_at = NULL
        WHERE session_token = (SELECT min(session_token) FROM sessions WHERE completion_rate < 100);
        UPDATE sessions SET last_activity = '-infinity', started_at = 'infinity'
        WHERE session_token = (SELECT max(session_token) FROM sessions WHERE completion_rate < 100);
        """
    )
    return database


def test_the_funnel(odd: Database) -> None:
    shown = odd.query("SELECT * FROM step_funnel ORDER BY step_number")
    assert [row[0] for row in shown] == list(range(1, 10))
    for step, _, started, done, median, mean in shown:
        ((by_hand,),) = odd.query(f"SELECT count(*) FROM sessions AS s WHERE {is_done(step)}")
        assert done == by_hand > 0
        ((by_hand,),) = odd.query(
            f"SELECT count(*) FROM sessions AS s WHERE {BEGUN.get(step, DONE[step])} OR EXISTS ("
            f"SELECT FROM step_progress AS x WHERE (x.session_token, x.step_number) = (s.session_token, {step}))"
        )
        assert started == by_hand >= done
        times = [
            seconds
            for (seconds,) in odd.query(
                "SELECT p.time_spent FROM step_progress AS p JOIN sessions AS s USING (session_token) "
                f"WHERE p.step_number = {step} AND p.time_spent > 0 AND {is_done(step)} ORDER BY 1"
            )
        ]
        middle = len(times) // 2
        assert median == (times[middle] + times[~middle]) / 2
        assert mean == pytest.approx(sum(times) / len(times))


def test_the_funnel_of_an_empty_database(clone: Clone) -> None:
    shown = clone("fresh").query("SELECT started, done, median_time_spent FROM step_funnel")
    assert shown == [(0, 0, None)] * 9


def test_students(odd: Database) -> None:
    shown = odd.query(
        "SELECT student_email, sessions, active_sessions, completion_rate, current_step, total_time_spent, "
        "started_at::text, last_activity::text FROM student_overview ORDER BY student_id"
    )
    one = "(SELECT {} FROM sessions AS s WHERE s.student_id = st.student_id)"
    figures = [
        "count(*)",
        "count(*) FILTER (WHERE is_active AND expires_at > now())",
        "coalesce(max(completion_rate), 0)",
        "coalesce(max(current_step), 0)",
        "coalesce(sum(total_time_spent), 0)",
        "min(started_at)::text",
        "max(last_activity)::text",
    ]
    by_hand = ", ".join(one.format(figure) for figure in figures)
    assert shown == odd.query(
        f"SELECT student_email, {by_hand} FROM students AS st ORDER BY student_id"
    )
    assert ("nobody@example.com", 0, 0, 0, 0, 0, None, None) in shown
    assert sum(row[1] for row in shown) == 213
    assert sum(row[2] for row in shown) == 40


def test_days(odd: Database) -> None:
    shown = {
        day: rest
        for day, *rest in odd.query(
            "SELECT day::text, sessions_started, steps_completed, sessions_last_active FROM progress_by_day"
        )
    }
    columns = (
        ("started_at", "sessions WHERE isfinite(started_at)"),
        ("completed_at", "step_progress WHERE validation_passed AND completed_at IS NOT NULL"),
        ("last_activity", "sessions WHERE isfinite(last_activity)"),
    )
    for place, (column, rows) in enumerate(columns):
        by_hand = dict(
            odd.query(
                f"SELECT to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD'), count(*) FROM {rows} GROUP BY 1"
            )
        )
        assert {day: counts[place] for day, counts in shown.items() if counts[place]} == by_hand
    assert len(shown) > 20


def test_stuck_sessions(odd: Database) -> None:
    not_done = ", ".join(f"CASE WHEN NOT {is_done(step)} THEN {step} END" for step in DONE)
    by_hand = odd.query(
        f"""
        SELECT st.student_email, right(s.session_token, 4), s.is_active AND s.expires_at > now(),
               s.completion_rate, n.step, coalesce(p.attempts, 0), coalesce(p.time_spent, 0)
        FROM sessions AS s
        JOIN students AS st USING (student_id)
        CROSS JOIN LATERAL (SELECT least({not_done})) AS n(step)
        LEFT JOIN step_progress AS p ON (p.session_token, p.step_number) = (s.session_token, n.step)
        WHERE n.step IS NOT NULL
          AND coalesce(coalesce(s.last_activity, s.started_at, s.created_at) <= now() - interval '1 day', true)
        ORDER BY 1, 2, 4, 5, 6, 7
        """
    )
    shown = odd.query(
        "SELECT student_email, token_end, is_active, completion_rate, next_step, attempts, time_spent "
        "FROM stuck_sessions ORDER BY 1, 2, 4, 5, 6, 7"
    )
    assert shown == by_hand
    assert 20 < sum(row[2] for row in shown) < len(shown)
    assert set(odd.query("SELECT quiet_days FROM stuck_sessions WHERE is_active")) == {(3,)}
    assert odd.query("SELECT count(*) FROM stuck_sessions WHERE quiet_days IS NULL") == [(2,)]


def test_comments_and_plain_types(clone: Clone) -> None:
    found = clone("fresh").query(
        """
        SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
               obj_description(c.oid, 'pg_class'), col_description(c.oid, a.attnum)
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace
        """
    )
    assert {row[0] for row in found} == set(VIEWS)
    for view, column, kind, of_view, of_column in found:
        assert kind in PLAIN, (view, column)
        assert of_view, view
        assert of_column, (view, column)


def test_no_view_shows_a_secret(odd: Database) -> None:
    secrets = """
        SELECT openai_api_key FROM sessions
        UNION SELECT system_prompt FROM sessions
        UNION SELECT x.value FROM sessions, jsonb_each(legacy_extra) AS e, jsonb_each_text(e.value) AS x
        WHERE length(x.value) > 8
    """
    tokens = "SELECT session_token FROM sessions WHERE length(session_token) > 9"
    for view in VIEWS:
        sought = secrets if view == "session_overview" else f"{secrets} UNION {tokens}"
        shown = f"SELECT string_agg(to_jsonb(v)::text, ' ') AS text FROM {view} AS v"
        leaks = f"SELECT count(*) FROM ({shown}) AS o JOIN ({sought}) AS s(secret) ON strpos(o.text, s.secret) > 0"
        assert odd.query(leaks) == [(0,)], view
    assert len(odd.query(f"{secrets} UNION {tokens}")) > 300


def test_who_may_read_them(clone: Clone, role: str) -> None:
    """Only the owner until it is granted; then the view, and still not the tables."""
    database = clone("fresh")
    with psycopg.connect(database.server.url(database.name, role, role), autocommit=True) as reader:
        for view in VIEWS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"TABLE {view}".encode())
            database.execute(f"GRANT SELECT ON {view} TO {role}")
            reader.execute(f"TABLE {view}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT openai_api_key FROM sessions")


@pytest.mark.parametrize(
    ("view", "condition"),
    [
        ("session_overview", "session_token = 'x'"),
        ("session_overview", "student_id = '11111111-1111-4111-8111-111111111111'"),
        ("session_overview", "student_email = 'x'"),
        ("student_overview", "student_id = '11111111-1111-4111-8111-111111111111'"),
        ("student_overview", "student_email = 'x'"),
        ("stuck_sessions", "student_id = '11111111-1111-4111-8111-111111111111'"),
        ("stuck_sessions", "student_email = 'x'"),
    ],
)
def test_a_look_up_reads_by_index(migrated: Database, view: str, condition: str) -> None:
    def scans(node: dict[str, Any]) -> list[str]:
        return [node["Node Type"], *(s for child in node.get("Plans", ()) for s in scans(child))]

    with migrated.connect() as connection:
        # a sequential scan of two hundred rows is faster; the test checks that an index could be
        # used
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            f"EXPLAIN (FORMAT json) SELECT * FROM {view} WHERE {condition}".encode()
        ).fetchone()
        assert plan is not None
    found = scans(plan[0][0]["Plan"])
    assert "Seq Scan" not in found
    assert any("Index" in kind for kind in found)
    indexed = str(plan).count("Index Cond")
    assert indexed >= 2, plan
