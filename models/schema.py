"""The unified schema as SQLAlchemy models: students, sessions, step_progress, events.

The models describe the tables; the revisions under ``alembic/versions`` create them. Functions,
triggers and views live in ``alembic/sql``. A test compares the catalogs of both ways.
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Base(DeclarativeBase):
    """Declarative base of the unified schema: one naming convention, PostgreSQL's own types."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {
        str: Text(),
        bool: Boolean(),
        int: Integer(),
        uuid.UUID: Uuid(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
    }


def _now(comment: str) -> Mapped[datetime]:
    return mapped_column(server_default=text("now()"), comment=comment)


def _known_time(comment: str) -> Mapped[datetime | None]:
    return mapped_column(server_default=text("now()"), comment=comment)


def _text(comment: str) -> Mapped[str | None]:
    return mapped_column(comment=comment)


def _flag(comment: str) -> Mapped[bool]:
    return mapped_column(server_default=text("false"), comment=comment)


def _count(comment: str) -> Mapped[int]:
    return mapped_column(server_default=text("0"), comment=comment)


def _array(comment: str) -> Mapped[list[Any]]:
    return mapped_column(server_default=text("'[]'::jsonb"), comment=comment)


def _object(comment: str) -> Mapped[dict[str, Any]]:
    return mapped_column(server_default=text("'{}'::jsonb"), comment=comment)


class Student(Base):
    """A student: one row for each clean e-mail address."""

    __tablename__ = "students"
    __table_args__ = ({"comment": "Students, one for each clean e-mail address."},)

    student_id: Mapped[uuid.UUID] = mapped_column(
        primary_key=True,
        server_default=text("gen_random_uuid()"),
        comment="Immutable identity of the student.",
    )
    student_email: Mapped[str] = mapped_column(
        unique=True, comment="Address in lower case without surrounding white space."
    )
    student_name: Mapped[str | None] = _text("Name as the student wrote it.")
    github_username: Mapped[str | None] = _text("GitHub account; the legacy tables have none.")
    created_at: Mapped[datetime | None] = _known_time(
        "Earliest known time of the student; NULL: unknown."
    )
    updated_at: Mapped[datetime] = _now("Last change of this row, kept by trigger.")

    sessions: Mapped[list["WorkshopSession"]] = relationship(
        back_populates="student", cascade="all, delete-orphan", passive_deletes=True
    )


class WorkshopSession(Base):
    """A session of the workshop: configuration, progress and legacy data in one row."""

    __tablename__ = "sessions"
    __table_args__ = (
        CheckConstraint("current_step BETWEEN 0 AND 9", name="current_step"),
        CheckConstraint("completion_rate BETWEEN 0 AND 100", name="completion_rate"),
        CheckConstraint("total_time_spent >= 0", name="total_time_spent"),
        CheckConstraint("jsonb_typeof(tools) = 'array'", name="tools"),
        CheckConstraint("jsonb_typeof(voice_settings) = 'object'", name="voice_settings"),
        CheckConstraint("jsonb_typeof(exercises) = 'object'", name="exercises"),
        CheckConstraint("jsonb_typeof(bug_reports) = 'array'", name="bug_reports"),
        CheckConstraint("jsonb_typeof(legacy_extra) = 'object'", name="legacy_extra"),
        Index(None, "student_id"),
        Index("ix_sessions_last_activity", text("last_activity DESC")),
        Index(None, "is_active", "expires_at"),
        {"comment": "Workshop sessions: all configuration and all progress of one token."},
    )

    session_token: Mapped[str] = mapped_column(
        primary_key=True, comment="Secret token of the browser session."
    )
    student_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("students.student_id", ondelete="CASCADE"), comment="Student of the session."
    )

    selected_phone_number: Mapped[str | None] = _text("Phone number in use.")
    selected_voice: Mapped[str | None] = _text("Voice of the assistant.")
    tts_provider: Mapped[str | None] = _text("Text-to-speech provider.")
    call_direction: Mapped[str | None] = _text("inbound or outbound.")
    use_case_description: Mapped[str | None] = _text("Project of the student, in words.")

    openai_api_key: Mapped[str | None] = _text("Secret, as the application stored it.")
    system_prompt: Mapped[str | None] = _text("Prompt of the assistant.")
    ivr_greeting: Mapped[str | None] = _text("First words of a call.")
    tools: Mapped[list[Any]] = _array("Function definitions of the assistant.")
    voice_settings: Mapped[dict[str, Any]] = _object("Voice parameters by name.")

    websocket_url: Mapped[str | None] = _text("WebSocket endpoint of the student's server.")
    codespace_url: Mapped[str | None] = _text("GitHub Codespace.")
    github_repo_url: Mapped[str | None] = _text("GitHub repository.")
    railway_url: Mapped[str | None] = _text("Railway deployment.")

    twilio_connected: Mapped[bool] = _flag("Step 1: Twilio account connected.")
    openai_connected: Mapped[bool] = _flag("Step 1: OpenAI account connected.")
    call_direction_chosen: Mapped[bool] = _flag("Step 2 done.")
    services_ready: Mapped[bool] = _flag("Step 3 done.")
    step4_code_validated: Mapped[bool] = _flag("Step 4: code validated.")
    step4_committed: Mapped[bool] = _flag("Step 4: code committed.")
    step4_deployed: Mapped[bool] = _flag("Step 4 done.")
    step5_code_validated: Mapped[bool] = _flag("Step 5: code validated.")
    step5_committed: Mapped[bool] = _flag("Step 5: code committed.")
    step5_deployed: Mapped[bool] = _flag("Step 5 done.")
    step6_code_validated: Mapped[bool] = _flag("Step 6: code validated.")
    step6_committed: Mapped[bool] = _flag("Step 6: code committed.")
    step6_deployed: Mapped[bool] = _flag("Step 6 done.")
    system_prompt_saved: Mapped[bool] = _flag("Step 7 done.")
    step7_committed: Mapped[bool] = _flag("Step 7: prompt committed.")
    step7_deployed: Mapped[bool] = _flag("Step 7: prompt deployed.")
    tools_configured: Mapped[bool] = _flag("Step 8: tools configured.")
    step8_code_validated: Mapped[bool] = _flag("Step 8: code validated.")
    step8_committed: Mapped[bool] = _flag("Step 8: code committed.")
    step8_deployed: Mapped[bool] = _flag("Step 8 done.")
    project_deployed: Mapped[bool] = _flag("Step 9 done.")

    current_step: Mapped[int] = _count("Step the student is at, 0 to 9.")
    completion_rate: Mapped[int] = _count("Steps done in percent, 0 to 100; kept by trigger.")
    total_time_spent: Mapped[int] = _count("Seconds spent in the workshop.")

    exercises: Mapped[dict[str, Any]] = _object(
        "Progress by exercise key, for older code. Triggers keep it in line with step_progress."
    )
    bug_reports: Mapped[list[Any]] = _array("Bug reports of the student.")
    legacy_extra: Mapped[dict[str, Any]] = _object(
        "Legacy values without a column of their own: table, column, value. May hold secrets."
    )

    demo_mode: Mapped[bool] = _flag("Session of a demonstration.")
    is_active: Mapped[bool] = mapped_column(
        server_default=text("true"), comment="Session may be used."
    )
    started_at: Mapped[datetime | None] = _known_time("Start of the session; NULL: unknown.")
    last_activity: Mapped[datetime | None] = _known_time("Last activity; NULL: unknown.")
    expires_at: Mapped[datetime] = mapped_column(
        server_default=text("now() + interval '30 days'"), comment="End of the session."
    )
    created_at: Mapped[datetime | None] = _known_time("First record of it; NULL: unknown.")
    updated_at: Mapped[datetime] = _now("Last change of this row, kept by trigger.")

    student: Mapped[Student] = relationship(back_populates="sessions")
    steps: Mapped[list["StepProgress"]] = relationship(
        back_populates="session",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="StepProgress.step_number",
    )


