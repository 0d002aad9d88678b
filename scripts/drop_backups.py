"""The end of the old tables: what is left of them, who still uses them, and dropping them for good.

Three stages. Everything is looked at and nothing changed: ages, dependents, rows that foreign keys would
miss, the dump, every check of the bridge. Then foreign keys of other tables get a twin that refers to
``sessions(session_token)``, which the application does not notice. Then one short transaction drops
stand-in views, bridge, triggers and tables, without CASCADE, and leaves an event and a marker.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from psycopg import sql
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from scripts.backup.command import NO_TIMEOUTS
from scripts.backup.manifest import Manifest, Refused, refusing
from scripts.backup.tables import PINNED, created_by_revisions, fingerprint
from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem, NotApplicable
from scripts.common.report import (
    HAS,
    ROOT,
    Json,
    Url,
    console,
    database,
    revision_of,
    run,
    run_app,
    table,
)

CONFIRMATION = "DELETE OLD TABLES"
DAYS = 30
RETIRED = "0007"
ATTEMPTS = 200

FACTS = """
SELECT (now() AT TIME ZONE 'UTC')::date AS today,
       to_regclass('public.prior_attempt') IS NOT NULL AS prior,
       to_regclass('public.legacy_tables_dropped') IS NOT NULL AS dropped
"""
# The bridge and 0001 know their tables by oid, whatever their names; a remainder is known by its name.
LEGACY = "SELECT relation::oid::bigint AS oid, legacy_name AS was FROM bridge.source ORDER BY legacy_name"
PRIOR = (
    "SELECT relation::oid::bigint AS oid, original_name AS was FROM public.prior_attempt ORDER BY 2"
)
TABLES = r"""
SELECT c.oid::bigint AS oid, c.relname::text AS name, format('%I.%I', n.nspname, c.relname) AS quoted,
       pg_total_relation_size(c.oid) AS bytes, pg_has_role(c.relowner, 'USAGE') AS owned,
       n.nspname = 'public' AND c.relname ~ '^bridge_remainder_backup_\d{8}(_\d+)?$' AS remainder,
       n.nspname = 'public'
           AND c.relname ~ '^(workshop_|student|sessions|step_progress|events|bridge_).*(backup|merged)'
           AS like_ours
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' ORDER BY c.relname
"""
USE = """
SELECT relid::bigint AS oid, coalesce(seq_scan, 0) + coalesce(idx_scan, 0) AS reads,
       n_tup_ins + n_tup_upd + n_tup_del AS writes
FROM pg_stat_user_tables WHERE relid = ANY(CAST(:oids AS oid[]))
"""
# A body is text: a name in it is a hint for a person, not a dependency.
MENTIONS = r"""
SELECT DISTINCT p.oid::regprocedure::text AS what
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
CROSS JOIN unnest(CAST(:names AS text[])) AS name
WHERE n.nspname NOT IN ('bridge', 'pg_catalog', 'information_schema')
  AND p.prosrc ~ ('\m' || name || '\M') AND p.proname <> ALL(:ours)
ORDER BY 1
"""
# Within the dropped tables, and between them, keys go with the tables. search_path is pg_catalog, so
# that the definition names the table as "quoted" does.
KEYS = """
SELECT k.oid::bigint AS oid, k.conname::text AS name, format('%I.%I', n.nspname, c.relname) AS child,
       quote_ident(a.attname) AS "column", k.confrelid::regclass::text AS parent,
       p.attname::text AS referenced, cardinality(k.conkey) AS columns, k.convalidated AS valid,
       pg_get_constraintdef(k.oid) AS definition, pg_has_role(c.relowner, 'USAGE') AS owned
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
JOIN pg_attribute AS p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1]
WHERE k.contype = 'f' AND k.confrelid = ANY(CAST(:oids AS oid[]))
  AND k.conrelid <> ALL(CAST(:oids AS oid[])) AND k.conparentid = 0
ORDER BY 3, 2
"""
DANGLING = """
SELECT count(*) FROM {child} AS c
WHERE c.{column} IS NOT NULL
  AND NOT EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = c.{column})
"""
PENDING = "SELECT count(DISTINCT token) FROM bridge.change_log"
MERGED = "SELECT (merged_at AT TIME ZONE 'UTC')::date FROM bridge.state"
TWIN = "workshop_twin_of_{}"
HAS_TWIN = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = CAST(:child AS regclass) AND conname = :name)"

# In the last transaction, with everything locked: nobody writes any more, what is logged is the last.
LAST_WRITES = """
DO $$
DECLARE
    last_written CONSTANT text[] := ARRAY(SELECT DISTINCT p.token FROM bridge.change_log AS p);
