"""Seeded sample of a legacy workshop database: for the demo, the tests and the benchmarks.

``fill`` creates ``workshop_students`` and ``student_configs`` as the current application leaves
them and loads any number of sessions, with the faults that real databases have: JSON inside JSON,
addresses that are missing or disagree, flags that fell back to false, secrets in several forms.
Every person, address, key and URL is made up. The same number of sessions and the same seed give
the same rows, whatever the day.
"""

from scripts.development.sample_data.command import fill, main
from scripts.development.sample_data.rows import MEASURED, generate

__all__ = ["MEASURED", "fill", "generate", "main"]
