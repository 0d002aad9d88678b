"""Backup: a dump of the workshop's tables that is proven by restoring it.

What belongs to the dump is in ``scripts.dumps.workshop_relations``. The dump, the row counts and the
checksums are of one moment: one snapshot serves them all. The proof is a restore into a database that
is made for it and dropped again, where counts and checksums have to come out the same.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import IO, Annotated

import psycopg
import typer
from psycopg import sql
from rich.console import Console
from rich.markup import escape
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError

from scripts import dumps
from scripts.common.connection import ConnectionProblem, connect, explain, make_engine, resolve_url
from scripts.common.report import (
    COULD_NOT_DO,
    Json,
    Url,
    console,
    database,
    revision_of,
    run,
    run_app,
    table,
)
from scripts.common.server import ServerUnavailable, embedded_server
from scripts.dumps import Manifest, ProgramFailed, Refused, Relation, doing

FACTS = """
SELECT d.datname::text AS database, pg_encoding_to_char(d.encoding)::text AS encoding,
       current_setting('server_version') AS server,
       current_setting('server_version_num')::integer / 10000 AS major,
       to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') AS day,
       current_user::text AS role,
       (SELECT r.rolcreatedb OR r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user)
           AS may_create_databases,
       d.datcollate AS collation, d.datctype AS character_type, d.datlocprovider::text AS provider,
       to_jsonb(d) ->> CASE WHEN to_jsonb(d) ? 'datlocale' THEN 'datlocale' ELSE 'daticulocale' END
           AS locale
FROM pg_database AS d
WHERE d.datname = current_database()
"""
EMBEDDED = "embedded"


class Format(StrEnum):
    """What the file is: pg_dump's archive, SQL text for psql, or JSON."""

    custom = "custom"
    plain = "plain"
    json = "json"


ENDINGS = {Format.custom: "dump", Format.plain: "sql", Format.json: "json"}


def make(
    connection: Connection, format: Format, file: Path | None, prove_on: str | None
) -> tuple[Path, Manifest]:
    """Write a backup and its manifest; returns both.

    ``file`` None: ``workshop-backup-YYYYMMDD`` in the current folder, the day of the server in UTC.
    ``prove_on``: None (no proof), "" (a database on the same server; where the role may create none, as
    "embedded"), "embedded" (a throw-away server), or a URL.
    ConnectionProblem: nothing was written. Refused: the file exists.
    """
    facts = run(connection, FACTS).mappings().one()
    url = connection.engine.url
    programs = dumps.programs_for(facts["major"])
    if format is Format.json:
        prove_on = None
    if prove_on == "" and not facts["may_create_databases"]:
        prove_on = EMBEDDED
    chosen, left_out = dumps.workshop_relations(connection)
    if not chosen:
        raise ConnectionProblem(f"database {facts['database']} has no table of the workshop")
    file = file or _free_name(f"workshop-backup-{facts['day']}", ENDINGS[format])
    for path in (file, Manifest.path(file)):
        if path.exists():
            raise Refused(f"{path} is there already, and nothing is overwritten: name another file")
    made_with, made_with_major = dumps.version_of(programs / "pg_dump")
    schemas = sorted({r.schema for r in chosen})
    extensions = connection.execute(
        text(dumps.EXTENSIONS), {"oids": [r.oid for r in chosen], "schemas": schemas}
    )
    manifest = Manifest(
        file=file.name,
        format=format.value,
        bytes=0,
        sha256="",
        made_at="",
        database=facts["database"],
        encoding=facts["encoding"],
        server=facts["server"],
        server_major=facts["major"],
        revision=revision_of(connection),
        made_with=made_with,
        made_with_major=made_with_major,
        tables={},
        left_out=[r.quoted for r in left_out if r.kind != "S"],
        extensions=[dict(e) for e in extensions.mappings()],
    )
    with dumps.create(file) as out:
        try:
            _dump(connection, programs, format, chosen, left_out, manifest, out)
            out.flush()
            if format is Format.plain:
                _leave_schema_public_alone(file)
            os.fsync(out.fileno())
        except BaseException:
            file.unlink()
            raise
    manifest.bytes, manifest.sha256 = file.stat().st_size, dumps.digest(file)
    try:
        if prove_on is None:
            manifest.proof = (
                "a JSON export cannot be restored" if format is Format.json else "not asked for"
            )
        else:
            with doing("Proving the backup: restoring it into a database of its own"):
                _prove(url, dict(facts), programs, file, manifest, prove_on)
    finally:
        manifest.proof = manifest.proof or "it was interrupted"
        manifest.write(file)
    return file, manifest


