"""Constrain after the load: foreign keys, secondary indexes; sync at once.

Purpose
    Foreign keys and indexes after the rows, because a check for each row costs more than the row. Steps without a
    session and sessions without a student are refused by name, with the query that finds them. A downgrade of 0004
    that stopped on its way is reversed before. Columns that others had added to the tables before a downgrade to
    base come back, with their values. Then each transaction applies what it wrote, to either side, as it commits;
    what was logged until then is left to 0006.

Mapping
    sessions.student_id, step_progress.student_id      -> students, ON DELETE CASCADE
    step_progress.session_token                        -> sessions, ON DELETE CASCADE
    events.student_id, events.session_token            -> ON DELETE SET NULL: the trail stays

Locks
    Each index in a transaction of its own, with SHARE on its table. SHARE ROW EXCLUSIVE on the four unified tables,
    all of them together, for some milliseconds: foreign keys that hold for new rows. Reads continue, endpoints that
    have moved wait until the commit. Then the existing rows are checked against the keys, while writes continue. The
    legacy application never waits.

Downgrade
    Triggers only log again; drops indexes and foreign keys. It also runs where the unified tables were dropped by
    hand.
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
    op.run_sql("own_columns", "01_add")
    op.run_sql("own_columns", "02_values")
    op.run_sql(revision, "02_indexes", commits=True)
    op.run_sql(revision, "03_keys", commits=True)
    op.run_sql(revision, "05_sync_at_once")


def downgrade() -> None:
    """Drop foreign keys and indexes; log writes, as before."""
    op.expect_revision(revision)
    op.run_sql(revision, "97_lock")
    op.run_sql(revision, "98_log_only")
    op.run_sql(revision, "99_drop")
