"""``python -m scripts.dry_run``."""

from scripts.commands.dry_run import main
from scripts.common.report import run_app

if __name__ == "__main__":
    run_app(main)
