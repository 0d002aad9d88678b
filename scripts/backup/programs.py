"""PostgreSQL's programs: dump, read and restore a backup; their errors are shown without values."""

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from scripts.backup.manifest import Manifest
from scripts.backup.tables import check_sql
from scripts.common.connection import ConnectionProblem
from scripts.common.programs import client_programs
from scripts.migration.guards import alone

ERROR = re.compile(
    r"^(?:ERROR: +|\S*(?:pg_dump|pg_restore|psql|cat)(?::\S*)?: +"
    r"(?:(?:error|ERROR|FATAL|write error): +|(?=\w+ option )))(.*)",
    re.M,
)
DEPENDENT = re.compile(r"^(?:DETAIL: +)?(.+) depends on .+", re.M)
ENTRY = re.compile(
    r"^\d+; \d+ \d+ (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE) (?!DATA |SET |OWNED )(\S+ .+) \S+$",
    re.M,
)
# The timeouts of the role or the server do not end a backup or a restore.
NO_TIMEOUTS = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name ~ '^(statement|idle_session|idle_in_transaction_session|transaction)_timeout$'
"""
# Lines in the first bytes of a script that are commented out. With the first one the restore would
# wait for a lock without a limit; the second one fails before PostgreSQL 17.
LEFT_OUT = (b"SET lock_timeout = 0;\n", b"SET transaction_timeout = 0;\n")
START = 4096


class ProgramFailed(ConnectionProblem):
    """A program of PostgreSQL failed; the message is its error, without values."""


def connection_of(url: URL) -> tuple[str, dict[str, str]]:
    """Return option and environment of a program for a database: no password on a command line."""
    _, given = url.get_dialect()().create_connect_args(url)
    environ = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "workshop backup"}
    given.pop("sslpassword", None)  # libpq has no environment variable for it
    if password := given.pop("password", None):
        environ["PGPASSWORD"] = password
    given["client_encoding"] = "UTF8"
    return f"--dbname={make_conninfo(**given)}", environ


def complaint(stderr: bytes) -> str:
    """Return the errors of a program: no CONTEXT, no statement, no value; of DETAIL the dependents."""
    text = stderr.decode(errors="replace")
    # the server puts the refused value at the end
    said = [re.sub(r': ".*', ': "..."', error) for error in ERROR.findall(text)[:3]]
    if "other objects depend on it" in "".join(said):
        said += DEPENDENT.findall(text)
    if "statement timeout" in "".join(said):  # of pg_dump's --lock-wait-timeout
        said = ["a table was locked for 5 seconds ('workshop status' shows locks)"]
    return "; ".join(said) or "it reported no reason"


def run_program(program: str, *options: str, **streams: Any) -> bytes:
    """Run a program. Raises ProgramFailed with its errors."""
    done = subprocess.run([program, *options], stderr=subprocess.PIPE, **streams)
    if done.returncode != 0:
        raise ProgramFailed(f"{Path(program).name} failed: {complaint(done.stderr)}")
    return done.stdout or b""


def relations_in(file: Path, manifest: Manifest) -> set[str]:
    """Return schema and name, with a blank between, of each table and view in an archive."""
    program = f"{client_programs(manifest.made_with_major)}/pg_restore"
    listed = run_program(program, "--list", str(file), stdout=subprocess.PIPE)
    return set(ENTRY.findall(listed.decode(errors="replace")))


def play(
    url: URL, file: Path, manifest: Manifest, options: Sequence[str], before: str, after: str
) -> None:
    """Restore a backup in one transaction, and compare it with its manifest.

    ``options`` are those of pg_restore; ``before`` and ``after`` are SQL. No migration runs
    meanwhile. Raises ProgramFailed if anything fails; then everything was rolled back.
    """
    programs = client_programs(manifest.made_with_major)
    reader = ["cat", str(file)]
    if manifest.format == "custom":
        reader = [f"{programs}/pg_restore", "--file=-", *options, str(file)]
    begin = f"BEGIN; {alone(transaction=True)}; SET lock_timeout = '5s'; {NO_TIMEOUTS}; {before}"
    end = f"{check_sql(manifest.tables)}; {after} COMMIT"
    to_it, environ = connection_of(url)
    psql = [f"{programs}/psql", to_it, "-Xqw", "--set=ON_ERROR_STOP=1"]
    # a file without a name: no other user can open it, and nothing of it stays
    with tempfile.TemporaryFile() as script:
        run_program(*reader, stdout=script)
        head = os.pread(script.fileno(), START, 0)
        for line in LEFT_OUT:
            head = head.replace(line, b"--" + line[2:], 1)
        fcntl.fcntl(script, fcntl.F_SETFL, 0)  # pg_restore sets O_APPEND
        os.pwrite(script.fileno(), head, 0)
        os.lseek(script.fileno(), 0, os.SEEK_SET)
        psql += ["-c", begin, "-f", "-", "-c", end]
        run_program(*psql, stdin=script, stdout=subprocess.DEVNULL, env=environ)
