"""Databases for the tests: clone in milliseconds, migrate, script, dump and describe.

Everything runs on a real server. Two ways to compare two databases: ``dump`` is the whole text of
pg_dump, with rows, without values of a single run. ``catalogs.catalog`` is one entry for each
object, so that a difference names the object.
"""

import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import URL, Engine, NullPool, create_engine

from support.oracle import CONFIG, PROGRESS, Prediction, differences, predict, read_legacy, read_v2
from support.processes import python_m

ROOT = Path(__file__).resolve().parents[2]
REVISIONS = tuple(sorted(path.stem for path in (ROOT / "alembic" / "versions").glob("[0-9]*.py")))
HEAD = REVISIONS[-1]


def copy_project(folder: Path) -> Path:
    """Copy the files of the project, without files that its use has created."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or an archive
        ignored = shutil.ignore_patterns(".*", *(ROOT / ".gitignore").read_text().split())
        shutil.copytree(ROOT, folder, ignore=ignored)
        return folder
    for name in filter(None, found.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@dataclass(frozen=True)
class Server:
    """A running server, in the form that pytest-postgresql's ``depends_on`` takes."""

    host: str
    port: int
    user: str
    password: str | None
    bin_dir: Path
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str | None = None

    def url(self, dbname: str, user: str | None = None, password: str | None = None) -> str:
        """The URL of a database, as the project, psycopg and psql take it."""
        socket = self.host.startswith("/")
        url = URL.create(
            "postgresql",
            username=user or self.user,
            password=password or (None if user else self.password),
            host=None if socket else self.host,
            port=None if socket else self.port,
            database=dbname,
            query={"host": self.host, "port": str(self.port)} if socket else {},
        )
        text = url.render_as_string(hide_password=False)
        return text.replace(f"{url.username}/", f"{url.username}@/") if socket else text

    def execute(self, *statements: sql.Composed | sql.SQL) -> None:
        """Run statements for the whole server, each in a transaction of its own."""
        with psycopg.connect(self.url(self.maintenance_dbname), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@dataclass(frozen=True)
class Database:
    """A database of one test, which may change it."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Its URL, for the server's administrator."""
        return self.server.url(self.name)

    def connect(self, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a new connection; the caller closes it, or uses it as a context manager."""
        return psycopg.connect(self.url, autocommit=autocommit)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """An engine of SQLAlchemy without a pool."""
        url = self.url.replace("postgresql:", "postgresql+psycopg:", 1)
        yield create_engine(url, poolclass=NullPool)

    def query(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.connect() as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()

    def execute(self, script: str) -> None:
        """Run statements in one transaction."""
        with self.connect() as connection:
            connection.execute(script.encode())


_numbers = count(1)


Clone = Callable[[str], "Database"]
"""Type of the fixture ``clone``: makes a database in a state, for one test."""


@contextmanager
def cloned(server: Server, template: str) -> Iterator[Database]:
    """A copy of a template database, dropped at the end."""
    name = f"workshop_test_{os.getpid()}_{next(_numbers)}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    # the default strategy writes the whole copy to the WAL, too
    create = "CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
    server.execute(sql.SQL(create).format(**names))
    try:
        yield Database(server, name)
    finally:
        server.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


ADVISORY_LOCK = 5_283_017_740_012_345
"""The migrator's lock, written a second time: databases in use know it by this number."""

# --- Alembic --------------------------------------------------------------------------------------


def alembic_config(url: str = "") -> Config:
    """The project's configuration for this database, its output captured in ``config.stdout``."""
    config = Config(ROOT / "alembic.ini", stdout=io.StringIO(), output_buffer=io.StringIO())
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """``alembic upgrade``, in this process."""
    command.upgrade(alembic_config(database.url), revision)


def downgrade(database: Database, revision: str = "base") -> None:
    """``alembic downgrade``, in this process."""
    command.downgrade(alembic_config(database.url), revision)


BACKFILL = ("0004_merge_legacy_data", "02_backfill_functions.sql")


def create_functions(connection: psycopg.Connection[Any], *file: str) -> None:
    """Run a file below alembic/sql; its functions belong to the session."""
    connection.execute((ROOT / "alembic" / "sql").joinpath(*file).read_bytes())


def backfill(connection: psycopg.Connection[Any]) -> None:
    """Run the first part of 0004."""
    create_functions(connection, *BACKFILL)
    connection.execute("CALL pg_temp.backfill()")


def hand_back(connection: psycopg.Connection[Any]) -> None:
    """Run the first part of 0004's downgrade; its functions belong to the session."""
    create_functions(connection, "hand_back", "functions.sql")
    connection.execute("CALL pg_temp.hand_back()")


def alembic_cli(
    *args: str, url: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``alembic ...`` as a user runs it, from the repository's root."""
    variables = {} if url is None else {"POSTGRES_URL_NON_POOLING": url}
    return python_m("alembic", *args, env={**os.environ, **variables, **(env or {})})


@cache
def script_of(direction: str, revisions: str) -> str:
    """The SQL script of ``alembic upgrade|downgrade <revisions> --sql``."""
    config = alembic_config()
    run = {"upgrade": command.upgrade, "downgrade": command.downgrade}[direction]
    run(config, revisions, sql=True)
    assert isinstance(config.output_buffer, io.StringIO)
    return config.output_buffer.getvalue()


def script_directory() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())


# --- psql and pg_dump -----------------------------------------------------------------------------


def psql(
    database: Database, script: str, folder: Path, name: str = "script.sql", *options: str
) -> subprocess.CompletedProcess[str]:
    """Apply a script as its first line shows, with the real psql."""
    file = folder / name
    file.write_text(script, encoding="utf-8")
    return subprocess.run(
        [database.server.bin_dir / "psql", "-X", *options, "-f", file, database.url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Columns with values of a single run.
RUN_COLUMNS = {
    "public.students": {"updated_at"},
    "public.step_progress": {"created_at", "updated_at"},
    "public.events": {"id", "created_at"},
    "bridge.state": {"merged_at", "retired_at"},
    "bridge.change_log": {"id", "at", "xact"},
}
NEUTRAL = "(of the run)"


def dump(database: Database, *, without: tuple[str, ...] = ()) -> list[str]:
    """pg_dump's output line by line: rows sorted, without comments and values of a single run."""
    pg_dump = database.server.bin_dir / "pg_dump"
    options = ["--restrict-key=x"] if _knows_restrict_key(pg_dump) else []
    done = subprocess.run(
        [
            pg_dump,
            *options,
            *(f"--exclude-table={name}" for name in without),
            database.url,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # not splitlines(): a vertical tab or a form feed in a value does not end a line
    return _normalised(done.stdout.split("\n"))


@cache
def _knows_restrict_key(pg_dump: Path) -> bool:
    text = subprocess.run([pg_dump, "--help"], capture_output=True, text=True, check=True).stdout
    return "--restrict-key" in text


def _normalised(lines: list[str]) -> list[str]:
    kept: list[str] = []
    rows: list[str] = []
    table: str | None = None
    columns: list[str] = []
    for line in lines:
        if table is not None and line != "\\.":
            rows.append(_neutral_row(table, columns, line))
        elif table is not None:
            kept += [*sorted(rows), line]
            rows, table = [], None
        elif match := re.fullmatch(r"COPY (\S+) \((.*)\) FROM stdin;", line):
            table, columns = match[1], match[2].replace('"', "").split(", ")
            kept.append(line)
        elif line and not line.startswith(("--", "\\restrict", "\\unrestrict")):
            kept.append(re.sub(r"(pg_catalog\.setval\('[^']+'), .*", r"\1, ...", line))
    return kept


def _neutral_row(table: str, columns: list[str], line: str) -> str:
    values = dict(zip(columns, line.split("\t"), strict=True))
    of_run = set(RUN_COLUMNS.get(table, ()))
    if table == "public.sessions" and values.get("last_activity") == "\\N":
        of_run.add("updated_at")
        if values.get("created_at") == "\\N":
            of_run.add("expires_at")
    return "\t".join(NEUTRAL if name in of_run else value for name, value in values.items())


def changes(before: list[str], after: list[str]) -> list[str]:
    """Return the difference of two dumps, as the first lines of a diff; empty if they are equal."""
    lines = (line[:300] for line in unified_diff(before, after, "before", "after", "", "", 0, ""))
    return [line for line, _ in zip(lines, range(60), strict=False)]


# --- the oracle -----------------------------------------------------------------------------------


def prediction_of(connection: psycopg.Connection[Any]) -> Prediction:
    """Return the oracle's prediction for the present legacy tables, under either name."""
    names = {PROGRESS: PROGRESS, CONFIG: CONFIG}
    if connection.execute("SELECT to_regclass('bridge.source') IS NOT NULL").fetchone() == (True,):
        rows = connection.execute("SELECT legacy_name, relation::text FROM bridge.source")
        names.update(dict(rows.fetchall()))
    return predict(read_legacy(connection, names[PROGRESS]), read_legacy(connection, names[CONFIG]))


def deviations(database: Database) -> list[str]:
    """Return the differences between the unified tables and the oracle's prediction.

    A student without sessions stays, by design, and is no difference.
    """
    with database.connect() as connection:
        expected, actual = prediction_of(connection), read_v2(connection)
    in_use = {session["student_email"] for session in actual.sessions.values()}
    for email in actual.students.keys() - expected.students.keys() - in_use:
        del actual.students[email]
    return differences(expected, actual)


def failed_checks(database: Database) -> list[tuple[Any, ...]]:
    """Return the checks of bridge.verify() that do not hold."""
    return database.query("SELECT * FROM bridge.verify() WHERE ok IS NOT TRUE")
