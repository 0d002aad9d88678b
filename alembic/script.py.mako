"""${message}.

Purpose
    What changes for applications and operators, and why.

Mapping
    legacy column or value -> unified one; one line for each rule. Write "none" if no data moves.

Locks
    Every table that the application uses: which lock, for how long, and what waits behind it. Set a
    lock_timeout and retry (retry_locking) for anything stronger than ROW EXCLUSIVE.

Downgrade
    What it restores, and what it cannot restore.

Revises: ${down_revision | comma,n}
"""

# Rules for a revision:
# - Never edit a released revision: databases have run it. A fix is a new revision.
# - SQL is in alembic/sql/<revision>/NN_<what>.sql. Decide in SQL (DO), not in Python: a script has no
#   connection. No op.get_bind(), no models, no clock.
# - The first call is op.expect_revision(): it refuses a script at the wrong revision.
# - commits=True only for a CALL that commits chunk by chunk, and only if running it twice is safe:
#   after an interruption the whole step runs again.
# - A step that uses the legacy tables marks the statement with "LEGACY TABLES", and has legacy_locks
#   = (upgrade, downgrade): the strongest lock and its duration, for the contents of the script.
# - Add a data test in tests/ (load, check_upgrade, check_downgrade).
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
    """State in one line what it does."""
    op.expect_revision(down_revision)
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """State in one line what it undoes."""
    op.expect_revision(revision)
    ${downgrades if downgrades else "pass"}
