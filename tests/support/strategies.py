"""Hypothesis strategies for whole small legacy databases, with the faults of real ones.

A shape is data: for each table a list of columns, each with its SQL type, its constraint and the
strategy of its values. ``legacy_databases`` draws a database of a shape, ``load`` creates it.
Values are valid for their column's type; JSON is generated as text, as the application sends it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from psycopg import sql

from support.oracle import CONFIG, EARLY_EXERCISES, FLAGS, PROGRESS


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a shape. A PRIMARY KEY or UNIQUE column gets distinct values."""

    name: str
    sql_type: str
    constraint: str
    values: SearchStrategy[Any]

    @property
    def is_key(self) -> bool:
        return "PRIMARY KEY" in self.constraint or "UNIQUE" in self.constraint


Shape = dict[str, Sequence[ColumnSpec]]


@dataclass(frozen=True)
class LegacyTable:
    """A generated table: the statement that creates it, its column types and its rows."""

    name: str
    ddl: str
    types: dict[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class LegacyDatabase:
    """A generated database. Tables that the shape lacks do not exist."""

    shape: str
    tables: dict[str, LegacyTable]


# --- values: identity -------------------------------------------------------------------------

# Few enough for the tables to overlap. Two differ only in case, two only in a trailing space.
TOKENS = st.sampled_from(
    (
        "ws_1761155999000_k3j9x2ab4",
        "ws_1761155999001_k3j9x2ab4",
        "ws_1761156000000_K3J9X2AB4",
        "ws_1761156000000_k3j9x2ab4",
        "ws_1761156000000_k3j9x2ab4 ",
        "ws_1761157000000_" + "0123456789abcdef" * 4,
        "legacy-ada@example.com-1761155999000",
        "legacy-Grace@Example.org-1761155999001",
        "null",
        "undefined",
        "",
        "it's 100% :odd \u00fc",
        "\U0001f600",
        "a",
    )
)

# Lower-casing beyond ASCII depends on the database's locale: capitals are ASCII only.
EMAILS = st.sampled_from(
    (
        "ada@example.com",
        "ada@example.com",
        "Ada@Example.COM",
        "  ada@example.com\r\n",
        "grace@example.org",
        "\tGRACE@example.org ",
        "o'brien+50%@example.com",
        "zo\u00eb@example.com",
        "unknown@example.com",
        " Unknown@Example.com",
        "",
        " \t\r\n",
        "not an address",
    )
)

NAMES = st.sampled_from(
    (
        None,
        "",
        "  \t\n",
        "Ada Lovelace",
        " Ada L. ",
        "ada@example.com",
        "ADA@example.com ",
        "grace@example.org",
        "Grace Hopper",
        "unknown@example.com",
        "O'Brien \\ 100%",
        "\u674e\u96f7 \U0001f600",
    )
)

# --- values: plain columns --------------------------------------------------------------------


def nullable(values: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | values


def free_text(*samples: str) -> SearchStrategy[Any]:
    characters = st.characters(codec="utf-8", exclude_characters="\x00")
    return st.sampled_from((None, "", " ", *samples)) | st.text(characters, max_size=12)


PHONE_NUMBERS = st.sampled_from((None, "", "+15550100123", "+15550100456", " +15550100123 "))
VOICES = st.sampled_from((None, "", "en-US-Journey-O", "alloy"))
PROVIDERS = st.sampled_from((None, "", "google", "ElevenLabs"))
DIRECTIONS = st.sampled_from((None, "", "inbound", "outbound"))
URLS = st.sampled_from((None, "", "https://example.com/a%20b?x=:y&z='1'", "wss://example.com/ws"))
API_KEYS = st.sampled_from(
    (
        None,
        "",
        "sk-not-a-real-key-0000",
        "sk-not-a-real-key-0001 ",
        "aXYtYXR0ZXN0:dGFnLXRlc3Q=:Y2lwaGVydGV4dC10ZXN0",
        "aXYtYXR0ZXN0:dGFnLXRlc3Q=:Y2lwaGVydGV4dA==\n",
    )
)
PROMPTS = free_text(
    'You are a helper.\nSay: "100% of :callers aren\'t %(name)s".\\n',
    "Gr\u00fc\u00df Gott \u2014 \u4f60\u597d \U0001f600\t%s %%",
    '{"looks": "like JSON"}',
    "$$; DROP TABLE students; --",
)
BOOLEANS = st.sampled_from((None, False, False, True))
STEP_NUMBERS = st.sampled_from((None, -2147483648, -1, 0, 1, 4, 9, 10, 2147483647))
SECONDS = st.sampled_from((None, -2147483648, -5, 0, 1, 3600, 2147483647))
RATES = st.sampled_from((None, 0, 11, 56, 100, -1, 101))

# A few moments repeat: equal times need a rule for the order.
MOMENTS = st.sampled_from(
    (
        datetime(2025, 10, 22, 17, 3, 47),
        datetime(2025, 10, 22, 17, 3, 47, 1),
        datetime(2025, 10, 26, 0, 59, 59, 999999),
        datetime(2025, 1, 1),
    )
) | st.datetimes(min_value=datetime(1999, 1, 1), max_value=datetime(2100, 1, 1))
TIMESTAMPS = nullable(MOMENTS)
TIMESTAMPS_TZ = nullable(MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)))

