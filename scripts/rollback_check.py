"""``python -m scripts.rollback_check``."""

from scripts.commands.rollback_check import main
from scripts.common.report import run_app

if __name__ == "__main__":
    run_app(main)
