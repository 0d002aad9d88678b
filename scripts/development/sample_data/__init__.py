"""Seeded sample of a legacy workshop database, for the demo, the tests and the benchmarks.

``fill`` creates ``workshop_students`` and ``student_configs`` as the current application does, and
loads any number of sessions. They have the faults of real databases: JSON inside JSON, missing or
differing addresses, flags reset to false, secrets in several forms. Every person, address, key and
URL is made up. The same number of sessions and the same seed give the same rows on any day.
"""

from scripts.development.sample_data.command import fill, main
from scripts.development.sample_data.rows import MEASURED, generate

__all__ = ["MEASURED", "fill", "generate", "main"]
