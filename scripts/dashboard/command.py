"""The command: write the page, or serve it."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.common.database import COULD_NOT_DO, Url, give_up
from scripts.common.terminal import progress
from scripts.dashboard.data import read
from scripts.dashboard.page import check_target, render, write


def main(
    url: Url = None,
    out: Annotated[Path, typer.Option(help="File to write; replaces an earlier dashboard.")] = Path(
        "dashboard.html"
    ),
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it live behind ADMIN_PASSWORD instead.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free port.")] = 8765,
) -> None:
    """Write the instructor's dashboard: one HTML page that needs no network.

    The page holds names and addresses, but no key, no prompt and no whole token. Only its owner can
    read the file (mode 0600). It replaces an earlier dashboard, but no other file. With --serve, a
    server shows the present state of the database to users with ADMIN_PASSWORD.

    Exits with 0 (written, and every check holds), 1 (written, and it shows a failed check) or 2
    (not written).

    Example: workshop dashboard --out dashboard.html

    Example: ADMIN_PASSWORD=... workshop dashboard --serve --port 8080
    """
    if serve:
        _serve(url, host, port)
    else:
        _write(url, out)


def _serve(url: str | None, host: str, port: int) -> None:
    try:
        from scripts.dashboard import server
    except ModuleNotFoundError as error:
        give_up(
            f"--serve needs {error.name}",
            "Nothing is served; run pip install -e '.[serve]' in the project's folder",
            COULD_NOT_DO,
        )
    server.serve(url, host, port)


def _write(url: str | None, out: Path) -> None:
    try:
        check_target(out)
        with progress("reading the database") as say:
            data, facts = read(url, verified=True, say=say)
        page, _ = render(data)
        write(out, page)
    except OSError as error:
        give_up(
            f"the page was not written: {error}",
            "Nothing was changed; name another --out",
            COULD_NOT_DO,
        )
    checked, rows = facts["migration"]["verification"], dict(facts["after"])
    size = len(page.encode()) / 1e6
    typer.echo(
        f"{out}: {rows['sessions']:,} sessions of {rows['students']:,} students, {size:.1f} MB"
    )
    if "problem" in checked:
        typer.echo(f"not verified: {checked['problem']}")
    elif not checked["ok"]:
        typer.echo("NOT OK: a check does not hold; the page and workshop verify show which")
    raise typer.Exit(0 if checked.get("ok") else 1)
