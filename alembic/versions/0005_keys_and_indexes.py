"""Constrain after the load: foreign keys, secondary indexes, progress triggers; sync at once.

Purpose
    Foreign keys and indexes after the rows, because a check for each row costs more than the row.
    What leads nowhere by then gets a home first: a step without a session becomes an event. After a
    downgrade of 0004 that stopped on its way, that one is taken up again before.
    Triggers keep completion_rate and exercises right on every change of a flag or a step. Then the
    bridge stops merely noting: each write, old or new, is carried over as its transaction commits.
    Columns that others had added to the tables before a downgrade to base come back, with their values.
    Connections take turns to begin with that; what was noted until then is left to 0006.

Mapping
    sessions.student_id, step_progress.student_id      -> students, ON DELETE CASCADE
    step_progress.session_token                        -> sessions, ON DELETE CASCADE
    events.student_id, events.session_token            -> ON DELETE SET NULL: the trail stays

Locks
    Each index in a transaction of its own, with SHARE on its table. Then SHARE ROW EXCLUSIVE on the
    four new tables, all of them together, for some milliseconds twice: foreign keys that hold for new
    rows, triggers. Readers go on, endpoints that have moved wait until each commit. In between the
    rows that are there are checked against the keys, while everybody writes. The old application goes
    on writing: until the last commit its triggers touch nothing but bridge.pending.

Downgrade
    Back to noting; drops triggers, indexes and foreign keys. This one and the others of its kind go
    through where somebody has dropped the new tables by hand, so that there is a way back from that.
"""

from alembic import op

revision = "0005_keys_and_indexes"
down_revision = "0004_merge_legacy_data"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add indexes, foreign keys and triggers; switch the bridge to syncing at once."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "00_take_up", commits=True)
    op.run_sql(revision, "01_orphans", commits=True)
    op.run_sql("own_columns", "01_add")
    op.run_sql("own_columns", "02_values")
    op.run_sql(revision, "02_indexes", commits=True)
    op.run_sql(revision, "03_keys", commits=True)
    op.run_sql(revision, "04_progress_triggers")
    op.run_sql(revision, "05_sync_at_once")
    op.run_sql("rights", "owner_only")


def downgrade() -> None:
    """Drop foreign keys, indexes and progress triggers; note writes, as before."""
    op.expect_revision(revision)
    op.run_sql(revision, "97_lock")
    op.run_sql(revision, "98_note_only")
    op.run_sql(revision, "99_drop")
