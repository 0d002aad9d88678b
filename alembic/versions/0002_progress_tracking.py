"""Track progress: triggers that keep the four tables clean, and update_session_progress().

Purpose
    Triggers convert addresses to lower case, unwrap JSON, replace empty text by NULL, and set updated_at and
    step_number. Functions: the nine steps, the one definition of "done", ``session_completion_rate()`` and
    ``update_session_progress(text)``. Existing rows are cleaned by the same rules; two spellings of one address become
    one student.

Mapping
    exercises key -> step: step_number_of(), exercise_steps(). Flags and steps -> done: session_steps_done(). done
    -> completion: session_completion_rate(), round(100 * done / 9).

Locks
    ACCESS EXCLUSIVE on the four unified tables, in both directions; no other lock.

Downgrade
    Drops these functions and triggers. Restores the name of an earlier ``update_session_progress()``.
"""

from alembic import op

revision = "0002_progress_tracking"
down_revision = "0001_unified_schema"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create functions and triggers."""
    op.expect_revision(down_revision)
    op.execute("SELECT public.lock_unified_tables('ACCESS EXCLUSIVE')")
    op.run_sql(revision, "00_make_way")
    op.run_sql(revision, "01_values")
    op.run_sql(revision, "02_steps")
    op.run_sql(revision, "03_hygiene")
    op.run_sql(revision, "04_update_session_progress")


def downgrade() -> None:
    """Drop the functions and triggers of progress tracking."""
    op.expect_revision(revision)
    op.execute("SELECT public.lock_unified_tables('ACCESS EXCLUSIVE')")
    op.run_sql(revision, "98_drop")
    op.run_sql(revision, "99_restore_prior")
