"""Columns that a later revision adds to the unified tables, and drops: no value is lost on the way.

``op.drop_column`` keeps the values aside in ``own_columns_backup_YYYYMMDD``, ``op.add_column`` of the same
column brings them back. Importing this module makes the two operations do so, online and offline.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations, ops, toimpl

SQL = Path(__file__).parents[2] / "alembic" / "sql" / "own_columns"
TABLES = ("students", "sessions", "step_progress", "events")


def _run(operations: Operations, sql: str) -> None:
    operations.execute(sa.DDL(sql.rstrip().replace("%", "%%")))


def _is_unified(operation: ops.AddColumnOp | ops.DropColumnOp) -> bool:
    return operation.table_name in TABLES and operation.schema in (None, "public")


@Operations.implementation_for(ops.DropColumnOp, replace=True)
def _drop_column(operations: Operations, operation: ops.DropColumnOp) -> None:
    if _is_unified(operation):
        name = f"{operation.table_name}.{operation.column_name}".replace("'", "''")
        _run(operations, f"LOCK TABLE public.{operation.table_name} IN ACCESS EXCLUSIVE MODE")
        _run(operations, f"SELECT set_config('bridge.own_column', '{name}', true)")
        _run(operations, (SQL / "98_keep.sql").read_text(encoding="utf-8"))
        _run(operations, "SELECT set_config('bridge.own_column', '', true)")
    toimpl.drop_column(operations, operation)


@Operations.implementation_for(ops.AddColumnOp, replace=True)
def _add_column(operations: Operations, operation: ops.AddColumnOp) -> None:
    toimpl.add_column(operations, operation)
    if _is_unified(operation):
        _run(operations, (SQL / "01_restore.sql").read_text(encoding="utf-8"))
