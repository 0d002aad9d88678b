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

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001_unified_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the four tables, keys and checks included."""
    op.expect_revision(down_revision)
    op.run_sql(revision, "01_make_way")
    op.create_table(
        "students",
        sa.Column(
            "student_id",
            sa.Uuid(),
            server_default=sa.text("gen_random_uuid()"),
            nullable=False,
            comment="Immutable identity of the student.",
        ),
        sa.Column(
            "student_email",
            sa.Text(),
            nullable=False,
            comment="Address in lower case without surrounding white space.",
        ),
        sa.Column(
            "student_name", sa.Text(), nullable=True, comment="Name as the student wrote it."
        ),
        sa.Column(
            "github_username",
            sa.Text(),
            nullable=True,
            comment="GitHub account; the legacy tables have none.",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="First sign of the student; NULL where no legacy row has a time.",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Last change of this row, kept by trigger.",
        ),
        sa.PrimaryKeyConstraint("student_id", name=op.f("pk_students")),
        sa.UniqueConstraint("student_email", name=op.f("uq_students_student_email")),
        comment="Students, one for each clean e-mail address.",
    )
    op.create_table(
        "sessions",
        sa.Column(
            "session_token",
            sa.Text(),
            nullable=False,
            comment="Secret token of the browser session.",
        ),
        sa.Column("student_id", sa.Uuid(), nullable=False, comment="Whose session it is."),
        sa.Column(
            "selected_phone_number", sa.Text(), nullable=True, comment="Phone number in use."
        ),
        sa.Column("selected_voice", sa.Text(), nullable=True, comment="Voice of the assistant."),
        sa.Column("tts_provider", sa.Text(), nullable=True, comment="Text-to-speech provider."),
        sa.Column("call_direction", sa.Text(), nullable=True, comment="inbound or outbound."),
        sa.Column(
            "use_case_description", sa.Text(), nullable=True, comment="What the student builds."
        ),
        sa.Column(
            "openai_api_key",
            sa.Text(),
            nullable=True,
            comment="Secret, as the application stored it.",
        ),
        sa.Column("system_prompt", sa.Text(), nullable=True, comment="Prompt of the assistant."),
        sa.Column("ivr_greeting", sa.Text(), nullable=True, comment="First words of a call."),
        sa.Column(
            "tools",
            JSONB(),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
            comment="Function definitions of the assistant.",
        ),
        sa.Column(
            "voice_settings",
            JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Voice parameters by name.",
        ),
        sa.Column(
            "websocket_url",
            sa.Text(),
            nullable=True,
            comment="WebSocket endpoint of the student's server.",
        ),
        sa.Column("codespace_url", sa.Text(), nullable=True, comment="GitHub Codespace."),
        sa.Column("github_repo_url", sa.Text(), nullable=True, comment="GitHub repository."),
        sa.Column("railway_url", sa.Text(), nullable=True, comment="Railway deployment."),
        sa.Column(
            "twilio_connected",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 1: Twilio account connected.",
        ),
        sa.Column(
            "openai_connected",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 1: OpenAI account connected.",
        ),
        sa.Column(
            "call_direction_chosen",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 2 done.",
        ),
        sa.Column(
            "services_ready",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 3 done.",
        ),
        sa.Column(
            "step4_code_validated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 4: code validated.",
        ),
        sa.Column(
            "step4_committed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 4: code committed.",
        ),
        sa.Column(
            "step4_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 4 done.",
        ),
        sa.Column(
            "step5_code_validated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 5: code validated.",
        ),
        sa.Column(
            "step5_committed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 5: code committed.",
        ),
        sa.Column(
            "step5_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 5 done.",
        ),
        sa.Column(
            "step6_code_validated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 6: code validated.",
        ),
        sa.Column(
            "step6_committed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 6: code committed.",
        ),
        sa.Column(
            "step6_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 6 done.",
        ),
        sa.Column(
            "system_prompt_saved",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 7 done.",
        ),
        sa.Column(
            "step7_committed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 7: prompt committed.",
        ),
        sa.Column(
            "step7_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 7: prompt deployed.",
        ),
        sa.Column(
            "tools_configured",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 8: tools configured.",
        ),
        sa.Column(
            "step8_code_validated",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 8: code validated.",
        ),
        sa.Column(
            "step8_committed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 8: code committed.",
        ),
        sa.Column(
            "step8_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 8 done.",
        ),
        sa.Column(
            "project_deployed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Step 9 done.",
        ),
        sa.Column(
            "current_step",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Step the student is at, 0 to 9.",
        ),
        sa.Column(
            "completion_rate",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Steps done in percent, 0 to 100; kept by trigger.",
        ),
        sa.Column(
            "total_time_spent",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Seconds spent in the workshop.",
        ),
        sa.Column(
            "exercises",
            JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Progress by exercise key, for code that still reads it; step_progress is the truth.",
        ),
        sa.Column(
            "bug_reports",
            JSONB(),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
            comment="Bug reports of the student.",
        ),
        sa.Column(
            "legacy_extra",
            JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Legacy values without a column of their own: table, column, value. May hold secrets.",
        ),
        sa.Column(
            "demo_mode",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Session of a demonstration.",
        ),
        sa.Column(
            "is_active",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="Session may be used.",
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="Start of the session; NULL: unknown.",
        ),
        sa.Column(
            "last_activity",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="Last activity; NULL: unknown.",
        ),
        sa.Column(
            "expires_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now() + interval '30 days'"),
            nullable=False,
            comment="End of the session.",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="First record of it; NULL: unknown.",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Last change of this row, kept by trigger.",
        ),
        sa.CheckConstraint(
            "jsonb_typeof(bug_reports) = 'array'", name=op.f("ck_sessions_bug_reports")
        ),
        sa.CheckConstraint(
            "jsonb_typeof(exercises) = 'object'", name=op.f("ck_sessions_exercises")
        ),
        sa.CheckConstraint(
            "jsonb_typeof(legacy_extra) = 'object'", name=op.f("ck_sessions_legacy_extra")
        ),
        sa.CheckConstraint("jsonb_typeof(tools) = 'array'", name=op.f("ck_sessions_tools")),
        sa.CheckConstraint(
            "jsonb_typeof(voice_settings) = 'object'", name=op.f("ck_sessions_voice_settings")
        ),
        sa.CheckConstraint(
            "completion_rate BETWEEN 0 AND 100", name=op.f("ck_sessions_completion_rate")
        ),
        sa.CheckConstraint("current_step BETWEEN 0 AND 9", name=op.f("ck_sessions_current_step")),
        sa.CheckConstraint("total_time_spent >= 0", name=op.f("ck_sessions_total_time_spent")),
        sa.PrimaryKeyConstraint("session_token", name=op.f("pk_sessions")),
        comment="Workshop sessions: all configuration and all progress of one token.",
    )
    op.create_table(
        "step_progress",
        sa.Column("session_token", sa.Text(), nullable=False, comment="Session."),
        sa.Column(
            "step_number",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="Step, 1 to 9; follows step_name.",
        ),
        sa.Column("student_id", sa.Uuid(), nullable=False, comment="Student of the session."),
        sa.Column("step_name", sa.Text(), nullable=False, comment="Name of the step."),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="First attempt; NULL: unknown.",
        ),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the step was completed.",
        ),
        sa.Column(
            "time_spent",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Seconds spent in the step.",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Attempts made.",
        ),
        sa.Column(
            "validation_passed",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="The step is completed.",
        ),
        sa.Column(
            "code_submitted", sa.Text(), nullable=True, comment="Code that the student submitted."
        ),
        sa.Column("deployment_url", sa.Text(), nullable=True, comment="Where the result runs."),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When this row was written first.",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Last change of this row, kept by trigger.",
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_step_progress_attempts")),
        sa.CheckConstraint(
            "step_number BETWEEN 1 AND 9", name=op.f("ck_step_progress_step_number")
        ),
        sa.CheckConstraint("time_spent >= 0", name=op.f("ck_step_progress_time_spent")),
        sa.PrimaryKeyConstraint("session_token", "step_number", name=op.f("pk_step_progress")),
        comment="Progress of a session in each step it has touched.",
    )
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(always=False),
            nullable=False,
            comment="Number of the event.",
        ),
        sa.Column("student_id", sa.Uuid(), nullable=True, comment="Student it is about."),
        sa.Column("session_token", sa.Text(), nullable=True, comment="Session it is about."),
        sa.Column(
            "event_type",
            sa.Text(),
            nullable=False,
            comment="Kind of event; legacy_merge and merge_note are the migration's.",
        ),
        sa.Column(
            "event_data",
            JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Details; never a secret value.",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it happened.",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        comment="Audit trail of the application and of the migration.",
    )
    op.run_sql(revision, "02_copy_prior")
    op.run_sql(revision, "03_read_only")
    op.run_sql(revision, "04_lock_holders")
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
