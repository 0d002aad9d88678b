"""Backups: make and prove them, restore them, drop the dated backup tables."""

from scripts.backup.command import main

__all__ = ["main"]
