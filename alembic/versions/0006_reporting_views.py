"""Add read-only views for people: session_overview.

Purpose
    One row for each session with its student, for the instructor's dashboard and any BI tool.
    First it carries over what the old application wrote while 0005 ran.

Mapping
    Flags instead of secrets: ``has_api_key``, ``has_system_prompt``, ``has_tools``.

Locks
    None that anybody waits for.

Downgrade
    Drops the view.
"""

from alembic import op

revision = "0006_reporting_views"
down_revision = "0005_keys_and_indexes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Carry over what is pending, then create the views."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_drain", commits=True)
    op.run_sql(revision, "02_session_overview")


def downgrade() -> None:
    """Drop them."""
    op.expect_revision(revision)
    op.execute("DROP VIEW IF EXISTS session_overview")
