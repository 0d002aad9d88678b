"""Create the unified schema: students, sessions, step_progress, events.

Purpose
    Four tables with keys, checks and comments. Foreign keys and the other indexes follow in 0005, after the rows. The
    preflight runs first and reports all problems at once.

Mapping
    students, sessions: one row for each clean e-mail address, and for each session_token, of the legacy tables.
    step_progress: one row for each step in the exercises of a session. events: an audit trail. Tables of an earlier
    attempt are renamed to ``<name>_prior_backup_YYYYMMDD``. Their rows, row security and policies are copied, and
    foreign keys are pointed to the four tables. With ``-x drop_existing=true`` they are dropped instead.

Locks
    ACCESS EXCLUSIVE on the tables of an earlier attempt, and on tables with foreign keys to them; no other.

Rights
    If a legacy table has row security, the four tables have it. No role gets a right that it lacks there.

Downgrade
    Drops the tables, and restores the names of an earlier attempt. Refuses if no other table has the rows, unless ``-x
    drop_existing=true``. Columns and objects added outside this migration go to ``own_columns_backup_YYYYMMDD``.
"""

from alembic import op

revision = "0001_unified_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables, keys and checks included."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_functions")
    op.run_sql(revision, "02_make_way")
    op.run_sql(revision, "03_tables")
    op.run_sql(revision, "04_copy_prior")
    op.run_sql("rights", "carry_over")
    context = op.get_context()
    created = ["students", "sessions", "step_progress", "events", "events_id_seq", "prior_attempt"]
    created += [] if context.version_table_schema else [context.version_table]
    op.execute(f"SELECT public.follow_legacy_rights('{' '.join(created)}')")


def downgrade() -> None:
    """Drop the four tables, restore what stood there before."""
    op.expect_revision(revision)
    op.execute("SELECT public.lock_unified_tables('ACCESS EXCLUSIVE')")
    op.run_sql(revision, "98_nothing_lost")
    op.run_sql("own_columns", "98_keep")
    op.run_sql("rights", "99_point_back")
    # in one statement: they may refer to each other both ways
    op.execute("DROP TABLE IF EXISTS events, step_progress, sessions, students")
    op.run_sql(revision, "99_restore_prior")
    op.run_sql(revision, "99_drop_functions")
