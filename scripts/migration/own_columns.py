"""Columns that a later revision adds to the unified tables and drops, without losing a value.

``op.drop_column`` keeps the values in ``own_columns_backup_YYYYMMDD``; ``op.add_column`` of the
same column restores them. Importing this module changes the two operations, online and offline.
"""

from alembic.operations import Operations, ops, toimpl

from scripts.migration.operations import ddl, sql_file

TABLES = ("students", "sessions", "step_progress", "events")


def _is_unified(operation: ops.AddColumnOp | ops.DropColumnOp) -> bool:
    return operation.table_name in TABLES and operation.schema in (None, "public")


@Operations.implementation_for(ops.DropColumnOp, replace=True)
def _drop_column(operations: Operations, operation: ops.DropColumnOp) -> None:
    if _is_unified(operation):
        name = f"{operation.table_name}.{operation.column_name}".replace("'", "''")
        for text in (
            f"LOCK TABLE public.{operation.table_name} IN ACCESS EXCLUSIVE MODE",
            f"SELECT set_config('bridge.own_column', '{name}', true)",
            sql_file("own_columns", "98_keep"),
            "SELECT set_config('bridge.own_column', '', true)",
        ):
            operations.execute(ddl(text))
    toimpl.drop_column(operations, operation)


@Operations.implementation_for(ops.AddColumnOp, replace=True)
def _add_column(operations: Operations, operation: ops.AddColumnOp) -> None:
    toimpl.add_column(operations, operation)
    if _is_unified(operation):
        operations.execute(ddl(sql_file("own_columns", "01_restore")))
