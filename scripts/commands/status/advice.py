"""The next command, for a database in which nothing is damaged."""

from sqlalchemy import RowMapping

from scripts.commands.status.report import Status

DRAIN = "workshop status --drain"
UPGRADE = "alembic upgrade head"
BACKUP, DRY_RUN = "workshop backup", "workshop dry-run"
VERIFY, MERGE = "workshop verify", "workshop merge"
LOOK = "check the dashboard (workshop dashboard --out dashboard.html)"


def what_next(status: Status, has: RowMapping) -> None:
    """Fill in ``next`` and ``commands``."""
    if status.migrator:
        status.next = "a migration is running: run this again when it has ended"
    elif any(status.pending.values()) and status.syncs_at_once:
        status.next, status.commands = f"{DRAIN} applies the logged sessions", [DRAIN]
    elif any(status.drift.values()):
        status.next, status.commands = f"{VERIFY} shows the differences", [VERIFY]
    elif status.revision is None or status.revision < "0003":
        _first_steps(status, has)
    elif status.read_only:
        status.next = (
            "alembic downgrade base continues the downgrade, alembic upgrade head undoes it"
        )
        status.commands = ["alembic downgrade base"]
    elif status.revision < "0006" and status.tables:
        status.next = step = "alembic upgrade 0006"
        status.commands = [step]
        if status.merge:
            status.next += " continues the merge"
        elif status.revision < "0004":
            status.next = f"{DRY_RUN} shows the merge, then {step}"
            status.commands = [DRY_RUN, step]
    elif status.revision < "0007" and status.tables and not status.columns_changed:
        status.next, status.commands = f"{VERIFY}, {LOOK}, then {UPGRADE}", [VERIFY, UPGRADE]
    elif status.revision != status.head:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        endpoints = "nothing: move endpoints at any time; 'workshop verify' compares every value"
        status.next = endpoints if status.tables else "nothing"


def _first_steps(status: Status, has: RowMapping) -> None:
    """Advise before the bridge exists; a database without rows may be the wrong one."""
    step = "alembic upgrade 0003"
    if has["legacy"]:
        status.next = f"{BACKUP}, then {DRY_RUN}, then {step}"
        status.commands = [BACKUP, DRY_RUN, step]
        if status.rows.keys() >= {*has["legacy"]} and not any(status.rows.values()):
            status.next = f"the legacy tables have no rows: check that this is the right database. If so: {status.next}"
    elif has["kept_aside"]:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        status.commands = [UPGRADE]
        status.next = (
            "neither workshop_students nor student_configs exists: check that this is the right database. "
            f"For a new installation: {UPGRADE}"
        )
    if has["kept_aside"]:
        status.next += f"; {', '.join(has['kept_aside'])} will be restored"
