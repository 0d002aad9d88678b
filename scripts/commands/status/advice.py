"""The next command, for a database in which nothing is damaged."""

from sqlalchemy import RowMapping

from scripts.commands.status.report import Status

DRAIN = "workshop status --drain"
UPGRADE = "alembic upgrade head"
BACKUP, DRY_RUN = "workshop backup", "workshop dry-run"
VERIFY, MERGE = "workshop verify", "workshop merge"
LOOK = "a look at the dashboard (workshop dashboard --out dashboard.html)"


def what_next(status: Status, has: RowMapping) -> None:
    """Fill in ``next`` and ``commands``."""
    if status.migrator:
        status.next = "a migration is running: look again when it has ended"
    elif any(status.pending.values()) and status.syncs_at_once:
        status.next, status.commands = f"{DRAIN} carries over what is pending", [DRAIN]
    elif any(status.drift.values()):
        status.next, status.commands = f"{VERIFY} shows what differs", [VERIFY]
    elif status.revision is None or status.revision < "0003":
        _first_steps(status, has)
    elif status.read_only:
        status.next = (
            "alembic downgrade base goes on with the way back, alembic upgrade head returns"
        )
        status.commands = ["alembic downgrade base"]
    elif status.revision < "0006" and status.tables:
        status.next = step = "alembic upgrade 0006"
        status.commands = [step]
        if status.merge:
            status.next += " goes on with the merge where it was"
        elif status.revision < "0004":
            status.next = f"{DRY_RUN} shows what will be merged, then {step}"
            status.commands = [DRY_RUN, step]
    elif status.revision < "0007" and status.tables and not status.columns_changed:
        status.next, status.commands = f"{VERIFY}, {LOOK}, then {UPGRADE}", [VERIFY, UPGRADE]
    elif status.revision != status.head:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        endpoints = "nothing: move endpoints at your pace; 'workshop verify' compares every value"
        status.next = endpoints if status.tables else "nothing"


def _first_steps(status: Status, has: RowMapping) -> None:
    """Before the bridge is there; a database without rows may be the wrong one."""
    step = "alembic upgrade 0003"
    if has["legacy"]:
        status.next = f"{BACKUP}, then {DRY_RUN}, then {step}"
        status.commands = [BACKUP, DRY_RUN, step]
        if status.rows.keys() >= {*has["legacy"]} and not any(status.rows.values()):
            status.next = (
                f"the old tables have no rows: is this the right database? If so: {status.next}"
            )
    elif has["kept_aside"]:
        status.next, status.commands = UPGRADE, [UPGRADE]
    else:
        status.commands = [UPGRADE]
        status.next = (
            "neither workshop_students nor student_configs is there: is this the right database? "
            f"For a new installation: {UPGRADE}"
        )
    if has["kept_aside"]:
        status.next += f"; {', '.join(has['kept_aside'])} will be taken up again"
