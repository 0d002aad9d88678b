"""The end of the legacy tables: list what remains of them, and drop it for good.

First it checks, without a change: ages, dependents, foreign keys, the dump, every check of the
bridge. Then one transaction locks everything by ``retry_locking``, applies the last writes, and
points foreign keys to sessions. It drops views, bridge, triggers and tables, without CASCADE.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts.backup.dated import Report, dependents, examine
from scripts.backup.manifest import Manifest
from scripts.backup.tables import PINNED, fingerprint
from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem
from scripts.common.database import COULD_NOT_DO, PENDING, Refused, Url, database, run
from scripts.common.terminal import Json, finish, progress, table
from scripts.migration.guards import literal

CONFIRMATION = "DELETE OLD TABLES"
UNIFIED = ("public.students", "public.sessions", "public.step_progress", "public.events")
OF_BRIDGE = """
SELECT oid::regclass::text FROM pg_class
WHERE relnamespace = to_regnamespace('bridge') AND relkind IN ('r', 'v') ORDER BY 1
"""
LAST_WRITES = "SELECT DISTINCT token FROM bridge.change_log"
APPLY = """
SET LOCAL bridge.single_transaction = 'on';
CALL bridge.drain(rounds => 3);
SET CONSTRAINTS ALL IMMEDIATE
"""
DIFFER = (
    "SELECT EXISTS (SELECT FROM unnest(CAST(:tokens AS text[])) AS t, bridge.differences(t, t))"
)
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
RECORD = """
WITH drops AS (SELECT CAST(:data AS jsonb) AS data),
mark AS (
    INSERT INTO public.legacy_tables_dropped (tables, dump, dump_sha256)
    SELECT ARRAY(SELECT jsonb_object_keys(data -> 'tables')
                 UNION ALL SELECT jsonb_array_elements_text(data -> 'dropped_by_hand')),
           data #>> '{dump,name}', data #>> '{dump,sha256}'
    FROM drops)
