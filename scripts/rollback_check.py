"""``python -m scripts.rollback_check``: the same as ``workshop rollback-check``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("rollback-check")
