"""Build the bridge: adapters, mapping views, pull, push, verify, and triggers that note every write.

Purpose
    Schema ``bridge``. From its commit on, each write to the legacy tables and to the new ones is
    noted in ``bridge.pending``, in its own transaction, so that the merge of 0004 can read in short ones
    and lose nothing. ``bridge.pull()`` carries a session from the legacy tables to the new ones,
    ``bridge.push()`` the other way; what the legacy tables cannot say stays in ``bridge.remainder``.
    Two indexes on the new tables, still empty, because every pull looks up the sessions of a student
    and the notes of a session. What an earlier downgrade kept aside is taken up again.

Mapping
    workshop_students -> bridge.legacy_progress \\
                                                 >  bridge.students, bridge.sessions,
    student_configs   -> bridge.legacy_config   /   bridge.step_progress  (04_mapping.sql)

    The views on the right are the merge rules, and the only place that knows them. Adapters make
    every legacy table look alike: missing columns, other types, JSON in JSON.

Locks
    SHARE ROW EXCLUSIVE on both legacy tables while adapters and triggers are created (readers go
    on, writers wait: some 50 ms), asked for with a lock_timeout of 50 ms and retried. Where only
    one of them exists the other is created, empty. Where no key serves lookups by token, an index
    ``bridge_token_of_...`` is added. SHARE ROW EXCLUSIVE on the new tables, taken just before.

Downgrade
    Carries back what was written to the new tables before any merge. Then drops triggers, indexes and
    schema (ACCESS EXCLUSIVE on the tables, for milliseconds, with retries). A remainder that is not
    empty stays as ``bridge_remainder_backup_YYYYMMDD``. A legacy table that this revision created
    goes too if it is still empty.
"""

from alembic import op

revision = "0003_legacy_bridge"
down_revision = "0002_progress_tracking"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the bridge and put it on the legacy tables."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_state")
    op.run_sql(revision, "02_helpers")
    op.run_sql(revision, "03_adapters")
    op.run_sql(revision, "04_mapping")
    op.run_sql(revision, "05_pull")
    op.run_sql(revision, "06_push")
    op.run_sql(revision, "07_sync")
    op.run_sql(revision, "08_merge")
    op.run_sql(revision, "09_verify")
    op.run_sql(revision, "10_capture")
    op.run_sql(revision, "11_retire")
    op.execute("SELECT bridge.lock_new_tables('SHARE ROW EXCLUSIVE')")
    op.create_index("ix_sessions_student_id", "sessions", ["student_id"])
    op.create_index("ix_events_session_token", "events", ["session_token"])
    op.run_sql(revision, "12_install")
    op.run_sql("rights", "carry_over")
    op.run_sql("rights", "prior_grants")
    op.run_sql("rights", "owner_only")


def downgrade() -> None:
    """Take the bridge off the legacy tables."""
    op.expect_revision(revision)
    op.run_sql(revision, "98_retire", commits=True)
    op.run_sql("rights", "owner_only")
    op.run_sql(revision, "99_drop")
    op.drop_index("ix_events_session_token", if_exists=True)
    op.drop_index("ix_sessions_student_id", if_exists=True)
