"""``python -m scripts.bench``: the same as ``workshop bench``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("bench")