BEGIN
    PERFORM set_config('bridge.single_transaction', 'on', true);
    CALL bridge.drain(rounds => 3);
    IF EXISTS (SELECT FROM unnest(last_written) AS t(token), bridge.differences(t.token, t.token)) THEN
        RAISE EXCEPTION 'verification failed for what was written last';
    END IF;
END
$$;
SET CONSTRAINTS ALL IMMEDIATE
"""
MARKER = """
CREATE TABLE public.legacy_tables_dropped (
    dropped_at timestamptz NOT NULL DEFAULT now(),
    tables text[] NOT NULL,
    dump text,
    dump_sha256 text
);
COMMENT ON TABLE public.legacy_tables_dropped IS
    'The old tables were dropped for good: 0007 cannot be taken back here. The dump still holds them.'
"""
OWNER_ONLY = ROOT / "alembic" / "sql" / "rights" / "owner_only.sql"
MARK = """
INSERT INTO public.legacy_tables_dropped (tables, dump, dump_sha256)
VALUES (CAST(:tables AS text[]), :dump, :sha256)
"""
# Objects outside of these relations (and of the bridge) that a DROP of them would need CASCADE for.
DEPENDENTS = """
WITH gone AS (
    SELECT c.oid, c.reltype, t.typarray
    FROM pg_class AS c LEFT JOIN pg_type AS t ON t.oid = c.reltype
    WHERE c.oid = ANY(CAST(:oids AS oid[])) OR c.relnamespace = to_regnamespace('bridge')
),
found AS (
    SELECT d.classid, d.objid, d.objsubid,
           coalesce(r.ev_class, k.conrelid, a.adrelid, g.tgrelid, p.polrelid,
                    CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END) AS relation
    FROM gone
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = gone.oid
                        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (gone.reltype, gone.typarray)
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef AS a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    WHERE d.deptype = 'n' AND d.classid <> 'pg_type'::regclass
      AND NOT (d.classid = 'pg_proc'::regclass AND d.objid = ANY(CAST(:functions AS oid[])))
      AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid = ANY(CAST(:keys AS oid[])))
)
SELECT DISTINCT CASE
    WHEN c.relkind IN ('v', 'm') THEN format('view %I.%I', c.relnamespace::regnamespace::text, c.relname)
    ELSE pg_describe_object(f.classid, f.objid, f.objsubid) END AS what
FROM found AS f
LEFT JOIN pg_class AS c ON c.oid = f.relation
LEFT JOIN pg_proc AS o ON f.classid = 'pg_proc'::regclass AND o.oid = f.objid
WHERE f.relation IS NULL AND o.pronamespace IS DISTINCT FROM to_regnamespace('bridge')
   OR f.relation NOT IN (SELECT oid FROM gone) AND c.relkind NOT IN ('i', 'I')
ORDER BY 1
"""
EVENT = """
INSERT INTO public.events (event_type, event_data) VALUES ('legacy_tables_dropped', CAST(:data AS jsonb))
"""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on stderr what is under way: a spinner on a terminal, else a plain line."""
    if sys.stderr.isatty():
        with Console(stderr=True, highlight=False).status(what):
            yield
    else:
        typer.echo(f"{what} ...", err=True)
        yield


def dependents(
    connection: Connection,
    oids: Sequence[int],
    *,
    functions: Sequence[int] = (),
    keys: Sequence[int] = (),
) -> list[str]:
    """What was built on these relations or on the bridge, but for these functions and foreign keys."""
    leaving_out = {"oids": list(oids), "functions": list(functions), "keys": list(keys)}
    return list(connection.execute(text(DEPENDENTS), leaving_out).scalars())


@dataclass
class Backup:
    """A table that can go. ``kind``: legacy, prior or remainder; ``age`` in days, by its name.

    ``reads`` and ``writes``: scans and rows since the first look; the bridge's own are among them.
    """

    name: str
    quoted: str
    oid: int
    kind: str
    was: str
    age: int | None
    bytes: int
    rows: int
    reads: int = 0
    writes: int = 0


