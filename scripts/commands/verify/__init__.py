"""Verification: whether the unified schema holds what the legacy tables say.

The checks are the bridge's own, ``bridge.run_checks``: every mapped value of every row, and counts
taken from the raw tables. Beside them the migration guide's queries of step 5, reconciled, and its six
success criteria, as far as a database can tell them. ``--differences`` opens what differs. Reads only, in
short transactions.
"""

from scripts.commands.verify.checks import examine
from scripts.commands.verify.command import main
from scripts.commands.verify.report import Report, show

__all__ = ["Report", "examine", "main", "show"]
