"""``python -m scripts.verify``: the same as ``workshop verify``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("verify")
