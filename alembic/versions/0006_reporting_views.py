"""Add read-only views for people: sessions, students, steps, days, and stuck sessions.

Purpose
    ``session_overview``, ``student_overview``, ``step_funnel``, ``progress_by_day`` and ``stuck_sessions``, for the
    dashboard and any BI tool. First the drain applies the writes of the legacy application during 0005.

Mapping
    Flags instead of secrets. Only ``session_overview`` has the whole token; ``stuck_sessions`` has its last four
    characters.

Read access
    Only the owner may read the views until the owner grants more. They read with their owner's rights, so SELECT on a
    view is enough. If the four tables have row security, the views are ``security_invoker``: the reader needs SELECT on
    the tables, and a policy. Row security added later needs ``ALTER VIEW ... SET (security_invoker = true)``;
    ``workshop verify`` checks it.

Locks
    None that an application waits for.

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
    op.run_sql(revision, "02_views")
    op.execute(f"SELECT public.follow_legacy_rights('{' '.join(VIEWS)}')")


def downgrade() -> None:
    """Drop the reporting views."""
    op.expect_revision(revision)
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW IF EXISTS {view}")
