"""Retire the legacy tables: verify, then rename them to dated backups with views in their place.

Purpose
    The cut-over. First, in short transactions: rebuild the adapters of tables with changed columns or keys, apply
    logged writes, compare every value of every row. Then, in one transaction: lock both tables, apply and compare the
    last writes, rename, create the views.

Mapping
    workshop_students -> workshop_students_backup_YYYYMMDD, student_configs -> student_configs_backup_YYYYMMDD. The day
    is that of the run in UTC, with _2, _3 if the name is taken. A view has the former name of each table. The views are
    updatable, so the legacy application still works. Triggers stay with the tables, and log its writes.

Locks
    ACCESS EXCLUSIVE on both tables for some milliseconds, requested with a lock_timeout of 50 ms and retried. After 200
    attempts the revision fails, changes nothing and names the lock holders.

Downgrade
    Drops the views and restores the names of the tables. Refuses, by name, if another view depends on one of them, or
    if the tables were dropped (``workshop drop-backups``, or by hand). The message names the dump.
"""

from alembic import op

revision = "0007_retire_legacy_tables"
down_revision = "0006_reporting_views"
branch_labels = None
depends_on = None
legacy_locks = (
    "ACCESS EXCLUSIVE, some 10 ms; before, ACCESS SHARE in chunks",
    "ACCESS EXCLUSIVE, some 10 ms",
)


def upgrade() -> None:
    """Verify in short transactions, then cut over in one."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_verify", commits=True)
    op.run_sql(revision, "02_functions")
    op.run_sql(revision, "03_cut_over")
    op.execute("SELECT public.restrict_to_owner()")


def downgrade() -> None:
    """Give the tables their names back."""
    op.expect_revision(revision)
    op.run_sql(revision, "99_undo")
