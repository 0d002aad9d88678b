"""Watch a command from outside: the waits of the application, and the secrets in its output."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from support.databases import Database

HELD = """
SELECT l.mode, c.relname::text FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE a.backend_type = 'client backend' AND l.pid <> pg_backend_pid() AND l.pid <> %s
  AND l.granted AND l.locktype = 'relation' AND l.database = a.datid AND a.datname = current_database()
  AND c.relpersistence = 'p' AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""
LONGEST = 0.4
"""Longest wait of an application's statement in seconds: 250 ms, and a reserve for a busy machine."""


@contextmanager
def watched(
    target: Database, *tables: str
) -> Iterator[tuple[list[float], Counter[tuple[str, str]]]]:
    """Run the application's ALTER TABLE repeatedly; record its times and the locks of other sessions."""
    waits: list[float] = []
    locks: Counter[tuple[str, str]] = Counter()
    ended = threading.Event()
    application = target.connect()
    application.execute("SET lock_timeout = '10s'")
    pid = application.info.backend_pid
    for table in tables:
        # autovacuum would be waited for as well, for a second on a busy machine
        application.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())

    def alter() -> None:
        while not ended.is_set():
            for table in tables:
                began = time.monotonic()
                application.execute(
                    f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS demo_mode boolean".encode()
                )
                waits.append(time.monotonic() - began)
            time.sleep(0.005)

    def sample() -> None:
        with target.connect() as observer:
            while not ended.is_set():
                locks.update(observer.execute(HELD, (pid,)).fetchall())
                time.sleep(0.002)

    threads = [threading.Thread(target=work) for work in (alter, sample)]
    for thread in threads:
        thread.start()
    try:
        yield waits, locks
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        application.close()


CANARY = "canaryCANARYcanary"


def planted(target: Database) -> None:
    """Plant a secret in every place that may hold one."""
    with target.connect() as connection:
        connection.execute(
            f"""
            ALTER TABLE student_configs ADD COLUMN IF NOT EXISTS twilio_auth_token text;
            UPDATE student_configs SET openai_api_key = 'sk-{CANARY}', twilio_auth_token = '{CANARY}',
                tools = to_jsonb('[{{"key": "sk-{CANARY}"'::text),
                websocket_url = 'wss://user:{CANARY}@example.com'
            WHERE session_token IN (SELECT session_token FROM student_configs ORDER BY 1 LIMIT 9);
            UPDATE workshop_students
            SET exercises = jsonb_build_object('sk-{CANARY}', jsonb_build_object('completed', true));
            UPDATE student_configs SET session_token = session_token || '{CANARY}tail'
            WHERE session_token LIKE 'ws%';
            """.encode()
        )
