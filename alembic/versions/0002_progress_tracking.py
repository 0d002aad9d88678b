"""Track progress: triggers that keep the four tables clean, and update_session_progress().

Purpose
    ``touch_updated_at`` on students, sessions and step_progress; hygiene triggers (e-mail in lower
    case, JSON unwrapped, empty text NULL, step_number following step_name); the nine steps and the
    one definition of "done" as functions; ``session_completion_rate()`` and
    ``update_session_progress(p_session_token text)`` for the application. Rows that are there by then
    pass the same rules; two spellings of one address become one student.

Mapping
    exercises key    -> step          step_number_of(), exercise_steps()
    flags and steps  -> done          session_steps_done()
    done             -> completion    session_completion_rate(): round(100 * done / 9)

Locks
    ACCESS EXCLUSIVE on the four unified tables, both ways; nothing on any other table.

Downgrade
    Drops these functions and triggers by exact signature; a function of the legacy application,
    ``update_updated_at_column()`` among them, is never touched. An earlier attempt's
    ``update_session_progress(text)``, moved aside by the upgrade, gets its name back.
"""

from alembic import op

revision = "0002_progress_tracking"
down_revision = "0001_unified_schema"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create functions and triggers."""
    op.expect_revision(down_revision)
    op.run_sql(down_revision, "97_lock")
    op.run_sql(revision, "00_make_way")
    op.run_sql(revision, "01_values")
    op.run_sql(revision, "02_steps")
    op.run_sql(revision, "03_hygiene")
    op.run_sql(revision, "04_update_session_progress")


def downgrade() -> None:
    """Drop the functions and triggers of progress tracking."""
    op.expect_revision(revision)
    op.run_sql(down_revision, "97_lock")
    op.run_sql(revision, "98_drop")
    op.run_sql(revision, "99_restore_prior")
