"""Results of the merge on temporary tables: rows, decisions, sizes."""

from sqlalchemy import Connection

from models.steps import FLAGS
from scripts.commands.dry_run.report import Report
from scripts.commands.dry_run.shadow import Shadow
from scripts.common.database import run
from scripts.common.terminal import masked

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
# Encrypted: initialisation vector, tag and ciphertext in base64. further: from an earlier attempt,
# the unified tables, or an earlier downgrade. gone: deleted there, although a legacy row remains.
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
# A merge decision is {kind: true}, {kind: [column]} or {kind: {column: winning source, or a
# value}}.
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


def count(connection: Connection, report: Report, shadow: Shadow) -> None:
    """Fill the report with the rows that are there after the merge and were not before."""
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
        # temporary tables write no write-ahead log; 0007 verifies again
        "seconds": round(
            1.5 * (seconds["merge"] + seconds["indexes"]) + 2 * seconds["verify"] + 1, 1
        ),
        "bytes": run(connection, BYTES.format("pg_temp", unified, "pg_temp")).scalar_one(),
        "legacy_bytes": run(connection, BYTES.format("public", legacy, "public")).scalar() or 0
        if legacy
        else 0,
        "measured": {part: round(took, 2) for part, took in seconds.items()},
    }
