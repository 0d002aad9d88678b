"""Modules of ``alembic/env.py`` and the revisions, beside ``scripts.common``."""
