"""``python -m scripts.dry_run``: the same as ``workshop dry-run``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("dry-run")
