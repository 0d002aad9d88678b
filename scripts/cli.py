"""``workshop``: the project's commands under one name, in the order of docs/guide.md.

Each module is imported when its command runs: the list needs no module, and no command needs the
packages of another one.
"""

import sys
from importlib import import_module
from typing import Any, NamedTuple

try:
    import typer
    from typer.core import TyperCommand, TyperGroup
except ImportError:
    print(
        "error: the commands need the packages of an extra. Nothing was changed; run "
        "pip install --editable '.[scripts]' in the project's folder",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

STEPS, DEVELOPMENT = "The guide's steps", "Development"


class Entry(NamedTuple):
    """The module of a command, and its line in the list."""

    module: str
    summary: str
    panel: str = STEPS


COMMANDS = {
    "status": Entry(
        "scripts.commands.status", "Show where the migration stands, and the next command."
    ),
    "backup": Entry("scripts.backup", "Step 1: dump the database, and prove the dump."),
    "dry-run": Entry(
        "scripts.commands.dry_run", "Step 3: show what the migration would do; change nothing."
    ),
    "verify": Entry(
        "scripts.commands.verify", "Step 5: check that every row and every value has arrived."
    ),
    "dashboard": Entry("scripts.dashboard", "Step 5: write the dashboard as a page, or serve it."),
    "merge": Entry(
        "scripts.commands.merge", "Merge the legacy tables again, where something is missing."
    ),
    "drop-backups": Entry(
        "scripts.backup.drop_backups", "After 30 days: drop the legacy tables for good."
    ),
    "rollback-check": Entry(
        "scripts.commands.rollback_check", "Going back: show what a downgrade would do."
    ),
    "restore": Entry(
        "scripts.backup.restore", "Going back: restore a backup, all of it or nothing."
    ),
    "demo": Entry(
        "scripts.development.demo",
        "Migrate a made-up database on a throw-away server.",
        DEVELOPMENT,
    ),
    "sample-data": Entry(
        "scripts.development.sample_data", "Fill a database with a made-up workshop.", DEVELOPMENT
    ),
    "server": Entry(
        "scripts.development.server", "Start and stop a throw-away PostgreSQL server.", DEVELOPMENT
    ),
    "bench": Entry(
        "scripts.development.bench", "Measure the migration on a throw-away server.", DEVELOPMENT
    ),
    "diagram": Entry(
        "scripts.development.diagram", "Print the diagram of the unified tables.", DEVELOPMENT
    ),
}

INTERRUPTED = (
    "interrupted. What was committed stays, and nothing is half done. Run the command again: it "
    "continues, or begins anew"
)


class _Listed(TyperCommand):
    """A command in the list; its module is imported when a context for it is made."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(
            name, help=entry.summary, rich_help_panel=entry.panel, rich_markup_mode="markdown"
        )
        self.entry = entry

    def make_context(self, *args: Any, **options: Any) -> Any:
        module = import_module(self.entry.module)
        app = getattr(module, "app", None)
        if not isinstance(app, typer.Typer):
            app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
            app.command(self.name)(module.main)
        return typer.main.get_command(app).make_context(*args, **options)


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        listed = {name: _Listed(name, entry) for name, entry in COMMANDS.items()}
        super().__init__(**attributes | {"commands": listed})

    def invoke(self, ctx: Any) -> Any:
        """End with one line on stderr and exit code 130 at Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo(INTERRUPTED, err=True)
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Commands, rich_markup_mode="markdown", no_args_is_help=True)


@app.callback()
def _workshop() -> None:
    """Migrate the workshop database: docs/guide.md, step by step.

    Steps 2, 4 and 7 are **alembic upgrade**. Each command has **--help** with an example, and ends
    with 0 (fine), 1 (not fine) or 2 (unknown, or not possible).
    """


def workshop(*words: str) -> None:
    """Run the command line."""
    app(args=[*words, *sys.argv[1:]], prog_name="workshop")
