"""Merge the legacy data: backfill every session in chunks, apply logged writes, count.

Purpose
    Fills the four tables from the mapping, in key order. Each chunk has its own commit, and stores the cursor with the
    data: a killed run continues. A row that was there first is combined with the mapping once. Then two drains apply
    the writes of the meantime. The step fails if the counts of legacy and unified tables do not add up. Triggers keep
    step_progress, exercises and completion_rate in line. ``workshop merge`` repeats the backfill.

Mapping
    ``alembic/sql/0003_legacy_bridge/05_mapping.sql``, column by column.

Locks
    ACCESS SHARE on the legacy tables for some 50 ms at a time, because the application's ALTER TABLE waits for it. The
    backfill writes nothing to them.

Downgrade
    The unified tables become read-only for applications. Values that the legacy tables lack are written there; values
    that they cannot hold are recorded. Every value is verified. The rows stay until 0001 drops their tables.
"""

from alembic import op

revision = "0004_merge_legacy_data"
down_revision = "0003_legacy_bridge"
branch_labels = None
depends_on = None
legacy_locks = (
    "ACCESS SHARE, some 50 ms a chunk; ROW EXCLUSIVE where endpoints wrote",
    "ROW EXCLUSIVE, some 50 ms a chunk",
)


def upgrade() -> None:
    """Backfill, drain, count."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_steps")
    op.run_sql(revision, "02_backfill_functions")
    op.run_sql(revision, "03_backfill", commits=True)


def downgrade() -> None:
    """Hand back the writes of applications to the unified tables."""
    op.expect_revision(revision)
    op.run_sql("hand_back", "functions")
    op.run_sql("hand_back", "call", commits=True)
    op.run_sql(revision, "99_drop")
