"""The rows: events of a session, and the values that the application stores."""

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random

from models.steps import STEPS
from scripts.development.sample_data.words import (
    ADDRESS_PARTS,
    BUG,
    DOMAINS,
    GREETINGS,
    NAMES,
    NO_URLS,
    SENTENCES,
    TOOLS,
    USE_CASES,
    VOICES,
    dump,
)

Row = tuple[object, ...]

# As in a real database of 213 sessions: 117 tokens in both tables, 36 and 60 in one of them.
MEASURED, IN_BOTH, ONLY_STUDENTS = 213, 117, 36
# Of 100 sessions: the number that finished 0, 1, ... 9 steps.
STEPS_DONE = tuple(
    done for done, share in enumerate((15, 12, 12, 13, 11, 10, 8, 6, 5, 8)) for _ in range(share)
)
# Flags in the order of the steps, and the number of flags set after step 0, 1, ... 9.
FLAG_BOUNDS = (0, 2, 3, 4, 7, 10, 13, 16, 20, 21)
FLAG_ROWS = tuple((True,) * n + (False,) * (21 - n) for n in range(22))
NO_FLAGS, UNKNOWN_FLAGS = FLAG_ROWS[0], (None,) * 21

KEY_STYLES = (
    *[tuple(step.exercise_key for step in STEPS)] * 17,
    *[tuple(f"exercise-{step.number}" for step in STEPS)] * 2,
    tuple(step.early_key for step in STEPS),
)
# Days count from the first one. The workshops are Tuesdays to Thursdays of eight weeks. Sessions
# begin between 13:00 and 19:00 UTC, in time to end before midnight.
FIRST_DAY = datetime(2025, 10, 7, tzinfo=UTC)
FIRST_DAY_MS = int(FIRST_DAY.timestamp()) * 1000
WORKSHOP_DAYS = tuple(week * 7 + day for week in range(8) for day in range(3))
CALENDAR = tuple(f"{FIRST_DAY + timedelta(days=day):%Y-%m-%d}" for day in range(80))
FIRST_SECOND, SPAN = 13 * 3600, 6 * 3600


@dataclass(slots=True)
class _Session:
    """The values that the two rows of a session share.

    ``day`` indexes ``CALENDAR``, ``second`` counts from midnight UTC, ``done`` is the number of
    steps finished.
    """

    token: str
    day: int
    second: int
    done: int
    email: str
    name: str | None
    demo: bool


