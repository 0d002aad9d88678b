"""The status report, and its print."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from scripts.common.terminal import table


@dataclass
class Status:
    """``problems`` need the operator; ``commands`` are those of ``next``, in order, for a shell.

    ``columns_changed`` names legacy tables with changed columns or keys that the bridge does not know yet. ``rows``
    counts the legacy tables before 0001; None: there is no such table.
    """

    database: str
    revision: str | None
    head: str
    stage: str = ""
    next: str = ""
    commands: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    migrator: dict[str, Any] | None = None
    merge: dict[str, int] = field(default_factory=dict)
    syncs_at_once: bool = False
    read_only: bool = False
    pending: dict[str, int] = field(default_factory=dict)
    drift: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    tables: dict[str, str] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)
    columns_changed: list[str] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: done; 1: more to do; 2: the operator has to act."""
        if self.problems:
            return 2
        waiting = any(self.pending.values()) or any(self.drift.values())
        return 1 if waiting or self.migrator or self.revision != self.head else 0


def _pids(waits_for: list[int]) -> str:
    """Return the pids of the blocking sessions; 0 is a prepared transaction."""
    return ", ".join(str(pid) if pid else "a prepared transaction" for pid in waits_for)


def _facts(status: Status) -> Iterator[tuple[str, str | int]]:
    yield "Stage", escape(status.stage)
    if status.migrator:
        pid, since = status.migrator["pid"], status.migrator["since"]
        waits = _pids(status.migrator["waits_for"])
        yield (
            "Migrator",
            f"running, pid {pid}, since {since}{f', waits for {waits}' if waits else ''}",
        )
    if status.merge:
        yield "Merged so far", f"{status.merge['done']:,} of {status.merge['total']:,} sessions"
    for name, rows in status.rows.items():
        yield name, "not there" if rows is None else f"{rows:,} rows"
    for name, relation in status.tables.items():
        gone = relation.isdigit()  # only its oid is left
        view = "dropped by hand" if gone else f"a view over {escape(relation)}"
        if name in status.misnamed:
            view = f"not the table that the bridge knows, which is {escape(relation)}"
        yield name, "in use" if relation == name else view
    if status.pending:
        mode = "at once" if status.syncs_at_once else "with the next revision"
        yield "Writes are applied", mode
        yield "Logged: written to the legacy tables", status.pending["legacy"]
        yield "Logged: written to the unified tables", status.pending["unified"]
    if status.drift:
        yield "Sessions that only the legacy tables have", status.drift["not_in_unified"]
        yield "Sessions that only the unified tables have", status.drift["not_in_legacy"]
    if status.tables:
        # a downgrade adds those of students and events: rollback_check counts them
        yield "Overrides", status.kept
    if status.read_only:
        yield "Unified tables", "read-only: a downgrade has begun"


def show(status: Status, out: Console) -> None:
    """Print the status for people."""
    out.print(
        f"Database {escape(status.database)}, revision {escape(status.revision or '(base)')}\n"
    )
    out.print(table("State", ("What", ""), ((a, f"{b}") for a, b in _facts(status))))
    out.print()
    if status.locks:
        out.print(
            table(
                "Locks on the legacy tables",
                ("Table", "Mode", "Held", "Pid", "Application", "User", "Seconds"),
                (
                    (
                        escape(k["table"]),
                        k["mode"],
                        "yes" if k["granted"] else f"[red]waits for {_pids(k['waits_for'])}[/]",
                        str(k["pid"] or "-"),
                        escape(k["application"]),
                        escape(k["user"] or "-"),
                        str(k["seconds"]),
                    )
                    for k in status.locks
                ),
            )
        )
        out.print()
        for ended_by in sorted({k["ended_by"] for k in status.locks if k["ended_by"]}):
            out.print(
                f"[red]NOTE:[/] a prepared transaction keeps its locks until it is ended. {escape(ended_by)} "
                "undoes it, COMMIT PREPARED keeps it",
                soft_wrap=True,
            )
    for warning in status.warnings:
        out.print(f"[red]NOTE:[/] {escape(warning)}", soft_wrap=True)
    for problem in status.problems:
        out.print(f"[red]PROBLEM:[/] {escape(problem)}")
    if status.problems and status.commands:
        out.print("Next:")
        for command in status.commands:
            out.print(f"    {escape(command)}", soft_wrap=True)
    else:
        out.print(f"Next: {escape(status.next)}", soft_wrap=True)
