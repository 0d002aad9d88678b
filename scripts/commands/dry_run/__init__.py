"""Dry run: what ``alembic upgrade head`` would make of the legacy tables, changing nothing.

The merge is done, and verified, on temporary copies, by the SQL text of the revisions (``shadow``): so
this is what the migration will do, not a second opinion on it. The tables themselves are only read,
in transactions of some 40 ms, so that it is safe while the application is in use. ``--rehearse`` goes
further: the revisions themselves, on the real tables, in one transaction that is rolled back.
"""

from scripts.commands.dry_run.command import main
from scripts.commands.dry_run.plan import examine
from scripts.commands.dry_run.report import Report, show

__all__ = ["Report", "examine", "main", "show"]
