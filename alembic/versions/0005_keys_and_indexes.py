"""Constrain after the load: foreign keys, secondary indexes; sync at once.

Purpose
    Foreign keys and indexes follow the rows, because a check for each row costs more than the row. Orphaned steps and
    sessions are refused by name, with the query that finds them. Columns that a downgrade to base has kept are
    restored, with their values. Then each transaction applies its own writes at commit.

Mapping
    sessions.student_id, step_progress.student_id -> students; step_progress.session_token -> sessions, CASCADE
    events.student_id, events.session_token: ON DELETE SET NULL, the trail stays

Locks
    Each index has its own transaction, with SHARE on its table. SHARE ROW EXCLUSIVE on the four unified tables for
    milliseconds adds foreign keys that hold for new rows. Then the rows are checked while writes continue.

Downgrade
    Triggers log writes and apply nothing; drops indexes and foreign keys. Runs also if the operator has dropped the
    unified tables.
"""

from alembic import op

revision = "0005_keys_and_indexes"
down_revision = "0004_merge_legacy_data"
branch_labels = None
depends_on = None
legacy_locks = ("ACCESS SHARE, some 50 ms a chunk; ROW EXCLUSIVE where endpoints wrote", "none")


def upgrade() -> None:
    """Add indexes and foreign keys; switch the bridge to syncing at once."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "00_take_up", commits=True)
    op.run_sql(revision, "01_orphans")
    op.run_sql(revision, "01_refuse_orphans", commits=True)
    op.run_sql("own_columns", "01_restore")
    op.run_sql(revision, "02_indexes", commits=True)
    op.run_sql(revision, "03_keys", commits=True)
    op.run_sql(revision, "05_sync_at_once")


def downgrade() -> None:
    """Drop foreign keys and indexes; log writes, as before."""
    op.expect_revision(revision)
    # constraints and triggers of all four tables go
    op.execute("SELECT public.lock_unified_tables('ACCESS EXCLUSIVE')")
    op.run_sql(revision, "98_log_only")
    op.run_sql(revision, "99_drop")