def _free_name(stem: str, ending: str) -> Path:
    for n in count(1):
        file = Path(f"{stem}{f'_{n}' if n > 1 else ''}.{ending}")
        if not file.exists() and not Manifest.path(file).exists():
            return file
    raise AssertionError


def _dump(
    connection: Connection,
    programs: Path,
    format: Format,
    chosen: list[Relation],
    left_out: list[Relation],
    manifest: Manifest,
    out: IO[bytes],
) -> None:
    """Dump, then fingerprint, what one snapshot sees.

    The transaction that owns the snapshot locks nothing: the old application's ALTER TABLE would wait for
    it, and pg_dump for that. pg_dump locks all tables for as long as it runs, then each is read alone.
    """
    tables = [r.quoted for r in chosen if r.has_rows]
    run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        run(connection, dumps.NO_TIMEOUTS)
        snapshot, manifest.made_at = run(
            connection,
            """SELECT pg_export_snapshot(),
                      to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')""",
        ).one()
        if format is not Format.json:
            with doing(f"Dumping {len(tables)} tables (ACCESS SHARE: reads and writes go on)"):
                began = time.monotonic()
                _run_pg_dump(
                    connection, programs, format, chosen, left_out, manifest, snapshot, out
                )
                manifest.held_seconds = round(time.monotonic() - began, 2)
        with (
            doing(f"Reading {len(tables)} tables, one at a time"),
            connect(connection.engine) as other,
        ):
            other = other.execution_options(isolation_level="AUTOCOMMIT")
            if format is Format.json:
                head = {
                    "database": manifest.database,
                    "revision": manifest.revision,
                    "at": manifest.made_at,
                }
                out.write(json.dumps(head)[:-1].encode() + b', "tables": {')
            for place, name in enumerate(tables):
                began = time.monotonic()
                run(other, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                run(other, f"SET TRANSACTION SNAPSHOT '{snapshot}'")
                run(other, f"{dumps.PINNED}; SET LOCAL lock_timeout = '5s'")
                run(other, dumps.NO_TIMEOUTS)
                manifest.tables[name] = dumps.fingerprint(other, name)
                if format is Format.json:
                    out.write(b"," * (place > 0))
                    _export(other, name, out)
                run(other, "COMMIT")
                manifest.held_alone_seconds = max(
                    manifest.held_alone_seconds, round(time.monotonic() - began, 2)
                )
            if format is Format.json:
                out.write(b"}}\n")
    finally:
        run(connection, "ROLLBACK")


def _run_pg_dump(
    connection: Connection,
    programs: Path,
    format: Format,
    chosen: list[Relation],
    left_out: list[Relation],
    manifest: Manifest,
    snapshot: str,
    out: IO[bytes],
) -> None:
    environ, conninfo = dumps.child_environment(connection.engine.url)

    def pattern(*names: str) -> str:
        return ".".join('"{}"'.format(name.replace('"', '""')) for name in names)

    command: list[str | Path] = [programs / "pg_dump", f"--dbname={conninfo}", "--no-password"]
    command += [f"--format={format}", f"--snapshot={snapshot}", "--lock-wait-timeout=5000"]
    command += [f"--schema={pattern(s)}" for s in sorted({r.schema for r in chosen})]
    command += [f"--exclude-table={pattern(r.schema, r.name)}" for r in left_out]
    command += [f"--extension={pattern(e['name'])}" for e in manifest.extensions]
    if format is Format.plain:
        # to be played with psql wherever, whatever the roles there
        command += ["--no-owner", "--no-privileges"]
    with tempfile.TemporaryFile() as stderr:
        done = subprocess.run(command, stdout=out, stderr=stderr, env=environ)
        if done.returncode != 0:
            said = dumps.complaint(stderr)
            if "statement timeout" in said:  # what --lock-wait-timeout looks like
                said = "somebody held a lock on one of the tables for 5 seconds (scripts.status shows locks)"
            raise ConnectionProblem(f"pg_dump failed: {said}")


def _leave_schema_public_alone(file: Path) -> None:
    """Make comments of the statements that fail wherever there is a schema public, which is everywhere."""
    with file.open("r+b") as stream:
        head = stream.read(1 << 16)
        for found in re.finditer(
            rb"^(CREATE SCHEMA public;|COMMENT ON SCHEMA public IS )", head, re.M
        ):
            stream.seek(found.start())
            stream.write(b"--")


def _export(connection: Connection, name: str, out: IO[bytes]) -> None:
    """The rows of a table, as the member of a JSON object."""
    out.write(b"\n" + json.dumps(name).encode() + b": [")
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with raw.cursor("export") as cursor:
        cursor.execute(f"SELECT row_to_json(t)::text FROM ONLY {name} AS t".encode())
        for n, (row,) in enumerate(cursor):
            out.write(b"," * (n > 0) + b"\n" + row.encode())
    out.write(b"]")


# --- the proof ------------------------------------------------------------------------------------


def _prove(
    url: URL,
    facts: dict[str, str],
    programs: Path,
    file: Path,
    manifest: Manifest,
    prove_on: str,
) -> None:
    """Restore the dump into a scratch database, compare, drop it; sets ``proven`` and ``proof``."""
    with ExitStack() as stack:
        try:
            if prove_on == EMBEDDED:
                server = stack.enter_context(embedded_server(major=None))
                place, where = resolve_url(server.url("postgres")), "a throw-away server"
            elif prove_on:
                place, where = resolve_url(prove_on), "the server of --prove-on"
            else:
                place, where = url, "the same server"
            target, major = stack.enter_context(_scratch(place, facts, same_server=not prove_on))
            programs = dumps.programs_for(max(major, manifest.made_with_major))
            entries = None
            if manifest.format == Format.custom:
                entries = dumps.contents(programs, file)
            dumps.play(
                programs,
                target,
                major,
                file,
                entries=entries,
                options=["--no-owner", "--no-privileges"],
                before=dumps.schemas_sql(manifest),
                after=dumps.check_sql(manifest.tables),
            )
            manifest.proven, manifest.proof = True, f"restored on {where}, and the same"
        except ServerUnavailable as error:
            manifest.proof = (
                f"there is no server to restore it on: {error}; --prove-on URL names one"
            )
        except (ProgramFailed, Refused, ConnectionProblem) as error:
            manifest.proof = f"it could not be restored: {error}"
        except DBAPIError as error:
            manifest.proof = f"it could not be restored: {explain(error)}"


@contextmanager
def _scratch(url: URL, like: dict[str, str], *, same_server: bool) -> Iterator[tuple[URL, int]]:
    """A new database on that server, and the server's major version; dropped at the end.

    On the same server it gets the encoding and the locale of the original, elsewhere the encoding.
    """
    name = f"workshop_backup_proof_{secrets.token_hex(4)}"
    options = [sql.SQL("ENCODING = {}").format(sql.Literal(like["encoding"]))]
    if same_server:
        provider = {"c": "libc", "i": "icu", "b": "builtin"}[like["provider"]]
        values = {"LC_COLLATE": like["collation"], "LC_CTYPE": like["character_type"]}
        values["LOCALE_PROVIDER"] = provider
        if provider != "libc":
            values[f"{provider.upper()}_LOCALE"] = like["locale"]
        options += [sql.SQL(f"{k} = {{}}").format(sql.Literal(v)) for k, v in values.items()]
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
        sql.Identifier(name), sql.SQL(" ").join(options)
    )
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with connect(make_engine(url)) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        major = run(
            connection, "SELECT current_setting('server_version_num')::integer / 10000"
        ).scalar_one()
        run(connection, "SET statement_timeout = 0")
        run(connection, create.as_string())
        try:
            yield url.set(database=name), major
        finally:
            run(connection, drop.as_string())


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """A run that is asked to end, too, drops the database of its proof."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- the command ----------------------------------------------------------------------------------


def show(file: Path, manifest: Manifest, out: Console) -> None:
    """Print what was made, for people."""
    out.print(
        f"Database {escape(manifest.database)}, revision {manifest.revision or '(base)'}, "
        f"PostgreSQL {escape(manifest.server)}\n"
    )
    rows = ((escape(name), told["rows"]) for name, told in manifest.tables.items())
    out.print(table("In the backup", ("Table", "Rows"), rows))
    if manifest.left_out:
        out.print(
            f"\nNot in it, being no table of the workshop: {escape(', '.join(manifest.left_out))}"
        )
    out.print(
        f"\nHeld ACCESS SHARE on all of them for {manifest.held_seconds} s, then on one at a time for "
        f"{manifest.held_alone_seconds} s at most: reads and writes went on, ALTER TABLE waited."
    )
    out.print(f"Backup:   {escape(str(file))} ({manifest.bytes:,} bytes), for its owner only")
    out.print(f"Manifest: {escape(str(Manifest.path(file)))}")
    if manifest.proven:
        out.print(f"[green]PROVEN:[/] {escape(manifest.proof)}")
    else:
        out.print(f"[red]NOT PROVEN:[/] {escape(manifest.proof)}")


def main(
    url: Url = None,
    file: Annotated[
        Path | None,
        typer.Option(help="File to write; default workshop-backup-YYYYMMDD.dump, .sql or .json."),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="custom: pg_dump's archive, for scripts.restore. plain: SQL text, for psql. json: the "
            "rows for reading, which nothing restores."
        ),
    ] = Format.custom,
    prove: Annotated[
        bool, typer.Option(help="Restore it into a database made for that, and compare.")
    ] = True,
    prove_on: Annotated[
        str | None,
        typer.Option(
            help="Where: the URL of another server, or 'embedded' for a throw-away one. Default: the "
            "same server, or a throw-away one where the role may not create a database."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Back the workshop's tables up into a file, and prove it by restoring it.

    In it: the two old tables under whichever name they have, the four new ones, dated
    backups, the bridge, alembic_version, and every table that foreign keys tie to them.
    Reads only; existing files are never overwritten. While pg_dump runs it holds ACCESS SHARE
    on these tables: an ALTER TABLE of theirs waits, and who comes after that one waits too.

    Exits with 0 (proven, or made without a proof as asked), 1 (made, but the proof failed; or
    the file exists) or 2 (could not be made).

    Example: python -m scripts.backup --file before-the-migration.dump
    """
    where = (prove_on or "") if prove else None
    with (
        dumps.refusing(),
        _ending_in_order(),
        database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
    ):
        made, manifest = make(connection, format, file, where)
    if as_json:
        typer.echo(json.dumps({**asdict(manifest), "path": str(made)}, indent=2))
    else:
        show(made, manifest, console())
    asked = where is not None and format is not Format.json
    raise typer.Exit(1 if asked and not manifest.proven else 0)


if __name__ == "__main__":
    run_app(main)
