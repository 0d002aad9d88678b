"""Make a backup: dump, counts and checksums of one moment. Prove it: restore it elsewhere, and compare."""

import json
import secrets
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from scripts.backup.manifest import Manifest, digest, new_file
from scripts.backup.programs import NO_TIMEOUTS, connection_of, play, run_program
from scripts.backup.tables import PINNED, fingerprint, relations
from scripts.common.connection import ConnectionProblem, connect, explain, make_engine, resolve_url
from scripts.common.database import (
    COULD_NOT_DO,
    Refused,
    Url,
    apply_settings,
    database,
    revision_of,
    run,
)
from scripts.common.programs import client_programs, major_of
from scripts.common.server import ServerUnavailable, embedded_server
from scripts.common.terminal import Json, finish, progress, table

Format = Literal["custom", "plain", "json"]
NAMES: dict[Format, str] = {
    "custom": "workshop-backup-{}.dump",
    "plain": "workshop-backup-{}.sql",
    "json": "backup-{}.json",
}
Place = Literal["same", "embedded"]

# A plain file sets owners, so its role has to be a member of each.
HERE = """
SELECT (r.rolsuper OR r.rolcreatedb AND {}) AND NOT pg_is_in_recovery() AS able,
       format('LC_COLLATE %L LC_CTYPE %L', d.datcollate, d.datctype) AS locale
FROM pg_roles AS r, pg_database AS d WHERE r.rolname = current_user AND d.datname = current_database()
"""
# A plain file names owners, which a throw-away server lacks at first.
ROLES = "SELECT format('CREATE ROLE %I', rolname) FROM pg_roles WHERE rolname !~ '^(pg_|postgres$)'"
FACTS = """
SELECT pg_export_snapshot() AS snapshot, current_database()::text AS database,
       current_setting('server_version') AS server,
       current_setting('server_version_num')::integer / 10000 AS major,
       to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS made_at
"""
ROWS = "SELECT coalesce(json_agg(t), '[]')::text FROM ONLY {} AS t"


