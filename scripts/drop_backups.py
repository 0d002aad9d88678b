"""``python -m scripts.drop_backups``: the same as ``workshop drop-backups``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("drop-backups")
