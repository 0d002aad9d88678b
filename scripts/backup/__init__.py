"""Backups: made and proven, restored, and the dated tables that go at the end.

``command`` makes a backup and ``proof`` proves it, ``restore`` brings it back, ``manifest`` says what is
in it. pg_dump, pg_restore and psql do the work: ``programs``.
"""

from scripts.backup.command import main

__all__ = ["main"]
