"""PostgreSQL's programs: dump, read and restore a backup; their errors are shown without values."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from scripts.backup.manifest import Manifest
from scripts.backup.tables import check_sql
from scripts.common.connection import ConnectionProblem
from scripts.common.programs import client_programs
from scripts.migration.guards import alone

ERROR = re.compile(
    r"^\S*(?:pg_dump|pg_restore|psql)(?::\S*)?: +(?:(?:error|ERROR|FATAL): +|(?=\w+ option ))(.*)",
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
# Lines at the start of a script that are left out. With the first one the restore would wait for a
# lock without a limit; the second one fails before PostgreSQL 17.
LEFT_OUT = (b"SET lock_timeout = 0;\n", b"SET transaction_timeout = 0;\n")
START = 40


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


def pg_dump(programs: Path, url: URL, options: Sequence[str], out: IO[bytes]) -> None:
    """Dump a database into an open file. Raises ProgramFailed."""
    to_it, environ = connection_of(url)
    command = [f"{programs}/pg_dump", to_it, "-w", "--lock-wait-timeout=5000", *options]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environ)
    if done.returncode != 0:
        raise ProgramFailed(f"pg_dump failed: {complaint(done.stderr)}")


def relations_in(file: Path, manifest: Manifest) -> set[str]:
    """Return schema and name, with a blank between, of each table and view in an archive."""
    programs = client_programs(manifest.made_with_major)
    done = subprocess.run([f"{programs}/pg_restore", "--list", file], capture_output=True)
    if done.returncode != 0:
        raise ProgramFailed(f"pg_restore cannot read {file}: {complaint(done.stderr)}")
    return set(ENTRY.findall(done.stdout.decode(errors="replace")))


def play(
    url: URL,
    file: Path,
    manifest: Manifest,
    options: Sequence[str],
    before: str = "",
    after: str = "",
) -> None:
    """Restore a backup in one transaction, and compare it with its manifest.

    ``options`` are those of pg_restore; ``before`` and ``after`` are SQL. No migration runs
    meanwhile. Raises ProgramFailed if anything fails; then everything was rolled back.
    """
    programs = client_programs(manifest.made_with_major)
    to_it, environ = connection_of(url)
    psql = [f"{programs}/psql", to_it, "-Xqw", "--file=-", "--set=ON_ERROR_STOP=1"]
    script = ["cat", str(file)]
    if manifest.format == "custom":
        script = [f"{programs}/pg_restore", "--file=-", *options, str(file)]
    begin = f"BEGIN; {alone(transaction=True)}; SET lock_timeout = '5s'; {NO_TIMEOUTS};\n{before}\n"
    end = f"\n{check_sql(manifest.tables)};\n{after}\nCOMMIT;\n"
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=said) as reader:
            player = subprocess.Popen(
                psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environ
            )
            assert reader.stdout is not None
            assert player.stdin is not None
            try:
                player.stdin.write(begin.encode())
                start = islice(reader.stdout, START)
                player.stdin.writelines(line for line in start if line not in LEFT_OUT)
                shutil.copyfileobj(reader.stdout, player.stdin, 1 << 20)
                if reader.wait() == 0:  # else psql rolls back at the end of its input
                    player.stdin.write(end.encode())
            except BrokenPipeError:
                pass  # psql has ended; its error shows why
            except BaseException:
                player.kill()
                raise
            finally:
                player.communicate()
        if reader.returncode != 0 or player.returncode != 0:
            said.seek(0)
            raise ProgramFailed(complaint(said.read()))
