"""``python -m scripts.server``: the same as ``workshop server``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("server")
