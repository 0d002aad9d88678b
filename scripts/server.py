"""``python -m scripts.server``: the same as ``workshop server``; exports ``start_server``."""

from scripts.cli import workshop
from scripts.common.server import start_server, stop_server

__all__ = ["start_server", "stop_server"]

if __name__ == "__main__":
    workshop("server")
