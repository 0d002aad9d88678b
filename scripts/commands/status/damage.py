"""Tables that were dropped, renamed or stamped by hand, and the commands that repair it."""

from typing import Any

from sqlalchemy import Connection, RowMapping

from scripts.commands.status.advice import UPGRADE
from scripts.commands.status.facts import LAST_STAGE, stage_of
from scripts.commands.status.report import Status
from scripts.common.connection import VERSION_TABLE_ADVICE
from scripts.common.database import VERSION_TABLE
from scripts.common.obstacles import misnamed

AFTERWARDS = (
    ". The present object gets the name ..._stray_<number>. Its own rows are copied; compare the others, "
    "then drop it"
)


def _psql(*statements: str) -> str:
    """Return a shell command; several statements run in one transaction."""
    return f"""psql "$POSTGRES_URL_NON_POOLING" -c '{"; ".join(statements)}'"""


def find_damage(
    connection: Connection,
    status: Status,
    unknown: bool,
    has: RowMapping,
    bridge: RowMapping | None,
    sources: Any,
) -> None:
    """Report what was dropped, renamed or stamped by hand, and the commands that repair it."""
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
            f"{' and '.join(has['legacy'])} came after the legacy tables were dropped for good: a legacy endpoint "
            "still creates and fills them, and nothing applies these writes. Move that endpoint, copy their "
            "rows by hand, and drop them"
        )
    elif said and said >= "0003" and not bridge and has["legacy"]:
        status.problems.append(
            f"writes to {' and '.join(has['legacy'])} are not applied to the unified tables: schema bridge was "
            "dropped by hand, or the legacy tables came later. A new merge restores "
            "rows that one side lacks; where the two differ the legacy tables win"
        )
        status.commands = [*stamp, *names_back, "alembic downgrade 0002", UPGRADE]
    elif stamp:
        status.commands = [*stamp, UPGRADE]
    if bridge and said and not status.problems:
        _misnamed(connection, status)


def _unknown_revision(status: Status, is_at: str) -> None:
    """It may belong to another project, so it is never deleted."""
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
        f"{VERSION_TABLE} has {status.revision or 'no revision'}, but the objects are those of revision "
        f"{is_at}: it was changed by hand"
    )
    if is_at == LAST_STAGE and status.head[:4] > LAST_STAGE:
        status.problems[-1] += (
            f". If a later revision, up to {status.head}, was applied as well, stamp that one instead"
        )


def _unified_dropped(status: Status, missing: list[str], first: list[str]) -> None:
    problem = (
        f"{', '.join(missing)} dropped by hand. Values that only they held are lost; the legacy tables are "
        "unchanged. To start over"
    )
    back = "alembic downgrade base"
    if len(missing) == 4:
        problem += f": {back}, then {UPGRADE}"
    else:
        problem += (
            " from these, the other unified tables have to be dropped as well. Take a "
            "copy first (pg_dump) if an application has written to them"
        )
        back = "alembic -x drop_existing=true downgrade base"
    status.problems.append(problem)
    status.commands = [*first, back, UPGRADE]


def _legacy_dropped(
    status: Status, said: str, gone: list[str], stamp: list[str], names_back: list[str] | None
) -> None:
    """``names_back`` is for the remaining table; None: both are gone."""
    status.problems.append(
        f"the table behind {' and '.join(gone)} was dropped by hand: no writes are applied to it "
        "any more. Only a backup can restore values that the unified tables lack. The bridge has to be dropped"
    )
    status.commands = [*stamp, _psql("DROP SCHEMA bridge CASCADE")]
    if names_back is not None:
        status.problems[-1] += ", and can be built anew with the remaining table"
        status.commands += [*names_back, "alembic downgrade 0002", UPGRADE]
    elif said != "0007":
        status.commands.append(UPGRADE)
    if said == "0007":
        status.problems[-1] += (
            ". Or, for good: 'workshop drop-backups' lists the remaining objects, and drops them"
        )


def _misnamed(connection: Connection, status: Status) -> None:
    for renamed in misnamed(connection, status.revision):
        status.problems.append(
            f"a legacy name was changed by hand: {renamed['what']}{AFTERWARDS if renamed['kind'] else ''}"
        )
        status.misnamed.append(renamed["legacy_name"])
        status.commands.append(_psql("SET lock_timeout = 200", *renamed["way_back"]))


def _revisions_of(has: RowMapping, bridge: RowMapping | None) -> list[str | None]:
    """Return the revisions that fit the existing objects; the lowest one first."""
    if not has["of_0001"]:
        return [None]
    if not has["of_0002"]:
        return ["0001"]
    # with a bridge the view of a legacy name may belong to another project
    cut_over = has["of_0007"] or (has["names_back"] and not bridge)
    # the indexes of 0005 are dropped with the tables, the state of the bridge is not
    if not (bridge["sync"] if bridge and has["missing"] else has["of_0005"]):
        if bridge:
            return ["0003", "0004"] if bridge["merged"] or bridge["handed_back"] else ["0003"]
        if has["missing"] and has["of_0004"]:
            return ["0007"] if cut_over else ["0004", "0005", "0006"]
        if has["missing"]:
            return ["0002", "0003"]
        # without legacy tables these two have the same objects
        return ["0003", "0004"] if has["of_0003"] else ["0002"]
    if has["missing"]:
        return ["0007"] if cut_over else ["0005", "0006"]
    if not has["of_0006"]:
        return ["0005"]
    if cut_over:
        return ["0007"]
    return ["0006"] if bridge else ["0006", "0007"]
