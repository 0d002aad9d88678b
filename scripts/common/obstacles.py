"""Obstacles of a run, checked before its first step: online, offline and by the commands.

``legacy_names.sql``: a legacy name does not lead to the bridge's table. ``98_dependents.sql``:
other objects depend on objects that a downgrade drops.
"""

from collections.abc import Sequence

from alembic.runtime.migration import MigrationContext, RevisionStep
from sqlalchemy import Connection, RowMapping, text

from scripts.common.project import sql_text

LEGACY_NAMES = sql_text("legacy_names.sql")
DEPENDENTS = sql_text("98_dependents.sql")

AT = "SELECT set_config('bridge.at', :at, false), set_config('bridge.target', :target, false)"
REFUSE = """\
SET bridge.target = '{target}';
DO $obstacles$
DECLARE
    found text;
    way text;
BEGIN
    IF to_regclass('bridge.source') IS NOT NULL THEN
        SELECT string_agg(s.legacy_name, ' and ') INTO found FROM bridge.source AS s
        WHERE current_setting('bridge.at') < '0007'  -- 0007 refuses as well, and names the backup
          AND to_regclass('public.sessions') IS NOT NULL
          AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = s.relation);
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'the table behind % was dropped by hand', found
                USING HINT = 'Nothing was changed. "workshop status" shows the consequences and the commands.';
        END IF;
        SELECT string_agg(f.what, '; '), string_agg(array_to_string(f.way_back, '; '), '; ') INTO found, way FROM (
{legacy_names}) AS f;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'a legacy name was changed by hand: %', found
                USING HINT = 'Nothing was changed. "workshop status" shows the consequences. The way back, in '
                             'one transaction: ' || way;
        END IF;
    END IF;
END
$obstacles$"""
REFUSE_DOWN = """
DO $dependents$
DECLARE
    found text;
BEGIN
    IF to_regclass('public.legacy_tables_dropped') IS NOT NULL THEN
        RETURN;  -- 0007 refuses, and names the dump
    END IF;
    SELECT string_agg(f.what, '; ') INTO found FROM (
{dependents}) AS f;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'other objects depend on objects that this downgrade drops: %', found
            USING HINT = 'Nothing was changed. Drop them, run the downgrade, create them again.';
    END IF;
END
$dependents$"""


def planned_steps(migration: MigrationContext) -> list[RevisionStep]:
    """Return the steps of the command; a stamp has none."""
    planned = (
        () if migration.purge else migration.opts["fn"](migration.get_current_heads(), migration)
    )
    return [step for step in planned if isinstance(step, RevisionStep)]


def refusal(steps: Sequence[RevisionStep]) -> str:
    """Return SQL that raises an error if an obstacle blocks these steps; '' without a check.

    The setting ``bridge.at`` must be the revision of the database.
    """
    if not steps:
        return ""
    last = steps[-1]
    target = "9999" if last.is_upgrade else str(last.revision.down_revision or "0000")
    refuse = REFUSE.format(target=target[:4], legacy_names=LEGACY_NAMES)
    return refuse if last.is_upgrade else refuse + ";" + REFUSE_DOWN.format(dependents=DEPENDENTS)


def misnamed(connection: Connection, revision: str | None) -> Sequence[RowMapping]:
    """Return the legacy names that do not lead to the bridge's tables; needs schema ``bridge``."""
    connection.execute(text(AT), {"at": revision or "", "target": ""})
    return (
        connection.exec_driver_sql(LEGACY_NAMES, execution_options={"no_parameters": True})
        .mappings()
        .all()
    )


def dependents(connection: Connection, target: str) -> Sequence[str]:
    """Return the objects that depend on objects that a downgrade to ``target`` drops (``base``, or a revision)."""
    below = "0000" if target == "base" else target[:4]
    connection.execute(text(AT), {"at": "", "target": below})
    return (
        connection.exec_driver_sql(DEPENDENTS, execution_options={"no_parameters": True})
        .scalars()
        .all()
    )
