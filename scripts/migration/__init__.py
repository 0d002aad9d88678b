"""What ``alembic/env.py`` and the revisions need beside ``scripts.common``."""