# --- values: JSON -----------------------------------------------------------------------------


def wrapped(texts: SearchStrategy[str]) -> SearchStrategy[str]:
    """JSON texts, most of them encoded once more, some twice, as in real databases."""

    def wrap(text: str, times: int) -> str:
        for _ in range(times):
            text = json.dumps(text)
        return text

    return st.builds(wrap, texts, st.sampled_from((1, 1, 1, 0, 0, 2)))


# Values of a JSON column that are no usable array or object, as text that jsonb accepts.
JSON_DIRT = st.sampled_from(
    (
        "null",
        '"null"',
        '""',
        '"\\"\\""',
        '"   "',
        "{}",
        "[]",
        '"{}"',
        '"[]"',
        " [ ] ",
        '"\\n{ }\\t"',
        "0",
        '"0"',
        "true",
        '"false"',
        "-1.50",
        '"not JSON"',
        '"undefined"',
        '"[object Object]"',
        '"{\\"cut\\": [1, 2"',
        '"NaN"',
        '"[NaN]"',
        '"[1,]"',
        "\"{'a': 1}\"",
        '"1e400"',
        '"1e200000"',
        # Strings whose text is JSON that jsonb cannot hold: a NUL, half a surrogate pair.
        '"\\"\\\\u0000\\""',
        '"{\\"a\\": \\"\\\\u0000\\"}"',
        '"[\\"x\\", {\\"\\\\u0000\\": 1}]"',
        '"\\"\\\\ud800\\""',
        '"{\\"step-1\\": {\\"completed\\": \\"\\\\udc00\\"}}"',
        # The same, one encoding deeper: the first string can be unwrapped, the second not.
        json.dumps(json.dumps('"\\u0000"')),
        # Escapes that are only characters of a string.
        '["\\\\u0000", "\\\\ud800"]',
        '"{\\"a\\": \\"\\\\\\\\u0000\\"}"',
        # A double-encoded object, spread into its characters.
        '{"0": "{", "1": "\\"", "2": "a", "3": "}"}',
        # Equal keys: the last one counts.
        '"{\\"step-2\\": true, \\"step-2\\": {\\"completed\\": false}, \\"x\\": 1.0}"',
    )
)

TOOL = st.sampled_from(
    (
        {"type": "function", "function": {"name": "look_up", "parameters": {}}},
        {"type": "function", "name": "it's 100% :odd", "strict": True},
        "look_up",
        None,
        1.50,
    )
)
TOOLS = wrapped(st.lists(TOOL, max_size=3).map(json.dumps))
VOICE_SETTINGS = wrapped(
    st.fixed_dictionaries(
        {},
        optional={
            "provider": st.sampled_from(("google", "amazon", None)),
            "voice": st.sampled_from(("en-US-Journey-O", "\u00e9\U0001f600", "")),
            "speed": st.sampled_from((1, 1.0, 1e22, -0.5, True)),
        },
    ).map(json.dumps)
)
BUG_REPORTS = wrapped(
    st.lists(
        st.fixed_dictionaries(
            {"text": st.sampled_from(("It's broken: 100% :(", "\n", "")), "step": st.integers(0, 9)}
        ),
        max_size=2,
    ).map(json.dumps)
)

