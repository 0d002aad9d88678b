"""Build the bridge: readers, adapters, the mapping, the change log, apply; triggers that log every write.

Purpose
    Schema ``bridge``. From its commit on, triggers log each write to the legacy or the unified tables in
    ``bridge.change_log``, in the writer's own transaction. So the backfill of 0004 can read in short transactions and
    lose nothing. ``bridge.apply()`` applies the logged changes of a session to the tables that were not written.
    Overrides record values that the legacy tables cannot hold. Overrides kept by an earlier downgrade are loaded.

Mapping
    The adapters ``bridge.legacy_progress`` and ``bridge.legacy_config`` show workshop_students and student_configs as
    one list of clean columns. Only ``bridge.mapped()`` (05_mapping.sql) holds the merge rules.

Locks
    SHARE ROW EXCLUSIVE on both legacy tables while adapters and triggers are created: reads continue, writes wait some
    50 ms. Requested with a lock_timeout of 50 ms, and retried. The same lock on the unified tables. A missing legacy
    table is created, empty. If no key serves lookups by token, an index ``bridge_token_of_...`` is built: writers wait.

Downgrade
    Hands back the rows that applications wrote before any backfill, then drops triggers, indexes and schema (ACCESS
    EXCLUSIVE for milliseconds, with retries). Overrides are kept as ``bridge_remainder_backup_YYYYMMDD``. A legacy
    table that this revision created is dropped if it is still empty.
"""

from alembic import op

revision = "0003_legacy_bridge"
down_revision = "0002_progress_tracking"
branch_labels = None
depends_on = None
legacy_locks = ("SHARE ROW EXCLUSIVE, some 50 ms: writers wait", "ACCESS EXCLUSIVE, some 10 ms")


def upgrade() -> None:
    """Create the bridge and attach it to the legacy tables."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_schema")
    op.run_sql(revision, "02_readers")
    op.run_sql(revision, "03_state")
    op.run_sql(revision, "04_adapters")
    op.run_sql(revision, "05_mapping")
    op.run_sql(revision, "06_rows")
    op.run_sql(revision, "07_apply")
    op.run_sql(revision, "08_change_log")
    op.run_sql(revision, "09_verify")
    op.run_sql(revision, "10_chunks")
    op.run_sql(revision, "11_adopt")
    op.execute("SELECT public.lock_unified_tables('SHARE ROW EXCLUSIVE')")
    op.create_index("ix_sessions_student_id", "sessions", ["student_id"])
    op.create_index("ix_events_session_token", "events", ["session_token"])
    op.run_sql(revision, "12_install")
    op.run_sql("rights", "prior_grants")
    op.execute("SELECT public.restrict_to_owner()")


def downgrade() -> None:
    """Take the bridge off the legacy tables."""
    op.expect_revision(revision)
    op.run_sql("hand_back", "functions")
    op.run_sql("hand_back", "call", commits=True)
    op.execute("SELECT public.restrict_to_owner()")
    op.run_sql(revision, "99_drop")
    op.drop_index("ix_events_session_token", if_exists=True)
    op.drop_index("ix_sessions_student_id", if_exists=True)
