"""The remaining legacy tables: dated backups, their use, and what prevents dropping them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text

from scripts.backup.tables import created_by_revisions
from scripts.common.connection import NotApplicable
from scripts.common.database import HAS, revision_of, run

DAYS = 30

PRIOR = "SELECT to_regclass('public.prior_attempt') IS NOT NULL"
# The bridge and 0001 know their tables by oid, whatever their names; kept overrides are known by
# their table's name.
SOURCES = {
    "bridge": "SELECT relation::oid, legacy_name FROM bridge.source",
    "prior": """
        SELECT relation::oid, original_name FROM public.prior_attempt
        WHERE relation::oid IN (SELECT oid FROM pg_class)""",
    "remainder": r"""
        SELECT oid, 'bridge.override' FROM pg_class WHERE relnamespace = 'public'::regnamespace
        AND relkind = 'r' AND relname ~ '^bridge_remainder_backup_\d{8}(_\d+)?$'""",
}
BACKUPS = r"""
SELECT c.oid::bigint AS oid, f.was, c.relname::text AS name,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS quoted,
       (now() AT TIME ZONE 'UTC')::date AS today, pg_total_relation_size(c.oid) AS bytes,
       pg_has_role(c.relowner, 'USAGE') AS owned, coalesce(u.seq_scan, 0) + coalesce(u.idx_scan, 0) AS reads,
       coalesce(u.n_tup_ins + u.n_tup_upd + u.n_tup_del, 0) AS writes
FROM ({}) AS f(oid, was)
LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace) ON c.oid = f.oid
LEFT JOIN pg_stat_user_tables AS u ON u.relid = c.oid
ORDER BY f.was, name
"""
NOT_OURS = """
SELECT relname::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND oid <> ALL(CAST(:oids AS oid[]))
  AND relname ~ '^(workshop_|student|sessions|step_progress|events|bridge_).*(backup|merged)' ORDER BY 1
"""
VIEWS = "SELECT to_regclass('public.' || n)::oid::bigint FROM unnest(CAST(:names AS text[])) AS n"
# A body is text: a name in it is a hint, not a dependency.
MENTIONS = r"""
SELECT DISTINCT p.oid::regprocedure::text AS what
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
CROSS JOIN unnest(CAST(:names AS text[])) AS name
WHERE n.nspname NOT IN ('bridge', 'pg_catalog', 'information_schema')
  AND p.prosrc ~ ('\m' || name || '\M') AND p.proname <> ALL(:ours)
ORDER BY 1
"""
# Keys inside and between the dropped tables are dropped with them. search_path is pg_catalog, so
# the definition names the table as "quoted" does.
KEYS = """
SELECT quote_ident(k.conname) AS quoted, k.conname::text AS name, k.oid::bigint AS oid,
       format('%I.%I', n.nspname, c.relname) AS child, quote_ident(a.attname) AS "column",
       k.confrelid::regclass::text AS parent, p.attname::text AS referenced, cardinality(k.conkey) AS columns,
       k.convalidated AS valid, pg_get_constraintdef(k.oid) AS definition, pg_has_role(c.relowner, 'USAGE') AS owned
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
JOIN pg_attribute AS p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1]
WHERE k.contype = 'f' AND k.confrelid = ANY(CAST(:oids AS oid[]))
  AND k.conrelid <> ALL(CAST(:oids AS oid[])) AND k.conparentid = 0
ORDER BY 4, 2
"""
DANGLING = """
SELECT count(*) FROM {child} AS c
WHERE c.{column} IS NOT NULL
  AND NOT EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = c.{column})
