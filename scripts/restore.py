"""``python -m scripts.restore``: the same as ``workshop restore``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("restore")
