"""Add read-only views for people: sessions, students, steps, days, and who is stuck.

Purpose
    What the instructor's dashboard shows, for any BI tool: ``session_overview``, ``student_overview``,
    ``step_funnel``, ``progress_by_day`` and ``stuck_sessions``. Every view and column has a comment.
    First it applies what the legacy application wrote while 0005 ran.

Mapping
    Flags instead of secrets: ``has_api_key``, ``has_system_prompt``, ``has_tools``. Only
    ``session_overview`` has the whole token; ``stuck_sessions`` has its last four characters.

Who may read them
    Their owner, until more is granted. They read with their owner's rights, not with the
    reader's: so SELECT on a view is enough for a role that makes reports, and it needs none on the
    tables with the API keys. Where the four tables have row security, they are ``security_invoker``:
    then the reader needs SELECT on the tables, and a policy. Row security that is added later needs
    ``ALTER VIEW ... SET (security_invoker = true)``; ``workshop verify`` says so. What default privileges
    give is taken away from roles that lack it on a legacy table.

Locks
    None that anybody waits for.

Downgrade
    Drops the views.
"""

from alembic import op

revision = "0006_reporting_views"
down_revision = "0005_keys_and_indexes"
branch_labels = None
depends_on = None
legacy_locks = ("ACCESS SHARE, some 50 ms a chunk; ROW EXCLUSIVE where endpoints wrote", "none")

VIEWS = (
    "session_overview",
    "student_overview",
    "step_funnel",
    "progress_by_day",
    "stuck_sessions",
)


def upgrade() -> None:
    """Apply what is logged, then create the views."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_drain", commits=True)
    op.run_sql(revision, "02_session_overview")
    op.run_sql(revision, "03_student_overview")
    op.run_sql(revision, "04_step_funnel")
    op.run_sql(revision, "05_progress_by_day")
    op.run_sql(revision, "06_stuck_sessions")
    op.run_sql("rights", "row_security")
    op.execute(f"SET LOCAL bridge.created = '{' '.join(VIEWS)}'")
    op.run_sql("rights", "protect")


def downgrade() -> None:
    """Drop the reporting views."""
    op.expect_revision(revision)
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW IF EXISTS {view}")