INSERT INTO public.events (event_type, event_data) SELECT 'legacy_tables_dropped', data FROM drops
"""


def check_dump(connection: Connection, report: Report, file: Path) -> Manifest:
    """Return the manifest of a proven dump with the present rows of the tables. Refused otherwise."""
    manifest = Manifest.of(file)
    run(connection, f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {PINNED}")
    differing = [
        backup["name"]
        for backup in report.backups
        if fingerprint(connection, backup["quoted"]) != manifest.tables.get(backup["quoted"])
    ]
    run(connection, "COMMIT")
    if not manifest.proven:
        problem = f"was not proven ({manifest.proof})"
    elif manifest.revision != report.revision:
        problem = (
            f"was made at revision {manifest.revision or '(base)'}, and the database is at "
            f"{report.revision}: no downgrade can start from it"
        )
    elif differing:
        problem = f"does not have the present rows of {', '.join(differing)}"
    else:
        return manifest
    raise Refused(
        f"{file.name} {problem}. Nothing was changed; run 'workshop backup' again, while no "
        "application writes, and name the new file"
    )


def verify(connection: Connection) -> None:
    """Apply the logged changes and run every check of the bridge. Refused unless all hold."""
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


def drop(connection: Connection, report: Report, manifest: Manifest | None) -> None:
    """Drop everything in one transaction; foreign keys then refer to sessions."""
    run(connection, "BEGIN")
    if not run(connection, f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})").scalar():
        raise ConnectionProblem(
            "a migration is running in this database. Nothing was changed. Wait for it to end"
        )
    # views first: a reader has locked a view before it waits for its table
    names = [f"public.{name}" for name in report.views]
    names += [*(b["quoted"] for b in report.backups), *UNIFIED, *(k["child"] for k in report.keys)]
    names += run(connection, OF_BRIDGE).scalars()
    lock = f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE"
    run(connection, f"SELECT public.retry_locking({literal(lock)})")
    if report.bridge and not report.gone:
        tokens = list(run(connection, LAST_WRITES).scalars())
        run(connection, APPLY)
        if connection.execute(text(DIFFER), {"tokens": tokens}).scalar():
            raise Refused("verification failed for the last writes. Nothing was dropped")
    for key in report.keys:
        run(connection, key["command"])
    # before the one CASCADE
    if in_the_way := dependents(connection, report):
        raise Refused(f"new objects depend on them: {'; '.join(in_the_way)}. Nothing was dropped")
    commands = [f"DROP VIEW public.{name}" for name in report.views]
    if report.bridge:
        commands.append("SET LOCAL client_min_messages = warning; DROP SCHEMA bridge CASCADE")
    if report.backups:  # in one statement: one may refer to the other
        commands.append(f"DROP TABLE {', '.join(b['quoted'] for b in report.backups)}")
    commands += [
        "DROP TABLE IF EXISTS public.prior_attempt",
        MARKER,
        "SELECT public.restrict_to_owner()",
    ]
    for command in commands:
        run(connection, command)
    tables = {b["name"]: b["rows"] for b in report.backups}
    dump = {"name": manifest.file, "sha256": manifest.sha256} if manifest else None
    data = json.dumps({"tables": tables, "dropped_by_hand": report.gone, "dump": dump})
    connection.execute(text(RECORD), {"data": data})
    run(connection, "COMMIT")
    report.dropped = True


def show(report: Report, out: Console) -> None:
    """Print the report for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    if report.backups:
        columns = ("Table", "Of", "Days", "Rows", "Bytes", "Reads", "Writes")
        keys = ("was", "age", "rows", "bytes", "reads", "writes")
        rows = (
            [escape(b["name"]), *("?" if b[k] is None else b[k] for k in keys)]
            for b in report.backups
        )
        out.print(table("Dated backups", columns, rows))
        out.print("Reads and writes while watching, including those of the bridge.\n")
    elif not report.bridge:
        out.print("No dated backup: nothing to drop.")
    notes = [
        *(f"View {v} goes with its table: endpoints that use it will fail." for v in report.views),
        *(
            f"The table behind {name} was dropped by hand. {report.pending:,} logged sessions were "
            "not applied. The bridge can be dropped."
            for name in report.gone
        ),
        *(
            f"Foreign key {key['name']} of {key['child']} will refer to sessions(session_token) "
            f"({key['dangling']:,} rows would be orphaned)."
            for key in report.keys
        ),
        *(f"Function {f} mentions them: check whether it is needed." for f in report.mentions),
        *(f"Not made by the migration, stays: {name}" for name in report.not_ours),
    ]
    for note in notes:
        out.print(escape(note))
    for reason in report.reasons:
        out.print(f"[red]NOT YET:[/] {escape(reason)}")
    if report.dropped:
        names = ", ".join(b["name"] for b in report.backups) or "the rest of the bridge"
        out.print(f"\n[green]DROPPED:[/] {escape(names)}")
    elif (report.backups or report.bridge) and not report.reasons:
        out.print(
            f'Next: workshop backup, then workshop drop-backups --dump FILE --confirm "{CONFIRMATION}"'
        )


def main(
    url: Url = None,
    confirm: Annotated[
        str, typer.Option(help=f"Drop them, if this is exactly {CONFIRMATION!r}.")
    ] = "",
    dump: Annotated[
        Path | None, typer.Option(help="A proven backup with the present rows of the tables.")
    ] = None,
    waive_dump: Annotated[
        bool, typer.Option("--waive-dump", help="Drop them without a dump: their rows are lost.")
    ] = False,
    watch: Annotated[float, typer.Option(min=0, help="Seconds to watch their use.")] = 2,
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
        database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection,
        progress("reading the backups") as say,
    ):
        if confirm and confirm != CONFIRMATION:
            raise Refused(f"the text is not {CONFIRMATION}: nothing was changed")
        report = examine(connection, watch)
        if confirm and (report.backups or report.bridge) and not report.reasons:
            manifest = check_dump(connection, report, dump) if dump else None
            if report.backups and manifest is None and not waive_dump:
                raise Refused(
                    "name a proven backup of them: --dump FILE ('workshop backup' makes one), or "
                    "--waive-dump. Nothing was changed"
                )
            if report.bridge and not report.gone:  # else there is nothing to compare
                say("verifying, before anything is dropped")
                verify(connection)
            say("dropping the legacy tables")
            drop(connection, report, manifest)
    finish(report, show, as_json, 1 if report.reasons else 0)