EXERCISE_KEYS = st.sampled_from(
    (
        *(f"exercise-{number}" for number in range(1, 10)),
        *(f"step-{number}" for number in range(1, 10)),
        *EARLY_EXERCISES,
        "step-1-connect-accounts",
        "step-2-choose-use-case",
        "step-3-provision-services",
        "step-4-basic-twiml",
        "step-5-websocket-handler",
        "step-6-conversation-relay",
        "step-7-ai-tools",
        "step-8-test-call",
        "step-9-multichannel",
        "step-1-\n%",
        "unknown",
        "step-0",
        "step-0-nothing",
        "step-10",
        "step-10-more",
        "step-1x",
        "step-",
        "Step-1",
        " step-1",
        "exercise-0",
        "exercise-10",
        "exercise-1-more",
        "xexercise-1",
        "",
    )
)

COMPLETED = st.sampled_from(
    (
        True,
        True,
        False,
        None,
        1,
        0,
        0.0,
        -1,
        0.25,
        2,
        "true",
        " TRUE\n",
        "1",
        "false",
        "0",
        "2",
        "yes",
        "",
        [],
        [True],
        {"done": True},
    )
)

EXERCISE_TIMES = st.sampled_from(
    (
        None,
        "",
        "2025-10-22T17:03:47.000Z",
        "2025-10-22T17:03:47.123456Z",
        "2025-10-22T17:03:47.1234567Z",
        "2025-10-22T23:59:59.9999996Z",
        "2025-10-22T17:03:47",
        "2025-10-22 17:03",
        "2025-10-22",
        "2025-10-22T17:03:47+05:30",
        "2025-10-22T17:03:47.5-0800",
        "2025-10-22 17:03:47 +02",
        "2025-10-22T24:00:00Z",
        "2025-10-22T23:59:60Z",
        "2024-02-29T12:00:00Z",
        "2025-02-29T12:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-10-22T25:00:00Z",
        "2025-10-22T17:61:00Z",
        "0000-01-01",
        "2025-10-22T17:03:47Q",
        " 2025-10-22T17:03:47Z",
        "20251022T170347Z",
        "22.10.2025",
        "now",
        "yesterday",
        "infinity",
        "undefined",
        1761152627000,
        True,
        {"seconds": 1761152627},
    )
)

COUNTS: SearchStrategy[Any] = st.sampled_from(
    (
        0,
        1,
        2,
        120,
        12.7,
        -0.9,
        -5,
        2147483647,
        2147483648,
        10**30,
        -(10**30),
        1e22,
        1e-7,
        "120",
        " 7\n",
        "3.9",
        "+4",
        "-2",
        "1e3",
        ".5",
        "5.",
        "99999999999999999999",
        "12 seconds",
        "1,000",
        "NaN",
        "Infinity",
        "",
        " ",
        None,
        True,
        [],
        {},
    )
)

ORDINARY_EXERCISE = st.fixed_dictionaries(
    {
        "completed": st.just(True),
        "timestamp": MOMENTS.map(lambda moment: moment.isoformat(timespec="milliseconds") + "Z"),
        "timeSpent": st.integers(0, 7200),
        "attempts": st.integers(1, 5),
    }
)

ODD_EXERCISE = st.fixed_dictionaries(
    {},
    optional={
        "completed": COMPLETED,
        "timestamp": EXERCISE_TIMES,
        "timeSpent": COUNTS,
        "attempts": COUNTS,
        "lastAttempt": st.just("2025-10-22T17:05:00.000Z"),
    },
)

NO_EXERCISE = st.sampled_from(
    (True, True, False, None, 1, 0, "true", "{}", [], [{"completed": True}])
)

EXERCISE = st.one_of(ORDINARY_EXERCISE, ORDINARY_EXERCISE, ODD_EXERCISE, ODD_EXERCISE, NO_EXERCISE)

EXERCISES = wrapped(st.dictionaries(EXERCISE_KEYS, EXERCISE, max_size=6).map(json.dumps))


def dirty(values: SearchStrategy[str], *often: str) -> SearchStrategy[str | None]:
    """Values of a JSON column: mostly valid ones, else NULL and values of other types."""
    return st.one_of(values, values, st.sampled_from((None, *often)), JSON_DIRT)


# --- shapes -----------------------------------------------------------------------------------


def _column(
    name: str, sql_type: str, values: SearchStrategy[Any], constraint: str = ""
) -> ColumnSpec:
    return ColumnSpec(name, sql_type, constraint, values)