@dataclass
class Report:
    """What there is, and ``reasons`` why it cannot be dropped now."""

    database: str
    revision: str | None
    backups: list[Backup] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    pending: int = 0
    bridge: bool = False
    done: bool = False
    locked_ms: int = 0

    @property
    def anything(self) -> bool:
        """Whether there is something to drop: tables, or what is left of the bridge."""
        return bool(self.backups) or self.bridge


def examine(connection: Connection, watch: float) -> Report:
    """Look at everything that is left, and at who uses it for ``watch`` seconds; changes nothing."""
    run(connection, "SET search_path = pg_catalog")
    has = run(connection, HAS).mappings().one()
    facts = run(connection, FACTS).mappings().one()
    report = Report(has["database"], revision_of(connection), bridge=has["bridge"])
    report.done = facts["dropped"]
    if report.revision is None:
        raise NotApplicable("the database is not migrated: there are no backups to drop")
    if not has["unified"]:
        raise NotApplicable(
            "table sessions is not there, and the old tables are all there is; python -m scripts.status says "
            "more"
        )
    tables = {t["oid"]: t for t in run(connection, TABLES).mappings()}
    found: list[tuple[int, str, str]] = []
    for kind, query, there in (("legacy", LEGACY, has["bridge"]), ("prior", PRIOR, facts["prior"])):
        for oid, was in run(connection, query) if there else ():
            if oid not in tables and kind == "legacy":
                report.gone.append(was)
            # before 0007 the legacy tables have the names that the application uses
            elif oid in tables and tables[oid]["name"] != was:
                found.append((oid, kind, was))
    found += [(oid, "remainder", "bridge.override") for oid, t in tables.items() if t["remainder"]]

    oids = [oid for oid, _, _ in found]
    before = _use(connection, oids)
    if oids and watch:
        with doing(f"Watching who uses them, for {watch:g} seconds"):
            time.sleep(watch)
    after = _use(connection, oids)
    for oid, kind, was in found:
        told = tables[oid]
        count = run(connection, f"SELECT count(*) FROM {told['quoted']}").scalar_one()
        backup = Backup(
            name=told["name"],
            quoted=told["quoted"],
            oid=oid,
            kind=kind,
            was=was,
            age=_age(told["name"], facts["today"]),
            bytes=told["bytes"],
            rows=count,
        )
        backup.reads, backup.writes = (b - a for a, b in zip(before[oid], after[oid], strict=True))
        report.backups.append(backup)
        if not told["owned"]:
            report.reasons.append(f"{backup.name} belongs to another role")
    report.not_ours = [t["name"] for oid, t in tables.items() if t["like_ours"] and oid not in oids]
    if report.bridge and report.revision < RETIRED:
        report.reasons.append(
            f"at revision {report.revision} the old tables are still in use; next: alembic upgrade head"
        )
        return report
    _look_at_users(connection, report, has["legacy"])
    _judge_ages(connection, report)
    return report


def _use(connection: Connection, oids: list[int]) -> dict[int, tuple[int, int]]:
    found = connection.execute(text(USE), {"oids": oids})
    counted = {oid: (reads, writes) for oid, reads, writes in found}
    return {oid: counted.get(oid, (0, 0)) for oid in oids}


def _age(name: str, today: date) -> int | None:
    stamp = name.partition("_backup_")[2][:8]
    try:
        return (today - datetime.strptime(stamp, "%Y%m%d").date()).days
    except ValueError:
        return None


def _judge_ages(connection: Connection, report: Report) -> None:
    merged = run(connection, MERGED).scalar() if report.bridge else None
    today = run(connection, FACTS).mappings().one()["today"]
    for backup in report.backups:
        if backup.age is None:
            report.reasons.append(
                f"the name of {backup.name} tells no date: ..._backup_YYYYMMDD does"
            )
        elif backup.age < DAYS:
            report.reasons.append(
                f"{backup.name} is {backup.age} days old, and {DAYS} are asked for"
            )
        elif backup.kind == "legacy" and merged is not None and backup.age > (today - merged).days:
            report.notes.append(
                f"{backup.name} says {backup.age} days, but the merge ended on {merged}: it was renamed"
            )


