"""The merge on temporary tables, which a dry run counts.

Copies the legacy tables and the other sources of the merge, at one moment (``moment``). Runs the
SQL files of 0001 to 0003, the step triggers of 0004 and the procedures of 0004 over the copies.
The session's temporary schema replaces the schemas ``public`` and
``bridge``; two views of the mapping get another name, because tables have theirs. After the copy
its transactions use no permanent table. PostgreSQL drops all of it when the connection ends.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, CursorResult
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from models import Base
from scripts.common.connection import explain
from scripts.common.database import passes, run
from scripts.common.moment import Moment, moment
from scripts.common.project import SQL

LEGACY = ("workshop_students", "student_configs")
MERGE = SQL / "0004_merge_legacy_data"
UNIFIED = ("students", "sessions", "step_progress", "events")
# of 0003, which creates them before the bridge; 0005 creates the others
EARLY_INDEXES = ("ix_sessions_student_id", "ix_events_session_token")
LEFT_OUT = ("00_preflight.sql", "01_schema.sql")
OF_0001 = ("02_make_way.sql", "03_tables.sql", "04_copy_prior.sql")

COPIED = """
SELECT c.relname::text
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND (
    c.relname IN ('workshop_students', 'student_configs', 'workshop_step_progress')
    OR c.relname IN ('students', 'sessions', 'step_progress', 'events') AND NOT {unified}
    OR c.oid = (
        SELECT k.oid FROM pg_class AS k
        WHERE k.relnamespace = c.relnamespace AND k.relkind = 'r' AND NOT {bridge}
          AND k.relname ~ '^bridge_remainder_backup_[0-9]{{8}}(_[0-9]+)?$'
        ORDER BY k.oid DESC LIMIT 1))
"""
COLUMNS = """
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = 'pg_temp.{}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
LIKE = """
CREATE TEMPORARY TABLE {name} (LIKE public.{name}
    INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY INCLUDING INDEXES)
"""
# The next row gets the next number.
NUMBERS = "SELECT setval(pg_get_serial_sequence('pg_temp.{0}', 'id'), max(id)) FROM pg_temp.{0}"
PRIOR = "SELECT original_name, relation::text FROM public.prior_attempt"
PRIOR_TABLE = """
CREATE TEMPORARY TABLE prior_attempt (original_name text PRIMARY KEY, relation regclass NOT NULL)
"""
READ_ONLY = """
SELECT EXISTS (SELECT FROM pg_trigger
               WHERE tgrelid = to_regclass('public.sessions') AND tgname = 'read_only')
"""
MEMORY = ("state", "change_log", "student_source", "override")
"""Tables of the bridge that a merge needs to continue an interrupted one."""


@dataclass
class Shadow:
    """``refused``: the reason why an upgrade would fail; then there are no counts.

    ``checks`` are those of ``bridge.run_checks``; ``seconds`` is the duration of each part.
    """

    moment: Moment
    refused: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, sql: str) -> CursorResult[*tuple[Any, ...]]:
        """Execute SQL for ``public`` and ``bridge`` on the temporary tables."""
        return run(self.moment.connection, self.moved(sql))

    def moved(self, sql: str) -> str:
        """Return the SQL with the temporary schema instead of ``public`` and ``bridge``.

        The files qualify every function: PostgreSQL never searches a temporary schema for one.
        """
        for name, replacement in (
            # views that have the name of a table
            ("bridge.students", f"{self.moment.schema}.bridge_students"),
            ("bridge.sessions", f"{self.moment.schema}.bridge_sessions"),
            ("bridge.", f"{self.moment.schema}."),
            ("public.", f"{self.moment.schema}."),
            ("'public'", f"'{self.moment.schema}'"),
        ):
            sql = sql.replace(name, replacement)
        return sql


