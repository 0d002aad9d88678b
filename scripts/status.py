"""``python -m scripts.status``."""

from scripts.commands.status import main
from scripts.common.report import run_app

if __name__ == "__main__":
    run_app(main)
