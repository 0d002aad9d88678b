"""``python -m scripts.server``."""

from scripts.development.server import app

if __name__ == "__main__":
    app()
