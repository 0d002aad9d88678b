"""The end of the legacy tables: list what remains of them, and drop it for good.

First it checks, without a change: ages, dependents, foreign keys, the dump, every check of the
bridge. Then one transaction locks everything by ``retry_locking``, applies the last writes, and
points foreign keys to sessions. It drops views, bridge, triggers and tables, without CASCADE.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg import sql
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from scripts.backup.dated import PENDING, Report, dependents, examine, oids_of
from scripts.backup.manifest import Manifest, Refused, refusing
from scripts.backup.tables import PINNED, fingerprint
from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem, explain
from scripts.common.database import COULD_NOT_DO, Url, database, run
from scripts.common.project import sql_text
from scripts.common.terminal import Json, finish, progress, table

CONFIRMATION = "DELETE OLD TABLES"

BRIDGE = """
SELECT format('bridge.%I', relname) FROM pg_class
WHERE relnamespace = to_regnamespace('bridge') AND relkind IN ('r', 'v') ORDER BY 1
"""
UNIFIED = ("public.students", "public.sessions", "public.step_progress", "public.events")
# Everything is locked, so the logged changes are the last ones.
LAST_WRITES = """
DO $$
DECLARE
    last_written CONSTANT text[] := ARRAY(SELECT DISTINCT p.token FROM bridge.change_log AS p);
BEGIN
    PERFORM set_config('bridge.single_transaction', 'on', true);
    CALL bridge.drain(rounds => 3);
    IF EXISTS (SELECT FROM unnest(last_written) AS t(token), bridge.differences(t.token, t.token)) THEN
        RAISE EXCEPTION 'verification failed for the last writes';
    END IF;
END
$$;
SET CONSTRAINTS ALL IMMEDIATE
"""
MARKER = """
CREATE TABLE IF NOT EXISTS public.legacy_tables_dropped (
    dropped_at timestamptz NOT NULL DEFAULT now(),
    tables text[] NOT NULL,
    dump text,
    dump_sha256 text
);
COMMENT ON TABLE public.legacy_tables_dropped IS
    'Records that the legacy tables were dropped for good: a downgrade of 0007 is refused. The dump still has them.'
