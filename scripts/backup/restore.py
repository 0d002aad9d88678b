"""Restore all of a backup or nothing: into an empty database, or (--replace) instead of its tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from sqlalchemy import Connection, Row

from scripts.backup.manifest import Manifest
from scripts.backup.programs import ProgramFailed, play, relations_in
from scripts.backup.tables import FUNCTIONS, RELATIONS, relations
from scripts.common.database import COULD_NOT_DO, Refused, Url, apply_settings, database, run
from scripts.common.project import sql_text
from scripts.common.terminal import console, progress, table


def restore(
    connection: Connection, file: Path, options: list[str], replace: bool, confirm: str
) -> None:
    """Restore a backup, and print its effect.

    Refused if the database is in use, the replacement is not confirmed, or the restore fails.
    """
    apply_settings(connection)
    name = run(connection, "SELECT current_database()::text").scalar_one()
    manifest, there = Manifest.of(file), relations(connection)
    before = after = ""
    if manifest.format != "custom" and (options or replace or manifest.format == "json"):
        raise Refused(
            f"pg_restore cannot read a {manifest.format} backup. Nothing was changed; restore a plain "
            "one into an empty database, without options. A JSON export is for reading only"
        )
    if replace:
        describe(connection, manifest, there, relations_in(file, manifest))
        if confirm != name:
            raise Refused(
                f"not confirmed, nothing was changed. To drop these tables: --replace --confirm {name}"
            )
        drop = Path(__file__).with_name("replace.sql").read_text(encoding="utf-8")
        drop = drop.format(relations=RELATIONS, functions=FUNCTIONS)
        before, after = f"{sql_text('session.sql')};\n{drop}", "SELECT pg_temp.refuse_loss();"
        options = ["--clean", "--if-exists", *options]
    elif used := [r.quoted for r in there if r.ours or r.listed.startswith("public ")]:
        raise Refused(
            f"database {name} is not empty: {', '.join(used[:5])}{' ...' if used[5:] else ''}. Nothing was "
            "changed. Restore into an empty database (createdb, then --url), or replace them (--replace)"
        )
    try:
        with progress("restoring, and comparing with the manifest"):
            play(connection.engine.url, file, manifest, options, before, after)
    except ProgramFailed as error:
        hint = "; -- --no-owner --no-privileges leaves owners and grants out"
        raise Refused(
            f"the restore failed and was rolled back. Nothing was changed: {error}"
            f"{hint if 'role ' in str(error) else ''}"
        ) from None
    rows = [entry["rows"] for entry in manifest.tables.values()]
    console().print(
        f"[green]RESTORED:[/] the backup of {manifest.made_at}, revision {manifest.revision or '(base)'}: "
        f"{len(rows)} tables of the workshop, {sum(rows):,} rows, each as the manifest says"
    )


def describe(
    connection: Connection, manifest: Manifest, there: Sequence[Row[Any]], inside: set[str]
) -> None:
    """Print what a replacement drops; ``inside`` are the names in the backup."""
    gone = [r for r in there if r.ours or r.listed in inside]
    stays = [r.quoted for r in there if r not in gone and r.kind != "S"]
    rows = []
    for r in (r for r in gone if r.kind == "r"):
        now = run(connection, f"SELECT count(*) FROM ONLY {r.quoted}").scalar_one()
        told = manifest.tables.get(r.quoted, {"rows": "not counted" if r.listed in inside else "-"})
        rows.append((escape(r.quoted), told["rows"], now))
    out = console()
    proven = "proven" if manifest.proven else "[red]not proven[/]"
    revision = manifest.revision or "(base)"
    out.print(f"Backup of {manifest.made_at}, revision {revision}, {proven}\n")
    out.print(table("Tables", ("Table", "Rows in the backup", "Rows now, to be dropped"), rows))
    out.print(
        "\nTheir triggers, views and functions are dropped too. Then all of the backup is created."
    )
    if stays:
        out.print(f"Not in the backup, unchanged: {escape(', '.join(stays))}")


def main(
    file: Annotated[Path, typer.Argument(help="The backup; its manifest has to be beside it.")],
    options: Annotated[list[str] | None, typer.Argument(help="After a --: for pg_restore.")] = None,
    url: Url = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the workshop's objects and the backup's first.")
    ] = False,
    confirm: Annotated[str, typer.Option(help="With --replace: the database's name.")] = "",
) -> None:
    """Restore a backup: into an empty database, or instead of the existing tables.

    All in one transaction, which compares every row of the workshop's tables with the manifest
    before it commits. --replace without --confirm only shows what it would drop.

    Exits with 0 (restored), 1 (refused or failed, nothing was changed) or 2 (unknown).

    Example: workshop restore before.dump --url postgresql://localhost/an_empty_database

    Example: workshop restore before.dump --replace --confirm workshop -- --no-owner --no-privileges
    """
    with database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection:
        restore(connection, file, options or [], replace, confirm)
