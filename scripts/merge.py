"""``python -m scripts.merge``: the same as ``workshop merge``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("merge")
