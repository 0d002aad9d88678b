"""``python -m scripts.sample_data``."""

from scripts.common.report import run_app
from scripts.development.sample_data import main

if __name__ == "__main__":
    run_app(main)