def build(connection: Connection, revision: str | None, say: Callable[[str], None]) -> Shadow:
    """Copy, merge and verify. The connection is in AUTOCOMMIT; ``revision`` is below 0004.

    Raises ConnectionProblem as ``moment`` does.
    """
    files = [
        (path.parent.name, path)
        for name in ("0001_unified_schema", "0002_progress_tracking", "0003_legacy_bridge")
        for path in sorted((SQL / name).glob("[01]*.sql"))
    ]
    files += [(MERGE.name, MERGE / name) for name in ("01_steps.sql", "02_backfill_functions.sql")]
    run(connection, "SET client_min_messages = warning; SET temp_buffers = '64MB'")
    with moment(connection, say) as now:
        shadow = Shadow(now)
        began = time.monotonic()
        unified, bridge = revision is not None, revision is not None and revision >= "0003"
        for name in run(connection, COPIED.format(unified=unified, bridge=bridge)).scalars():
            _copy(now, name)
        if unified:
            _copy_unified(shadow)
        shadow.seconds["copy"] = time.monotonic() - began

        read_only = run(connection, READ_ONLY).scalar_one()
        for folder, path in files:
            if path.name in LEFT_OUT or (unified and path.name in OF_0001):
                continue
            if path.name == "11_adopt.sql" and bridge:
                continue
            if path.name == "03_tables.sql":
                _create_unified(shadow)
                continue
            if path.name == "12_install.sql" and read_only:
                shadow.run("SELECT bridge.set_read_only(true)")
            say(f"building {folder}")
            if not _succeeds(shadow, path.read_text("utf-8")):
                return shadow
        if bridge:
            # the log is copied unchanged: an old snapshot does not see that the state forbids a
            # sync
            shadow.run("SET bridge.applying = 'on'")
            for name in MEMORY:
                shadow.run(f"DELETE FROM bridge.{name}")
                columns = run(connection, COLUMNS.format(name)).scalars()
                now.copy(f"bridge.{name}", name, [(c, f"t.{c}") for c in columns])
            shadow.run("SET bridge.applying = ''")
            run(connection, NUMBERS.format("change_log"))
    _merge(shadow)
    return shadow


def _succeeds(shadow: Shadow, sql: str) -> bool:
    """Run one step of the migration; an error here is an error of the upgrade."""
    try:
        shadow.run(sql)
    except DBAPIError as error:
        if passes(error):
            raise
        shadow.refused = [explain(error)]
    return not shadow.refused


def _copy(now: Moment, name: str) -> None:
    quoted = run(now.connection, f"SELECT quote_ident('{name}')").scalar_one()
    run(now.connection, LIKE.format(name=quoted))
    columns = list(run(now.connection, COLUMNS.format(quoted)).scalars())
    now.copy(f"public.{quoted}", quoted, [(c, f"t.{c}") for c in columns])
    run(now.connection, f"ANALYZE pg_temp.{quoted}")


def _copy_unified(shadow: Shadow) -> None:
    now = shadow.moment
    _create_unified(shadow)
    for name in UNIFIED:
        columns = list(run(now.connection, COLUMNS.format(name)).scalars())
        now.copy(f"public.{name}", name, [(c, f"t.{c}") for c in columns])
    run(now.connection, NUMBERS.format("events"))
    if run(now.connection, "SELECT to_regclass('public.prior_attempt') IS NOT NULL").scalar():
        prior = run(now.connection, PRIOR).all()
        run(now.connection, PRIOR_TABLE)
        for original, relation in prior:
            _copy(now, relation)
            run(
                now.connection,
                f"INSERT INTO pg_temp.prior_attempt VALUES ('{original}', 'pg_temp.{relation}')",
            )


def _create_unified(shadow: Shadow) -> None:
    """Create the four tables from the models; a test compares the models with the revisions."""
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        ddl = str(CreateTable(table, include_foreign_key_constraints=[]).compile(dialect=dialect))
        run(shadow.moment.connection, ddl.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1))
    _create_indexes(shadow, early=True)


def _create_indexes(shadow: Shadow, *, early: bool) -> None:
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        for index in table.indexes:
            if (index.name in EARLY_INDEXES) == early:
                run(shadow.moment.connection, str(CreateIndex(index).compile(dialect=dialect)))


def _merge(shadow: Shadow) -> None:
    connection = shadow.moment.connection
    began = time.monotonic()
    run(connection, "SET client_min_messages = notice")
    if not all(
        _succeeds(shadow, f"CALL {step}") for step in ("pg_temp.backfill()", "bridge.drain(false)")
    ):
        return
    merged = time.monotonic()
    _create_indexes(shadow, early=False)
    indexed = time.monotonic()
    shadow.checks = shadow.run("CALL bridge.run_checks(NULL)").scalar_one()
    shadow.seconds |= {
        "merge": merged - began,
        "indexes": indexed - merged,
        "verify": time.monotonic() - indexed,
    }
