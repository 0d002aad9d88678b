"""The independent oracle of the tests: the expected unified tables, computed in plain Python.

``predict`` reads the raw rows of the legacy tables and of other sources (the first step table, the
tables of an earlier attempt). It applies the merge rules one row at a time. It shares nothing with
the SQL that it judges: no query, no view, no cast. Rules that depend on PostgreSQL are restated
here: values of jsonb and timestamptz, and the output of to_jsonb.

The timestamp reader covers ISO 8601 as programs write it: a date, optionally a time with colons,
optionally Z, UTC, GMT or a numeric offset. PostgreSQL reads more (zone names, AM/PM, BC). Such
strings count as unreadable here, and generated data must not have them. The same holds for years
outside 1 to 9999 (OverflowError).
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import md5, sha256
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

PROGRESS = "workshop_students"
CONFIG = "student_configs"
# An earlier attempt at the unified tables; its sessions are a third source, under this name.
ATTEMPT = "sessions"
ATTEMPT_STUDENTS = "students"

TEXT_COLUMNS = (
    "selected_phone_number",
    "selected_voice",
    "tts_provider",
    "call_direction",
    "use_case_description",
    "openai_api_key",
    "system_prompt",
    "ivr_greeting",
    "websocket_url",
    "codespace_url",
    "github_repo_url",
    "railway_url",
)

# Column -> (required type, table with precedence).
JSON_COLUMNS: dict[str, tuple[type, str]] = {
    "tools": (list, CONFIG),
    "voice_settings": (dict, CONFIG),
    "exercises": (dict, PROGRESS),
    "bug_reports": (list, PROGRESS),
}

FLAGS = (
    "twilio_connected",
    "openai_connected",
    "call_direction_chosen",
    "services_ready",
    "step4_code_validated",
    "step4_committed",
    "step4_deployed",
    "step5_code_validated",
    "step5_committed",
    "step5_deployed",
    "step6_code_validated",
    "step6_committed",
    "step6_deployed",
    "system_prompt_saved",
    "step7_committed",
    "step7_deployed",
    "tools_configured",
    "step8_code_validated",
    "step8_committed",
    "step8_deployed",
    "project_deployed",
)

# The earliest databases have other names for three of the flags, in workshop_students only.
EARLY_FLAGS = {
    "step4_deployed": "voice_handler_deployed",
    "step5_deployed": "websocket_handler_deployed",
    "project_deployed": "full_deployment_complete",
}

# The titles of the earlier moved endpoints that differ from today's names.
EARLY_TITLES = {"Final Deployment": 9}

# Step number -> (its name, the flags that finish it).
STEPS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("Connect Accounts", ("twilio_connected", "openai_connected")),
    2: ("Choose Use Case", ("call_direction_chosen",)),
    3: ("Provision Services", ("services_ready",)),
    4: ("Basic TwiML", ("step4_deployed",)),
    5: ("WebSocket Handler", ("step5_deployed",)),
    6: ("ConversationRelay", ("step6_deployed",)),
    7: ("Custom AI Prompt", ("system_prompt_saved",)),
    8: ("Tools & Functions", ("step8_deployed",)),
    9: ("Deploy Your System", ("project_deployed",)),
}

EARLY_EXERCISES = {
    "connect-accounts": 1,
    "choose-use-case": 2,
    "provision-number": 3,
    "create-basic-twiml": 4,
    "build-websocket-handler": 5,
    "create-conversation-relay": 6,
    "add-ai-tools": 7,
    "test-full-call": 8,
    "add-multichannel": 9,
}

# The key under which the current application keeps a step in `exercises`.
CURRENT_KEYS = {
    1: "step-1-connect-accounts",
    2: "step-2-choose-use-case",
    3: "step-3-provision-services",
    4: "step-4-basic-twiml",
    5: "step-5-websocket-handler",
    6: "step-6-conversation-relay",
    7: "step-7-ai-tools",
    8: "step-8-test-call",
    9: "step-9-multichannel",
}

NUMBERS = ("current_step", "total_time_spent")
MOMENTS = ("started_at", "last_activity", "created_at", "updated_at")

HOMES = frozenset(
    {
        *TEXT_COLUMNS,
        *JSON_COLUMNS,
        *FLAGS,
        *NUMBERS,
        *MOMENTS,
        "demo_mode",
        "completion_rate",
        "session_token",
        "student_email",
        "student_name",
    }
)

# Columns of an attempt's tables and of the unified tables that the legacy tables lack.
ATTEMPT_HOMES = frozenset({"expires_at", "is_active", "student_id", "github_username"})

BLANKS = " \t\r\n"
INTEGER_MAX = 2147483647
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Column:
    """A legacy column: its type as format_type() names it, and its constant default."""

    type_name: str
    default: Any = None


@dataclass
class Table:
    """A legacy table as read: json and jsonb values as their text, the rest as psycopg gives it."""

    columns: dict[str, Column]
    rows: list[dict[str, Any]]


@dataclass
class Further:
    """The sources of a database beside the two legacy tables.

    ``progress_steps`` is workshop_step_progress; the others are the tables of an earlier attempt.
    """

    progress_steps: Table | None = None
    students: Table | None = None
    sessions: Table | None = None
    steps: Table | None = None
    events: Table | None = None


@dataclass
class Prediction:
    """The mapped columns of the unified tables, by key.

    ``identities`` has facts on a student that only an attempt knows: the possible ids (several if
    several rows have the address) and the GitHub account.
    """

    students: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    identities: dict[str, tuple[frozenset[str], str | None]] = field(default_factory=dict)
    events: dict[tuple[str, datetime | None], dict[str, Any]] = field(default_factory=dict)


# --- values as PostgreSQL sees them -----------------------------------------------------------


def parse_jsonb(text: str) -> Any:
    """The value of a JSON text that jsonb can hold; ValueError for every other text."""
    value = json.loads(
        text,
        parse_int=_json_number,
        parse_float=_json_number,
        parse_constant=_refuse_constant,
        object_pairs_hook=_json_object,
    )
    return _checked(value)


def _json_number(text: str) -> int | Decimal:
    if re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("exponent out of range") from None
    if not _fits_numeric(number):
        raise ValueError("number out of range")
    return number


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last of several equal keys wins, but the values of the others must be valid as well."""
    for key, value in pairs:
        _checked(key)
        _checked(value)
    return dict(pairs)


