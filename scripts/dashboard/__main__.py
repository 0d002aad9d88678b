"""``python -m scripts.dashboard``: the same as ``workshop dashboard``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("dashboard")
