"""``python -m scripts.diagram``."""

from scripts.common.report import run_app
from scripts.development.diagram import main

if __name__ == "__main__":
    run_app(main)
