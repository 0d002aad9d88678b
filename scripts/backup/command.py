"""The command that makes a backup: dump, counts and checksums of one moment, then the proof."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, Engine, RowMapping

from scripts.backup import programs
from scripts.backup.manifest import Manifest, Refused, digest, publishing, refusing
from scripts.backup.proof import Place, prove
from scripts.backup.tables import PINNED, fingerprint, relations
from scripts.common.connection import ConnectionProblem, connect
from scripts.common.database import COULD_NOT_DO, Url, database, revision_of, run
from scripts.common.terminal import Json, console, progress, table

FACTS = """
SELECT current_database()::text AS database, current_setting('server_version') AS server,
       to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') AS day
"""
# The snapshot lives while pg_dump works: no timeout of role or server ends it.
NO_TIMEOUTS = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
SNAPSHOT = """
SELECT pg_export_snapshot() AS name, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at
"""
ROWS = "SELECT row_to_json(t)::text FROM ONLY {} AS t"
READ_ONLY = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class Format(StrEnum):
    """Format of the file: pg_dump's archive, SQL text for psql, or JSON."""

    custom = "custom"
    plain = "plain"
    json = "json"


NAMES = {
    Format.custom: "workshop-backup-{}{}.dump",
    Format.plain: "workshop-backup-{}{}.sql",
    Format.json: "backup-{}{}.json",
}


def make(
    connection: Connection, format: Format, file: Path | None, options: list[str]
) -> tuple[Path, Manifest]:
    """Write a backup of one moment, and return its manifest, which is not written yet.

    ``file`` None: a file of ``NAMES`` in the current folder, with the day of the server in UTC.
    Refused: the file exists. ConnectionProblem: the database cannot be dumped. Then no file was
    written.
    """
    run(connection, "SET idle_session_timeout = 0")  # the connection is idle while pg_dump works
    facts = run(connection, FACTS).mappings().one()
    major = programs.major_of(connection)
    folder = programs.programs_for(major)
    made_with, made_with_major = programs.version_of(folder / "pg_dump")
    file = file or _free_name(NAMES[format], facts["day"])
    manifest = Manifest(
        file=file.name,
        format=format.value,
        made_at="",
        database=facts["database"],
        server=facts["server"],
        server_major=major,
        revision=revision_of(connection),
        made_with=made_with,
        made_with_major=made_with_major,
        options=options,
    )
    with publishing(file) as out, _snapshot(connection.engine) as (snapshot, names):
        for path in (file, Manifest.path(file)):
            if path.exists():
                raise Refused(f"{path} exists. Nothing was overwritten: name another file")
        manifest.made_at = snapshot["at"]
        if not names:
            raise ConnectionProblem(f"database {facts['database']} has no table of the workshop")
        if format is Format.json:
            head = {
                "database": manifest.database,
                "revision": manifest.revision,
                "at": snapshot["at"],
            }
            out.write(json.dumps(head)[:-1].encode() + b', "tables": {')
        else:
            began = time.monotonic()
            settings = [f"--format={format}", f"--snapshot={snapshot['name']}"]
            settings += ["--no-subscriptions", "--lock-wait-timeout=5000"]
            programs.pg_dump(folder, connection.engine.url, settings + options, out)
            manifest.held_seconds = round(time.monotonic() - began, 2)
        _read(connection, snapshot["name"], names, manifest, out if format is Format.json else None)
    manifest.bytes, manifest.sha256 = file.stat().st_size, digest(file)
    return file, manifest


def _free_name(name: str, day: str) -> Path:
    files = (Path(name.format(day, f"_{n}" if n > 1 else "")) for n in count(1))
    return next(f for f in files if not f.exists() and not Manifest.path(f).exists())


@contextmanager
def _snapshot(engine: Engine) -> Iterator[tuple[RowMapping, list[str]]]:
    """Yield a snapshot's name and time, and the workshop's tables that it sees.

    The transaction of the snapshot locks none of them, because the application's ALTER TABLE would
    wait for it, and pg_dump for ALTER TABLE. pg_dump locks all tables while it runs; then each
    table is read alone.
    """
    with connect(engine) as keeper:
        keeper = keeper.execution_options(isolation_level="AUTOCOMMIT")
        run(keeper, READ_ONLY)
        run(keeper, NO_TIMEOUTS)
        snapshot = run(keeper, SNAPSHOT).mappings().one()
        yield snapshot, [r.quoted for r in relations(keeper) if r.ours and r.kind == "r"]
        run(keeper, "ROLLBACK")


