"""PostgreSQL's programs: their folders, their connection to a database, and their errors."""

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
from scripts.common.database import Refused
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
# Lines of a script that are left out. With the first one the restore would wait for a lock without a
# limit; the second one fails before PostgreSQL 17.
LEFT_OUT = (b"SET lock_timeout = 0;\n", b"SET transaction_timeout = 0;\n")
HEAD = 40


class ProgramFailed(Exception):
    """A program of PostgreSQL failed; the message is its error, without values."""


def connection_of(url: URL) -> tuple[list[str], dict[str, str]]:
    """Return options and environment of a program for a database: no password on a command line."""
    _, given = url.get_dialect()().create_connect_args(url)
    environ = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "workshop backup"}
    given.pop("sslpassword", None)  # libpq has no environment variable for it
    if password := given.pop("password", None):
        environ["PGPASSWORD"] = password
    given["client_encoding"] = "UTF8"
    return [f"--dbname={make_conninfo(**given)}", "--no-password"], environ


def complaint(stderr: str) -> str:
    """Return the errors of a program: no CONTEXT, no statement, no value; of DETAIL the dependents."""
    # the server puts the refused value at the end
    said = [re.sub(r': ".*', ': "..."', error) for error in ERROR.findall(stderr)[:3]]
    if "other objects depend on it" in "".join(said):
        said += DEPENDENT.findall(stderr)
    return "; ".join(said) or "it reported no reason"


def pg_dump(programs: Path, url: URL, options: Sequence[str], out: IO[bytes]) -> None:
    """Dump a database into an open file. Raises ConnectionProblem."""
    to_it, environ = connection_of(url)
    command: list[str | Path] = [programs / "pg_dump", *to_it, *options]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environ)
    if done.returncode != 0:
        said = complaint(done.stderr.decode(errors="replace"))
        if "statement timeout" in said:  # the message of --lock-wait-timeout
            said = "a table was locked for 5 seconds ('workshop status' shows locks)"
        raise ConnectionProblem(f"pg_dump failed: {said}")


def relations_in(file: Path, manifest: Manifest) -> set[str]:
    """Return schema and name, with a blank between, of each table and view in an archive."""
    command: list[str | Path] = [
        client_programs(manifest.made_with_major) / "pg_restore",
        "--list",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise Refused(
            f"pg_restore cannot read {file}: {complaint(done.stderr)}. Nothing was changed"
        )
    return set(ENTRY.findall(done.stdout))


def play(
    url: URL,
    file: Path,
    manifest: Manifest,
    options: Sequence[str],
    around: tuple[str, str] = ("", ""),
) -> None:
    """Restore a backup in one transaction, and compare it with its manifest.

    ``options`` are those of pg_restore; ``around`` is SQL before and after it. No migration runs
    meanwhile. Raises ProgramFailed if anything fails; then everything was rolled back.
    """
    programs = client_programs(manifest.made_with_major)
    to_it, environ = connection_of(url)
    psql: list[str | Path] = [programs / "psql", *to_it, "-X", "--quiet", "--file=-"]
    psql.append("--set=ON_ERROR_STOP=1")
    script: list[str | Path] = ["cat", file]
    if manifest.format == "custom":
        script = [programs / "pg_restore", "--file=-", *options, file]
    before = (
        f"BEGIN; {alone(transaction=True)}; SET lock_timeout = '5s'; {NO_TIMEOUTS};\n{around[0]}\n"
    )
    after = f"\n{check_sql(manifest.tables)}\n{around[1]}\nCOMMIT;\n"
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=said) as reader:
            player = subprocess.Popen(
                psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environ
            )
            assert reader.stdout is not None
            assert player.stdin is not None
            try:
                player.stdin.write(before.encode())
                head = islice(reader.stdout, HEAD)
                player.stdin.writelines(line for line in head if line not in LEFT_OUT)
                shutil.copyfileobj(reader.stdout, player.stdin, 1 << 20)
                if reader.wait() == 0:  # else psql rolls back at the end of its input
                    player.stdin.write(after.encode())
            except BrokenPipeError:
                pass  # psql has ended; its error shows why
            except BaseException:
                player.kill()
                raise
            finally:
                player.communicate()
        if reader.returncode != 0 or player.returncode != 0:
            said.seek(0)
            raise ProgramFailed(complaint(said.read().decode(errors="replace")))