def _checked(value: Any) -> Any:
    """The value, if jsonb can hold its strings; objects were checked when they were made."""
    if isinstance(value, str) and re.search("[\x00\ud800-\udfff]", value):
        raise ValueError("jsonb holds neither U+0000 nor half a surrogate pair")
    if isinstance(value, list):
        for item in value:
            _checked(item)
    return value


def _fits_numeric(number: Decimal) -> bool:
    """Whether numeric can hold it: 131072 digits before the point, 16383 after it."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        return True
    return exponent >= -16383 and (not number or number.adjusted() <= 131071)


def to_json(column: Column, value: Any) -> Any:
    """The value as to_jsonb gives it; a json text that jsonb cannot hold stays a string."""
    if column.type_name in ("json", "jsonb") and isinstance(value, str):
        try:
            return parse_jsonb(value)
        except ValueError:
            return value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            return str(Decimal(value))
        return Decimal(repr(value)) if isinstance(value, float) else value
    if isinstance(value, datetime):
        aware = value.tzinfo is not None
        text = (value.astimezone(UTC) if aware else value).replace(tzinfo=None).isoformat()
        return _without_trailing_zeros(text) + ("+00:00" if aware else "")
    if isinstance(value, time) and value.tzinfo is None:
        return _without_trailing_zeros(value.isoformat())
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list):
        return [to_json(column, item) for item in value]
    raise TypeError(f"no rule for a {type(value).__name__} in a column of type {column.type_name}")


def _without_trailing_zeros(text: str) -> str:
    return text.rstrip("0") if "." in text else text


def to_text(value: Any) -> str | None:
    """The value as a cast to text gives it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return repr(value).removesuffix(".0") if math.isfinite(value) else str(Decimal(value))
    if isinstance(value, int | UUID):
        return str(value)
    raise TypeError(f"no rule for a {type(value).__name__} as text")


def to_number(value: Any) -> Decimal | None:
    """A number, or a string that holds one; else None. NaN is not a number."""
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", text):
            return None
        number = Decimal(text)
        return number if _fits_numeric(number) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return None if number.is_nan() else number


def clamp(number: Decimal, greatest: int) -> int:
    """The nearest whole number from 0 to the greatest integer, rounded towards zero."""
    return int(min(max(number, Decimal(0)), Decimal(greatest)))


def to_flag(value: Any) -> bool:
    """True for true, a non-zero number, and texts that boolean input reads as true."""
    if isinstance(value, str):
        text = value.strip(BLANKS).lower()
        return text in ("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1")
    return bool(value)


_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?!-)"
    r"(?:(?:\s*T\s*|\s+)([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2})(\.[0-9]*)?)?)?"
    r"\s*(?:Z|UTC|GMT|([+-])([0-9]{1,2})(?::?([0-9]{2})(?::([0-9]{2}))?)?)?\s*",
    re.ASCII | re.IGNORECASE,
)


