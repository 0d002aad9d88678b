"""Restore: all of a backup or nothing.

Into an empty database; or, with --replace, instead of the existing tables. One transaction restores
and compares with the manifest; a difference rolls it back.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts.backup.manifest import Manifest, Refused, refusing
from scripts.backup.programs import ProgramFailed, major_of, play, programs_for, relations_in
from scripts.backup.tables import Relation, check_sql, created_by_revisions, relations
from scripts.common.database import COULD_NOT_DO, Url, database, run
from scripts.common.terminal import Json, console, progress, table

FUNCTIONS = """
SELECT oid::bigint AS oid, oid::regprocedure::text AS quoted FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND proname = ANY(CAST(:names AS text[]))
"""
KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}
HERE = Path(__file__).parent


@dataclass
class Plan:
    """The effect of a restore; it has happened if ``restored`` is true.

    ``tables`` maps a table to its rows in the manifest, None if not counted. ``replaced`` maps a
    table that is dropped to its present rows. ``stays`` is not in the backup.
    """

    file: str
    database: str
    made_at: str
    revision: str | None
    proven: bool
    tables: dict[str, int | None]
    replaced: dict[str, int]
    stays: list[str]
    restored: bool = False


def plan_for(
    connection: Connection, manifest: Manifest, name: str, there: list[Relation], inside: set[str]
) -> Plan:
    """Describe the effect of a restore; ``inside``: schema and name of the objects in the backup."""
    again = [r for r in there if f"{r.schema} {r.name}" in inside]
    gone = [r for r in there if r.ours or r in again]
    uncounted: dict[str, int | None] = {r.quoted: None for r in again if r.kind == "r"}
    return Plan(
        file=manifest.file,
        database=name,
        made_at=manifest.made_at,
        revision=manifest.revision,
        proven=manifest.proven,
        tables=uncounted | {name: told["rows"] for name, told in manifest.tables.items()},
        replaced={
            r.quoted: run(connection, f"SELECT count(*) FROM ONLY {r.quoted}").scalar_one()
            for r in gone
            if r.kind == "r"
        },
        stays=[r.quoted for r in there if r not in gone and r.kind in KINDS],
    )


def refuse_used(manifest: Manifest, name: str, there: list[Relation]) -> None:
    """Raise Refused if a schema that the backup fills has a table or a view already."""
    schemas = {"public", *(name.partition(".")[0] for name in manifest.tables)}
    if used := [r.quoted for r in there if r.schema in schemas]:
        more = f" and {len(used) - 5} more" if len(used) > 5 else ""
        raise Refused(
            f"database {name} is not empty: {', '.join(used[:5])}{more} are in it. Nothing was "
            "changed. Restore into an empty database (createdb, then --url), or replace them (--replace)"
        )


def replacing(connection: Connection, there: list[Relation]) -> str:
    """Return SQL that drops everything of the workshop, so that the names of any revision are free.

    pg_restore's own --clean drops only what the backup has; objects of a later revision would stay
    or collide. CASCADE, because the order differs at each revision; kept.sql refuses at the end if
    it dropped anything that is not the workshop's.
    """
    ours = [r for r in there if r.ours]
    names = {"names": created_by_revisions("FUNCTION")}
    functions = connection.execute(text(FUNCTIONS), names).mappings().all()
    drops = ["DROP SCHEMA bridge CASCADE;"] if any(r.schema == "bridge" for r in ours) else []
    drops += [
        f"DROP {KINDS[r.kind]} IF EXISTS {r.quoted} CASCADE;"
        for r in ours
        if r.schema != "bridge" and r.kind in KINDS
    ]
    drops += [f"DROP ROUTINE IF EXISTS {f['quoted']} CASCADE;" for f in functions]
    remember = (
        (HERE / "replace.sql")
        .read_text(encoding="utf-8")
        .format(
            relations=",".join(str(r.oid) for r in ours),
            functions=",".join(str(f["oid"]) for f in functions),
        )
    )
    return "\n".join(["SET LOCAL lock_timeout = '5s';", remember, *drops])


def describe(plan: Plan, out: Console) -> None:
    """Print the plan for people."""
    proven = "proven" if plan.proven else "[red]not proven[/]"
    out.print(
        f"Backup {escape(plan.file)}: made {plan.made_at}, revision {plan.revision or '(base)'}, {proven}"
    )
    out.print(f"Into database {escape(plan.database)}\n")
    names = sorted({*plan.tables, *plan.replaced})
    counted = {n: "not counted" if rows is None else rows for n, rows in plan.tables.items()}
    columns: tuple[str, ...] = ("Table", "Rows in the backup")
    rows: list[tuple[str | int, ...]] = [(escape(n), counted.get(n, "-")) for n in names]
    if plan.replaced:
        columns += ("Rows now, to be dropped",)
        rows = [(*row, plan.replaced.get(n, "-")) for row, n in zip(rows, names, strict=True)]
    out.print(table("Tables", columns, rows))
    if plan.replaced:
        out.print(
            "\nTheir triggers, views and functions are dropped too. Then all of the backup is created."
        )
    if plan.stays:
        out.print(f"Not in the backup, unchanged: {escape(', '.join(plan.stays))}")
    if plan.restored:
        told = [rows for rows in plan.tables.values() if rows is not None]
        out.print(
            f"\n[green]RESTORED:[/] {len(told)} tables of the workshop, {sum(told):,} rows, each as the "
            "manifest says"
        )


def main(
    file: Annotated[Path, typer.Argument(help="The backup; its manifest has to be beside it.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="After a --: more options for pg_restore.")
    ] = None,
    url: Url = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Drop the objects of the workshop and of the backup, then restore: see --confirm.",
        ),
    ] = False,
    confirm: Annotated[
        str,
        typer.Option(
            help="With --replace: the name of the database. Without it the effect is only described."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Restore a backup: into an empty database, or instead of the existing tables.

    All in one transaction, which compares every row of the workshop's tables with the manifest
    before it commits. To compare a backup with the tables in use, restore it into another database.

    Exits with 0 (restored), 1 (refused or failed, nothing was changed) or 2 (unknown).

    Example: workshop restore before.dump --url postgresql://localhost/an_empty_database

    Example: workshop restore before.dump --replace --confirm workshop -- --no-owner --no-privileges
    """
    with refusing():
        manifest = Manifest.of(file)
        if manifest.format == "json":
            raise Refused(
                "a JSON export is for reading only. Nothing was changed; name a "
                "custom or a plain backup"
            )
        if manifest.format == "plain" and (options or replace):
            raise Refused(
                "pg_restore cannot read a plain backup. Nothing was changed; restore it into an empty "
                "database, without options"
            )
        with (
            database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
            progress("restoring, and comparing with the manifest"),
        ):
            plan = restore(connection, file, manifest, options or [], replace, confirm)
        if as_json:
            typer.echo(json.dumps(asdict(plan), indent=2))
        else:
            describe(plan, console())
        if not plan.restored:
            raise Refused(
                "not confirmed, nothing was changed. To drop these tables: --replace --confirm "
                f"{plan.database}"
            )


