"""A legacy database of every era of the application, as data: its DDL and its rows.

The application changed its tables repeatedly, and each change left databases behind. They are
tables without tokens, tables rebuilt or merged once, and earlier attempts at the unified tables.
``ERAS`` has one of each and some mixtures. The rows are drawn once, from a fixed seed, with the
faults of real ones: JSON inside JSON, missing or differing addresses, flags reset to false, two
ways to count steps. No two times are equal, so that the newest is certain. Persons, addresses, keys
and URLs are made up.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from support.oracle import (
    CONFIG,
    CURRENT_KEYS,
    EARLY_EXERCISES,
    FLAGS,
    PROGRESS,
    STEPS,
    TEXT_COLUMNS,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Era:
    """A legacy database. ``bystanders`` are tables and views that no revision may change."""

    ddl: str
    rows: dict[str, list[Row]]
    bystanders: tuple[str, ...] = ()

    @property
    def has_legacy_tables(self) -> bool:
        return PROGRESS in self.rows or CONFIG in self.rows


def load(connection: psycopg.Connection[Any], era: Era) -> None:
    """Create the database of an era, in the caller's transaction. A missing column gets its default."""
    with connection.cursor() as cursor:
        cursor.execute(era.ddl.encode())
        for table, rows in era.rows.items():
            for row in rows:
                insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, row)),
                    sql.SQL(", ").join(sql.Placeholder() * len(row)),
                )
                cursor.execute(insert, tuple(row.values()))


# --- values ---------------------------------------------------------------------------------------

PEOPLE = (
    ("ada.abebe@example.com", "Ada Abebe"),
    ("Ada.Abebe@Example.com", "Ada"),
    ("bruno@example.org", "Bruno Bauer"),
    ("  bruno@example.org\n", "bruno@example.org"),
    ("chloe.costa@example.edu", "Chloé Costa"),
    ("o'brien+50%@example.net", "O'Brien \\ 100%"),
    ("dmitri@example.com", None),
    ("ELENA@EXAMPLE.ORG", "elena@example.org"),
    ("farid@students.example.edu", "Farid :f %s"),
    ("grace@example.org", "  "),
    ("hiro@example.com", "広 Hiro"),
    ("unknown@example.com", "Unknown"),
    ("ines@example.com", "Inés Ibrahim"),
    ("joao@example.com", ""),
)
FIRST_DAY = datetime(2025, 10, 7, 13)

PHONE_NUMBERS = (None, "", "+15550100123", "+15550100456", " +15550100789 ")
VOICES = (None, "", "en-US-Journey-O", "Léa-Neural", "alloy")
PROVIDERS = (None, "", "google", "elevenlabs")
DIRECTIONS = (None, "inbound", "outbound", "")
USE_CASES = (None, "", "Pizza orders: menu, allergies", 'Help desk & "tickets", 50% at night')
PROMPTS = (
    None,
    "",
    'You are the voice agent.\n- Keep it below 40 words; say "about" :before %s and 15%.',
    "Réponds en français — $$; DROP TABLE students; -- \\n",
)
GREETINGS = (None, "", "Hello! Thanks for calling.", "Bonjour !\nQue puis-je faire ?")
URLS = (None, None, "", "https://relay-{}.railway.example/a%20b?x=:y&z='1'")
TEXTS: dict[str, Sequence[str | None]] = {
    "selected_phone_number": PHONE_NUMBERS,
    "selected_voice": VOICES,
    "tts_provider": PROVIDERS,
    "call_direction": DIRECTIONS,
    "use_case_description": USE_CASES,
    "system_prompt": PROMPTS,
    "ivr_greeting": GREETINGS,
}
TOOLS: tuple[list[Any], ...] = (
    [],
    [],
    [{"type": "function", "function": {"name": "look_up", "parameters": {"a": [1, 1.50]}}}],
    [{"type": "function", "name": "it's 100% :odd"}, "book_slot"],
)
BUG = {"step": 4, "description": 'The button "Deploy" does nothing: 0% for 10 minutes'}


@dataclass(frozen=True)
class Visit:
    """The values that all rows of a session share. Times are UTC, without a zone."""

    number: int
    token: str
    email: str
    name: str | None
    began: datetime
    done: int


def visits(
    rng: Random, count: int, people: Sequence[tuple[str, str | None]] = PEOPLE
) -> list[Visit]:
    """Sessions of this number, with tokens of all kinds."""
    drawn = []
    for number in range(count):
        began = FIRST_DAY + timedelta(hours=7 * number, microseconds=rng.randrange(10**10))
        email, name = people[rng.randrange(len(people))]
        millis = int(began.replace(tzinfo=UTC).timestamp() * 1000)
        random = sha256(str(rng.random()).encode()).hexdigest()
        token = f"ws_{millis}_{random if rng.random() < 0.5 else random[:6]}"
        if number % 9 == 4:
            token = f"legacy-{email.strip()}-{millis}"
        token = {5: "null", 11: "undefined"}.get(number, token)
        drawn.append(Visit(number, token, email, name, began, rng.randrange(10)))
    return drawn


def later(rng: Random, moment: datetime, minutes: int = 300) -> datetime:
    """A moment after this one, never the same twice."""
    return moment + timedelta(microseconds=rng.randrange(1, minutes * 60_000_000))


def utc(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=UTC)


