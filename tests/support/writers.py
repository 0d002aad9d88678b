"""The two applications as writers: statements of legacy and moved endpoints, drawn at random.

A writer has one connection and one random generator. ``act()`` runs one request, a statement or a
transaction of several, and returns its name. Statements fit the columns of the database, so that a
writer works on every era, at every revision, on tables and views.
"""

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from support.oracle import CONFIG, PROGRESS, TEXT_COLUMNS

FLAGS = (
    "twilio_connected",
    "openai_connected",
    "call_direction_chosen",
    "services_ready",
    "step4_deployed",
    "step5_committed",
    "step6_deployed",
    "system_prompt_saved",
    "tools_configured",
    "step8_deployed",
    "project_deployed",
    "demo_mode",
)
TITLES = (  # moved endpoints count them from 0
    "Connect Accounts",
    "Choose Use Case",
    "Provision Services",
    "Basic TwiML",
    "WebSocket Handler",
    "ConversationRelay",
    "Custom AI Prompt",
    "Tools & Functions",
    "Final Deployment",
)
KEYS = (
    "step-1-connect-accounts",
    "step-2-choose-use-case",
    "step-3-provision-services",
    "step-4-basic-twiml",
    "step-5-websocket-handler",
    "step-6-conversation-relay",
)
REFUSALS = (psycopg.errors.IntegrityError, psycopg.errors.DataError)
"""Errors that an application causes itself: the same with and without the migration."""
ONE_AT_A_TIME = threading.Lock()


class Writer:
    """Common to both: a connection in autocommit mode, random values, the existing tokens."""

    def __init__(self, url: str, seed: int, tokens: list[str] | None = None) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.random = random.Random(seed)
        self.seed = seed
        self.made = 0
        self.seconds = 0.0
        self.tokens = tokens if tokens is not None else []
        """Tokens to write to; shared between writers that must meet."""

    def actions(self) -> list[tuple[int, Callable[[], object]]]:
        """Its requests, and their frequencies."""
        raise NotImplementedError

    ALONE: frozenset[str] = frozenset()
    """Requests that lock several rows in no fixed order: two of them would deadlock without the bridge."""

    def act(self) -> str:
        """Run one request, drawn at random; return its name. ``seconds``: its duration."""
        weights, actions = zip(*self.actions(), strict=True)
        action: Callable[[], object] = self.random.choices(actions, weights)[0]
        name = action.__name__
        with ONE_AT_A_TIME if name in self.ALONE else nullcontext():
            began = time.monotonic()
            try:
                with self.connection.transaction():
                    action()
            except REFUSALS:
                name += " (refused)"
            finally:
                self.seconds = time.monotonic() - began
        return name

    def close(self) -> None:
        self.connection.close()

    def execute(self, statement: sql.Composed | str, *parameters: object) -> int:
        query = statement.encode() if isinstance(statement, str) else statement
        return self.connection.execute(query, parameters or None).rowcount

    def column(self, query: str, *parameters: object) -> list[Any]:
        rows = self.connection.execute(query.encode(), parameters or None)
        return [row[0] for row in rows.fetchall()]

    def new_token(self) -> str:
        self.made += 1
        token = f"ws_{1_790_000_000_000 + self.seed}_{self.made:06x}"
        self.tokens.append(token)
        return token

    def token(self) -> str:
        return self.random.choice(self.tokens) if self.tokens else self.new_token()

    def email(self) -> str:
        # some three sessions each, for any duration
        return f"Student{self.random.randrange(max(40, len(self.tokens) // 3))}@Example.edu"

    def text(self, column: str) -> str | None:
        form = self.random.randrange(12)
        if form == 0:
            return None
        if form == 1:
            return ""
        if form == 2:
            return f"{column} {self.random.random()} " + "long " * 70
        return f"{column} {self.random.random()} 100% 'é' \t"

    def json(self, column: str) -> Any:
        number = self.random.randrange(1000)
        if column in ("tools", "bug_reports"):
            return [] if number < 200 else [{"type": "function", "name": f"f{number}"}]
        return {} if number < 200 else {"provider": "google", "n": number}

    def choose(self, names: tuple[str, ...] | list[str], most: int = 4) -> list[str]:
        return self.random.sample(list(names), k=min(len(names), self.random.randint(1, most)))


def _fitting(value: object, sql_type: str) -> object:
    """A truth value for a column that is not boolean."""
    if isinstance(value, bool) and sql_type != "boolean":
        return str(int(value)) if sql_type.startswith(("text", "character")) else int(value)
    return value


def assignments(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns
    )


