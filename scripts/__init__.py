"""The operator's commands: ``python -m scripts.<name> --help``."""