def make(
    connection: Connection, format: Format, file: Path | None, options: list[str]
) -> tuple[Path, Manifest]:
    """Write a backup of one moment, and return it with its manifest, which is not written yet.

    Refused: the file exists. ConnectionProblem: the database cannot be dumped. Then no file was
    written.
    """
    apply_settings(connection)
    run(connection, NO_TIMEOUTS)
    revision = revision_of(connection)
    # The transaction holds no lock while pg_dump starts: the application's ALTER TABLE would wait
    # for it, and pg_dump for ALTER TABLE.
    run(connection, f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {PINNED}")
    facts = dict(run(connection, FACTS).mappings().one())
    snapshot, major = facts.pop("snapshot"), facts.pop("major")
    names = [r.quoted for r in relations(connection) if r.ours and r.kind == "r"]
    if not names:
        raise ConnectionProblem(f"database {facts['database']} has no table of the workshop")
    file = file or Path(NAMES[format].format(facts["made_at"][:10].replace("-", "")))
    if there := [path for path in (file, Manifest.path(file)) if path.exists()]:
        raise Refused(f"{there[0]} exists. Nothing was overwritten: name another file")
    programs = client_programs(major)
    version = major_of(programs / "pg_dump")
    manifest = Manifest(
        file.name, format, revision=revision, made_with_major=version, options=options, **facts
    )
    with new_file(file) as out:
        if format != "json":
            to_it, environ = connection_of(connection.engine.url)
            settings = [to_it, "-w", f"--format={format}", f"--snapshot={snapshot}"]
            settings += ["--no-subscriptions", "--lock-wait-timeout=5000", *options]
            began = time.monotonic()
            run_program(f"{programs}/pg_dump", *settings, stdout=out, env=environ)
            manifest.held_seconds = round(time.monotonic() - began, 2)
        _read(connection, names, manifest, out)
    run(connection, "COMMIT")
    manifest.sha256 = digest(file)
    return file, manifest


def _read(connection: Connection, names: list[str], manifest: Manifest, out: IO[bytes]) -> None:
    """Count and sum up each table; write the rows of all, if the format is JSON."""
    rows = []
    for name in names:
        run(connection, "SAVEPOINT one_table")
        manifest.tables[name] = fingerprint(connection, name)
        if manifest.format == "json":
            rows.append(f"{json.dumps(name)}: {run(connection, ROWS.format(name)).scalar_one()}")
        run(connection, "ROLLBACK TO one_table")  # frees the lock
    if manifest.format == "json":
        tables = ",\n".join(rows)
        out.write(f'{{"tables": {{\n{tables}}}}}\n'.encode())


def prove(connection: Connection, file: Path, manifest: Manifest, place: Place | None) -> None:
    """Restore a backup elsewhere, compare it with its manifest, and note the result there."""
    here = run(connection, HERE.format(manifest.format == "custom")).one()
    where = "the same server"
    try:
        if (place or ("same" if here.able else "embedded")) == "same":
            _restore(connection, here.locale, file, manifest)
        else:
            where = "a throw-away server"
            with (
                embedded_server() as server,
                connect(make_engine(resolve_url(server.url("postgres")))) as other,
            ):
                other = other.execution_options(isolation_level="AUTOCOMMIT")
                for role in run(connection, ROLES).scalars():
                    run(other, role)
                _restore(other, "", file, manifest)
        manifest.proven, manifest.proof = True, f"restored on {where}, with the same rows"
    except (ConnectionProblem, ServerUnavailable, DBAPIError) as error:
        reason = explain(error) if isinstance(error, DBAPIError) else error
        manifest.proof = f"it could not be restored: {reason}"


def _restore(connection: Connection, locale: str, file: Path, manifest: Manifest) -> None:
    """Restore it into a new database of that server, which is dropped at the end."""
    name = f"workshop_backup_proof_{secrets.token_hex(4)}"
    options = ["--no-owner", "--no-privileges"]
    run(connection, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}")
    try:
        play(connection.engine.url.set(database=name), file, manifest, options, "", "")
    finally:
        run(connection, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def show(file: Path, manifest: Manifest, out: Console) -> None:
    """Print the result for people."""
    out.print(
        f"Database {escape(manifest.database)}, revision {manifest.revision or '(base)'}, "
        f"PostgreSQL {escape(manifest.server)}\n"
    )
    rows = ((escape(name), entry["rows"]) for name, entry in manifest.tables.items())
    out.print(table("Counted, with a checksum", ("Table", "Rows"), rows))
    out.print(f"Backup:   {escape(str(file))} ({file.stat().st_size:,} bytes), for its owner only")
    out.print(f"Manifest: {escape(str(Manifest.path(file)))}")
    verdict = "[green]PROVEN:[/]" if manifest.proven else "[red]NOT PROVEN:[/]"
    out.print(f"{verdict} {escape(manifest.proof)}")


def main(
    options: Annotated[list[str] | None, typer.Argument(help="After a --: for pg_dump.")] = None,
    url: Url = None,
    file: Annotated[
        Path | None, typer.Option(help="File to write; default: a name with the day.")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="pg_dump's archive, SQL text for psql, or rows for reading only.")
    ] = "custom",
    proving: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Restore it elsewhere, and compare.")
    ] = True,
    prove_on: Annotated[
        Place | None,
        typer.Option(
            help="A new database of the same server, or a throw-away server on this machine. "
            "Default: the same server, if the rights of the role suffice."
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
    # ends in order, so that the database of the proof is dropped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    unproven = "it was interrupted" if proving else "not asked for"
    if format == "json":
        proving, unproven = False, "a JSON export cannot be restored"
    with (
        database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
        progress("backing up") as say,
    ):
        if options and not options[0].startswith("-"):
            raise Refused(
                f"{options[0]} is no option of pg_dump; --file {options[0]} names the file"
            )
        made, manifest = make(connection, format, file, options or [])
        manifest.proof = unproven
        manifest.write(made)
        if proving:
            say("proving the backup: restoring it")
            prove(connection, made, manifest, prove_on)
            manifest.write(made)
    finish(manifest, partial(show, made), as_json, 1 if proving and not manifest.proven else 0)