_TOKEN = _column("session_token", "text", TOKENS, "PRIMARY KEY")
_EMAIL = _column("student_email", "text", st.one_of(EMAILS, EMAILS, st.none()))
_NAME = _column("student_name", "text", NAMES)
_PHONE_NUMBER = _column("selected_phone_number", "text", PHONE_NUMBERS)
_API_KEY = _column("openai_api_key", "text", API_KEYS)
_CURRENT_STEP = _column("current_step", "integer", STEP_NUMBERS)
_DEMO_MODE = _column("demo_mode", "boolean", BOOLEANS, "DEFAULT false")
_EXERCISES = _column("exercises", "jsonb", dirty(EXERCISES, "{}"), "DEFAULT '{}'::jsonb")


def _flag(name: str) -> ColumnSpec:
    return _column(name, "boolean", BOOLEANS, "DEFAULT false")


CURRENT_PROGRESS = (
    _TOKEN,
    _column("student_email", "text", EMAILS, "NOT NULL"),
    _NAME,
    _EXERCISES,
    _column("bug_reports", "jsonb", dirty(BUG_REPORTS, "[]"), "DEFAULT '[]'::jsonb"),
    _column("started_at", "timestamptz", TIMESTAMPS_TZ, "DEFAULT now()"),
    _column("last_activity", "timestamptz", TIMESTAMPS_TZ, "DEFAULT now()"),
    _column("total_time_spent", "integer", SECONDS, "DEFAULT 0"),
    _column("completion_rate", "integer", RATES, "DEFAULT 0"),
    _column("repo_created", "boolean", BOOLEANS, "DEFAULT false"),
    _DEMO_MODE,
    _column("created_at", "timestamptz", TIMESTAMPS_TZ, "DEFAULT now()"),
    _column("updated_at", "timestamptz", TIMESTAMPS_TZ, "DEFAULT now()"),
)

