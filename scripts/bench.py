"""``python -m scripts.bench``."""

from scripts.common.report import run_app
from scripts.development.bench import main

if __name__ == "__main__":
    run_app(main)
