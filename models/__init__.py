"""SQLAlchemy models of the unified workshop schema."""

from models.schema import Base, Event, StepProgress, Student, WorkshopSession
from models.steps import FLAGS, STEPS, Step

__all__ = [
    "FLAGS",
    "STEPS",
    "Base",
    "Event",
    "Step",
    "StepProgress",
    "Student",
    "WorkshopSession",
]
