"""${message}.

Purpose
    What changes for whom, and why now.

Mapping
    old column or value -> new one; the rule in one line each. Write "none" where no data moves.

Locks
    Every table that the application uses: which lock, for how long, and what waits behind it. Set a
    lock_timeout and retry (retry_locking) for anything stronger than ROW EXCLUSIVE.

Downgrade
    What it restores, and what it cannot restore.

Revises: ${down_revision | comma,n}
"""

# Rules for a revision, each with its reason:
# - Once released it is never edited: databases already ran it. A fix is a new revision.
# - SQL bodies live in alembic/sql/<revision>/NN_<what>.sql; decide in SQL (DO), not in Python:
#   offline there is no connection to ask. No op.get_bind(), no models, no clock.
# - The first call is op.expect_revision(): a script applied at the wrong revision must not run.
# - commits=True only for a CALL that commits chunk by chunk, and only if running it twice is safe:
#   after an interruption the whole step runs again.
# - A step that touches the legacy tables marks the statement with "LEGACY TABLES", and has legacy_locks
#   = (upgrade, downgrade): strongest lock and how long, for the contents of the script.
# - A data test in tests/ (load, check_upgrade, check_downgrade) comes with it.
% if "sa." in f"{upgrades}{downgrades}":
import sqlalchemy as sa
% endif
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Say in one line what it does."""
    op.expect_revision(down_revision)
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Say in one line what it undoes."""
    op.expect_revision(revision)
    ${downgrades if downgrades else "pass"}
