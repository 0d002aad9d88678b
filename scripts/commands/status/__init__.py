"""Where the migration stands: what is done, what waits, who locks what, and what to do next.

Reads in short transactions, and changes nothing without ``--drain``. Copes with what was dropped,
renamed or stamped by hand, and names the commands that lead back on track.
"""

from scripts.commands.status.command import main
from scripts.commands.status.look import examine
from scripts.commands.status.report import Status

__all__ = ["Status", "examine", "main"]