def restore(
    connection: Connection,
    file: Path,
    manifest: Manifest,
    options: list[str],
    replace: bool,
    confirm: str,
) -> Plan:
    """Restore a backup; refuse to drop anything without a confirmation.

    Raises Refused if the database is in use, or the restore fails; then nothing was changed.
    """
    run(connection, "SET search_path = pg_catalog")
    name, major = (
        run(connection, "SELECT current_database()::text").scalar_one(),
        major_of(connection),
    )
    programs = programs_for(max(major, manifest.made_with_major))
    there = relations(connection)
    before, after = "", check_sql(manifest.tables)
    try:
        inside = relations_in(programs, file) if replace else set()
        if not replace:
            refuse_used(manifest, name, there)
        plan = plan_for(connection, manifest, name, there, inside)
        if replace and there:
            if confirm != plan.database:
                return plan
            before = replacing(connection, there)
            after += (HERE / "kept.sql").read_text(encoding="utf-8")
            options = ["--clean", "--if-exists", *options]
        pg_restore = options if manifest.format == "custom" else None
        play(programs, connection.engine.url, major, file, pg_restore, before, after=after)
    except ProgramFailed as error:
        hint = "; -- --no-owner --no-privileges leaves owners and grants out"
        raise Refused(
            f"the restore failed and was rolled back. Nothing was changed: {error}"
            f"{hint if 'role ' in str(error) else ''}"
        ) from None
    plan.restored = True
    return plan
