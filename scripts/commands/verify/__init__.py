"""Verification: compare the unified tables with the legacy tables.

The checks are those of ``bridge.run_checks``: every mapped value of every row, and counts from the
raw tables. The report adds the queries of step 5 of the migration guide, reconciled, and its six
success criteria. ``--differences`` shows the values. Reads only, in short transactions.
"""

from scripts.commands.verify.checks import examine
from scripts.commands.verify.command import main
from scripts.commands.verify.report import Report, show

__all__ = ["Report", "examine", "main", "show"]
