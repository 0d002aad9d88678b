"""Backups in tests: made and restored by the commands, with planted secrets that no output may show."""

import json
import re
import subprocess
from pathlib import Path

from support.commands import run_command
from support.databases import Database, dump

PASSWORD = "geheim-canary-4711"
API_KEY = "sk-canary-0123456789abcdef"
TOKEN = "ws_canary_token_0123456789"


def alike(database: Database) -> list[str]:
    """The dump of a database, without the parts that PostgreSQL words differently after a restore."""
    return [re.sub(r"[()]| AS text\b", "", line) for line in dump(database)]


def with_password(database: Database) -> str:
    """The database's URL with a password, which the embedded server does not check."""
    if database.server.password:
        return database.url
    return database.url.replace("@", f":{PASSWORD}@", 1)


def plant(database: Database) -> None:
    """Secrets that no output may show."""
    database.execute(
        "INSERT INTO student_configs (session_token, openai_api_key, created_at, updated_at) "
        f"VALUES ('{TOKEN}', '{API_KEY}', '2025-10-07', '2025-10-07')"
    )


def assert_silent(*texts: str) -> None:
    for secret in (PASSWORD, API_KEY, TOKEN):
        assert not [text for text in texts if secret in text]


def back_up(database: Database, file: Path, *options: str) -> dict[str, object]:
    done = run_command(
        "backup", "--json", "--file", str(file), *options, url=with_password(database)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = file.with_name(file.name + ".manifest.json").read_text()
    assert_silent(done.stdout, done.stderr, manifest)
    return dict(json.loads(manifest))


def restore(file: Path, database: Database, *options: str) -> "subprocess.CompletedProcess[str]":
    done = run_command("restore", str(file), *options, url=with_password(database))
    assert_silent(done.stdout, done.stderr)
    return done
