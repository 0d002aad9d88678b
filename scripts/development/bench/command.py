"""The command: measure each size, print, and write the requested files."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from scripts.common.server import ServerUnavailable, embedded_server
from scripts.common.terminal import console, table
from scripts.development.bench.measure import DURABLE, Bench
from scripts.development.bench.report import budgets, plot, rows


def main(
    sessions: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of sessions; repeat it for several sizes."),
    ] = None,
    major: Annotated[int | None, typer.Option(help="PostgreSQL version, for instance 18.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every figure to this file.")
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw time against sessions (.svg; extra [bench])."),
    ] = None,
) -> None:
    """Migrate throw-away databases up and down, and compare the times with two baselines.

    Example: workshop bench --sessions 10000 --sessions 100000 --json bench.json
    """
    out = console()
    measured = []
    try:
        with embedded_server(major=major, settings=DURABLE) as server:
            for count in sessions or [10_000, 100_000]:
                figures = Bench(server, count, lambda text: typer.echo(text, err=True)).run()
                measured.append(figures)
                out.print(
                    table(
                        f"PostgreSQL {server.version}, {count:,} sessions, "
                        f"{'JIT on' if figures['jit'] else 'no JIT'}",
                        ("", "Seconds", "x floor", "Aim", "Sessions/s", "WAL, MB"),
                        rows(figures),
                    )
                )
                out.print(table("Budgets", ("", "Measured", "Budget", "Within"), budgets(figures)))
                out.print(
                    f"a write: {figures['a write without the bridge, ms']:.2f} ms without the bridge, "
                    f"{figures['a write carried over, ms']:.2f} ms applied at once; session_overview of one "
                    f"student: {figures['session_overview of one student, ms']:.2f} ms; temporary files: "
                    f"{figures['upgrade head: temporary bytes'] / 1e6:.0f} MB\n"
                )
    except ServerUnavailable as error:
        typer.echo(f"error: {escape(str(error))}", err=True)
        raise typer.Exit(2) from None
    if json_file is not None:
        json_file.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(measured, plot_file)
