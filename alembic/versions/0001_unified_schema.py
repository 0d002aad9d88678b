"""Create the unified schema: students, sessions, step_progress, events.

Purpose
    The four tables with primary keys, unique keys, checks and comments. Foreign keys and
    secondary indexes follow in 0005, after the load: constraining first costs several times more.

Preflight
    First of all one pass that refuses, with everything that is wrong at once: missing privileges,
    names already taken, legacy tables that are elsewhere or no tables.

Mapping
    students       one row for each clean e-mail address of either legacy table
    sessions       one row for each session_token of either legacy table
    step_progress  one row for each workshop step that a session's exercises mention
    events         new; audit trail of application and migration

Locks
    Where a table of one of these names exists (an earlier attempt): ACCESS EXCLUSIVE on it for
    the time of a rename and a copy of its rows, and on a table whose foreign key refers to it. Nothing
    on any other table.

An earlier attempt
    Moved aside as ``<name>_prior_backup_YYYYMMDD``; its uuids survive. 0003 copies all its rows, and the backfill
    of 0004 combines them with the mapping, once. ``alembic -x drop_existing=true upgrade head`` drops it instead.
    A table whose shape cannot be understood is refused, columns named, before anything changes. Its row security
    and policies go over to the unified tables, foreign keys refer to them; what cannot go over is refused by name.

Rights
    Where a legacy table has row security, the four tables have it, without a policy. A role keeps a right
    from default privileges only if it has it on each legacy table.

Downgrade
    Drops the four tables, and gives an earlier attempt its names back. What they held has been handed
    back by 0003 or 0004. Rows that were written while there was no bridge are nowhere else: then it
    refuses, and ``-x drop_existing=true`` drops them. Columns, indexes, triggers and policies that others
    have added go to ``own_columns_backup_YYYYMMDD``: 0005 adds the columns again, with their values,
    and names the rest.
"""

from alembic import op

revision = "0001_unified_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables, keys and checks included."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_make_way")
    op.run_sql(revision, "02_tables")
    op.run_sql(revision, "03_copy_prior")
    op.run_sql(revision, "04_functions")
    op.run_sql("rights", "carry_over")
    op.run_sql("rights", "row_security")
    context = op.get_context()
    created = ["students", "sessions", "step_progress", "events", "events_id_seq", "prior_attempt"]
    created += [] if context.version_table_schema else [context.version_table]
    op.execute(f"SET LOCAL bridge.created = '{' '.join(created)}'")
    op.run_sql("rights", "protect")


def downgrade() -> None:
    """Drop the four tables, restore what stood there before."""
    op.expect_revision(revision)
    op.run_sql(revision, "97_lock")
    op.run_sql(revision, "98_nothing_lost")
    op.run_sql("own_columns", "98_keep")
    op.run_sql("rights", "99_point_back")
    # in one statement: they may refer to each other both ways
    op.execute("DROP TABLE IF EXISTS events, step_progress, sessions, students")
    op.execute("DROP FUNCTION refuse_write(), lock_holders(regclass[], boolean)")
    op.run_sql(revision, "99_restore_prior")