class NewApplication(Writer):
    """Moved endpoints: they write to students, sessions, step_progress and events."""

    def actions(self) -> list[tuple[int, Callable[[], object]]]:
        return [
            (4, self.start),
            (6, self.configure),
            (5, self.progress),
            (3, self.flag),
            (2, self.rename),
            (1, self.change_address),
            (1, self.name_github),
            (1, self.delete_session),
            (1, self.delete_step),
            (1, self.move),
            (1, self.start_student),
        ]

    def student(self, email: str) -> Any:
        found = self.column(
            "INSERT INTO students (student_email, student_name) VALUES (%s, %s) "
            "ON CONFLICT (student_email) DO UPDATE SET student_name = EXCLUDED.student_name "
            "RETURNING student_id",
            email,
            self.random.choice((None, email, f"Name {self.random.randrange(100)}")),
        )
        return found[0]

    def start(self, token: str | None = None) -> str:
        token = token or (self.new_token() if self.random.random() < 0.6 else self.token())
        student = self.student(self.email())
        self.execute(
            "INSERT INTO sessions (session_token, student_id) VALUES (%s, %s) "
            "ON CONFLICT (session_token) DO UPDATE SET last_activity = NOW()",
            token,
            student,
        )
        return token

    def start_student(self) -> None:
        self.made += 1
        self.execute(
            "INSERT INTO students (student_email, student_name) VALUES (%s, %s) "
            "ON CONFLICT (student_email) DO NOTHING",
            f"alone{self.seed}.{self.made}@example.org",
            "Alone",
        )

    def configure(self) -> None:
        columns = self.choose(TEXT_COLUMNS)
        values: list[object] = [self.text(column) for column in columns]
        for column in ("tools", "voice_settings", "bug_reports"):
            if self.random.random() < 0.3:
                columns.append(column)
                value = self.json(column)
                # the moved endpoints' driver stringifies JSON again
                values.append(Jsonb(json.dumps(value) if self.random.random() < 0.5 else value))
        if self.random.random() < 0.3:
            columns.append("current_step")
            values.append(self.random.randrange(10))
        if self.random.random() < 0.3:
            columns.append("total_time_spent")
            values.append(self.random.randrange(100_000))
        self.execute(
            sql.SQL("UPDATE sessions SET {} WHERE session_token = {}").format(
                assignments(columns), sql.Placeholder()
            ),
            *values,
            self.token(),
        )

    def flag(self) -> None:
        columns = self.choose(FLAGS, 3)
        self.execute(
            sql.SQL("UPDATE sessions SET {} WHERE session_token = {}").format(
                assignments(columns), sql.Placeholder()
            ),
            *(self.random.random() < 0.7 for _ in columns),
            self.token(),
        )

    def progress(self) -> None:
        token = self.token()
        if not self.column("SELECT 1 FROM sessions WHERE session_token = %s", token):
            self.start(token)
        number, passed = self.random.randrange(9), self.random.random() < 0.7
        name = TITLES[number]
        if number < len(KEYS) and self.random.random() < 0.3:
            number, name = number + 1, KEYS[number]
        self.execute(
            "INSERT INTO step_progress (session_token, student_id, step_number, step_name, attempts, "
            "time_spent, validation_passed, completed_at, code_submitted) "
            "SELECT session_token, student_id, %s, %s, %s, %s, %s, %s, %s FROM sessions "
            "WHERE session_token = %s ON CONFLICT (session_token, step_number) DO UPDATE SET "
            "attempts = step_progress.attempts + 1, time_spent = EXCLUDED.time_spent, "
            "validation_passed = EXCLUDED.validation_passed, completed_at = EXCLUDED.completed_at, "
            "code_submitted = EXCLUDED.code_submitted",
            number,
            name,
            1,
            self.random.randrange(5000),
            passed,
            "2026-01-02T03:04:05.678901Z" if passed else None,
            self.random.choice((None, "print(1)")),
            token,
        )
        self.execute("SELECT update_session_progress(%s)", token)
        self.execute(
            "INSERT INTO events (session_token, event_type, event_data) VALUES (%s, %s, %s)",
            token
            if self.column("SELECT 1 FROM sessions WHERE session_token = %s", token)
            else None,
            "step_completed",
            Jsonb(json.dumps({"step": number})),
        )

    def rename(self) -> None:
        self.execute(
            "UPDATE students SET student_name = %s WHERE student_id = "
            "(SELECT student_id FROM sessions WHERE session_token = %s)",
            f"Renamed {self.random.randrange(1000)}" if self.random.random() < 0.9 else None,
            self.token(),
        )

    def change_address(self) -> None:
        self.execute(
            "UPDATE students SET student_email = %s WHERE student_id = "
            "(SELECT student_id FROM sessions WHERE session_token = %s)",
            f"Moved{self.random.randrange(10_000)}@Example.net",
            self.token(),
        )

    def name_github(self) -> None:
        self.execute(
            "UPDATE students SET github_username = %s WHERE student_id = "
            "(SELECT student_id FROM sessions WHERE session_token = %s)",
            f"gh{self.random.randrange(1000)}",
            self.token(),
        )

    def delete_session(self) -> None:
        self.execute("DELETE FROM sessions WHERE session_token = %s", self.token())

    def delete_step(self) -> None:
        self.execute(
            "DELETE FROM step_progress WHERE session_token = %s AND step_number = %s",
            self.token(),
            self.random.randint(1, 9),
        )

    def move(self) -> None:
        """Move a session to another student."""
        self.execute(
            "UPDATE sessions SET student_id = %s WHERE session_token = %s",
            self.student(self.email()),
            self.token(),
        )


