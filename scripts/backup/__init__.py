"""Backups: make and prove them, restore them, drop the dated backup tables.

``command`` makes a backup and ``proof`` proves it; ``restore`` restores it; ``manifest`` describes
its content. ``programs`` runs pg_dump, pg_restore and psql.
"""

from scripts.backup.command import main

__all__ = ["main"]
