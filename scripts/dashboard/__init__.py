"""The instructor's dashboard: one HTML page with all its data, or a server behind a password.

The page needs no network: it contains styles, script and data. Texts of students are JSON data,
which the script shows as text; the Content-Security-Policy allows no other script.
"""

from scripts.dashboard.command import main

__all__ = ["main"]
