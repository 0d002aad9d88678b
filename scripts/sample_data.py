"""``python -m scripts.sample_data``: the same as ``workshop sample-data``; exports ``fill``."""

from scripts.cli import workshop
from scripts.development.sample_data import fill

__all__ = ["fill"]

if __name__ == "__main__":
    workshop("sample-data")
