"""``python -m scripts.merge``."""

from scripts.commands.merge import main
from scripts.common.report import run_app

if __name__ == "__main__":
    run_app(main)
