"""Figures and aims of a benchmark: tables and a plot."""

from collections.abc import Iterator
from pathlib import Path

from scripts.development.bench.measure import Figures

BASELINES = ("floor", "one-shot")
TARGETS = {
    "upgrade head": 5.0,
    "merge, keys and indexes": 3.0,
    "verify": 1.0,
    "second merge": 0.5,
    "downgrade base": 1.0,
}
"""Aims, as multiples of the floor."""


BUDGETS = {
    "upgrade head / one-shot": 2.3,
    "lines of the script": 4_000,
    "lines of SQL of 0003, 0004 and 0007": 2_500,
    "functions and procedures of the bridge": 65,
    "its views": 12,
    "its tables": 6,
    "memory of a backend, bytes": 150e6,
}
"""Upper limits."""


def budgets(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows of the table: name, figure, budget, and whether the figure is within it."""
    for name, budget in BUDGETS.items():
        found = figures[name]
        measured, most = (f"{n / 1e6:,.0f} MB" if n > 1e6 else f"{n:,.1f}" for n in (found, budget))
        within = "yes" if found <= budget else "[red]NO[/]"
        yield name.removesuffix(", bytes"), measured, most, within


def rows(figures: Figures) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yield rows of the table: name, seconds, multiple of the floor, aim, sessions a second, WAL."""
    figures["merge, keys and indexes"] = figures["merge alone"] + figures["keys and indexes"]
    for name in BASELINES:
        yield name, f"{figures[name]:.2f}", f"{figures[name] / figures['floor']:.1f}", "", "", ""
    for name, aim in TARGETS.items():
        seconds = figures[name]
        wal = figures.get(f"{name}: WAL bytes")
        yield (
            name,
            f"{seconds:.2f}",
            f"{seconds / figures['floor']:.1f}",
            f"{aim:.1f}",
            f"{figures['sessions'] / seconds:,.0f}",
            "" if wal is None else f"{wal / 1e6:,.1f}",
        )


def plot(measured: list[Figures], path: Path) -> None:
    """Plot time against the number of sessions, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = [f["sessions"] for f in measured]
    for name in (*BASELINES, *TARGETS):
        axes.plot(
            sizes,
            [f[name] for f in measured],
            marker="o",
            linewidth=3 if name in BASELINES else 1.5,
            color={"floor": "black", "one-shot": "gray"}.get(name),
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="sessions", ylabel="seconds")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
