"""``python -m scripts.sample_data``: the same as ``workshop sample-data``."""

from scripts.cli import workshop

if __name__ == "__main__":
    workshop("sample-data")
