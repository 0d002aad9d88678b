"""The remaining legacy tables: dated backups, their use, and what prevents dropping them."""

import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from scripts.backup.tables import FUNCTIONS
from scripts.common import obstacles
from scripts.common.connection import NotApplicable
from scripts.common.database import HAS, PENDING, apply_settings, revision_of, run

DAYS = 30

# The bridge and 0001 know their tables by oid, whatever their names; kept overrides are known by
# their table's name.
OF_BRIDGE = "SELECT relation::oid, legacy_name FROM bridge.source UNION ALL "
OF_PRIOR = """
SELECT c.oid, p.original_name FROM public.prior_attempt AS p JOIN pg_class AS c ON c.oid = p.relation UNION ALL
"""
BACKUPS = r"""
SELECT c.oid::bigint AS oid, f.was, c.relname::text AS name, c.oid::regclass::text AS quoted,
       (now() AT TIME ZONE 'UTC')::date - to_date(
           substring(c.relname FROM '_backup_(\d{{4}}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01]))'), 'YYYYMMDD') AS age,
       pg_total_relation_size(c.oid) AS bytes, coalesce(u.seq_scan, 0) + coalesce(u.idx_scan, 0) AS reads,
       coalesce(u.n_tup_ins + u.n_tup_upd + u.n_tup_del, 0) AS writes
FROM ({}
      SELECT oid, 'bridge.override' FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
          AND relname ~ '^bridge_remainder_backup_\d{{8}}(_\d+)?$') AS f(oid, was)
LEFT JOIN pg_class AS c ON c.oid = f.oid
LEFT JOIN pg_stat_user_tables AS u ON u.relid = c.oid
ORDER BY f.was, name
"""
NOT_OURS = """
SELECT relname::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND oid <> ALL(CAST(:oids AS oid[]))
  AND relname ~ '^(workshop_|student|sessions|step_progress|events|bridge_).*(backup|merged)' ORDER BY 1
"""
# A body is text: a name in it is a hint, not a dependency.
MENTIONS = f"""
SELECT p.oid::regprocedure::text FROM pg_proc AS p
WHERE p.pronamespace::regnamespace::text NOT IN ('bridge', 'pg_catalog', 'information_schema')
  AND p.prosrc ~ :names AND p.oid NOT IN ({FUNCTIONS}) ORDER BY 1
"""
# Keys inside and between the dropped tables are dropped with them. A key is moved in one statement,
# so that it always holds.
KEYS = """
SELECT k.conname::text AS name, r.child, quote_ident(a.attname) AS "column", k.convalidated AS valid,
       replace(format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %2$I %s', r.child, k.conname,
                      pg_get_constraintdef(k.oid)),
               format('REFERENCES %s(', r.parent), 'REFERENCES public.sessions(') AS command
FROM pg_constraint AS k
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
JOIN pg_attribute AS p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1]
CROSS JOIN LATERAL (SELECT k.conrelid::regclass::text AS child, k.confrelid::regclass::text AS parent) AS r
WHERE k.contype = 'f' AND k.confrelid = ANY(CAST(:oids AS oid[])) AND k.conrelid <> ALL(CAST(:oids AS oid[]))
  AND k.conparentid = 0 AND cardinality(k.conkey) = 1 AND p.attname = 'session_token'
ORDER BY r.child, name
"""
DANGLING = """
SELECT count(*) FROM {child} AS c
WHERE c.{column} IS NOT NULL
  AND NOT EXISTS (SELECT FROM public.sessions AS s WHERE s.session_token = c.{column})
"""
# For 98_dependents.sql, in the form of bridge.creates: what goes with the bridge.
GOING = "SELECT set_config('bridge.creates', :backups || E'\\n0007 table workshop_students student_configs', false)"