class StepProgress(Base):
    """The progress of a session in one of the nine steps."""

    __tablename__ = "step_progress"
    __table_args__ = (
        CheckConstraint("step_number BETWEEN 1 AND 9", name="step_number"),
        CheckConstraint("time_spent >= 0", name="time_spent"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index(None, "student_id"),
        {"comment": "Progress of a session, one row for each step that it began."},
    )

    session_token: Mapped[str] = mapped_column(
        ForeignKey("sessions.session_token", ondelete="CASCADE"),
        primary_key=True,
        comment="Session.",
    )
    step_number: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="Step, 1 to 9; follows step_name."
    )
    student_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("students.student_id", ondelete="CASCADE"), comment="Student of the session."
    )
    step_name: Mapped[str] = mapped_column(comment="Name of the step.")
    started_at: Mapped[datetime | None] = _known_time("First attempt; NULL: unknown.")
    completed_at: Mapped[datetime | None] = mapped_column(comment="Time of completion.")
    time_spent: Mapped[int] = _count("Seconds spent in the step.")
    attempts: Mapped[int] = _count("Attempts made.")
    validation_passed: Mapped[bool] = _flag("The step is completed.")
    code_submitted: Mapped[str | None] = _text("Code that the student submitted.")
    deployment_url: Mapped[str | None] = _text("Address of the deployed result.")
    created_at: Mapped[datetime] = _now("Time of the insert.")
    updated_at: Mapped[datetime] = _now("Last change of this row, kept by trigger.")

    session: Mapped[WorkshopSession] = relationship(back_populates="steps")


class Event(Base):
    """An entry of the audit trail; it stays when its student or session is deleted."""

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "student_id"),
        Index(None, "session_token"),
        Index(None, "event_type"),
        {"comment": "Audit trail of the application and of the migration."},
    )

    id: Mapped[int] = mapped_column(
        BigInteger, Identity(always=False), primary_key=True, comment="Number of the event."
    )
    student_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("students.student_id", ondelete="SET NULL"),
        comment="Student of the event; NULL: none, or deleted.",
    )
    session_token: Mapped[str | None] = mapped_column(
        ForeignKey("sessions.session_token", ondelete="SET NULL"),
        comment="Session of the event; NULL: none, or deleted.",
    )
    event_type: Mapped[str] = mapped_column(
        comment="Kind of event. The migration writes legacy_merge and merge_note."
    )
    event_data: Mapped[dict[str, Any]] = _object("Details; never a secret value.")
    created_at: Mapped[datetime] = _now("Time of the event.")

    student: Mapped[Student | None] = relationship()
    session: Mapped[WorkshopSession | None] = relationship()