class OldApplication(Writer):
    """Legacy endpoints: they write to workshop_students and student_configs."""

    ALONE = frozenset({"delete_student", "change_token", "touch_several", "give_up"})

    def __init__(self, url: str, seed: int, tokens: list[str] | None = None) -> None:
        super().__init__(url, seed, tokens)
        self.columns = {table: self._columns(table) for table in (PROGRESS, CONFIG)}

    def _columns(self, table: str) -> dict[str, str]:
        rows = self.connection.execute(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            (f"public.{table}",),
        )
        return dict(rows.fetchall())

    def actions(self) -> list[tuple[int, Callable[[], object]]]:
        return [
            (6, self.save),
            (6, self.progress),
            (1, self.delete_configuration),
            (1, self.delete_student),
            (1, self.change_token),
            (1, self.touch_several),
            (1, self.give_up),
        ]

    def upsert(self, table: str, token: str, values: dict[str, object]) -> None:
        """INSERT or UPDATE, depending on whether the row exists, with the existing columns."""
        known = self.columns[table]
        if "session_token" not in known:
            return
        values = {
            name: _fitting(value, known[name]) for name, value in values.items() if name in known
        }
        found = self.column(
            f"SELECT 1 FROM {table} WHERE session_token = %s FOR UPDATE",
            token,
        )
        if found:
            self.execute(
                sql.SQL("UPDATE {} SET {} WHERE session_token = {}").format(
                    sql.Identifier(table), assignments(list(values)), sql.Placeholder()
                ),
                *values.values(),
                token,
            )
            return
        values = {"session_token": token, **values}
        self.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            ),
            *values.values(),
        )

    def sent(self, table: str, column: str, value: Any) -> object:
        """JSON as the application's driver sends it: stringified twice."""
        if self.columns[table].get(column) in ("json", "jsonb"):
            return Jsonb(json.dumps(value))
        return json.dumps(value)

    def save(self) -> None:
        token = self.new_token() if self.random.random() < 0.3 else self.token()
        full = self.random.random() < 0.5
        values: dict[str, object] = {name: self.text(name) for name in TEXT_COLUMNS}
        values |= {name: full and self.random.random() < 0.5 for name in FLAGS}
        values |= {
            "student_email": self.email() if full else None,
            "student_name": f"Name {self.random.randrange(100)}" if full else None,
            "tools": self.sent(CONFIG, "tools", self.json("tools")),
            "voice_settings": self.sent(CONFIG, "voice_settings", self.json("voice_settings")),
            "current_step": self.random.randrange(10),
        }
        self.upsert(CONFIG, token, values)
        if {"updated_at", "session_token"} <= self.columns[CONFIG].keys():
            self.execute(f"UPDATE {CONFIG} SET updated_at = NOW() WHERE session_token = %s", token)

    def progress(self) -> None:
        token = self.new_token() if self.random.random() < 0.2 else self.token()
        steps = {
            key: {
                "completed": self.random.random() < 0.7,
                "timestamp": "2025-10-22T17:03:47.000Z",
                "timeSpent": self.random.randrange(1000),
                "attempts": self.random.randrange(4),
            }
            for key in self.choose(KEYS, 5)
        }
        self.upsert(
            PROGRESS,
            token,
            {
                "student_email": self.email(),
                "exercises": self.sent(PROGRESS, "exercises", steps),
                "total_time_spent": self.random.randrange(100_000),
                "completion_rate": self.random.randrange(101),
            },
        )
        if {"last_activity", "session_token"} <= self.columns[PROGRESS].keys():
            self.execute(
                f"UPDATE {PROGRESS} SET last_activity = NOW() WHERE session_token = %s", token
            )

    def delete_configuration(self) -> None:
        self.execute(f"DELETE FROM {CONFIG} WHERE session_token = %s", self.token())

    def delete_student(self) -> None:
        email = self.column(f"SELECT student_email FROM {PROGRESS} ORDER BY random() LIMIT 1")
        self.execute(f"DELETE FROM {PROGRESS} WHERE student_email = %s", *email or [None])

    def change_token(self) -> None:
        old, new = self.token(), self.new_token()
        for table in self.random.sample((PROGRESS, CONFIG), k=self.random.randint(1, 2)):
            if "session_token" in self.columns[table]:
                self.execute(
                    f"UPDATE {table} SET session_token = %s WHERE session_token = %s", new, old
                )

    def touch_several(self) -> None:
        """One statement over many rows."""
        if "system_prompt" in self.columns[CONFIG]:
            self.execute(
                f"UPDATE {CONFIG} SET system_prompt = %s WHERE session_token IN "
                f"(SELECT session_token FROM {CONFIG} WHERE right(session_token, 1) = %s "
                "ORDER BY 1 LIMIT 50 FOR UPDATE)",
                self.text("system_prompt"),
                self.random.choice("0123456789abcdef"),
            )

    def give_up(self) -> None:
        """A transaction that rolls back."""
        with self.connection.transaction(force_rollback=True):
            self.save()
            self.progress()
            self.delete_configuration()