@dataclass
class Report:
    """The state, and the ``reasons`` why nothing can be dropped now.

    ``backups`` can be dropped. ``was``: the table that it is a backup of; ``age`` in days, by its
    name; ``reads`` and ``writes``: scans and rows while watching, including those of the bridge.
    ``gone``: legacy tables dropped by hand; ``views``: those with the legacy names; ``keys``:
    foreign keys of other tables, which will refer to sessions; ``mentions``: functions.
    """

    database: str
    revision: str
    bridge: bool
    backups: list[dict[str, Any]] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    pending: int = 0
    dropped: bool = False


def examine(connection: Connection, watch: float) -> Report:
    """Read the state, and watch the tables for ``watch`` seconds; changes nothing."""
    apply_settings(connection)
    run(connection, "SET search_path = pg_catalog")  # names of other schemas are qualified
    has = run(connection, HAS).mappings().one()
    revision = revision_of(connection)
    if revision is None:
        raise NotApplicable("the database is not migrated: there are no backups to drop")
    if not has["unified"]:
        raise NotApplicable(
            "there is no table sessions, so only the legacy tables have the rows. 'workshop status' shows "
            "the way back"
        )
    report = Report(has["database"], revision, has["bridge"])
    _find_backups(connection, report, watch)
    oids = {"oids": [backup["oid"] for backup in report.backups]}
    report.not_ours = list(connection.execute(text(NOT_OURS), oids).scalars())
    if report.bridge and revision < "0007":
        report.reasons.append(
            f"at revision {revision} the legacy tables are still in use. Next: alembic upgrade head"
        )
        return report
    if report.bridge:
        report.views = [name for name in has["legacy"] if name not in report.gone]
        report.pending = run(connection, PENDING).scalar_one()
    for key in connection.execute(text(KEYS), oids).mappings():
        dangling = run(connection, DANGLING.format(**key)).scalar_one()
        report.keys.append({**key, "dangling": dangling})
        if dangling and key["valid"]:
            report.reasons.append(
                f"{dangling:,} rows of {key['child']} have a {key['column']} that sessions does not "
                f"have: foreign key {key['name']} cannot refer to sessions"
            )
    names = "|".join(["workshop_students", "student_configs", *(b["name"] for b in report.backups)])
    found = connection.execute(text(MENTIONS), {"names": rf"\m({names})\M"})
    report.mentions = list(found.scalars())
    report.reasons += [f"{what}: drop it first" for what in dependents(connection, report)]
    return report


def _find_backups(connection: Connection, report: Report, watch: float) -> None:
    """Fill in ``backups``, ``gone``, and the reasons of ages."""
    prior = run(connection, "SELECT to_regclass('public.prior_attempt') IS NOT NULL").scalar()
    query = BACKUPS.format((OF_BRIDGE if report.bridge else "") + (OF_PRIOR if prior else ""))
    before = run(connection, query).mappings().all()
    time.sleep(watch if before else 0)
    for was, now in zip(before, run(connection, query).mappings(), strict=True):
        if now["oid"] is None:
            report.gone.append(now["was"])
        # before 0007 the legacy tables have the names that the application uses
        elif now["name"] != now["was"]:
            rows = run(connection, f"SELECT count(*) FROM {now['quoted']}").scalar_one()
            watched = {key: now[key] - was[key] for key in ("reads", "writes")}
            report.backups.append({**now, **watched, "rows": rows})
            if now["age"] is None or now["age"] < DAYS:
                age = "?" if now["age"] is None else now["age"]
                report.reasons.append(
                    f"{now['name']} is {age} days old, and has to be {DAYS} days old"
                )


def dependents(connection: Connection, report: Report) -> list[str]:
    """Return objects that depend on the backups, the views or the bridge, except foreign keys."""
    names = [backup["quoted"].removeprefix("public.") for backup in report.backups]
    connection.execute(text(GOING), {"backups": f"0003 relation {' '.join(names)}"})
    keys = tuple(f"constraint {k['name']} on table {k['child']}, " for k in report.keys)
    found = obstacles.dependents(connection, "0002")
    return [what for what in found if not what.startswith(keys)]