def _look_at_users(connection: Connection, report: Report, stand_ins: list[str]) -> None:
    """Views, foreign keys, functions; which of them can be helped, and which stand in the way."""
    oids = [b.oid for b in report.backups]
    if report.bridge:
        report.stand_ins = [name for name in stand_ins if name not in report.gone]
        report.pending = run(connection, PENDING).scalar_one()
        views = "SELECT to_regclass('public.' || name)::oid::bigint FROM unnest(CAST(:n AS text[])) AS name"
        oids += list(connection.execute(text(views), {"n": report.stand_ins}).scalars())
    for key in connection.execute(text(KEYS), {"oids": oids}).mappings():
        name = f"foreign key {key['name']} of {key['child']}"
        if key["columns"] != 1 or key["referenced"] != "session_token":
            report.reasons.append(
                f"{name} refers to {key['parent']}({key['referenced']}), which sessions does not have: "
                "drop it, or the table"
            )
            continue
        if not key["owned"]:
            report.reasons.append(
                f"{name} cannot be pointed at sessions: the table is another role's"
            )
        dangling = run(connection, DANGLING.format(**key)).scalar_one()
        report.keys.append({**key, "dangling": dangling})
        if dangling and key["valid"]:
            report.reasons.append(
                f"{dangling:,} rows of {key['child']} have a {key['column']} that sessions does not "
                f"have: {name} cannot be pointed at sessions"
            )
    in_the_way = dependents(connection, oids, keys=[k["oid"] for k in report.keys])
    report.reasons += [f"{what} was built on them: drop it first" for what in in_the_way]
    names = [b.name for b in report.backups] + ["workshop_students", "student_configs"]
    mentioned = connection.execute(
        text(MENTIONS), {"names": names, "ours": created_by_revisions("FUNCTION")}
    )
    report.mentions = list(mentioned.scalars())


def check_dump(connection: Connection, report: Report, file: Path) -> Manifest:
    """The manifest of a proven dump that holds the tables as they are now. Refused otherwise."""
    manifest = Manifest.of(file)
    if not manifest.proven:
        raise Refused(
            f"{file.name} was not proven ({manifest.proof}): make one with scripts.backup"
        )
    if manifest.revision != report.revision:
        raise Refused(
            f"{file.name} was made at revision {manifest.revision or '(base)'}, and the database is at "
            f"{report.revision}: no downgrade could start from it. Nothing was changed; run scripts.backup "
            "again, and name the new file"
        )
    differing = []
    run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        run(connection, PINNED)
        for backup in report.backups:
            if fingerprint(connection, backup.quoted) != manifest.tables.get(backup.quoted):
                differing.append(backup.name)
    finally:
        run(connection, "ROLLBACK")
    if differing:
        raise Refused(
            f"{file.name} does not hold {', '.join(differing)} as they are now. Nothing was changed; run "
            "scripts.backup again, at a moment when nobody writes, and name the new file"
        )
    return manifest


def verify(connection: Connection, report: Report) -> None:
    """Carry over what is pending and run every check of the bridge. Refused unless all hold."""
    if not report.bridge or report.gone:
        return  # what would be compared is gone
    run(connection, "SET search_path = public")
    run(connection, "CALL bridge.drain(strict => false)")
    failed = [
        check["check_name"]
        for check in run(connection, "CALL bridge.run_checks(NULL)").scalar_one()
        if not check["ok"]
    ]
    if failed:
        raise Refused(
            f"verification failed: {'; '.join(failed)}. Nothing was changed; python -m scripts.verify "
            "shows more"
        )
    if pending := run(connection, PENDING).scalar_one():
        raise Refused(
            f"{pending:,} sessions wait to be carried over. Nothing was changed; next: python -m "
            "scripts.status --drain"
        )
    run(connection, "SET search_path = pg_catalog")


def drop(connection: Connection, report: Report, manifest: Manifest | None) -> None:
    """Point foreign keys at sessions, then drop everything in one transaction."""
    try:
        for key in report.keys:
            _add_twin(connection, key)
        with doing("Dropping the old tables"):
            _retry(connection, lambda: _drop_all(connection, report, manifest))
    except BaseException:
        for key in report.keys:
            twin = sql.Identifier(TWIN.format(key["oid"])).as_string()
            undo = f"ALTER TABLE {key['child']} DROP CONSTRAINT IF EXISTS {twin}"
            _retry(connection, partial(run, connection, undo))
        raise


