"""``python -m scripts.status``: the same as ``workshop status``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("status")
