"""What the reporting commands share: a connection, plain tables, one way to give up.

A command ends with 0 (fine), 1 (not fine) or 2 (it could not tell, or could not do it).
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import wraps
from io import TextIOWrapper
from typing import Annotated, Any, Literal, NoReturn

import psycopg
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from scripts.common.connection import (
    VARIABLES,
    VERSION_TABLE_ADVICE,
    ConnectionProblem,
    NotApplicable,
    connect,
    explain,
    make_engine,
    qualified,
    resolve_url,
    version_table,
)
from scripts.common.obstacles import misnamed
from scripts.common.project import ROOT as ROOT  # dumps and drop_backups take it from here
from scripts.common.project import configuration, known_revisions, sql_text

VERSION_TABLE = qualified(*version_table(configuration()))
"""The table that holds the revision, as SQL takes it."""

Url = Annotated[
    str | None,
    typer.Option(
        help="Database to look at; without it sqlalchemy.url of alembic.ini, else the first that is "
        f"set of {', '.join(VARIABLES)}."
    ),
]
IsolationLevel = Literal["AUTOCOMMIT", "REPEATABLE READ"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

HAS = """
SELECT
    current_database()::text AS database,
    to_regnamespace('bridge') IS NOT NULL AS bridge,
    to_regclass('public.sessions') IS NOT NULL AS unified,
    ARRAY(
        SELECT name FROM unnest(ARRAY['workshop_students', 'student_configs']) AS name
        WHERE to_regclass('public.' || name) IS NOT NULL
    ) AS legacy
"""


def run(connection: Connection, sql: str) -> CursorResult[*tuple[Any, ...]]:
    """Execute SQL as it stands: no colon and no percent sign in it is a placeholder."""
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


def apply_settings(connection: Connection) -> None:
    """Give the session the settings that every run of the migration has."""
    run(connection, sql_text("session.sql"))


def revision_of(connection: Connection) -> str | None:
    """The revision that the database is at; None where Alembic has not been.

    Raises ConnectionProblem for a revision that this project does not have.
    """
    found = revisions_in(connection)
    if unknown := set(found) - set(known_revisions()):
        raise ConnectionProblem(
            f"{VERSION_TABLE} holds revision {', '.join(sorted(unknown))}, which this project does not "
            f"have; nothing was changed. {VERSION_TABLE_ADVICE}"
        )
    return found[0] if found else None


def revisions_in(connection: Connection) -> list[str]:
    """What the version table holds, known or not."""
    query = text("SELECT to_regclass(:name)")
    if connection.execute(query, {"name": VERSION_TABLE}).scalar() is None:
        return []
    return list(run(connection, f"SELECT version_num FROM {VERSION_TABLE} ORDER BY 1").scalars())


BY_HAND = """
SELECT name FROM unnest(ARRAY['students', 'sessions', 'step_progress', 'events']) AS name
WHERE to_regclass('public.' || name) IS NULL
UNION ALL
SELECT o.legacy_name FROM bridge.source AS o
WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = o.relation)
"""


def refuse_damage(connection: Connection) -> None:
    """Raise NotApplicable where a table that the bridge joins was dropped or renamed by hand."""
    if dropped := run(connection, BY_HAND).scalars().all():
        raise NotApplicable(
            f"{', '.join(dropped)}: the tables were dropped by hand; 'workshop status' says "
            "what that means, and the way back"
        )
    if renamed := misnamed(connection, revision_of(connection)):
        raise NotApplicable(
            f"a legacy name was changed by hand: {'; '.join(row['what'] for row in renamed)}; "
            "'workshop status' says what that means, and the way back"
        )


UNCHANGED = "Nothing was changed; put that right, then run this again."
COULD_NOT_TELL, COULD_NOT_DO = "error: could not tell", "error"


@contextmanager
def database(
    url: str | None,
    isolation_level: IsolationLevel,
    advice: str = UNCHANGED,
    prefix: str = COULD_NOT_TELL,
) -> Iterator[Connection]:
    """Yield a connection; whatever goes wrong with the database in the block ends the command.

    ``advice`` follows the reason: what was not changed, and what to do. ``prefix`` is
    ``COULD_NOT_DO`` for commands that do something instead of telling something.

    ``REPEATABLE READ`` sees one moment of the database, and is rolled back at the end.
    ``AUTOCOMMIT`` is for what takes longer: the old application runs ALTER TABLE on every save, and
    would wait for a transaction that has read its tables. The exit code of a failure is 2.
    """
    try:
        named = url or configuration().get_main_option("sqlalchemy.url")
        with connect(make_engine(resolve_url(named))) as connection:
            yield connection.execution_options(isolation_level=isolation_level)
    except NotApplicable as problem:
        give_up(str(problem), advice, COULD_NOT_DO)
    except ConnectionProblem as problem:
        give_up(str(problem), advice, prefix)
    except (DataError, IntegrityError) as error:
        # the server quotes the value that it objects to, which may be a secret
        kind = type(error.orig).__name__
        give_up(f"the server refused a value ({kind}); its log says which", advice, prefix)
    except DBAPIError as error:
        locked = isinstance(error.orig, psycopg.errors.LockNotAvailable)
        held = "somebody else holds a lock on a table: " if locked else ""
        give_up(held + explain(error), advice, prefix)


def passes(error: DBAPIError) -> bool:
    """True for trouble that says nothing about the data: a lock, a right, a full disk, a lost server."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(("08", "40", "42501", "53", "55", "57", "58"))


