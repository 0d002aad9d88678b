"""``python -m scripts.verify``."""

from scripts.commands.verify import main
from scripts.common.report import run_app

if __name__ == "__main__":
    run_app(main)
