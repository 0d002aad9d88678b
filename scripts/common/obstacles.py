"""What stands in the way of a run, looked for before its first step: online, offline and by the commands.

``legacy_names.sql``: a legacy name is not what the bridge knows. ``98_dependents.sql``: a downgrade would
drop what objects of others depend on.
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
        SELECT string_agg(f.what, '; '), string_agg(array_to_string(f.way_back, '; '), '; ') INTO found, way FROM (
{legacy_names}) AS f;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'a legacy name was changed by hand: %', found
                USING HINT = 'Nothing was changed. "workshop status" says what that means. The way back, in '
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
        RAISE EXCEPTION 'other objects depend on what this downgrade drops: %', found
            USING HINT = 'Nothing was changed. Drop them, run the downgrade, create them again.';
    END IF;
END
$dependents$"""


def planned_steps(migration: MigrationContext) -> list[RevisionStep]:
    """Return the steps that the command will run; a stamp has none."""
    planned = (
        () if migration.purge else migration.opts["fn"](migration.get_current_heads(), migration)
    )
    return [step for step in planned if isinstance(step, RevisionStep)]


def refusal(steps: Sequence[RevisionStep]) -> str:
    """SQL that raises an error where something stands in the way of these steps; or none.

    The setting ``bridge.at`` is the revision of the database.
    """
    if not steps:
        return ""
    last = steps[-1]
    target = "9999" if last.is_upgrade else str(last.revision.down_revision or "0000")
    refuse = REFUSE.format(target=target[:4], legacy_names=LEGACY_NAMES)
    return refuse if last.is_upgrade else refuse + ";" + REFUSE_DOWN.format(dependents=DEPENDENTS)


def misnamed(connection: Connection, revision: str | None) -> Sequence[RowMapping]:
    """Legacy names that are not what the bridge knows; schema ``bridge`` is there."""
    connection.execute(text(AT), {"at": revision or "", "target": ""})
    return (
        connection.exec_driver_sql(LEGACY_NAMES, execution_options={"no_parameters": True})
        .mappings()
        .all()
    )


def dependents(connection: Connection, target: str) -> Sequence[str]:
    """What depends on objects that a downgrade to ``target`` (``base``, or a revision) drops."""
    below = "0000" if target == "base" else target[:4]
    connection.execute(text(AT), {"at": "", "target": below})
    return (
        connection.exec_driver_sql(DEPENDENTS, execution_options={"no_parameters": True})
        .scalars()
        .all()
    )