CURRENT_CONFIG = (
    _TOKEN,
    _NAME,
    _EMAIL,
    _API_KEY,
    _column("system_prompt", "text", PROMPTS),
    _column("tools", "jsonb", dirty(TOOLS, "[]"), "DEFAULT '[]'::jsonb"),
    _column("voice_settings", "jsonb", dirty(VOICE_SETTINGS, "{}"), "DEFAULT '{}'::jsonb"),
    _column("use_case_description", "text", PROMPTS),
    _column("call_direction", "text", DIRECTIONS),
    _column("ivr_greeting", "text", PROMPTS),
    _column("tts_provider", "text", PROVIDERS),
    _column("selected_voice", "text", VOICES),
    _PHONE_NUMBER,
    _column("websocket_url", "text", URLS),
    _column("codespace_url", "text", URLS),
    _column("github_repo_url", "text", URLS),
    _column("railway_url", "text", URLS),
    _DEMO_MODE,
    _CURRENT_STEP,
    *(_flag(name) for name in FLAGS),
    _column("created_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
    _column("updated_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
)

BEFORE_PROGRESS = (_TOKEN, _EMAIL, _NAME, _PHONE_NUMBER, _API_KEY, _EXERCISES, _DEMO_MODE)

BEFORE_CONFIG = (
    _TOKEN,
    _EMAIL,
    _NAME,
    _PHONE_NUMBER,
    _API_KEY,
    _CURRENT_STEP,
    _flag("step4_deployed"),
    _flag("step5_deployed"),
)

# The two tables merged once: workshop_students also has the configuration and more.
_NAMES_OF_PROGRESS = {column.name for column in CURRENT_PROGRESS}
MERGED_PROGRESS = (
    *CURRENT_PROGRESS,
    *(column for column in CURRENT_CONFIG if column.name not in _NAMES_OF_PROGRESS),
    _column("ai_system_prompt", "text", PROMPTS, "DEFAULT 'You are a helpful assistant.'"),
    _column("ai_tools", "jsonb", st.sampled_from((None, "[]", '["x"]')), "DEFAULT '[]'::jsonb"),
    _column("memory_retention_days", "integer", st.sampled_from((None, 7, 30)), "DEFAULT 30"),
)

# Tokens came later: most rows have one, but not all.
SERIAL_PROGRESS = (
    _column("id", "integer", st.integers(1, 99), "PRIMARY KEY"),
    _column("student_email", "varchar(255)", EMAILS, "NOT NULL"),
    _NAME,
    _EXERCISES,
    _column("started_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
    _column("last_activity", "timestamp", TIMESTAMPS, "DEFAULT now()"),
    _column("total_time_spent", "integer", SECONDS, "DEFAULT 0"),
    _column("completion_rate", "integer", RATES, "DEFAULT 0"),
    _column("created_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
    _column("session_token", "text", nullable(TOKENS), "UNIQUE"),
)

# The first ones: no token, no exercises, flags by other names.
EARLIEST_PROGRESS = (
    _column("student_id", "varchar(64)", st.sampled_from("abcdefgh"), "PRIMARY KEY"),
    _EMAIL,
    _NAME,
    _column("completion_rate", "numeric(5,2)", RATES, "DEFAULT 0.00"),
    _flag("twilio_connected"),
    _flag("openai_connected"),
    _flag("voice_handler_deployed"),
    _flag("websocket_handler_deployed"),
    _flag("github_repo_created"),
    _flag("full_deployment_complete"),
    _column("created_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
    _column("updated_at", "timestamp", TIMESTAMPS, "DEFAULT now()"),
)

# No key at all: rows may share a token, and the latest must be certain.
_LATEST = _column("updated_at", "timestamptz", TIMESTAMPS_TZ.filter(bool), "UNIQUE")
KEYLESS_PROGRESS = (
    _column("session_token", "text", nullable(TOKENS)),
    _EMAIL,
    _NAME,
    _API_KEY,
    _CURRENT_STEP,
    _EXERCISES,
    _flag("step4_deployed"),
    _LATEST,
)

SHAPES: dict[str, Shape] = {
    "B": {PROGRESS: CURRENT_PROGRESS, CONFIG: CURRENT_CONFIG},
    "before": {PROGRESS: BEFORE_PROGRESS, CONFIG: BEFORE_CONFIG},
    "no_config": {PROGRESS: CURRENT_PROGRESS},
    "no_progress": {CONFIG: CURRENT_CONFIG},
    "D": {PROGRESS: MERGED_PROGRESS, CONFIG: CURRENT_CONFIG},
    "A0": {PROGRESS: SERIAL_PROGRESS},
    "E": {PROGRESS: EARLIEST_PROGRESS},
    "keyless": {PROGRESS: KEYLESS_PROGRESS, CONFIG: BEFORE_CONFIG},
}

# --- databases --------------------------------------------------------------------------------


def _key_of(name: str) -> Callable[[dict[str, Any]], object]:
    """Return the key's value for comparison; two NULLs differ."""

    def key(row: dict[str, Any]) -> object:
        return object() if row[name] is None else row[name]

    return key


def _table(name: str, columns: Sequence[ColumnSpec], max_rows: int) -> SearchStrategy[LegacyTable]:
    row = st.fixed_dictionaries({column.name: column.values for column in columns})
    keys = tuple(_key_of(column.name) for column in columns if column.is_key)
    rows = st.lists(row, max_size=max_rows, unique_by=keys or None)
    definitions = (
        f"    {column.name} {column.sql_type} {column.constraint}".rstrip() for column in columns
    )
    ddl = f"CREATE TABLE {name} (\n" + ",\n".join(definitions) + "\n)"
    types = {column.name: column.sql_type for column in columns}
    return st.builds(LegacyTable, st.just(name), st.just(ddl), st.just(types), rows)


def _database(shape: str, max_rows: int) -> SearchStrategy[LegacyDatabase]:
    tables = {name: _table(name, columns, max_rows) for name, columns in SHAPES[shape].items()}
    return st.builds(LegacyDatabase, st.just(shape), st.fixed_dictionaries(tables))


def legacy_databases(
    shapes: Sequence[str] = tuple(SHAPES), max_rows: int = 12
) -> SearchStrategy[LegacyDatabase]:
    """Draw whole legacy databases of these shapes, with up to this number of rows in each table."""
    return st.one_of([_database(shape, max_rows) for shape in shapes])


def load(connection: psycopg.Connection[Any], database: LegacyDatabase) -> None:
    """Create the tables of a generated database and fill them, in the caller's transaction."""
    with connection.cursor() as cursor:
        for table in database.tables.values():
            cursor.execute(table.ddl.encode())
            insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table.name),
                sql.SQL(", ").join(map(sql.Identifier, table.types)),
                sql.SQL(", ").join(
                    [sql.SQL("%s::" + sql_type) for sql_type in table.types.values()]
                ),
            )
            cursor.executemany(
                insert, [tuple(row[name] for name in table.types) for row in table.rows]
            )