def give_up(reason: str, advice: str, prefix: str) -> NoReturn:
    """End the command: one line on stderr, exit code 2."""
    if "nothing was changed" not in reason.lower():
        reason = f"{reason.rstrip('.')}. {advice}"
    typer.echo(f"{prefix}: {reason}", err=True)
    raise typer.Exit(2)


def finish(report: Any, show: Callable[[Any, Console], None], as_json: bool, code: int) -> NoReturn:
    """Print a report, a dataclass, as JSON or for people; end the command with this exit code."""
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(code)


INTERRUPTED = (
    "interrupted. What was committed stays, and nothing is half done. Type the command again: it goes "
    "on, or begins anew"
)


def run_app(main: Callable[..., None]) -> None:
    """``typer.run``, with a help whose lines are as long as the terminal is wide.

    Ctrl-C ends it with one line on stderr and exit code 130.
    """

    @wraps(main)
    def interruptible(*args: Any, **options: Any) -> None:
        try:
            main(*args, **options)
        except KeyboardInterrupt:
            typer.echo(INTERRUPTED, err=True)
            raise typer.Exit(130) from None

    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(interruptible)
    app()


def console() -> Console:
    """A console on stdout, in colour only where that is a terminal."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show
    return Console(highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> Table:
    """A table of text and numbers; text may have markup, numbers stand to the right."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    rows = list(rows)
    for place, name in enumerate(columns):
        number = any(isinstance(row[place], int) for row in rows)
        made.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row))
    return made


def calculation(title: str, *lines: tuple[str, int, str]) -> Table:
    """Numbers that add up, ``(sign, number, what)`` a line; the result has the sign ``=``."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    made.add_column(justify="right")
    made.add_column(justify="right")
    made.add_column()
    for sign, number, what in lines:
        made.add_row(sign, f"{number:,}", what, style="bold" if sign == "=" else "")
    return made


def nonzero(*lines: tuple[str, int, str]) -> list[tuple[str, int, str]]:
    """Return the lines of a calculation whose number is not 0."""
    return [line for line in lines if line[1]]


class _Progress(logging.Handler):
    """Says what goes on, on stderr: one line that changes on a terminal, else one every 2 s."""

    def __init__(self, what: str) -> None:
        super().__init__(logging.INFO)
        out = Console(stderr=True, highlight=False)
        # the time goes on where a long statement says nothing
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        self.bar = Progress(*columns, console=out, transient=True) if out.is_terminal else None
        self.task = self.bar.add_task(escape(what)) if self.bar else None
        self.said = time.monotonic()

    def say(self, line: str) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=escape(line))
        elif time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            typer.echo(line, err=True)

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.getMessage())


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what goes on: what the block says, and the server's notices."""
    shown = _Progress(what)
    log = logging.getLogger("workshop.server")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(shown)
    try:
        with shown.bar or nullcontext():
            yield shown.say
    finally:
        log.removeHandler(shown)
        log.setLevel(level)


SECRETS = (
    (re.compile(r"sk-[\w-]{6,}"), "sk-..."),
    (re.compile(r"://\S*@"), "://***@"),
    (re.compile(r"\b(ws_\d+_|legacy-\S+?-\d)\w+(\w{4})\b"), r"...\2"),
)


def masked(value: str) -> str:
    """Free text without what looks like an API key, a password in a URL or a session token."""
    for pattern, instead in SECRETS:
        value = pattern.sub(instead, value)
    return value


def size_of(count: float) -> str:
    """Bytes for people."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:,.0f} {units[0]}"
