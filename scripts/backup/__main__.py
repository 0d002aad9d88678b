"""``python -m scripts.backup``: the same as ``workshop backup``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("backup")
