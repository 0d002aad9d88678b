"""``python -m scripts.demo``: the same as ``workshop demo``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("demo")