"""
# Objects that depend on these relations or on the bridge, and would have to be dropped with them.
DEPENDENTS = """
WITH RECURSIVE goes(class, oid) AS (
    SELECT 'pg_class'::regclass, c.oid FROM pg_class AS c
    WHERE c.oid = ANY(CAST(:oids AS oid[])) OR c.relnamespace = to_regnamespace('bridge')
    UNION
    SELECT 'pg_proc'::regclass, p.oid FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('bridge')
    UNION
    SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.pronamespace = to_regnamespace('bridge')
    UNION
    SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint AS k WHERE k.oid = ANY(CAST(:keys AS oid[]))
    UNION
    SELECT d.classid, d.objid FROM goes AS g
    JOIN pg_depend AS d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype IN ('a', 'i', 'P', 'S')
)
SELECT DISTINCT regexp_replace(pg_describe_object(d.classid, d.objid, d.objsubid), '^rule "?_RETURN"? on ', '')
FROM goes AS g
JOIN pg_depend AS d ON d.refclassid = g.class AND d.refobjid = g.oid AND d.deptype = 'n'
WHERE (d.classid, d.objid) NOT IN (SELECT o.class, o.oid FROM goes AS o)
ORDER BY 1
"""
PENDING = "SELECT count(DISTINCT token) FROM bridge.change_log"


@dataclass
class Backup:
    """A table that can be dropped. ``was``: the table that it is a backup of; ``age`` in days, by its name.

    ``reads`` and ``writes``: scans and rows since the first count, including those of the bridge.
    """

    name: str
    quoted: str
    oid: int
    was: str
    age: int | None
    bytes: int
    rows: int
    reads: int = 0
    writes: int = 0


@dataclass
class Report:
    """The state, and the ``reasons`` why nothing can be dropped now.

    ``gone``: legacy tables dropped by hand; ``stand_ins``: views with the legacy names; ``keys``:
    foreign keys of other tables, which will refer to sessions.
    """

    database: str
    revision: str | None
    backups: list[Backup] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    pending: int = 0
    bridge: bool = False
    dropped: bool = False
    locked_ms: int = 0

    @property
    def anything(self) -> bool:
        """Return whether there is something to drop: tables, or the rest of the bridge."""
        return bool(self.backups) or self.bridge


def examine(connection: Connection, watch: float) -> Report:
    """Read the state, and watch the tables for ``watch`` seconds; changes nothing."""
    run(connection, "SET search_path = pg_catalog")
    has = run(connection, HAS).mappings().one()
    report = Report(has["database"], revision_of(connection), bridge=has["bridge"])
    if report.revision is None:
        raise NotApplicable("the database is not migrated: there are no backups to drop")
    if not has["unified"]:
        raise NotApplicable(
            "there is no table sessions, so only the legacy tables have the rows. 'workshop status' shows "
            "the way back"
        )
    _find_backups(connection, report, watch)
    if report.bridge and report.revision < "0007":
        report.reasons.append(
            f"at revision {report.revision} the legacy tables are still in use. Next: alembic upgrade head"
        )
        return report
    if report.bridge:
        report.stand_ins = [name for name in has["legacy"] if name not in report.gone]
        report.pending = run(connection, PENDING).scalar_one()
    oids = oids_of(connection, report)
    _look_at_keys(connection, report, oids)
    report.reasons += [
        f"{what} depends on them: drop it first" for what in dependents(connection, report, oids)
    ]
    names = [b.name for b in report.backups] + ["workshop_students", "student_configs"]
    ours = created_by_revisions("FUNCTION")
    mentions = connection.execute(text(MENTIONS), {"names": names, "ours": ours})
    report.mentions = list(mentions.scalars())
    return report


def _find_backups(connection: Connection, report: Report, watch: float) -> None:
    """Fill in ``backups``, ``gone``, ``not_ours``, and the reasons of ages and owners."""
    there = {"bridge": report.bridge, "prior": run(connection, PRIOR).scalar_one()}
    query = " UNION ALL ".join(sql for name, sql in SOURCES.items() if there.get(name, True))
    before = run(connection, BACKUPS.format(query)).mappings().all()
    time.sleep(watch if before else 0)
    for was, now in zip(before, run(connection, BACKUPS.format(query)).mappings(), strict=True):
        if now["oid"] is None:
            report.gone.append(now["was"])
        # before 0007 the legacy tables have the names that the application uses
        elif now["name"] != now["was"]:
            counted = run(connection, f"SELECT count(*) FROM {now['quoted']}").scalar_one()
            backup = Backup(
                **{name: now[name] for name in ("name", "quoted", "oid", "was", "bytes")},
                age=_age(now["name"], now["today"]),
                rows=counted,
                reads=now["reads"] - was["reads"],
                writes=now["writes"] - was["writes"],
            )
            report.backups.append(backup)
            report.reasons += _reasons(backup, now["owned"])
    oids = {"oids": [backup.oid for backup in report.backups]}
    report.not_ours = list(connection.execute(text(NOT_OURS), oids).scalars())


def _age(name: str, today: date) -> int | None:
    try:
        return (today - datetime.strptime(name.partition("_backup_")[2][:8], "%Y%m%d").date()).days
    except ValueError:
        return None


def _reasons(backup: Backup, owned: bool) -> Iterator[str]:
    if not owned:
        yield f"{backup.name} belongs to another role"
    if backup.age is None:
        yield f"the name of {backup.name} has no date, as ..._backup_YYYYMMDD has"
    elif backup.age < DAYS:
        yield f"{backup.name} is {backup.age} days old, and has to be {DAYS} days old"


def oids_of(connection: Connection, report: Report) -> list[int]:
    """Return the backups and the views with the legacy names, read again."""
    views = connection.execute(text(VIEWS), {"names": report.stand_ins})
    return [b.oid for b in report.backups] + list(views.scalars())


def dependents(connection: Connection, report: Report, oids: list[int]) -> list[str]:
    """Return objects that depend on the backups, the views or the bridge, except foreign keys."""
    keys = [key["oid"] for key in report.keys]
    return list(connection.execute(text(DEPENDENTS), {"oids": oids, "keys": keys}).scalars())


def _look_at_keys(connection: Connection, report: Report, oids: list[int]) -> None:
    """Return foreign keys of other tables, and the reasons why they cannot refer to sessions."""
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
                f"{name} cannot refer to sessions: the table belongs to another role"
            )
        dangling = run(connection, DANGLING.format(**key)).scalar_one()
        report.keys.append({**key, "dangling": dangling})
        if dangling and key["valid"]:
            report.reasons.append(
                f"{dangling:,} rows of {key['child']} have a {key['column']} that sessions does not "
                f"have: {name} cannot refer to sessions"
            )