def _read(
    connection: Connection,
    snapshot: str,
    names: list[str],
    manifest: Manifest,
    out: IO[bytes] | None,
) -> None:
    """Count and sum up each table of the snapshot; if there is an ``out``, write its rows."""
    for name in names:
        run(connection, f"{READ_ONLY}; SET TRANSACTION SNAPSHOT '{snapshot}'")
        run(connection, f"{PINNED}; SET LOCAL lock_timeout = '5s'")
        run(connection, NO_TIMEOUTS)
        if out:
            streamed = {"no_parameters": True, "stream_results": True}
            rows = connection.exec_driver_sql(ROWS.format(name), execution_options=streamed)
            out.write(f"{',' if manifest.tables else ''}\n{json.dumps(name)}: [".encode())
            for n, row in enumerate(rows.scalars()):
                out.write(f"{',' if n else ''}\n{row}".encode())
            out.write(b"]")
        manifest.tables[name] = fingerprint(connection, name)
        run(connection, "COMMIT")
    if out:
        out.write(b"}}\n")


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """End on a signal as well, so that the database of the proof is dropped."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show(file: Path, manifest: Manifest, out: Console) -> None:
    """Print the result for people."""
    out.print(
        f"Database {escape(manifest.database)}, revision {manifest.revision or '(base)'}, "
        f"PostgreSQL {escape(manifest.server)}\n"
    )
    rows = ((escape(name), told["rows"]) for name, told in manifest.tables.items())
    out.print(table("Counted, with a checksum", ("Table", "Rows"), rows))
    if manifest.format != Format.json:
        options = f", except for {escape(' '.join(manifest.options))}"
        out.print(f"\nIn the backup: the whole database{options if manifest.options else ''}.")
        out.print(
            f"pg_dump held ACCESS SHARE for {manifest.held_seconds} s: reads and writes continued, ALTER "
            "TABLE waited."
        )
    out.print(f"Backup:   {escape(str(file))} ({manifest.bytes:,} bytes), for its owner only")
    out.print(f"Manifest: {escape(str(Manifest.path(file)))}")
    verdict = "[green]PROVEN:[/]" if manifest.proven else "[red]NOT PROVEN:[/]"
    out.print(f"{verdict} {escape(manifest.proof)}")


def main(
    options: Annotated[
        list[str] | None, typer.Argument(help="After a --: more options for pg_dump.")
    ] = None,
    url: Url = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="File to write; default workshop-backup-YYYYMMDD.dump or .sql, backup-YYYYMMDD.json."
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="custom: pg_dump's archive. plain: SQL text for psql. json: the workshop's "
            "rows for reading only."
        ),
    ] = Format.custom,
    proving: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Restore it elsewhere, and compare.")
    ] = True,
    prove_on: Annotated[
        Place | None,
        typer.Option(
            help="Server of the proof: the same one, with a new database, or a throw-away one on this machine. "
            "Default: the same one, or a throw-away one if the role lacks the rights."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Back the database up into a file, and prove it by restoring it.

    A manifest beside it has row counts and checksums of the workshop's tables, of the same moment.
    Reads only; never overwrites a file. While pg_dump runs it holds ACCESS SHARE on all tables: an
    ALTER TABLE waits, and later statements wait behind it. Subscriptions are left out: a copy would
    receive the original's changes.

    Exits with 0 (proven, or made without a proof as asked), 1 (made, but the proof failed; or the
    file exists) or 2 (could not be made).

    Example: workshop backup --file before.dump

    Example: workshop backup --format plain -- --exclude-schema=auth --no-owner
    """
    asked = proving and format is not Format.json
    with (
        refusing(),
        _ending_in_order(),
        database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
        progress("backing up") as say,
    ):
        if options and not options[0].startswith("-"):
            raise Refused(
                f"{options[0]} is no option of pg_dump; --file {options[0]} names the file"
            )
        made, manifest = make(connection, format, file, options or [])
        manifest.proof = "it was interrupted" if asked else "not asked for"
        if format is Format.json:
            manifest.proof = "a JSON export cannot be restored"
        manifest.write(made)
        if asked:
            say("proving the backup: restoring it")
            manifest.proven, manifest.proof = prove(connection, made, manifest, prove_on)
            manifest.write(made)
    if as_json:
        shown: dict[str, Any] = {**asdict(manifest), "path": str(made)}
        typer.echo(json.dumps(shown, indent=2))
    else:
        show(made, manifest, console())
    raise typer.Exit(1 if asked and not manifest.proven else 0)
