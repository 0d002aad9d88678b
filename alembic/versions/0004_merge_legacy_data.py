"""Merge the legacy data: backfill every session in chunks, apply what was written meanwhile, count.

Purpose
    Fills students, sessions, step_progress and events with what the mapping of 0003 says, in key order: first what
    the legacy rows say about students, then the students, then the sessions. Each chunk has a commit of its own; the
    cursor is stored with the data, so that a killed run continues. A row that was there first is combined with the
    mapping once. Then the drain applies, twice, what was logged meanwhile, and the counts of both sides are compared:
    the step fails if one does not add up. Values are compared before the cut-over (0007) and by ``workshop verify``.
    Triggers keep step_progress, exercises and completion_rate in line, whoever writes them. ``workshop merge`` runs
    the same procedures again.

Mapping
    ``alembic/sql/0003_legacy_bridge/05_mapping.sql``, column by column.

Locks
    Reads the legacy tables (ACCESS SHARE) for some 50 ms at a time: a chunk has as many sessions as take that long,
    because the application's ALTER TABLE waits for it. It writes nothing to them. Commits outside of the step's
    transaction: after an interruption the step is repeated as a whole, and finds its work done.

Downgrade
    The unified tables become read-only for applications. What was written to them and is not in the legacy tables yet
    is written there; the rest is recorded: values that the legacy tables cannot say, students without a session,
    events. Every value is verified. The rows stay until 0001 drops their tables.
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
    op.run_sql(revision, "02_backfill", commits=True)


def downgrade() -> None:
    """Hand back what was written to the unified schema."""
    op.expect_revision(revision)
    op.run_sql("hand_back", "functions")
    op.run_sql(revision, "98_hand_back", commits=True)
    op.run_sql(revision, "99_drop")
