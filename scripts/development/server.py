"""Start and stop a throw-away server from a shell."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.common.server import ServerUnavailable, start_server, stop_server

app = typer.Typer(
    help="Start and stop a throw-away PostgreSQL server. Example: workshop server start",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def start(
    major: Annotated[int | None, typer.Option(help="PostgreSQL version, for example 18.")] = None,
) -> None:
    """Start a server that keeps running, and print its URL and the command that stops it."""
    try:
        server = start_server(major=major, stop_at_exit=False)
    except ServerUnavailable as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(server.url("postgres"))
    typer.echo(f"stop it with: workshop server stop {server.data_dir}", err=True)


@app.command()
def stop(
    data_dir: Annotated[Path, typer.Argument(help="The server's folder, as the start printed it.")],
) -> None:
    """Stop a server and remove its folder with all files."""
    try:
        stop_server(data_dir)
    except (ServerUnavailable, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