def to_moment(value: Any) -> datetime | None:
    """The moment of a timestamp, a date or a string; UTC without a zone."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction, sign = match.group(7), match.group(8)
    zone_hour, zone_minute, zone_second = (int(part or 0) for part in match.groups()[8:])
    # PostgreSQL reads the fraction as a double and rounds half to even, as Python does.
    microsecond = round(float("0" + fraction + "0") * 1000000) if fraction else 0
    past_midnight = hour == 24 and (minute or second or microsecond)
    if hour > 24 or past_midnight or minute > 59 or second > 60:
        return None
    if zone_hour > 15 or zone_minute > 59 or zone_second > 59:
        return None
    try:
        midnight = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(hours=zone_hour, minutes=zone_minute, seconds=zone_second)
    clock = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=microsecond)
    return midnight + clock + (offset if sign == "-" else -offset)


# --- the rules --------------------------------------------------------------------------------


def unwrap(value: Any) -> Any:
    """The value without the JSON strings around it."""
    while isinstance(value, str):
        try:
            value = parse_jsonb(value)
        except ValueError:
            return value
    return value


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def to_lower(text: str) -> str:
    """Convert the letters A to Z to lower case, in any locale; every other character stays."""
    return "".join(c.lower() if c.isascii() else c for c in text)


def clean_email(value: Any) -> str | None:
    """The address in its clean form; None without an address."""
    email = to_lower((to_text(value) or "").strip(BLANKS))
    return None if email in ("", "unknown@example.com") else email


def placeholder_email(token: str) -> str:
    return f"anonymous+{sha256(token.encode()).hexdigest()[:16]}@workshop.invalid"


def is_unreadable(column: str, value: Any) -> bool:
    """Whether it has a value that its column cannot hold, so that it is kept unchanged."""
    if isinstance(value, str) and not value.strip(BLANKS):
        return False
    if column in NUMBERS:
        return to_number(value) is None
    if column in MOMENTS:
        return to_moment(value) is None
    is_flag = column == "demo_mode" or column in FLAGS or column in EARLY_FLAGS.values()
    return is_flag and isinstance(value, str) and not (to_flag(value) or _is_false(value))


def _is_false(text: str) -> bool:
    words = ("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0")
    return text.strip(BLANKS).lower() in words


@dataclass(frozen=True)
class Source:
    """One legacy row, as a source of its session and its student."""

    table: str
    columns: dict[str, Column]
    row: dict[str, Any]

    def value(self, column: str) -> Any:
        return self.row.get(column)

    @property
    def email(self) -> str | None:
        return clean_email(self.value("student_email"))

    @property
    def token(self) -> str:
        token = to_text(self.value("session_token"))
        if token:
            return token
        keys = (to_text(self.value("id")), to_text(self.value("student_id")), self.email)
        key = next((key for key in keys if key), "")
        return "legacy-" + md5(key.encode()).hexdigest()

    @property
    def age(self) -> tuple[bool, timedelta]:
        """Sort key: the newest row first, rows of unknown time last."""
        times = (self.moment(column) for column in ("updated_at", "last_activity", "created_at"))
        moment = next((moment for moment in times if moment), None)
        return (True, timedelta()) if moment is None else (False, EPOCH - moment)

    def moment(self, column: str) -> datetime | None:
        return to_moment(self.value(column))

    def text(self, column: str) -> str | None:
        return to_text(self.value(column)) or None

    def flag(self, column: str) -> bool:
        early = EARLY_FLAGS.get(column) if self.table == PROGRESS else None
        return to_flag(self.value(column)) or (early is not None and to_flag(self.value(early)))

    def original_json(self, column: str) -> Any:
        """The value of a JSON column in the table; text that is not JSON is a string."""
        value = self.value(column)
        if isinstance(value, str):
            try:
                return parse_jsonb(value)
            except ValueError:
                return value
        return None if value is None else to_json(self.columns[column], value)

    def json(self, column: str) -> Any:
        """The content of a JSON column; None if it is empty or unreadable."""
        value = unwrap(self.original_json(column))
        expected, _ = JSON_COLUMNS[column]
        return value if isinstance(value, expected) and value else None

    def extra(self) -> dict[str, Any]:
        """The values of this row that no column of the unified tables can hold."""
        own = {PROGRESS: EARLY_FLAGS.values(), ATTEMPT: ATTEMPT_HOMES}
        homes = HOMES.union(own.get(self.table, ()))
        extra = {}
        for name, column in self.columns.items():
            if name in JSON_COLUMNS:
                if self.json(name) is None and not is_empty(unwrap(self.original_json(name))):
                    extra[name] = self.original_json(name)
            elif self.value(name) is None:
                continue
            elif name not in homes:
                value = to_json(column, self.value(name))
                no_default = column.default is None
                if no_default or not same(value, to_json(column, column.default)):
                    extra[name] = value
            elif is_unreadable(name, self.value(name)):
                extra[name] = to_json(column, self.value(name))
        return extra


def predict(
    progress: Table | None, config: Table | None, further: Further | None = None
) -> Prediction:
    """Predict the unified tables from the legacy tables (None: there is no such table).

    With ``further``, a step has all its columns; without, only those that `exercises` has.
    """
    beside = further or Further()
    if beside.students is not None or beside.sessions is not None or beside.steps is not None:
        return _combined(predict(progress, config, Further(beside.progress_steps)), beside)
    sources = [*_newest_first(PROGRESS, progress), *_newest_first(CONFIG, config)]
    by_token: dict[str, list[Source]] = {}
    for source in sources:
        by_token.setdefault(source.token, []).append(source)
    rows = _step_rows(sources, beside)

    prediction = Prediction()
    for token, of_session in by_token.items():
        session, steps = _session(token, of_session, rows.get(token, []))
        prediction.sessions[token] = session
        for number, step in steps.items():
            columns = STEP_COLUMNS if further is None else (*STEP_COLUMNS, *STEP_DETAILS)
            prediction.steps[token, number] = {name: step[name] for name in columns}

    by_email: dict[str, list[Source]] = {}
    for source in sources:
        email = source.email or prediction.sessions[source.token]["student_email"]
        by_email.setdefault(email, []).append(source)
    for email, of_student in by_email.items():
        prediction.students[email] = _student(email, of_student)
    prediction.events = _events(beside)
    return prediction


def _combined(legacy: Prediction, beside: Further) -> Prediction:
    """The legacy tables, combined once with the rows of an attempt that were there first."""
    known: dict[str, list[Source]] = {}
    for source in _newest_first(ATTEMPT_STUDENTS, beside.students):
        if source.email:
            known.setdefault(source.email, []).append(source)
    attempt = _newest_first(ATTEMPT, _with_students(beside))
    rows = _step_rows(attempt, beside)
    named: dict[str, list[Source]] = {}
    for source in attempt:
        session, steps = _session(source.token, [source], rows.get(source.token, []))
        named.setdefault(session["student_email"], []).append(source)
        told = {
            number: step for (token, number), step in legacy.steps.items() if token == source.token
        }
        if source.token in legacy.sessions:
            placeholder = placeholder_email(source.token)
            if (
                legacy.sessions[source.token]["student_email"]
                == placeholder
                != session["student_email"]
            ):
                del legacy.students[placeholder]
            session, steps = _combined_session(legacy.sessions[source.token], told, session, steps)
        legacy.sessions[source.token] = session
        for number, step in steps.items():
            legacy.steps[source.token, number] = {
                name: step[name] for name in (*STEP_COLUMNS, *STEP_DETAILS)
            }
    for email in {**known, **named}:
        sources = known.get(email) or named[email]
        names = [source.text("student_name") or "" for source in sources]
        first = min(_moments(sources, "created_at"), default=None)
        if email not in known:
            times = [*_moments(sources, "created_at"), *_moments(sources, "started_at")]
            first = min(times, default=None)
        mine = {
            "student_email": email,
            "student_name": next((name for name in names if name.strip(BLANKS)), None),
            "created_at": first,
        }
        theirs = legacy.students.get(email)
        if theirs is not None:
            mine["student_name"] = theirs["student_name"] or mine["student_name"]
            mine["created_at"] = _pick(min, theirs["created_at"], mine["created_at"])
        legacy.students[email] = mine
    legacy.identities = {email: _identity(of_student) for email, of_student in known.items()}
    legacy.events = _events(beside)
    return legacy


def _pick(choose: Any, left: Any, right: Any) -> Any:
    return choose((value for value in (left, right) if value is not None), default=None)


def _combined_session(
    legacy: dict[str, Any],
    told: dict[int, dict[str, Any]],
    own: dict[str, Any],
    steps: dict[int, dict[str, Any]],
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """A session of both, and its steps: the legacy value if there is one, else the row's own."""
    session = dict(own)
    for column in TEXT_COLUMNS:
        session[column] = legacy[column] or own[column]
    for column in JSON_COLUMNS:
        session[column] = legacy[column] or own[column]
    for column in ("demo_mode", *FLAGS):
        session[column] = legacy[column] or own[column]
    for column in NUMBERS:
        session[column] = max(legacy[column], own[column])
    for column in ("started_at", "created_at"):
        session[column] = _pick(min, legacy[column], own[column])
    session["last_activity"] = _pick(max, legacy["last_activity"], own["last_activity"])
    session["legacy_extra"] = own["legacy_extra"] | legacy["legacy_extra"]
    if legacy["student_email"] != placeholder_email(own["session_token"]):
        session["student_email"] = legacy["student_email"]
    merged = _steps([*told.items(), *steps.items()])
    session["exercises"] = _following(session["exercises"], merged)
    done = [
        number
        for number, (_, flags) in STEPS.items()
        if all(session[flag] for flag in flags)
        or (number in merged and merged[number]["validation_passed"])
    ]
    session["completion_rate"] = math.floor(100 * len(done) / 9 + 0.5)
    return session, merged


