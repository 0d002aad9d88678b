"""The instructor's dashboard: one HTML page with all data in it, or served live behind a password.

The page needs no network: styles, script and data are in it. What students typed is JSON data, which
the script shows as text; the Content-Security-Policy allows no other script.
"""

from scripts.dashboard.command import main

__all__ = ["main"]
