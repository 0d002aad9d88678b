"""Output of the commands: tables, calculations, JSON, progress; never a secret.

Exit codes: 0 (fine), 1 (not fine) or 2 (unknown, or not possible).
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def finish(report: Any, show: Callable[[Any, Console], None], as_json: bool, code: int) -> NoReturn:
    """Print a report, a dataclass, as JSON or for people; end the command with this exit code."""
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        show(report, console())
    raise typer.Exit(code)


def console() -> Console:
    """Return a console on stdout, in colour only on a terminal."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show
    return Console(highlight=False)


class _Table:
    """A table that breaks lines between words; if words need more room, a list of its rows."""

    def __init__(self, title: str, columns: Sequence[str], rows: list[Sequence[str | int]]) -> None:
        self.title, self.columns, self.rows = title, columns, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.from_markup(self.title, style="bold")
        widths = self._widths(console, options)
        yield self._grid(widths) if widths else self._list()

    def _widths(self, console: Console, options: ConsoleOptions) -> list[int]:
        """Return a width for each column, or None if a word would have to be broken."""
        room = options.max_width - 3 * len(self.columns) + 1
        cells = [Text("\n").join(_text(row[place]) for row in [self.columns, *self.rows])
                 for place in range(len(self.columns))]  # fmt: skip
        sizes = [Measurement.get(console, options, cell) for cell in cells]
        for most in range(room, 0, -1):  # short columns get their width, long ones an equal share
            widths = [min(size.maximum, max(size.minimum, most)) for size in sizes]
            if sum(widths) <= room:
                return widths
        return []

    def _grid(self, widths: list[int]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, show_edge=False)
        for place, (name, width) in enumerate(zip(self.columns, widths, strict=True)):
            number = any(isinstance(row[place], int) for row in self.rows)
            made.add_column(name, justify="right" if number else "left", width=width)
        for row in self.rows:
            made.add_row(*map(_text, row))
        return made

    def _list(self) -> Table:
        made = Table.grid(padding=(0, 2, 0, 1))
        made.add_column(style="dim")
        made.add_column(overflow="fold")
        for row in self.rows:
            for name, value in zip(self.columns, row, strict=True):
                made.add_row(name, _text(value))
            made.add_row()
        return made


def _text(value: str | int) -> Text:
    return Text.from_markup(f"{value:,}" if isinstance(value, int) else value)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str | int]]
) -> RenderableType:
    """Return a table of text and numbers; text may have markup, numbers are right-aligned."""
    return _Table(title, columns, list(rows))


def calculation(title: str, *lines: tuple[str, int, str]) -> Table:
    """Return numbers that add up, ``(sign, number, what)`` in each line; the result has the sign ``=``."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    made.add_column(justify="right")
    made.add_column(justify="right")
    made.add_column()
    for sign, number, what in lines:
        made.add_row(sign, f"{number:,}", what, style="bold" if sign == "=" else "")
    return made


def nonzero(*lines: tuple[str, int, str]) -> list[tuple[str, int, str]]:
    """Return the lines of a calculation with a number other than 0."""
    return [line for line in lines if line[1]]


class _Progress(logging.Handler):
    """Shows progress on stderr: one line that changes on a terminal, else one every 2 s."""

    def __init__(self, what: str) -> None:
        super().__init__(logging.INFO)
        out = Console(stderr=True, highlight=False)
        # the clock runs on during a long statement without messages
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
    """Show progress on stderr: messages of the block, and the server's notices."""
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
    """Mask API keys, passwords in URLs and session tokens in free text."""
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