def stored(rng: Random, value: Any, wrong: Any = None) -> str | None:
    """A JSON column's value, as the application sends it: mostly a JSON string that holds JSON."""
    text = json.dumps(value, ensure_ascii=False)
    roll = rng.random()
    if roll < 0.72:
        return json.dumps(text)
    if roll < 0.80:
        return text
    if roll < 0.84:
        return json.dumps(json.dumps(text))
    return (
        None,
        "null",
        '"null"',
        json.dumps(wrong),
        json.dumps(json.dumps(wrong)),
        json.dumps(text[: len(text) // 2] + "..."),
        json.dumps('{"note": "\\u0000"}'),
        '"undefined"',
    )[rng.randrange(8)]


def exercises(rng: Random, visit: Visit) -> dict[str, Any]:
    """The application's record of the steps that a session worked on."""
    keys = list(CURRENT_KEYS.values())
    if (roll := rng.random()) < 0.2:
        keys = [f"exercise-{number}" for number in range(1, 10)]
    elif roll < 0.35:
        keys = list(EARLY_EXERCISES)
    entries: dict[str, Any] = {}
    if roll > 0.95:
        entries = {str(place): character for place, character in enumerate('{"x": 1}')}
    moment = visit.began
    for key in keys[: visit.done]:
        moment = later(rng, moment, 20)
        entry = {
            "completed": True,
            "timestamp": moment.isoformat(timespec="milliseconds") + "Z",
            "timeSpent": rng.randrange(2000),
            "attempts": rng.randrange(1, 5),
            "lastAttempt": moment.isoformat(timespec="milliseconds") + "Z",
        }
        for field_name in ("lastAttempt", "attempts", "timeSpent", "timestamp"):
            if rng.random() < 0.12:
                del entry[field_name]
        entries[key] = True if rng.random() < 0.04 else entry
    if visit.done < 9 and rng.random() < 0.5:
        entry = {"completed": False, "timestamp": None, "timeSpent": 77, "attempts": 1}
        entries[keys[visit.done]] = entry
        if rng.random() < 0.4:
            # the keys changed: one step has two
            entries[f"exercise-{visit.done + 1}"] = {"completed": True, "attempts": "3"}
    if rng.random() < 0.1:
        entries["unknown"] = {"completed": True, "timestamp": None}
    return entries


def api_key(rng: Random) -> str | None:
    """Tokens of all forms, none of them a key."""
    digits = f"{rng.getrandbits(128):032x}"
    return (
        None,
        None,
        "",
        f"sk-not-a-real-key-{digits}",
        f"aXYtc2FtcGxlLWl2:dGFnLXNhbXBsZQ==:{digits}",
        f"aXYtc2FtcGxlLWl2:dGFnLXNhbXBsZQ==:{digits}\n",
    )[rng.randrange(6)]


def configuration(rng: Random) -> Row:
    """The twelve texts, tools and voice settings."""
    row: Row = {name: values[rng.randrange(len(values))] for name, values in TEXTS.items()}
    row["openai_api_key"] = api_key(rng)
    for name in TEXT_COLUMNS:
        if name.endswith("_url"):
            url = URLS[rng.randrange(len(URLS))]
            row[name] = url and url.format(rng.randrange(10**6))
    row["tools"] = stored(rng, TOOLS[rng.randrange(len(TOOLS))], wrong={})
    voice = {"provider": "google", "voice": "en-US-Journey-O", "speed": rng.randrange(9) / 4}
    row["voice_settings"] = stored(rng, voice if rng.random() < 0.8 else {}, wrong=[])
    return row


def flags(rng: Random, visit: Visit) -> Row:
    """Flags up to the step reached, unless a save of the front end reset them."""
    wiped = rng.random() < 0.25
    reached = 21 * visit.done // 9
    unset = None if wiped and rng.random() < 0.5 else False
    return {name: (not wiped and place < reached) or unset for place, name in enumerate(FLAGS)}


def numbers(rng: Random, visit: Visit) -> Row:
    """Time spent and completion, sometimes out of range."""
    spent: int | None = rng.randrange(9000)
    if (roll := rng.random()) < 0.1:
        spent = None if roll < 0.05 else -5
    return {"total_time_spent": spent, "completion_rate": round(100 * visit.done / 9)}


def step_reached(rng: Random, visit: Visit) -> int | None:
    return (None, -1, 12, 0)[rng.randrange(4)] if rng.random() < 0.15 else visit.done


def progress_row(rng: Random, visit: Visit) -> Row:
    """A row of workshop_students as the current application leaves it."""
    started = visit.began
    active = later(rng, started)
    return {
        "session_token": visit.token,
        "student_email": visit.email,
        "student_name": visit.name,
        "exercises": stored(rng, exercises(rng, visit), wrong=[]),
        "bug_reports": stored(rng, [BUG] if rng.random() < 0.2 else [], wrong={}),
        "started_at": None if rng.random() < 0.1 else utc(started),
        "last_activity": None if rng.random() < 0.1 else utc(active),
        **numbers(rng, visit),
        "repo_created": visit.done > 3 and rng.random() < 0.7,
        "demo_mode": rng.random() < 0.05,
        "created_at": None if rng.random() < 0.05 else utc(later(rng, started, 1)),
        "updated_at": utc(later(rng, active, 1)),
    }


def config_row(rng: Random, visit: Visit) -> Row:
    """A row of student_configs as the current application leaves it."""
    email: str | None = visit.email
    if (roll := rng.random()) < 0.3:
        email = (None, "", "somebody.else@example.com")[int(roll * 10)]
    created = later(rng, visit.began, 10)
    return {
        "session_token": visit.token,
        "student_name": visit.name if rng.random() < 0.6 else visit.email,
        "student_email": email,
        **configuration(rng),
        "demo_mode": (None, False, False, True)[rng.randrange(4)],
        "current_step": step_reached(rng, visit),
        **flags(rng, visit),
        "created_at": created,
        "updated_at": None if rng.random() < 0.05 else later(rng, created),
    }


def only(row: Row, *without: str) -> Row:
    """The row without these columns."""
    return {name: value for name, value in row.items() if name not in without}


def split(drawn: Sequence[Visit], pattern: str, letter: str) -> list[Visit]:
    """The sessions of a table: "wc w c" gives every third to both, to the first, to the second."""
    kinds = pattern.split()
    return [visit for visit in drawn if letter in kinds[visit.number % len(kinds)]]


# --- what creates the tables ----------------------------------------------------------------------

CONFIGURATION = """
    openai_api_key text,
    system_prompt text,
    tools jsonb DEFAULT '[]'::jsonb,
    voice_settings jsonb DEFAULT '{}'::jsonb,
    use_case_description text,
    call_direction text,
    ivr_greeting text,
    tts_provider text,
    selected_voice text,
    selected_phone_number text,
    websocket_url text,
    codespace_url text,
    github_repo_url text,
    railway_url text,
"""
FLAG_COLUMNS = "\n".join(f"    {name} boolean DEFAULT false," for name in FLAGS)

TOUCH = """
CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END;
$$;
"""


def touched(table: str) -> str:
    return (
        f"CREATE TRIGGER update_{table}_updated_at BEFORE UPDATE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();\n"
    )


def progress_ddl(further: str = "") -> str:
    return f"""
CREATE TABLE workshop_students (
    session_token text PRIMARY KEY,
    student_email text NOT NULL,
    student_name text,
    exercises jsonb DEFAULT '{{}}'::jsonb,
    bug_reports jsonb DEFAULT '[]'::jsonb,
    started_at timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    total_time_spent integer DEFAULT 0,
    completion_rate integer DEFAULT 0,
    repo_created boolean DEFAULT false,
    demo_mode boolean DEFAULT false,
    {further}
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE INDEX idx_students_email ON workshop_students (student_email);
CREATE INDEX idx_students_activity ON workshop_students (last_activity DESC);
"""


def config_ddl(further: str = "") -> str:
    return f"""
CREATE TABLE student_configs (
    session_token text PRIMARY KEY,
    student_name text,
    student_email text,
    {CONFIGURATION}
    demo_mode boolean DEFAULT false,
    current_step integer DEFAULT 0,
    {FLAG_COLUMNS}
    {further}
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
CREATE INDEX idx_sessions_email ON student_configs (student_email);
"""


# As the early tables were, and as the application creates a missing table.
EARLY_CONFIG_DDL = """
CREATE TABLE student_configs (
    session_token text PRIMARY KEY,
    student_name text,
    openai_api_key text,
    system_prompt text,
    tools jsonb DEFAULT '[]'::jsonb,
    voice_settings jsonb DEFAULT '{}'::jsonb,
    use_case_description text,
    call_direction text,
    tts_provider text,
    selected_voice text,
    selected_phone_number text,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now()
);
ALTER TABLE student_configs ADD COLUMN demo_mode boolean DEFAULT false;
ALTER TABLE student_configs ADD COLUMN ci_service_sid text;
"""
LATER_CONFIG = (
    "student_email",
    "current_step",
    "ivr_greeting",
    "websocket_url",
    "codespace_url",
    "github_repo_url",
    "railway_url",
    *FLAGS,
)

# Tables with foreign keys to student_configs, and backups of earlier changes.
AROUND_DDL = """
CREATE TABLE conversation_sessions (
    id serial PRIMARY KEY,
    session_token text REFERENCES student_configs (session_token) ON DELETE CASCADE,
    call_sid varchar(34) UNIQUE,
    transcript jsonb DEFAULT '[]'::jsonb,
    created_at timestamp DEFAULT now()
);
CREATE TABLE student_use_cases (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_token text NOT NULL REFERENCES student_configs (session_token) ON DELETE CASCADE,
    use_case text NOT NULL
);
CREATE INDEX idx_sessions_student ON conversation_sessions (session_token);
CREATE TABLE workshop_students_backup_1761155999000 (LIKE workshop_students);
CREATE TABLE workshop_sessions_merged (session_token text, exercises jsonb, merged boolean);
"""
AROUND = (
    "conversation_sessions",
    "student_use_cases",
    "workshop_students_backup_1761155999000",
    "workshop_sessions_merged",
)


def around_rows(drawn: Sequence[Visit]) -> dict[str, list[Row]]:
    """Rows of the dependent tables, for these sessions of student_configs."""
    return {
        "conversation_sessions": [
            {
                "session_token": visit.token,
                "call_sid": f"CA{visit.number}",
                "created_at": visit.began,
            }
            for visit in drawn[::2]
        ],
        "student_use_cases": [
            {"id": UUID(int=visit.number), "session_token": visit.token, "use_case": "100% :it"}
            for visit in drawn[::3]
        ],
        "workshop_sessions_merged": [{"session_token": "ws_1", "exercises": "{}", "merged": True}],
    }


def taken(*names: str) -> str:
    """Backups with today's date: the names that the revisions would choose."""
    today = datetime.now(UTC).strftime("%Y%m%d")
    return "".join(f"CREATE TABLE {name}_{today} (nothing text);\n" for name in names)


CURRENT_DDL = progress_ddl() + TOUCH + touched(PROGRESS) + config_ddl() + AROUND_DDL


def current(
    rng: Random, drawn: Sequence[Visit], pattern: str = "wc wc wc w c c wc"
) -> dict[str, list[Row]]:
    """The rows of the current era's tables."""
    configured = split(drawn, pattern, "c")
    return {
        PROGRESS: [progress_row(rng, visit) for visit in split(drawn, pattern, "w")],
        CONFIG: [config_row(rng, visit) for visit in configured],
        **around_rows(configured),
    }


# --- the earliest eras ----------------------------------------------------------------------------

EARLIEST_DDL = """
CREATE TABLE workshop_students (
    student_id varchar(64) PRIMARY KEY,
    student_email varchar(255) UNIQUE NOT NULL,
    student_name varchar(255),
    twilio_account_sid varchar(34),
    twilio_phone_number varchar(20),
    openai_api_key_set boolean DEFAULT false,
    current_step integer DEFAULT 0,
    exercises_completed integer DEFAULT 0,
    completion_rate numeric(5,2) DEFAULT 0.00,
    voice_handler_deployed boolean DEFAULT false,
    websocket_handler_deployed boolean DEFAULT false,
    github_repo_created boolean DEFAULT false,
    full_deployment_complete boolean DEFAULT false,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP,
    last_activity timestamp DEFAULT CURRENT_TIMESTAMP,
    completed_at timestamp,
    total_time_spent integer DEFAULT 0,
    validation_failures integer DEFAULT 0,
    demo_mode boolean DEFAULT false
);
CREATE TABLE workshop_step_progress (
    id serial PRIMARY KEY,
    student_id varchar(64) REFERENCES workshop_students (student_id) ON DELETE CASCADE,
    step_number integer NOT NULL,
    step_name varchar(100),
    started_at timestamp DEFAULT CURRENT_TIMESTAMP,
    completed_at timestamp,
    time_spent integer DEFAULT 0,
    attempts integer DEFAULT 0,
    validation_passed boolean DEFAULT false,
    code_submitted text,
    validation_errors text,
    UNIQUE (student_id, step_number)
);
CREATE TABLE workshop_sessions (
    session_id varchar(64) PRIMARY KEY,
    student_id varchar(64) REFERENCES workshop_students (student_id) ON DELETE CASCADE,
    ip_address varchar(45),
    started_at timestamp DEFAULT CURRENT_TIMESTAMP,
    ended_at timestamp
);
CREATE TABLE workshop_events (
    id serial PRIMARY KEY,
    student_id varchar(64) REFERENCES workshop_students (student_id) ON DELETE CASCADE,
    event_type varchar(50) NOT NULL,
    event_data jsonb,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_students_email ON workshop_students (student_email);
CREATE INDEX idx_students_last_activity ON workshop_students (last_activity);
CREATE INDEX idx_sessions_student ON workshop_sessions (student_id);
CREATE INDEX idx_step_progress_student ON workshop_step_progress (student_id);
CREATE INDEX idx_events_student ON workshop_events (student_id);
CREATE INDEX idx_events_type ON workshop_events (event_type);

CREATE VIEW active_students AS
SELECT s.student_id, s.student_email, s.current_step, count(p.id) AS steps_started
FROM workshop_students s
LEFT JOIN workshop_step_progress p ON p.student_id = s.student_id
WHERE s.last_activity > TIMESTAMP '2025-10-09 00:00:00'
GROUP BY s.student_id, s.student_email, s.current_step;
CREATE VIEW workshop_analytics AS
SELECT count(*) AS students,
       avg(completion_rate) AS average_completion,
       count(*) FILTER (WHERE full_deployment_complete) AS completed,
       (SELECT avg(time_spent) FROM workshop_step_progress WHERE validation_passed) AS step_time
FROM workshop_students;

CREATE FUNCTION update_student_progress(p_student_id varchar) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE workshop_students
    SET exercises_completed = (SELECT count(*) FROM workshop_step_progress
                               WHERE student_id = p_student_id AND validation_passed),
        last_activity = CURRENT_TIMESTAMP
    WHERE student_id = p_student_id;
END;
$$;
"""
STEP_KEYS = (
    *CURRENT_KEYS.values(),
    *EARLY_EXERCISES,
    *(f"exercise-{number}" for number in range(1, 10)),
)
EARLIEST_STEPS = (
    None,
    "",
    "Introduction",
    "Voice handler",
    "unknown",
    "Deploy Your System",
    "Final Deployment",
    "Basic TwiML",
)


def own_people(count: int) -> list[tuple[str, str | None]]:
    """Addresses of this number, no two equal even in the same case."""
    further = [(f"student{number}@example.com", f"Student {number}") for number in range(count)]
    return [*PEOPLE[:-2], *further][:count]


def step_row(rng: Random, began: datetime) -> Row:
    """The values that the two step tables share; time and state sometimes differ."""
    started = None if rng.random() < 0.1 else later(rng, began, 60)
    completed = None if rng.random() < 0.4 else later(rng, started or began, 60)
    return {
        "started_at": started,
        "completed_at": completed,
        "time_spent": (None, -3, 0, rng.randrange(4000), rng.randrange(400))[rng.randrange(5)],
        "attempts": (None, 0, 1, 2, -1)[rng.randrange(5)],
        "validation_passed": rng.random() < 0.9
        if completed
        else (None, False, True)[rng.randrange(3)],
        "code_submitted": (None, None, "app.get('/x', () => \"100%\");\n\\")[rng.randrange(3)],
    }


def earliest(rng: Random) -> dict[str, list[Row]]:
    students: list[Row] = []
    steps: list[Row] = []
    sessions: list[Row] = []
    events: list[Row] = []
    people = own_people(24)
    for visit in visits(rng, 24):
        email, name = people[visit.number]
        student = f"student_{visit.number}_{rng.getrandbits(32):08x}"
        active = later(rng, visit.began)
        row = {
            "student_id": student,
            "student_email": email,
            "student_name": name,
            "twilio_account_sid": f"AC{rng.getrandbits(128):032x}" if visit.done else None,
            "twilio_phone_number": "+15550100123" if visit.done > 2 else None,
            "openai_api_key_set": visit.done > 0,
            "current_step": step_reached(rng, visit),
            "exercises_completed": visit.done,
            "voice_handler_deployed": visit.done > 3,
            "websocket_handler_deployed": visit.done > 4,
            "github_repo_created": rng.random() < 0.5,
            "full_deployment_complete": visit.done == 9,
            "created_at": visit.began,
            "last_activity": active,
            "completed_at": active if visit.done == 9 else None,
            "validation_failures": rng.randrange(3),
            "demo_mode": rng.random() < 0.1,
            **numbers(rng, visit),
        }
        students.append(row)
        for number in range(visit.done + 1):
            named = EARLIEST_STEPS[rng.randrange(len(EARLIEST_STEPS))]
            if rng.random() < 0.3:
                named = STEP_KEYS[rng.randrange(len(STEP_KEYS))]
            number = 12 if number == 7 else number
            step = {"student_id": student, "step_number": number, "step_name": named}
            step["validation_errors"] = "[]" if rng.random() < 0.2 else None
            steps.append(step | step_row(rng, visit.began))
        sessions.append({"session_id": f"s{visit.number}", "student_id": student})
        event = {"student_id": student, "event_type": "login", "event_data": '"{\\"a\\": 1}"'}
        events.append(event)
    return {
        PROGRESS: students,
        "workshop_step_progress": steps,
        "workshop_sessions": sessions,
        "workshop_events": events,
    }


EARLIEST_BYSTANDERS = (
    "workshop_step_progress",
    "workshop_sessions",
    "workshop_events",
    "active_students",
    "workshop_analytics",
)


def serial_ddl(unique: str) -> str:
    return f"""
CREATE TABLE workshop_students (
    id serial PRIMARY KEY,
    student_email varchar(255) NOT NULL {unique},
    student_name varchar(255),
    exercises jsonb DEFAULT '{{}}'::jsonb,
    started_at timestamp DEFAULT now(),
    last_activity timestamp DEFAULT now(),
    total_time_spent integer DEFAULT 0,
    completion_rate integer DEFAULT 0,
    repo_created boolean DEFAULT false,
    created_at timestamp DEFAULT now()
);
ALTER TABLE workshop_students ADD COLUMN session_token text UNIQUE;
CREATE INDEX idx_students_email ON workshop_students (student_email);
CREATE INDEX idx_sessions_student ON workshop_students (session_token);
"""


def serial(rng: Random, unique: bool) -> dict[str, list[Row]]:
    people = own_people(26)
    rows = []
    for visit in visits(rng, 26):
        row = only(progress_row(rng, visit), "bug_reports", "demo_mode", "updated_at")
        if unique:
            row["student_email"], row["student_name"] = people[visit.number]
        if visit.number % 3 == 1:
            row["session_token"] = None
        for name in ("started_at", "last_activity", "created_at"):
            row[name] = row[name] and row[name].replace(tzinfo=None)
        rows.append(row)
    return {PROGRESS: rows}


REBUILT_DDL = (
    progress_ddl()
    + EARLY_CONFIG_DDL
    + """
CREATE TABLE workshop_students_backup (
    student_id varchar(64) PRIMARY KEY,
    student_email varchar(255) UNIQUE NOT NULL,
    completion_rate numeric(5,2) DEFAULT 0.00
);
-- steps of the earliest era stay behind: they belong to the backup
CREATE TABLE workshop_step_progress (
    id serial PRIMARY KEY,
    student_id varchar(64) REFERENCES workshop_students_backup (student_id) ON DELETE CASCADE,
    step_number integer NOT NULL,
    step_name varchar(100),
    completed_at timestamp,
    validation_passed boolean DEFAULT false
);
"""
)


def rebuilt(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 22)
    rows = [progress_row(rng, visit) for visit in split(drawn, "wc w c", "w")]
    for row in rows[::2]:
        began = row["created_at"] or FIRST_DAY
        row["session_token"] = f"legacy-{row['student_email']}-{int(began.timestamp() * 1000)}"
    configs = []
    for visit in split(drawn, "wc w c", "c"):
        row = only(config_row(rng, visit), *LATER_CONFIG)
        configs.append(row | {"ci_service_sid": "GA0" if rng.random() < 0.2 else None})
    backup = [
        {"student_id": f"s{place}", "student_email": email, "completion_rate": 33.33}
        for place, (email, _) in enumerate(PEOPLE)
    ]
    steps = [
        {"student_id": f"s{number}", "step_number": number, "validation_passed": True}
        for number in range(9)
    ]
    return {
        PROGRESS: rows,
        CONFIG: configs,
        "workshop_students_backup": backup,
        "workshop_step_progress": steps,
    }


# --- the two tables as in the guide, and merged once ----------------------------------------

BEFORE_DDL = """
CREATE TABLE workshop_students (
    session_token text PRIMARY KEY,
    student_email text,
    student_name text,
    selected_phone_number text,
    openai_api_key text,
    exercises jsonb,
    demo_mode boolean
);
CREATE TABLE student_configs (
    session_token text PRIMARY KEY,
    student_email text,
    student_name text,
    selected_phone_number text,
    current_step integer,
    step4_deployed boolean,
    step5_deployed boolean
);
"""


def before(rng: Random) -> dict[str, list[Row]]:
    # without times no row is the newest: one name for each address
    named = {email.strip().lower(): name for email, name in PEOPLE}
    drawn = visits(rng, 20)
    progress, configs = [], []
    for visit in drawn:
        identity: Row = {
            "session_token": visit.token,
            "student_email": visit.email,
            "student_name": named[visit.email.strip().lower()],
            "selected_phone_number": PHONE_NUMBERS[rng.randrange(5)],
        }
        if visit.number % 4:
            row: Row = {"openai_api_key": api_key(rng), "demo_mode": rng.random() < 0.2}
            row["exercises"] = stored(rng, exercises(rng, visit), wrong=[])
            progress.append(identity | row)
        if visit.number % 4 != 2:
            row = {"current_step": step_reached(rng, visit)}
            row |= {name: flags(rng, visit)[name] for name in ("step4_deployed", "step5_deployed")}
            if rng.random() < 0.3:
                identity["student_email"] = None
            row["selected_phone_number"] = PHONE_NUMBERS[rng.randrange(5)]
            configs.append(identity | row)
    return {PROGRESS: progress, CONFIG: configs}


AI_COLUMNS = """
    ai_system_prompt text DEFAULT 'You are a helpful assistant.',
    ai_greeting text DEFAULT 'Hello! How can I help?',
    ai_voice varchar(50) DEFAULT 'Polly.Joanna',
    ai_tools jsonb DEFAULT '[{"type": "none"}]'::jsonb,
    ai_settings_updated_at timestamptz,
"""


def ai_values(rng: Random, visit: Visit) -> Row:
    """A distinct value for some of these columns; the others keep their default."""
    own = {
        "ai_system_prompt": ("Be brief: 100%.", None)[rng.randrange(2)],
        "ai_greeting": "",
        "ai_voice": "alloy",
        "ai_tools": ('[{"type":"none"}]', '["x"]', "null", None, '"[]"')[rng.randrange(5)],
        "ai_settings_updated_at": utc(visit.began),
    }
    return {name: value for name, value in own.items() if rng.random() < 0.3}


def merged_once(rng: Random) -> dict[str, list[Row]]:
    unknown = [(email, "Anonymous") for email in ("unknown@example.com",) * 6]
    drawn = visits(rng, 32, (*PEOPLE, *unknown))
    rows = []
    for visit in drawn:
        if visit.number % 8 != 7:
            whole = config_row(rng, visit) | progress_row(rng, visit)
            rows.append(whole | ai_values(rng, visit))
    configs = [
        only(config_row(rng, visit), *LATER_CONFIG) for visit in drawn if visit.number % 5 == 2
    ]
    return {PROGRESS: rows, CONFIG: configs}


MERGED_DDL = (
    progress_ddl(CONFIGURATION + "current_step integer DEFAULT 0,\n" + FLAG_COLUMNS + AI_COLUMNS)
    + TOUCH
    + touched(PROGRESS)
)
MERGED_ONCE_DDL = (
    MERGED_DDL
    + EARLY_CONFIG_DDL
    + """
CREATE TABLE workshop_sessions_merged AS SELECT 'ws_1'::text AS session_token;
CREATE TABLE student_configs_backup_1761155999000 (session_token text PRIMARY KEY);
"""
)

# --- earlier attempts at the unified tables -------------------------------------------------------------

# Sessions in workshop_students, student_configs and the attempt's sessions.
THREE = "wca wc a wa ca w c wca"

C1_DDL = (
    CURRENT_DDL
    + f"""
CREATE TABLE students (
    student_email text PRIMARY KEY,
    student_name text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE sessions (
    session_token text PRIMARY KEY,
    student_email text REFERENCES students (student_email) ON DELETE CASCADE,
    exercises jsonb DEFAULT '{{}}'::jsonb,
    started_at timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    total_time_spent integer DEFAULT 0,
    completion_rate integer DEFAULT 0,
    repo_created boolean DEFAULT false,
    demo_mode boolean DEFAULT false,
    {CONFIGURATION}
    bug_reports jsonb DEFAULT '[]'::jsonb,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE INDEX idx_sessions_student_email ON sessions (student_email);
CREATE INDEX idx_sessions_last_activity ON sessions (last_activity DESC);
"""
    + touched("students")
    + touched("sessions")
)


def addresses(rng: Random, drawn: Sequence[Visit]) -> list[Row]:
    """An attempt's rows of `students`: the sessions' addresses unchanged, and three without a session."""
    rows: list[Row] = []
    people = {visit.email: visit.name for visit in drawn}
    for place, (email, name) in enumerate(people.items()):
        created = FIRST_DAY - timedelta(days=place % 2, microseconds=rng.randrange(10**9))
        named = f"{name} of V2" if name and place % 3 == 0 else name
        rows.append({"student_email": email, "student_name": named, "created_at": utc(created)})
    for email, name in (
        ("nobody@example.com", "No Body"),
        ("Lonely@Example.org ", None),
        ("somebody.else@example.com", "Somebody Else"),
    ):
        created = later(rng, FIRST_DAY)
        rows.append({"student_email": email, "student_name": name, "created_at": utc(created)})
    for row in rows:
        row["updated_at"] = later(rng, row["created_at"], 90000)
    return rows


def first_attempt(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 36)
    tried = split(drawn, THREE, "a")
    return {
        **current(rng, drawn, THREE),
        "students": addresses(rng, tried),
        "sessions": [
            only(progress_row(rng, visit), "student_name") | configuration(rng) for visit in tried
        ],
    }


def halfway_ddl(further: str = "") -> str:
    """The two tables that a failed creation left behind."""
    return f"""
CREATE TABLE students (
    student_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    student_email text UNIQUE NOT NULL,
    student_name text,
    twilio_account_sid text,
    github_username text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE TABLE sessions (
    session_token text PRIMARY KEY,
    student_id uuid REFERENCES students (student_id) ON DELETE CASCADE,
    started_at timestamptz DEFAULT now(),
    last_activity timestamptz DEFAULT now(),
    expires_at timestamptz DEFAULT now() + INTERVAL '24 hours',
    is_active boolean DEFAULT true,
    demo_mode boolean DEFAULT false,
    current_step integer DEFAULT 0,
    total_time_spent integer DEFAULT 0,
    completion_rate integer DEFAULT 0,
    {CONFIGURATION}
    {further}
    bug_reports jsonb DEFAULT '[]'::jsonb,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
CREATE INDEX idx_sessions_student_id ON sessions (student_id);
"""


def second_ddl(further: str = "") -> str:
    return (
        halfway_ddl(further)
        + """
CREATE TABLE step_progress (
    id serial PRIMARY KEY,
    session_token text REFERENCES sessions (session_token) ON DELETE CASCADE,
    student_id uuid REFERENCES students (student_id) ON DELETE CASCADE,
    step_number integer NOT NULL,
    step_name text NOT NULL,
    started_at timestamptz DEFAULT now(),
    completed_at timestamptz,
    time_spent integer DEFAULT 0,
    attempts integer DEFAULT 0,
    validation_passed boolean DEFAULT false,
    code_submitted text,
    deployment_url text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(),
    UNIQUE (session_token, step_number)
);
CREATE TABLE events (
    id serial PRIMARY KEY,
    student_id uuid REFERENCES students (student_id) ON DELETE CASCADE,
    session_token text REFERENCES sessions (session_token) ON DELETE CASCADE,
    event_type text NOT NULL,
    event_data jsonb DEFAULT '{}'::jsonb,
    created_at timestamptz DEFAULT now()
);
CREATE INDEX idx_sessions_active ON sessions (is_active) WHERE is_active;
CREATE INDEX idx_step_progress_session ON step_progress (session_token);
CREATE INDEX idx_events_type ON events (event_type);

CREATE FUNCTION update_session_progress(token_param text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    passed integer;
BEGIN
    SELECT count(*) INTO passed FROM step_progress
    WHERE session_token = token_param AND validation_passed;
    UPDATE sessions
    SET completion_rate = passed * 100 / 9, last_activity = now()
    WHERE session_token = token_param;
END;
$$;
CREATE VIEW instructor_list AS
SELECT s.session_token, t.student_email, s.completion_rate
FROM sessions s JOIN students t USING (student_id);
"""
        + "".join(map(touched, ("students", "sessions", "step_progress")))
    )


# The moved endpoint's titles in the order in which it counts them: from 0.
TITLES = (*(title for title, _ in list(STEPS.values())[:8]), "Final Deployment")


def second_steps(rng: Random, visit: Visit, student: UUID | None) -> list[Row]:
    """The two ways to count, under one unique key: a title's number is its step minus one."""
    rows = []
    for number in range(10):
        if rng.random() < 0.25 or number > visit.done + 2:
            continue
        named = TITLES[number] if number < 9 and rng.random() < 0.5 else f"exercise-{number}"
        if (roll := rng.random()) < 0.4 and number:
            named = CURRENT_KEYS[number]
        elif roll > 0.95:
            named = "unknown"
        row = {
            "session_token": visit.token,
            "student_id": student,
            "step_number": number,
            "step_name": named,
            **step_row(rng, visit.began),
            "deployment_url": (None, None, f"https://a.example/{rng.randrange(99)}")[
                rng.randrange(3)
            ],
            "created_at": utc(visit.began),
            "updated_at": utc(later(rng, visit.began)),
        }
        for name in ("started_at", "completed_at"):
            row[name] = utc(row[name])
        rows.append(row)
    return rows


def second_attempt(rng: Random, drawn: Sequence[Visit]) -> dict[str, list[Row]]:
    """The four tables as the application wrote them after an earlier attempt, for these sessions."""
    students = [
        {
            "student_id": UUID(int=rng.getrandbits(128), version=4),
            **row,
            "twilio_account_sid": f"AC{rng.getrandbits(128):032x}" if rng.random() < 0.3 else None,
            "github_username": f"gh-{place}" if rng.random() < 0.3 else None,
        }
        for place, row in enumerate(addresses(rng, drawn))
    ]
    for row in students:
        if row["student_email"] in ("Ada.Abebe@Example.com", PEOPLE[3][0], "unknown@example.com"):
            # a student with two rows has one account, a student without a row has none
            row["github_username"] = None
    ids = {row["student_email"]: row["student_id"] for row in students}
    sessions: list[Row] = []
    steps: list[Row] = []
    events: list[Row] = []
    for visit in drawn:
        student = None if visit.number % 16 == 14 else ids[visit.email]
        row = only(
            progress_row(rng, visit), "student_name", "student_email", "exercises", "repo_created"
        )
        row |= {
            "student_id": student,
            "expires_at": utc(visit.began + timedelta(days=1)),
            "is_active": rng.random() < 0.5,
            "current_step": step_reached(rng, visit),
            **configuration(rng),
        }
        sessions.append(row)
        steps += second_steps(rng, visit, student)
        for number in range(rng.randrange(3) if student else 0):
            data = {"step": number, "note": "it's 100% :odd", "at": [1, 2.50]}
            event = {
                "student_id": student,
                "session_token": visit.token,
                "event_type": ("step_completed", "login")[number],
                "event_data": json.dumps(json.dumps(data)),
                "created_at": utc(later(rng, visit.began)),
            }
            events.append(event)
    return {"students": students, "sessions": sessions, "step_progress": steps, "events": events}


def everywhere(rng: Random) -> dict[str, list[Row]]:
    """Flags, exercises and configuration in all three tables that can have them, never equal."""
    drawn = visits(rng, 32)
    tried = split(drawn, THREE, "a")
    rows = {**current(rng, drawn, THREE), **second_attempt(rng, tried)}
    for visit, row in zip(tried, rows["sessions"], strict=True):
        row |= flags(rng, visit) | {"exercises": stored(rng, exercises(rng, visit), wrong=[])}
    for visit, row in zip(split(drawn, THREE, "w"), rows[PROGRESS], strict=True):
        row |= flags(rng, visit) | configuration(rng) | {"current_step": step_reached(rng, visit)}
    return rows


def later_attempt(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 40)
    return {**current(rng, drawn, THREE), **second_attempt(rng, split(drawn, THREE, "a"))}


# After an earlier attempt's clean-up: the tables renamed, one or none created again by the next
# save.
ALONE_DDL = (
    TOUCH
    + """
CREATE TABLE workshop_students_backup_20251101 (session_token text PRIMARY KEY, exercises jsonb);
CREATE TABLE student_configs_backup_20251101 (session_token text PRIMARY KEY, tools jsonb);
"""
    + second_ddl()
)


def alone(rng: Random) -> dict[str, list[Row]]:
    return second_attempt(rng, visits(rng, 20))


def cleaned(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 24)
    again = [only(config_row(rng, visit), *LATER_CONFIG) for visit in drawn[3::9]]
    return {CONFIG: again, **second_attempt(rng, drawn[:23])}


FOREIGN_DDL = """
CREATE TABLE students (
    student_id serial PRIMARY KEY,
    student_email text UNIQUE,
    student_name text,
    created_at timestamptz DEFAULT now()
);
CREATE TABLE events (
    event_id serial PRIMARY KEY,
    event_type text,
    event_data jsonb NOT NULL,
    created_at timestamptz DEFAULT now()
);
CREATE INDEX idx_events_type ON events (event_type);
"""


def foreign(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 24)
    events = [
        {
            "event_type": "login",
            "event_data": stored(rng, {"n": number}, []) or "{}",
            "created_at": utc(later(rng, FIRST_DAY)),
        }
        for number in range(9)
    ]
    return {
        **current(rng, drawn),
        "students": [only(row, "updated_at") for row in addresses(rng, drawn[::3])],
        "events": events,
    }


# --- mixtures ---------------------------------------------------------------------------------------

KEYLESS_DDL = f"""
CREATE TABLE workshop_students (
    session_token text,
    student_email text,
    student_name text,
    exercises jsonb,
    bug_reports jsonb,
    started_at timestamptz,
    last_activity timestamptz,
    total_time_spent integer,
    completion_rate integer,
    repo_created boolean,
    demo_mode boolean,
    created_at timestamptz,
    updated_at timestamptz
);
CREATE TABLE student_configs (
    session_token text,
    student_name text,
    student_email text,
    {CONFIGURATION}
    demo_mode boolean,
    current_step integer,
    {FLAG_COLUMNS}
    created_at timestamp,
    updated_at timestamp
);
"""


def keyless(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 15)
    progress = [progress_row(rng, visit) for visit in (*drawn, *drawn[::2], *drawn[::4])]
    configs = [config_row(rng, visit) for visit in (*drawn[2:], *drawn[3::3])]
    for rows in (progress, configs):
        for row in rows:
            row["updated_at"] = later(rng, FIRST_DAY, 40000).replace(
                tzinfo=UTC if rows is progress else None
            )
    for place, token in ((1, None), (2, ""), (3, None)):
        progress[place]["session_token"] = token
    configs[1]["session_token"] = None
    return {PROGRESS: progress, CONFIG: configs}


TYPED_DDL = """
CREATE DOMAIN address AS varchar(255);
CREATE TABLE "workshop_students" (
    session_token varchar(120) PRIMARY KEY,
    student_email address NOT NULL,
    student_name varchar(255) DEFAULT ''::character varying,
    exercises text DEFAULT '{}'::text,
    bug_reports json DEFAULT '[]'::json,
    started_at timestamp,
    last_activity timestamptz,
    total_time_spent numeric(12,2) DEFAULT 0,
    completion_rate numeric(5,2) DEFAULT 0.00,
    repo_created integer DEFAULT 0,
    demo_mode smallint DEFAULT 0,
    current_step varchar(10) DEFAULT '0',
    "Odd Name" bigint DEFAULT 7,
    score double precision DEFAULT 1.5,
    labels text[] DEFAULT '{}',
    birthday date,
    created_at text,
    updated_at timestamptz
);
CREATE TABLE student_configs (
    session_token varchar(120) PRIMARY KEY,
    student_email varchar(255),
    openai_api_key varchar(500),
    system_prompt varchar,
    tools text,
    voice_settings json,
    twilio_connected varchar(5) DEFAULT 'false',
    openai_connected integer DEFAULT 0,
    step4_deployed text,
    current_step numeric,
    created_at date,
    updated_at timestamptz
);
"""


def typed(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 28)
    progress, configs = [], []
    for visit in split(drawn, "wc wc w c", "w"):
        place = visit.number
        row = progress_row(rng, visit)
        kept, started = row["exercises"], visit.began if place % 6 else None
        row |= {
            "exercises": kept and (json.loads(kept) if kept.startswith('"') else kept),
            "started_at": started,
            "total_time_spent": (12.75, -3, 5e8, None, float("nan"))[place % 5],
            "repo_created": int(row["repo_created"]),
            "demo_mode": (0, 1, 2, None, -1)[place % 5],
            "current_step": (None, "3", " 7 ", "12", "seven", "4.9", "")[place % 7],
            "Odd Name": (7, 8, None)[place % 3],
            "score": (1.5, 0.1, float("nan"), None, -0.0)[place % 5],
            "labels": ([], ["a", "b%"], None, ["", 'c"\\'])[place % 7 % 4],
            "birthday": visit.began.date() if place % 2 else None,
            "created_at": (None, visit.began.isoformat(), "long ago", "", "2025-10-07")[place % 5],
        }
        progress.append(row)
    for visit in split(drawn, "wc wc w c", "c"):
        place = visit.number
        row = config_row(rng, visit)
        tools = row["tools"]
        configs.append(
            {
                "session_token": visit.token,
                "student_email": row["student_email"],
                "openai_api_key": row["openai_api_key"],
                "system_prompt": row["system_prompt"],
                "tools": tools and (json.loads(tools) if tools.startswith('"') else tools),
                "voice_settings": row["voice_settings"],
                "twilio_connected": ("true", "yes", "f", "", None, " T ", "maybe")[place % 7],
                "openai_connected": (0, 1, -1, None, 7)[place % 5],
                "step4_deployed": ("on", "off", "deployed", None, "no", "n/a", "TRUE")[place % 7],
                "current_step": (1.9, -4, 99, None, float("nan"))[place % 5],
                "created_at": row["created_at"].date(),
                "updated_at": utc(row["updated_at"]),
            }
        )
    return {PROGRESS: progress, CONFIG: configs}


EXTRA_CONFIG = """
    ci_service_sid text,
    openai_assistant_id text,
    twilio_account_sid text,
    twilio_auth_token text,
    enable_persistent_memory boolean DEFAULT false,
    memory_retention_days integer DEFAULT 30,
    use_case_enabled boolean DEFAULT true,
    active_use_case_id uuid,
    last_activity timestamp,
"""


def with_extras(rng: Random) -> dict[str, list[Row]]:
    drawn = visits(rng, 24)
    rows = current(rng, drawn)
    by_token = {visit.token: visit for visit in drawn}
    for row in rows[PROGRESS]:
        row |= ai_values(rng, by_token[row["session_token"]])
        row |= {"student_id": (None, "s1", "")[rng.randrange(3)], "current_step": rng.randrange(10)}
    for row in rows[CONFIG]:
        own = {
            "ci_service_sid": "GA0",
            "openai_assistant_id": "",
            "twilio_account_sid": "AC0",
            "twilio_auth_token": "not-a-real-token",
            "enable_persistent_memory": (True, False, None)[rng.randrange(3)],
            "memory_retention_days": (7, 30, None)[rng.randrange(3)],
            "use_case_enabled": (True, False)[rng.randrange(2)],
            "active_use_case_id": UUID(int=rng.getrandbits(128)),
            "last_activity": later(rng, row["updated_at"] or FIRST_DAY, 4000),
        }
        row |= {name: value for name, value in own.items() if rng.random() < 0.4}
    return rows


# --- all of them ------------------------------------------------------------------------------------


def _era(
    seed: int,
    ddl: str,
    rows: Callable[[Random], dict[str, list[Row]]],
    bystanders: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> Era:
    drawn = {name: table for name, table in rows(Random(seed)).items() if name not in without}
    return Era(ddl, drawn, bystanders)


def _current(rng: Random) -> dict[str, list[Row]]:
    return current(rng, visits(rng, 40))


CLEANED = ("workshop_students_backup_20251101", "student_configs_backup_20251101")
MERGED = ("workshop_sessions_merged",)
ERAS: dict[str, Era] = {
    "E": _era(1, EARLIEST_DDL, earliest, EARLIEST_BYSTANDERS),
    "A0": _era(2, serial_ddl(""), lambda rng: serial(rng, unique=False)),
    "A0 unique": _era(3, serial_ddl("UNIQUE"), lambda rng: serial(rng, unique=True)),
    "A": _era(4, REBUILT_DDL, rebuilt, ("workshop_students_backup", "workshop_step_progress")),
    "before": _era(6, BEFORE_DDL, before),
    "B": _era(7, CURRENT_DDL + taken("workshop_students_backup"), _current, AROUND),
    "C1": _era(8, C1_DDL, first_attempt, AROUND),
    "C2": _era(
        9,
        CURRENT_DDL + second_ddl() + taken("sessions_prior_backup", "student_configs_backup"),
        later_attempt,
        (*AROUND, "instructor_list"),
    ),
    "C2 halfway": _era(18, CURRENT_DDL + halfway_ddl(), _current, AROUND),
    "C2 over D": _era(
        19,
        MERGED_DDL
        + config_ddl()
        + AROUND_DDL
        + second_ddl(FLAG_COLUMNS + "exercises jsonb DEFAULT '{}'::jsonb,"),
        everywhere,
        (*AROUND, "instructor_list"),
    ),
    "C2 cleaned up": _era(10, ALONE_DDL + EARLY_CONFIG_DDL, cleaned, CLEANED),
    "C2 alone": _era(20, ALONE_DDL, alone, CLEANED),
    "D": _era(11, MERGED_ONCE_DDL, merged_once, MERGED),
    "S": _era(12, CURRENT_DDL + FOREIGN_DDL, foreign, AROUND),
    "no student_configs": _era(
        13,
        progress_ddl().replace("timestamptz", "timestamptz(3)"),
        _current,
        without=(CONFIG, *AROUND),
    ),
    "no workshop_students": _era(
        14,
        config_ddl().replace("timestamp DEFAULT", "timestamp(0) DEFAULT"),
        _current,
        without=(PROGRESS, *AROUND),
    ),
    "no keys": _era(15, KEYLESS_DDL, keyless),
    "other types": _era(16, TYPED_DDL, typed),
    "further columns": _era(
        17,
        progress_ddl("current_step integer, student_id text," + AI_COLUMNS)
        + config_ddl(EXTRA_CONFIG)
        + AROUND_DDL,
        with_extras,
        AROUND,
    ),
}

PRIOR_ATTEMPT = """
CREATE TABLE students (student_email text PRIMARY KEY, student_name text);
CREATE TABLE sessions (
    session_token text PRIMARY KEY,
    student_email text REFERENCES students (student_email)
);
INSERT INTO students VALUES ('earlier@example.com', 'Earlier');
INSERT INTO sessions VALUES ('ws_earlier', 'earlier@example.com');
"""
