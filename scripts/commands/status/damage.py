"""What was dropped, renamed or stamped by hand, and the commands that lead back on track."""

from typing import Any

from sqlalchemy import Connection, RowMapping

from scripts.commands.status.advice import UPGRADE
from scripts.commands.status.facts import LAST_STAGE, stage_of
from scripts.commands.status.report import Status
from scripts.common.connection import VERSION_TABLE_ADVICE
from scripts.common.database import VERSION_TABLE
from scripts.common.obstacles import misnamed

AFTERWARDS = (
    ". What stands there gets the name ..._stray_<number>. Rows that only it has are copied; compare the others, "
    "then drop it"
)


def _psql(*statements: str) -> str:
    """A shell command; more statements than one are one transaction."""
    return f"""psql "$POSTGRES_URL_NON_POOLING" -c '{"; ".join(statements)}'"""


def find_damage(
    connection: Connection,
    status: Status,
    unknown: bool,
    has: RowMapping,
    bridge: RowMapping | None,
    sources: Any,
) -> None:
    """Say what was dropped, renamed or stamped by hand, and how to get back on track from there."""
    whole = not has["missing"]
    possible = _revisions_of(has, bridge)
    is_at = possible[0 if whole else -1] or "base"
    if unknown:
        _unknown_revision(status, is_at)
        return
    said = stage_of(status.revision)
    stamp: list[str] = []
    if said not in possible if whole or said is None else not has["of_0001"]:
        stamp = [f"alembic stamp --purge {is_at}"]
        _wrong_revision(status, is_at)
        said = None if is_at == "base" else is_at

    names_back = [_psql("SET lock_timeout = 200", *has["names_back"])] if has["names_back"] else []
    gone = [source["name"] for source in sources if not source["exists"]]
    if said and not whole and has["of_0001"]:
        _unified_dropped(status, has["missing"], [*stamp, *([] if bridge else names_back)])
    elif said and gone:
        _legacy_dropped(status, said, gone, stamp, names_back if len(gone) < len(sources) else None)
    elif said and has["dropped"] and has["legacy"]:
        status.problems.append(
            f"{' and '.join(has['legacy'])} came after the old tables were dropped for good: an old endpoint "
            "still creates and fills them, and nothing carries that over. Move that endpoint, take over by "
            "hand what they hold, and drop them"
        )
    elif said and said >= "0003" and not bridge and has["legacy"]:
        status.problems.append(
            f"nothing keeps {' and '.join(has['legacy'])} in step with the new tables: schema bridge was "
            "dropped by hand, or the old tables came later. Merging anew: where the two differ the old "
            "tables win, and what either of them still has comes back"
        )
        status.commands = [*stamp, *names_back, "alembic downgrade 0002", UPGRADE]
    elif stamp:
        status.commands = [*stamp, UPGRADE]
    if bridge and said and not status.problems:
        _misnamed(connection, status)


def _unknown_revision(status: Status, is_at: str) -> None:
    """It may be another project's: never deleted."""
    status.problems.append(
        f"{VERSION_TABLE} holds revision {status.revision}, which this project does not have. "
        f"{VERSION_TABLE_ADVICE}"
    )
    if is_at != "base":
        status.problems[0] += (
            f". What is there is of revision {is_at}: with a table of its own, alembic stamp {is_at}"
        )


def _wrong_revision(status: Status, is_at: str) -> None:
    status.problems.append(
        f"{VERSION_TABLE} says {status.revision or 'nothing'}, but what is there is of revision "
        f"{is_at}: somebody changed it by hand"
    )
    if is_at == LAST_STAGE and status.head[:4] > LAST_STAGE:
        status.problems[-1] += (
            f". A later revision, up to {status.head}, may be there as well: stamp that one instead"
        )


def _unified_dropped(status: Status, missing: list[str], first: list[str]) -> None:
    problem = (
        f"{', '.join(missing)} dropped by hand; what only they held is gone, the old tables are as they "
        "were. To start over"
    )
    back = "alembic downgrade base"
    if len(missing) == 4:
        problem += f": {back}, then {UPGRADE}"
    else:
        problem += (
            " from these, the rest of the new tables has to go as well: take a "
            "copy first (pg_dump) if an application has written to them"
        )
        back = "alembic -x drop_existing=true downgrade base"
    status.problems.append(problem)
    status.commands = [*first, back, UPGRADE]


def _legacy_dropped(
    status: Status, said: str, gone: list[str], stamp: list[str], names_back: list[str] | None
) -> None:
    """``names_back`` is for the table that is left; None: both are gone."""
    status.problems.append(
        f"the table behind {' and '.join(gone)} was dropped by hand: nothing keeps it in step any "
        "more, and only a backup can bring back what the new tables do not hold. The bridge has to go"
    )
    status.commands = [*stamp, _psql("DROP SCHEMA bridge CASCADE")]
    if names_back is not None:
        status.problems[-1] += ", and can be built anew with the table that is left"
        status.commands += [*names_back, "alembic downgrade 0002", UPGRADE]
    elif said != "0007":
        status.commands.append(UPGRADE)
    if said == "0007":
        status.problems[-1] += (
            ". Or, for good: 'workshop drop-backups' shows what is left, and takes it off"
        )


def _misnamed(connection: Connection, status: Status) -> None:
    for renamed in misnamed(connection, status.revision):
        status.problems.append(
            f"a legacy name was changed by hand: {renamed['what']}{AFTERWARDS if renamed['kind'] else ''}"
        )
        status.misnamed.append(renamed["legacy_name"])
        status.commands.append(_psql("SET lock_timeout = 200", *renamed["way_back"]))


def _revisions_of(has: RowMapping, bridge: RowMapping | None) -> list[str | None]:
    """The revisions that the database may be at, by what is there; the lowest one first."""
    if not has["of_0001"]:
        return [None]
    if not has["of_0002"]:
        return ["0001"]
    # with a bridge the view of a legacy name may be somebody's own
    cut_over = has["of_0007"] or (has["names_back"] and not bridge)
    # the indexes of 0005 go with the tables, the state of the bridge does not
    if not (bridge["sync"] if bridge and has["missing"] else has["of_0005"]):
        if bridge:
            return ["0003", "0004"] if bridge["merged"] or bridge["handed_back"] else ["0003"]
        if has["missing"] and has["of_0004"]:
            return ["0007"] if cut_over else ["0004", "0005", "0006"]
        if has["missing"]:
            return ["0002", "0003"]
        # without legacy tables nothing tells these two apart
        return ["0003", "0004"] if has["of_0003"] else ["0002"]
    if has["missing"]:
        return ["0007"] if cut_over else ["0005", "0006"]
    if not has["of_0006"]:
        return ["0005"]
    if cut_over:
        return ["0007"]
    return ["0006"] if bridge else ["0006", "0007"]
