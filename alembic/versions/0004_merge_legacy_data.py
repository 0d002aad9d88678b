"""Merge the legacy data: pull every session in chunks, carry over what came meanwhile, verify.

Purpose
    Fills students, sessions, step_progress and events from the mapping views of 0003: first the
    students, then the sessions with all that belongs to them, in key order. Each chunk has a commit of its
    own; the cursor is stored with the data, so that a killed run goes on where it was. Online, a second
    session does a share of it (``bridge.help``). What endpoints that moved too early have written, and leads
    nowhere, gets a home before (0005). Then, twice, what was noted meanwhile is carried over,
    and everything is verified: refuses to end if one check does not hold. A range that was verified is
    remembered with the versions of its rows (``bridge.verified``), and not looked at again until somebody
    writes to it; so is one that the merge has just inserted. ``scripts.merge`` runs the same procedures
    again.

Mapping
    ``alembic/sql/0003_legacy_bridge/04_mapping.sql``, column by column.

Locks
    Reads the legacy tables (ACCESS SHARE) for some 50 ms at a time: a chunk has as many sessions as
    take that long, because the application's ALTER TABLE waits for it. A session that somebody is writing
    is left for later. Commits outside of the step's transaction: after an interruption the step is
    repeated as a whole, and finds its work done.

Downgrade
    The new tables become read-only for applications. What was written to them and not yet carried
    back is; the rest goes to the remainder: values that the legacy tables cannot say, students
    without a session, events. Everything is verified. The rows stay until 0001 drops their tables.
"""

from alembic import op

revision = "0004_merge_legacy_data"
down_revision = "0003_legacy_bridge"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Merge, drain, verify."""
    op.expect_revision(down_revision)
    op.run_sql("0005_keys_and_indexes", "01_orphans", commits=True)
    op.run_sql(revision, "01_merge", commits=True, helper="bridge.help()")
    op.run_sql("rights", "owner_only")


def downgrade() -> None:
    """Carry back what was written to the unified schema."""
    op.expect_revision(revision)
    op.run_sql(revision, "99_retire", commits=True, helper="bridge.help()")