def _add_twin(connection: Connection, key: dict[str, Any]) -> None:
    """A second foreign key, to sessions, that is checked without keeping writers waiting."""
    twin = TWIN.format(key["oid"])
    if not connection.execute(text(HAS_TWIN), {"child": key["child"], "name": twin}).scalar():
        definition = key["definition"].removesuffix(" NOT VALID")
        definition = definition.replace(
            f"REFERENCES {key['parent']}(", "REFERENCES public.sessions("
        )
        name = sql.Identifier(twin).as_string()
        add = f"ALTER TABLE {key['child']} ADD CONSTRAINT {name} {definition} NOT VALID"
        _retry(connection, partial(run, connection, add))
    if key["valid"]:
        validate = (
            f"ALTER TABLE {key['child']} VALIDATE CONSTRAINT {sql.Identifier(twin).as_string()}"
        )
        with doing(f"Checking {key['child']} against sessions"):
            _retry(connection, partial(run, connection, validate))


def _drop_all(connection: Connection, report: Report, manifest: Manifest | None) -> None:
    began = time.monotonic()
    unified = [f"public.{name}" for name in ("students", "sessions", "step_progress", "events")]
    names = ", ".join([*(b.quoted for b in report.backups), *unified])
    run(connection, f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    if report.bridge:
        if not report.gone:
            run(connection, LAST_WRITES)
        for name in report.stand_ins:
            run(connection, f"DROP VIEW public.{name}")
        run(connection, "SELECT bridge.detach()")
    for key in report.keys:
        name, twin = (sql.Identifier(n).as_string() for n in (key["name"], TWIN.format(key["oid"])))
        run(connection, f"ALTER TABLE {key['child']} DROP CONSTRAINT {name}")
        run(connection, f"ALTER TABLE {key['child']} RENAME CONSTRAINT {twin} TO {name}")
    if in_the_way := dependents(connection, [b.oid for b in report.backups]):
        raise Refused(f"built on them meanwhile: {'; '.join(in_the_way)}. Nothing was dropped")
    if report.bridge:
        run(connection, "SET LOCAL client_min_messages = warning")
        run(connection, "DROP SCHEMA bridge CASCADE")
    if report.backups:
        run(connection, f"DROP TABLE {', '.join(b.quoted for b in report.backups)}")
    run(connection, "DROP TABLE IF EXISTS public.prior_attempt")
    if not report.done:
        run(connection, MARKER)
        run(connection, OWNER_ONLY.read_text(encoding="utf-8"))
    told = {"name": manifest.file, "sha256": manifest.sha256} if manifest else None
    data = {
        "tables": {b.name: b.rows for b in report.backups},
        "dropped_by_hand": report.gone,
        "dump": told,
    }
    mark = {
        "tables": [*(b.name for b in report.backups), *report.gone],
        "dump": manifest.file if manifest else None,
        "sha256": manifest.sha256 if manifest else None,
    }
    connection.execute(text(MARK), mark)
    connection.execute(text(EVENT), {"data": json.dumps(data)})
    report.locked_ms = round(1000 * (time.monotonic() - began))


def _retry(connection: Connection, action: Callable[[], object]) -> None:
    """Run it in a transaction that waits 100 ms for each lock, again and again.

    Behind a waiting strong lock every new reader queues, hence the short wait.
    """
    for attempt in range(ATTEMPTS):
        run(connection, "BEGIN")
        try:
            run(connection, "SET LOCAL lock_timeout = '100ms'")
            # a client that is killed lets go of its locks at once
            run(connection, "SET LOCAL client_connection_check_interval = '500ms'")
            run(connection, NO_TIMEOUTS)
            if not run(connection, f"SELECT pg_try_advisory_xact_lock({ADVISORY_LOCK})").scalar():
                raise ConnectionProblem(
                    "a migration is running in this database: wait for it to end"
                )
            action()
            run(connection, "COMMIT")
            return
        except DBAPIError as error:
            run(connection, "ROLLBACK")
            busy = (
                psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected,
                psycopg.errors.SerializationFailure,
            )
            if isinstance(error.orig, psycopg.errors.DependentObjectsStillExist):
                detail = error.orig.diag.message_detail or ""
                raise Refused(
                    f"something is built on them: {' '.join(detail.split())}. Nothing was dropped"
                ) from error
            if not isinstance(error.orig, busy) or attempt + 1 == ATTEMPTS:
                raise
        except BaseException:
            run(connection, "ROLLBACK")
            raise
        time.sleep(0.05 + 0.25 * random.random())


# --- the command ----------------------------------------------------------------------------------


def show(report: Report, out: Console) -> None:
    """Print what there is, for people."""
    out.print(f"Database {escape(report.database)}, revision {report.revision}\n")
    if report.backups:
        out.print(
            table(
                "Dated backups",
                ("Table", "Of", "Days", "Rows", "Bytes", "Reads", "Writes"),
                (
                    (
                        escape(b.name),
                        b.was,
                        "?" if b.age is None else b.age,
                        b.rows,
                        b.bytes,
                        b.reads,
                        b.writes,
                    )
                    for b in report.backups
                ),
            )
        )
        out.print(
            "Reads and writes while watching; what keeps both worlds in step is among them.\n"
        )
    elif not report.bridge:
        out.print("No dated backup: nothing to drop.")
    for name in report.stand_ins:
        out.print(f"View {name} stands in for its table: old endpoints that use it will fail.")
    for name in report.gone:
        out.print(
            f"The table behind {name} was dropped by hand; what is left of the bridge can go."
        )
    if report.gone and report.pending:
        out.print(
            f"{report.pending:,} sessions were noted since then, or before, and not carried over."
        )
    for key in report.keys:
        out.print(
            f"Foreign key {escape(key['name'])} of {escape(key['child'])} will refer to "
            f"sessions(session_token) ({key['dangling']:,} rows would lead nowhere)."
        )
    for what in report.mentions:
        out.print(f"Function {escape(what)} mentions them: look whether it is still needed.")
    for note in report.notes:
        out.print(f"[yellow]NOTE:[/] {escape(note)}")
    if report.not_ours:
        out.print(f"Not ours, left alone: {escape(', '.join(report.not_ours))}")
    for reason in report.reasons:
        out.print(f"[red]NOT YET:[/] {escape(reason)}")


def main(
    url: Url = None,
    confirm: Annotated[
        str,
        typer.Option(help=f"Drop them, if this is exactly {CONFIRMATION!r}. Default: list them."),
    ] = "",
    dump: Annotated[
        Path | None,
        typer.Option(
            help="A proven backup (scripts.backup) that holds the tables as they are now."
        ),
    ] = None,
    waive_dump: Annotated[
        bool, typer.Option("--waive-dump", help="Drop them without a dump: they are gone then.")
    ] = False,
    watch: Annotated[
        float, typer.Option(min=0, help="For how many seconds to watch who reads and writes them.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """List the dated backups of the old tables; with --confirm, drop them for good.

    Drops only what is 30 days old by the date in its name, after every check has passed and
    with a proven dump that holds the same rows. Foreign keys of other tables then refer to
    sessions. The new tables stay as they are; stand-in views, bridge and its triggers go; a
    downgrade past 0007 is refused from then on. Tables that the migration did not make are
    left alone.

    Exits with 0 (nothing stands in the way, or dropped), 1 (something does, nothing was
    dropped) or 2 (could not tell).

    Example: python -m scripts.drop_backups --dump last.dump --confirm "DELETE OLD TABLES"
    """
    manifest = None
    with refusing(), database(url, "AUTOCOMMIT") as connection:
        if confirm and confirm != CONFIRMATION:
            raise Refused(f"the text is not {CONFIRMATION}: nothing was changed")
        report = examine(connection, watch)
        if not as_json:
            show(report, console())
        dropping = bool(confirm) and report.anything and not report.reasons
        if dropping:
            if dump is not None:
                manifest = check_dump(connection, report, dump)
            elif report.backups and not waive_dump:
                raise Refused(
                    "name a proven backup of them: --dump FILE (python -m scripts.backup makes one), or "
                    "--waive-dump. Nothing was changed"
                )
            with doing("Verifying, before anything is changed"):
                verify(connection, report)
            drop(connection, report, manifest)
            report.done = True
    if as_json:
        typer.echo(json.dumps({**asdict(report), "dropped": dropping}, indent=2))
    elif dropping:
        names = ", ".join(b.name for b in report.backups) or "what was left of the bridge"
        console().print(
            f"\n[green]DROPPED:[/] {escape(names)}; the new tables were locked for {report.locked_ms} ms"
        )
    elif report.anything and not report.reasons:
        console().print(
            "Next: python -m scripts.backup, then python -m scripts.drop_backups --dump FILE --confirm "
            f'"{CONFIRMATION}"'
        )
    raise typer.Exit(1 if report.reasons else 0)


if __name__ == "__main__":
    run_app(main)