def _with_students(beside: Further) -> Table | None:
    """The sessions of an attempt, each with the values of its row of `students` beside its times."""
    if beside.sessions is None or beside.students is None:
        return beside.sessions
    key = "student_id" if "student_id" in beside.sessions.columns else "student_email"
    students = {row[key]: row for row in beside.students.rows}
    columns = dict(beside.students.columns)
    for time_column in ("created_at", "updated_at"):
        columns.pop(time_column, None)
    rows = []
    for session in beside.sessions.rows:
        student = students.get(session.get(key), {})
        own = {name: value for name, value in session.items() if value is not None}
        rows.append({**session, **{name: student.get(name) for name in columns}, **own})
    return Table({**columns, **beside.sessions.columns}, rows)


def _identity(rows: list[Source]) -> tuple[frozenset[str], str | None]:
    """The values of an attempt's rows of `students` for an address that no legacy table can have."""
    ids = (row.value("student_id") for row in rows)
    accounts = [row.text("github_username") for row in rows]
    return (
        frozenset(str(value) for value in ids if isinstance(value, UUID)),
        next((account for account in accounts if account), None),
    )


def _events(beside: Further) -> dict[tuple[str, datetime | None], dict[str, Any]]:
    """The events of an attempt, with their JSON unwrapped.

    The key is the type and the moment. If the attempt lacks the student's address, the prediction
    has no student.
    """
    if beside.events is None:
        return {}
    students = [] if beside.students is None else beside.students.rows
    emails = {row.get("student_id"): clean_email(row["student_email"]) for row in students}
    events = {}
    for row in beside.events.rows:
        event = {
            "session_token": row.get("session_token"),
            "event_data": unwrap(parse_jsonb(row["event_data"])),
        }
        if email := emails.get(row.get("student_id", object())):
            event["student_email"] = email
        events[row["event_type"], to_moment(row["created_at"])] = event
    return events