"""
MARK = """
INSERT INTO public.legacy_tables_dropped (tables, dump, dump_sha256)
VALUES (CAST(:tables AS text[]), :name, :sha256)
"""
EVENT = """
INSERT INTO public.events (event_type, event_data) VALUES ('legacy_tables_dropped', CAST(:data AS jsonb))
"""


def check_dump(connection: Connection, report: Report, file: Path) -> Manifest:
    """Return the manifest of a proven dump with the present rows of the tables. Refused otherwise."""
    manifest = Manifest.of(file)
    run(connection, f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {PINNED}")
    differing = [
        backup.name
        for backup in report.backups
        if fingerprint(connection, backup.quoted) != manifest.tables.get(backup.quoted)
    ]
    run(connection, "COMMIT")
    problem = None
    if not manifest.proven:
        problem = f"was not proven ({manifest.proof})"
    elif manifest.revision != report.revision:
        problem = (
            f"was made at revision {manifest.revision or '(base)'}, and the database is at "
            f"{report.revision}: no downgrade can start from it"
        )
    elif differing:
        problem = f"does not have the present rows of {', '.join(differing)}"
    if problem:
        raise Refused(
            f"{file.name} {problem}. Nothing was changed; run 'workshop backup' again, while no "
            "application writes, and name the new file"
        )
    return manifest


def verify(connection: Connection, report: Report) -> None:
    """Apply the logged changes and run every check of the bridge. Refused unless all hold."""
    if not report.bridge or report.gone:
        return  # the tables to compare are gone
    run(connection, "SET search_path = public")
    run(connection, "CALL bridge.drain(strict => false)")
    checks = run(connection, "CALL bridge.run_checks(NULL)").scalar_one()
    if failed := [check["check_name"] for check in checks if not check["ok"]]:
        raise Refused(
            f"verification failed: {'; '.join(failed)}. No table was dropped; 'workshop verify' shows more"
        )
    if pending := run(connection, PENDING).scalar_one():
        raise Refused(
            f"{pending:,} sessions are logged and not applied yet. No table was dropped. Next: 'workshop status "
            "--drain'"
        )
    run(connection, "SET search_path = pg_catalog")


def drop(connection: Connection, report: Report, manifest: Manifest | None) -> None:
    """Drop everything in one transaction; foreign keys then refer to sessions.

    Raises Refused if other objects depend on the tables; ConnectionProblem while a migrator runs.
    """
    run(connection, "BEGIN")
    if not run(connection, f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})").scalar():
        raise ConnectionProblem(
            "a migration is running in this database. Nothing was changed. Wait for it to end"
        )
    # PostgreSQL frees the locks of a killed client at once
    run(connection, "SET LOCAL client_connection_check_interval = '500ms'")
    run(connection, "SET LOCAL statement_timeout = 0")
    _lock(connection, report)
    began = time.monotonic()
    try:
        _drop_all(connection, report)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.DependentObjectsStillExist):
            detail = " ".join((error.orig.diag.message_detail or "").split())
            raise Refused(f"other objects depend on them: {detail}. Nothing was dropped") from error
        raise
    _record(connection, report, manifest)
    run(connection, "COMMIT")
    report.locked_ms = round(1000 * (time.monotonic() - began))
    report.dropped = True
    _validate(connection, report)


def _validate(connection: Connection, report: Report) -> None:
    """Validate the new keys afterwards, so that writers do not wait."""
    run(connection, "SET lock_timeout = '5s'")
    for key in report.keys:
        command = f"ALTER TABLE {key['child']} VALIDATE CONSTRAINT {key['quoted']}"
        try:
            run(connection, command if key["valid"] else "SELECT")
        except DBAPIError as error:
            report.reasons.append(
                f"foreign key {key['name']} of {key['child']} holds for new rows only: {explain(error)}; "
                f"next: {command}"
            )


def _lock(connection: Connection, report: Report) -> None:
    # views first: a reader has locked a view before it waits for its table
    names = [f"public.{name}" for name in report.stand_ins]
    names += [*(b.quoted for b in report.backups), *UNIFIED, *(k["child"] for k in report.keys)]
    names += run(connection, BRIDGE).scalars()
    lock = f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE"
    if report.bridge:
        run(connection, f"SELECT public.retry_locking({sql.Literal(lock).as_string()})")
    else:
        run(connection, f"SET LOCAL lock_timeout = '1s'; {lock}")


def _drop_all(connection: Connection, report: Report) -> None:
    if report.bridge and not report.gone:
        run(connection, LAST_WRITES)
    for key in report.keys:
        definition = key["definition"].removesuffix(" NOT VALID")
        definition = definition.replace(
            f"REFERENCES {key['parent']}(", "REFERENCES public.sessions("
        )
        run(
            connection,
            f"ALTER TABLE {key['child']} DROP CONSTRAINT {key['quoted']}, "
            f"ADD CONSTRAINT {key['quoted']} {definition} NOT VALID",
        )
    if report.bridge:
        # the one CASCADE; the check above refuses if other objects depend on it
        if in_the_way := dependents(connection, report, oids_of(connection, report)):
            raise Refused(
                f"new objects depend on them: {'; '.join(in_the_way)}. Nothing was dropped"
            )
        for name in report.stand_ins:
            run(connection, f"DROP VIEW public.{name}")
        run(connection, "SET LOCAL client_min_messages = warning; SELECT bridge.detach()")
        run(connection, "DROP SCHEMA bridge CASCADE")
    if report.backups:
        run(connection, f"DROP TABLE {', '.join(b.quoted for b in report.backups)}")
    run(connection, "DROP TABLE IF EXISTS public.prior_attempt")


def _record(connection: Connection, report: Report, manifest: Manifest | None) -> None:
    """Insert an event, and create the table that shows a downgrade where the rows are."""
    run(connection, MARKER)
    run(connection, sql_text("rights", "owner_only.sql"))
    dump = {"name": manifest.file, "sha256": manifest.sha256} if manifest else None
    tables = {b.name: b.rows for b in report.backups}
    mark = {"tables": [*tables, *report.gone], "name": None, "sha256": None, **(dump or {})}
    data = {"tables": tables, "dropped_by_hand": report.gone, "dump": dump}
    connection.execute(text(MARK), mark)
    connection.execute(text(EVENT), {"data": json.dumps(data)})


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    if report.backups:
        columns = ("Table", "Of", "Days", "Rows", "Bytes", "Reads", "Writes")
        rows = (
            (escape(b.name), b.was, "?" if b.age is None else b.age, b.rows, b.bytes, b.reads, b.writes)
            for b in report.backups
        )  # fmt: skip
        out.print(table("Dated backups", columns, rows))
        out.print("Reads and writes while watching, including those of the bridge.\n")
    elif not report.bridge:
        out.print("No dated backup: nothing to drop.")
    notes = [
        *(f"View {n} goes with its table: legacy endpoints that use it will fail." for n in report.stand_ins),
        *(f"The table behind {n} was dropped by hand; the rest of the bridge can be dropped." for n in report.gone),
        *(
            f"Foreign key {k['name']} of {k['child']} will refer to sessions(session_token) "
            f"({k['dangling']:,} rows would be orphaned)." for k in report.keys
        ),
        *(f"Function {f} mentions them: check whether it is still needed." for f in report.mentions),
        *(f"Not made by the migration, stays: {name}" for name in report.not_ours),
    ]  # fmt: skip
    if report.gone and report.pending:
        notes.append(f"{report.pending:,} sessions are logged, and were not applied.")
    for note in notes:
        out.print(escape(note))
    for reason in report.reasons:
        out.print(f"[red]NOT YET:[/] {escape(reason)}")
    if report.dropped:
        names = ", ".join(b.name for b in report.backups) or "the rest of the bridge"
        out.print(
            f"\n[green]DROPPED:[/] {escape(names)}; the unified tables were locked for {report.locked_ms} ms"
        )
    elif report.anything and not report.reasons:
        out.print(
            f'Next: workshop backup, then workshop drop-backups --dump FILE --confirm "{CONFIRMATION}"'
        )


def main(
    url: Url = None,
    confirm: Annotated[
        str,
        typer.Option(help=f"Drop them, if this is exactly {CONFIRMATION!r}. Default: list them."),
    ] = "",
    dump: Annotated[
        Path | None,
        typer.Option(help="A proven backup (workshop backup) with the present rows of the tables."),
    ] = None,
    waive_dump: Annotated[
        bool, typer.Option("--waive-dump", help="Drop them without a dump: their rows are lost.")
    ] = False,
    watch: Annotated[
        float, typer.Option(min=0, help="Seconds to watch reads and writes of the tables.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """List the dated backups of the legacy tables; with --confirm, drop them for good.

    Drops only tables that are 30 days old by the date in their name, after every check has passed
    and with a proven dump that has the same rows. Foreign keys of other tables then refer to
    sessions. The unified tables stay; views with the legacy names, bridge and its triggers are
    dropped; a downgrade of 0007 is refused from then on. Tables that the migration did not make
    stay.

    Exits with 0 (no obstacle, or dropped), 1 (an obstacle, which is named) or 2 (unknown, nothing
    was dropped).

    Example: workshop drop-backups

    Example: workshop drop-backups --dump last.dump --confirm "DELETE OLD TABLES"
    """
    with (
        refusing(),
        database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
        progress("reading the backups") as say,
    ):
        if confirm and confirm != CONFIRMATION:
            raise Refused(f"the text is not {CONFIRMATION}: nothing was changed")
        report = examine(connection, watch)
        if confirm and report.anything and not report.reasons:
            manifest = check_dump(connection, report, dump) if dump else None
            if report.backups and manifest is None and not waive_dump:
                raise Refused(
                    "name a proven backup of them: --dump FILE ('workshop backup' makes one), or "
                    "--waive-dump. Nothing was changed"
                )
            say("verifying, before anything is dropped")
            verify(connection, report)
            say("dropping the legacy tables")
            drop(connection, report, manifest)
    finish(report, show, as_json, 1 if report.reasons else 0)
