"""The guide's counts, of one moment, and the numbers that reconcile them; taken from copies of the tables."""

from scripts.commands.verify.report import Report
from scripts.common.database import run
from scripts.common.moment import Moment

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
# A difference is explained by a merge decision, or by a deletion or change in the unified tables.
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


def count(now: Moment, report: Report) -> None:
    """Return the guide's counts and the numbers that reconcile them, of one moment."""
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
