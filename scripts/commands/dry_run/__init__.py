"""Dry run: what ``alembic upgrade head`` would do with the legacy tables, without a change.

``shadow`` merges and verifies temporary copies with the SQL text of the revisions, so the result is
that of the migration. The tables are only read, in transactions of some 40 ms, so that it is safe
while the application is in use. ``--rehearse`` then runs the revisions on the real tables, in one
transaction that is rolled back.
"""

from scripts.commands.dry_run.command import main
from scripts.commands.dry_run.plan import examine
from scripts.commands.dry_run.report import Report, show

__all__ = ["Report", "examine", "main", "show"]