def generate(sessions: int, seed: int = 1) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield one pair for each session: its row of ``workshop_students`` and of ``student_configs``, or None.

    The values are in the order of the columns in ``tables``, JSON and times as text. Sessions are
    in the order of their start, in October and November 2025. 213 sessions give exactly 153 and 177
    rows, 117 of them pairs; other numbers give the same shares. From 1,000 sessions on, one token
    is ``null`` and one is ``undefined``.
    """
    rng = Random(seed)
    students = _student_count(sessions)
    kinds: list[str] = []
    for index in range(sessions):
        if not kinds:
            kinds = _kinds(rng, min(MEASURED, sessions - index))
        kind = kinds.pop()
        session = _session(rng, index, sessions, students)
        if sessions >= 1000 and index in (500, 501):
            session.token = ("null", "undefined")[index - 500]
        elif kind == "students" and rng.random() < 0.05:
            # Copied when the table was rebuilt around tokens.
            session.token = f"legacy-{session.email}-{session.token[3:16]}"
        yield (
            None if kind == "configs" else _student_row(rng, session),
            None if kind == "students" else _config_row(rng, session, students),
        )


def _kinds(rng: Random, count: int) -> list[str]:
    """Return, shuffled, the tables of each of ``count`` sessions."""
    both = round(count * IN_BOTH / MEASURED)
    only_students = round(count * ONLY_STUDENTS / MEASURED)
    only_configs = count - both - only_students
    kinds = ["both"] * both + ["students"] * only_students + ["configs"] * only_configs
    rng.shuffle(kinds)
    return kinds


def _student_count(sessions: int) -> int:
    """Return the number of students for this number of sessions.

    Real databases: 115 addresses in 213 sessions, and about 105,000 students in 290,000. Students
    return more often in a database of longer use.
    """
    per_student = max(0.5, 1.3 + 0.258 * math.log(max(sessions, 1) / MEASURED))
    return max(1, round(sessions / per_student))


def _person(number: int) -> tuple[str, str]:
    """Return e-mail address and name of a student; no two numbers share an address."""
    count = len(NAMES) // 2
    given, family = number % count * 2, (number + number // count) % count * 2 + 1
    local = f"{ADDRESS_PARTS[given]}.{ADDRESS_PARTS[family]}{number // count**2 or ''}"
    return f"{local}@{DOMAINS[number % len(DOMAINS)]}", f"{NAMES[given]} {NAMES[family]}"


def _session(rng: Random, index: int, sessions: int, students: int) -> _Session:
    r = rng.random
    email, full_name = _person(int(r() * students))
    if (roll := r()) < 0.04:
        email = email.upper() if roll < 0.015 else email.title()
    name: str | None = full_name
    if (roll := r()) < 0.35:
        name = email if roll < 0.27 else None
    # Starts are spread evenly over the workshops and never coincide: the token contains the start.
    place = (index + r() * 0.9) * len(WORKSHOP_DAYS) / sessions
    day = WORKSHOP_DAYS[int(place)]
    second = FIRST_SECOND + place % 1 * SPAN
    moment = FIRST_DAY_MS + int((day * 86400 + second) * 1000)
    random_part = f"{rng.getrandbits(256):064x}" if r() < 0.5 else f"{rng.getrandbits(24):06x}"
    done = STEPS_DONE[int(r() * 100)]
    return _Session(f"ws_{moment}_{random_part}", day, int(second), done, email, name, r() < 0.04)


def _student_row(rng: Random, session: _Session) -> Row:
    r = rng.random
    exercises, spent = _exercises(rng, session)
    start = _stamp(rng, session.day, session.second)
    # One in eight returned on another day, which changes last_activity only.
    later = 1 + int(r() * 20) if r() < 0.125 else 0
    last = _stamp(rng, session.day + later, session.second + spent + 1)
    bugs: str | None = "[]"
    if r() < 0.06:
        bugs = _stored(rng, dump([{"step": session.done, "description": BUG, "at": start}]), "{}")
    return (
        session.token,
        session.email,
        session.name,
        _stored(rng, exercises, "[]"),
        bugs,
        start + "+00",
        last + "+00",
        spent,
        round(100 * session.done / len(STEPS)),
        session.done > 3 and r() < 0.8,
        session.demo,
        start + "+00",
        last + "+00",
    )


def _exercises(rng: Random, session: _Session) -> tuple[str, int]:
    """Return JSON of the steps that the session worked on, and the seconds spent on them."""
    r = rng.random
    keys = KEY_STYLES[int(r() * len(KEY_STYLES))]
    # Text from the start: this runs most often, and the json module takes three times as long.
    entries: list[str] = []
    day, spent = CALENDAR[session.day], 0
    for key in keys[: session.done]:
        seconds = 40 + int(r() * 1100)
        spent += seconds
        moment = f"{day}T{_clock(session.second + spent)}.{int(r() * 1000):03d}Z"
        # The application added every field but the first over time.
        if (age := r()) < 0.85:
            fields = f'"timestamp":"{moment}","timeSpent":{seconds},"attempts":{1 + int(r() * 3)}'
            entries.append(f'"{key}":{{"completed":true,{fields},"lastAttempt":"{moment}"}}')
        elif age < 0.95:
            fields = f'"timestamp":"{moment}","timeSpent":{seconds}'
            entries.append(f'"{key}":{{"completed":true,{fields}}}')
        else:
            entries.append(f'"{key}":{{"completed":true}}')
    if session.done < len(keys) and (roll := r()) < 0.43:
        seconds = 20 + int(r() * 400)
        spent += seconds
        fields = f'"timestamp":null,"timeSpent":{seconds},"attempts":1'
        entries.append(f'"{keys[session.done]}":{{"completed":false,{fields}}}')
        if roll < 0.02:
            # An update of the application changed the keys: one step has two.
            entries.append(f'"exercise-{session.done + 1}":{{"completed":true}}')
    if (roll := r()) < 0.02:
        entries.append('"unknown":{"completed":true,"timestamp":null}')
    elif roll < 0.023:
        # The application spread a JSON text into an object of its characters.
        entries.insert(0, '"0":"{","1":"}"')
    return f"{{{','.join(entries)}}}", spent


def _config_row(rng: Random, session: _Session, students: int) -> Row:
    r = rng.random
    email: str | None = session.email
    greeting: str | None = GREETINGS[int(r() * len(GREETINGS))]
    provider, voice, settings = VOICES[int(r() * len(VOICES))]
    urls = NO_URLS if session.done < 5 else _urls(rng)
    flags: tuple[bool | None, ...]
    step = session.done
    if r() < 0.23:
        # One save of the front end sends neither the address nor the flags ...
        email = None
        flags = UNKNOWN_FLAGS if r() < 0.2 else NO_FLAGS
        step = 0 if r() < 0.5 else step
    else:
        if r() < 0.04:
            email = _person(int(r() * students))[0]
        next_bound = FLAG_BOUNDS[min(step + 1, len(STEPS))]
        flags = FLAG_ROWS[FLAG_BOUNDS[step] + int(r() * (next_bound - FLAG_BOUNDS[step]))]
        if r() < 0.3:
            # ... and the save that sends them omits the greeting, the URLs and the voice.
            greeting, settings, urls = None, "{}", NO_URLS
    start = _stamp(rng, session.day, session.second + int(r() * 600))
    # Within the same day: a session ends less than three hours after its start.
    end = _stamp(rng, session.day, session.second + 600 + int(r() * 9000))
    secret = f"{rng.getrandbits(128):032x}"
    has_twilio = r() < 0.15
    persistent = r() < 0.1
    tools = TOOLS[int(r() * len(TOOLS))]
    return (
        session.token,
        session.name,
        email,
        _api_key(rng, secret),
        _prompt(rng, session) if r() < 0.6 else None,
        _stored(rng, tools, "{}"),
        _stored(rng, settings, "[]"),
        USE_CASES[int(r() * len(USE_CASES))] if r() < 0.75 else None,
        ("inbound", "outbound", None)[int(r() * 3)],
        greeting,
        provider,
        voice,
        f"+1555010{int(r() * 10000):04d}" if r() < 0.7 else None,
        *urls,
        session.demo,
        step,
        *flags,
        f"GA{secret}" if r() < 0.1 else None,
        f"AC{secret}" if has_twilio else None,
        f"sample-auth-token-{secret}" if has_twilio else None,
        persistent,
        7 if persistent and r() < 0.5 else 30,
        start,
        end,
    )


def _urls(rng: Random) -> tuple[str | None, ...]:
    site = f"{rng.getrandbits(32):08x}"
    return (
        f"wss://relay-{site}.railway.example/ws",
        f"https://codespace-{site}.github.example",
        f"https://github.example/student-{site}/voice-ai?tab=readme#100%",
        f"https://relay-{site}.railway.example",
    )


def _api_key(rng: Random, secret: str) -> str | None:
    """As in 177 real rows: 67 without a key, 92 encrypted (iv:tag:text), 18 plain."""
    if (roll := rng.random() * 177) < 67:
        return None
    if roll < 67 + 92:
        iv, tag, text = rng.randbytes(16), rng.randbytes(16), rng.randbytes(51)
        return b":".join(map(base64.b64encode, (iv, tag, text))).decode()
    return f"sk-sample-not-a-key-{secret}"


def _prompt(rng: Random, session: _Session) -> str:
    """Return 100 to 600 characters, with line breaks and special characters."""
    r = rng.random
    lines = [f"You are the voice agent of {session.name or 'our workshop'}."]
    lines += [SENTENCES[int(r() * len(SENTENCES))] for _ in range(2 + int(r() * 6))]
    return "\n- ".join(lines)


def _stored(rng: Random, text: str, wrong: str) -> str | None:
    """Return JSON ``text`` as a jsonb column has it: nearly always as a string that holds JSON.

    The others are faults of applications, for example ``wrong``, a value of another type.
    """
    if (roll := rng.random()) >= 0.026:
        return dump(text)
    if roll < 0.012:
        return text
    if roll < 0.015:
        return "null"
    if roll < 0.019:
        return None
    if roll < 0.022:
        return wrong
    # Truncated, or with a character that jsonb cannot hold.
    return dump(text[: len(text) // 2]) if roll < 0.0245 else dump('{"note":"\\u0000"}')


def _stamp(rng: Random, day: int, second: int) -> str:
    """Return a UTC time with microseconds, as the database's now() formats it."""
    return f"{CALENDAR[day]} {_clock(second)}.{int(rng.random() * 1e6):06d}"


@cache
def _clock(second: int) -> str:
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
