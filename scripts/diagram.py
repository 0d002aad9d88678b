"""``python -m scripts.diagram``: the same as ``workshop diagram``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("diagram")
