"""Status of the migration: what is done, what is logged, locks, and the next command.

Reads in short transactions, and changes nothing without ``--drain``. Also handles tables that were
dropped, renamed or stamped by hand, and names the commands that repair it.
"""

from scripts.commands.status.command import main
from scripts.commands.status.look import examine
from scripts.commands.status.report import Status

__all__ = ["Status", "examine", "main"]
