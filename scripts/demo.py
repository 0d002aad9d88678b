"""``python -m scripts.demo``."""

from scripts.common.report import run_app
from scripts.development.demo import main

if __name__ == "__main__":
    run_app(main)