def _newest_first(name: str, table: Table | None) -> list[Source]:
    rows = [] if table is None else [Source(name, table.columns, row) for row in table.rows]
    return sorted(rows, key=lambda source: source.age)


def _student(email: str, sources: list[Source]) -> dict[str, Any]:
    ordered = sorted(
        sources, key=lambda source: (source.age, source.table != PROGRESS, source.token)
    )
    names = [name for name in (source.text("student_name") for source in ordered) if name]
    names = [name for name in names if name.strip(BLANKS)]
    real_names = [name for name in names if to_lower(name.strip(BLANKS)) != email]
    return {
        "student_email": email,
        "student_name": next(iter(real_names + names), None),
        "created_at": min(
            [*_moments(sources, "created_at"), *_moments(sources, "started_at")], default=None
        ),
    }


def _session(
    token: str, sources: list[Source], rows: list[tuple[int, dict[str, Any]]]
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The session of a token, and its steps, including those of the step tables.

    The sources are those of workshop_students first, then an attempt's, then student_configs'.
    """
    of_progress = [source for source in sources if source.table == PROGRESS]
    of_attempt = [source for source in sources if source.table == ATTEMPT]
    of_config = [source for source in sources if source.table == CONFIG]
    config_first = [*of_config, *of_attempt, *of_progress]

    session: dict[str, Any] = {
        "session_token": token,
        "student_email": next(
            (source.email for source in sources if source.email), placeholder_email(token)
        ),
    }
    for column in TEXT_COLUMNS:
        texts = (source.text(column) for source in config_first)
        session[column] = next((text for text in texts if text), None)
    for column, (expected, first) in JSON_COLUMNS.items():
        contents = (
            source.json(column) for source in (sources if first == PROGRESS else config_first)
        )
        session[column] = next((content for content in contents if content is not None), expected())
    for column in ("demo_mode", *FLAGS):
        session[column] = any(source.flag(column) for source in sources)

    parts = [*_parts(session["exercises"]), *rows]
    steps = _steps(parts)
    session["exercises"] = _following(session["exercises"], steps)
    done = [
        number
        for number, (_, flags) in STEPS.items()
        if all(session[flag] for flag in flags)
        or (number in steps and steps[number]["validation_passed"])
    ]
    current = _greatest(sources, "current_step")
    spent = _greatest(sources, "total_time_spent")
    session["current_step"] = max(done, default=0) if current is None else clamp(current, 9)
    session["total_time_spent"] = 0 if spent is None else clamp(spent, INTEGER_MAX)
    session["completion_rate"] = math.floor(100 * len(done) / 9 + 0.5)

    session["created_at"] = min(_moments(sources, "created_at"), default=None)
    session["started_at"] = min(_moments(sources, "started_at"), default=session["created_at"])
    session["last_activity"] = max(
        [
            *_moments(sources, "last_activity"),
            *_moments(of_config, "updated_at"),
        ],
        default=max(_moments(of_progress, "updated_at"), default=None),
    )

    extra: dict[str, dict[str, Any]] = {}
    for source in sources:
        for column, value in source.extra().items():
            extra.setdefault(source.table, {}).setdefault(column, value)
    session["legacy_extra"] = extra
    return session, steps


def _moments(sources: Iterable[Source], column: str) -> list[datetime]:
    moments = (source.moment(column) for source in sources)
    return [moment for moment in moments if moment is not None]


def _greatest(sources: Iterable[Source], column: str) -> Decimal | None:
    numbers = (to_number(source.value(column)) for source in sources)
    return max((number for number in numbers if number is not None), default=None)


def step_of(key: str) -> int | None:
    """The step of a key of `exercises`."""
    match = re.fullmatch("exercise-([1-9])|step-([1-9])(?:-.*)?", key, re.DOTALL)
    return int(match.group(1) or match.group(2)) if match else EARLY_EXERCISES.get(key)


def _parts(exercises: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The progress of a step in each entry of `exercises`."""
    parts = []
    for key, value in exercises.items():
        number = step_of(key)
        entry = {"completed": True} if value is True else value
        if number is not None and isinstance(entry, dict):
            completed = _is_completed(entry.get("completed"))
            part = {
                "started_at": None,
                "completed_at": to_moment(entry.get("timestamp")) if completed else None,
                "time_spent": _count(entry.get("timeSpent")),
                "attempts": _count(entry.get("attempts")),
                "validation_passed": completed,
                "code_submitted": None,
                "deployment_url": None,
            }
            parts.append((number, part))
    return parts


def _step_rows(
    sources: list[Source], beside: Further
) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """The steps of each session in the rows of the step tables."""
    tokens: dict[str, set[str]] = {}
    for source in sources:
        if source.table == PROGRESS and (student := to_text(source.value("student_id"))):
            tokens.setdefault(student, set()).add(source.token)
    rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for table in (beside.progress_steps, beside.steps):
        for row in [] if table is None else table.rows:
            number = _step_of_row(row)
            if number is None:
                continue
            part = {
                "started_at": to_moment(row.get("started_at")),
                "completed_at": to_moment(row.get("completed_at")),
                "time_spent": _count(row.get("time_spent")),
                "attempts": _count(row.get("attempts")),
                "validation_passed": to_flag(row.get("validation_passed")),
                "code_submitted": to_text(row.get("code_submitted")) or None,
                "deployment_url": to_text(row.get("deployment_url")) or None,
            }
            own = table is beside.steps
            for token in {row["session_token"]} if own else tokens.get(row["student_id"], ()):
                rows.setdefault(token, []).append((number, part))
    return rows


def _step_of_row(row: dict[str, Any]) -> int | None:
    """The step of a row of a step table: by its name, else by its number."""
    name, number = row.get("step_name") or "", row["step_number"]
    titles = {title: step for step, (title, _) in STEPS.items()} | EARLY_TITLES
    said = titles.get(name) or step_of(name)
    if said is None and number is not None and 1 <= number <= 9:
        return int(number)
    return said


def _steps(parts: list[tuple[int, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    """The steps of a session, each from all its sources."""
    by_number: dict[int, list[dict[str, Any]]] = {}
    for number, part in parts:
        by_number.setdefault(number, []).append(part)

    def least(of_step: list[dict[str, Any]], column: str) -> Any:
        return min((part[column] for part in of_step if part[column] is not None), default=None)

    return {
        number: {
            "step_name": STEPS[number][0],
            "started_at": least(of_step, "started_at"),
            "completed_at": least(of_step, "completed_at"),
            "time_spent": max(part["time_spent"] for part in of_step),
            "attempts": max(part["attempts"] for part in of_step),
            "validation_passed": any(part["validation_passed"] for part in of_step),
            "code_submitted": least(of_step, "code_submitted"),
            "deployment_url": least(of_step, "deployment_url"),
        }
        for number, of_step in by_number.items()
    }


def _following(exercises: dict[str, Any], steps: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """`exercises` with each entry updated from its step, unless it already has the values."""
    followed = dict(exercises)
    said = _steps(_parts(exercises))
    for number, step in steps.items():
        if number in said and _in_exercises(said[number]) == _in_exercises(step):
            continue
        keys = [key for key in exercises if step_of(key) == number] or [CURRENT_KEYS[number]]
        for key in keys:
            entry = exercises.get(key)
            followed[key] = {**(entry if isinstance(entry, dict) else {}), **_in_exercises(step)}
    return followed


def _in_exercises(step: dict[str, Any]) -> dict[str, Any]:
    """A step as an entry of `exercises`."""
    done, moment = step["validation_passed"], step["completed_at"]
    return {
        "completed": done,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if done and moment else None,
        "timeSpent": step["time_spent"],
        "attempts": step["attempts"],
    }


def _is_completed(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip(BLANKS).lower() in ("true", "1")
    return isinstance(value, bool | int | Decimal) and bool(value)


def _count(value: Any) -> int:
    number = to_number(value)
    return 0 if number is None else clamp(number, INTEGER_MAX)


# --- reading and comparing --------------------------------------------------------------------


def read_legacy(connection: psycopg.Connection[Any], table: str) -> Table | None:
    """A legacy table: its columns from the catalog, and its rows."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT to_regclass(%s::text) IS NOT NULL", (table,))
        if cursor.fetchone() != (True,):
            return None
        cursor.execute(
            """
            SELECT a.attname,
                   format_type(coalesce(nullif(t.typbasetype, 0), a.atttypid), a.atttypmod),
                   CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END
              FROM pg_attribute a
              JOIN pg_type t ON t.oid = a.atttypid
              LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = to_regclass(%s::text)
               AND a.attnum > 0
               AND NOT a.attisdropped
             ORDER BY a.attnum
            """,
            (table,),
        )
        columns = {}
        for name, type_name, expression in cursor.fetchall():
            default = None
            if expression is not None and _is_constant(expression):
                as_text = "::text" if type_name in ("json", "jsonb") else ""
                cursor.execute(f"SELECT ({expression}){as_text}".encode())
                default = (cursor.fetchone() or (None,))[0]
            columns[name] = Column(type_name, default)
        selected = [
            sql.Identifier(name)
            + sql.SQL("::text" if column.type_name in ("json", "jsonb") else "")
            for name, column in columns.items()
        ]
        cursor.execute(
            sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(selected), sql.Identifier(table))
        )
        return Table(columns, [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()])


def _is_constant(expression: str) -> bool:
    """Whether a column's default is a literal, and not a call such as now() or nextval()."""
    bare = re.sub(r"E?'(?:[^']|'')*'", "0", expression)
    bare = re.sub(r'::[\w\s".]+(?:\([0-9, ]+\)[\w\s]*)?(?:\[\])*', "", bare)
    return re.fullmatch(r"[\s()0-9.+-]*|\s*(?:true|false|null)\s*", bare, re.IGNORECASE) is not None


STUDENT_COLUMNS = ("student_email", "student_name", "created_at")
SESSION_COLUMNS = (
    "session_token",
    *TEXT_COLUMNS,
    *JSON_COLUMNS,
    "legacy_extra",
    "demo_mode",
    *FLAGS,
    "current_step",
    "total_time_spent",
    "completion_rate",
    "started_at",
    "created_at",
    "last_activity",
)
STEP_COLUMNS = ("step_name", "completed_at", "time_spent", "attempts", "validation_passed")
# Columns that an entry of `exercises` cannot have.
STEP_DETAILS = ("started_at", "code_submitted", "deployment_url")
EVENT_COLUMNS = ("event_type", "session_token", "event_data", "created_at")


def read_further(connection: psycopg.Connection[Any]) -> Further:
    """The other sources of a database, before the first revision."""
    return Further(
        read_legacy(connection, "workshop_step_progress"),
        read_legacy(connection, ATTEMPT_STUDENTS),
        read_legacy(connection, ATTEMPT),
        read_legacy(connection, "step_progress"),
        read_legacy(connection, "events"),
    )


def read_v2(connection: psycopg.Connection[Any], details: bool = False) -> Prediction:
    """The mapped columns of the unified tables, in the form of a prediction.

    With ``details``, everything that a prediction with ``further`` has; without the merge's own
    events.
    """
    students = _rows(connection, STUDENT_COLUMNS, "SELECT {} FROM students t")
    sessions = _rows(
        connection,
        SESSION_COLUMNS,
        "SELECT {}, s.student_email FROM sessions t LEFT JOIN students s USING (student_id)",
        "student_email",
    )
    identities, events = {}, {}
    if details:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute("SELECT student_email, student_id::text, github_username FROM students")
            identities = {email: (frozenset({key}), name) for email, key, name in cursor.fetchall()}
        happened = _rows(
            connection,
            EVENT_COLUMNS,
            "SELECT {}, s.student_email FROM events t LEFT JOIN students s USING (student_id) "
            "WHERE event_type NOT IN ('legacy_merge', 'merge_note')",
            "student_email",
        )
        events = {(event.pop("event_type"), event.pop("created_at")): event for event in happened}
    steps = _rows(
        connection,
        (*STEP_COLUMNS, *STEP_DETAILS) if details else STEP_COLUMNS,
        "SELECT {}, t.session_token, t.step_number FROM step_progress t",
        "session_token",
        "step_number",
    )
    return Prediction(
        {student["student_email"]: student for student in students},
        {session["session_token"]: session for session in sessions},
        {(step.pop("session_token"), step.pop("step_number")): step for step in steps},
        identities,
        events,
    )


def _rows(
    connection: psycopg.Connection[Any], columns: Iterable[str], query: str, *further: str
) -> list[dict[str, Any]]:
    """The rows of a query for these columns of table t, and further columns of the query."""
    is_json = {*JSON_COLUMNS, "legacy_extra", "event_data"}
    selected = [f"t.{name}::text" if name in is_json else f"t.{name}" for name in columns]
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query.replace("{}", ", ".join(selected)).encode())
        rows = [dict(zip((*columns, *further), row, strict=True)) for row in cursor.fetchall()]
    for row in rows:
        for name, value in row.items():
            if name in is_json and value is not None:
                row[name] = parse_jsonb(value)
            elif isinstance(value, datetime):
                row[name] = value.astimezone(UTC)
    return rows


def same(left: Any, right: Any) -> bool:
    """Equality of jsonb: numbers by value, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def differences(expected: Prediction, actual: Prediction) -> list[str]:
    """The differences, one line each: table, key, column, both values. Empty if all is equal."""
    lines: list[str] = []
    tables: tuple[tuple[str, dict[Any, Any], dict[Any, Any]], ...] = (
        ("students", expected.students, actual.students),
        ("sessions", expected.sessions, actual.sessions),
        ("step_progress", expected.steps, actual.steps),
        ("events", expected.events, _as_expected(expected.events, actual.events)),
    )
    for table, wanted, found in tables:
        for key in sorted(wanted.keys() | found.keys()):
            if key not in found:
                lines.append(f"{table}[{key!r}]: missing")
            elif key not in wanted:
                lines.append(f"{table}[{key!r}]: unexpected")
            else:
                lines.extend(_row_differences(f"{table}[{key!r}]", wanted[key], found[key]))
    lines.extend(_identity_differences(expected.identities, actual.identities))
    return lines


def _as_expected(
    expected: dict[Any, dict[str, Any]], actual: dict[Any, dict[str, Any]]
) -> dict[Any, dict[str, Any]]:
    """The rows, with only those columns that have an expected value."""
    return {
        key: {name: value for name, value in row.items() if name in expected.get(key, row)}
        for key, row in actual.items()
    }


def _identity_differences(
    expected: dict[str, tuple[frozenset[str], str | None]],
    actual: dict[str, tuple[frozenset[str], str | None]],
) -> list[str]:
    """An id of an attempt stays; every other id is of version 8, made of a hash."""
    lines = []
    for email, (found, account) in sorted(actual.items()):
        ids, wanted_account = expected.get(email, (frozenset(), None))
        if not (found <= ids if ids else all(UUID(key).version == 8 for key in found)):
            lines.append(f"students[{email!r}].student_id: expected {set(ids)}, found {set(found)}")
        if account != wanted_account:
            lines.append(
                f"students[{email!r}].github_username: expected {wanted_account!r}, "
                f"found {account!r}"
            )
    return lines


def _row_differences(row: str, wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{row}.{column}: expected {_shown(wanted, column)}, found {_shown(found, column)}"
        for column in dict.fromkeys([*wanted, *found])
        if column not in wanted or column not in found or not same(wanted[column], found[column])
    ]


def _shown(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return "no such column"
    value = row[column]
    return value.isoformat() if isinstance(value, datetime) else repr(value)
