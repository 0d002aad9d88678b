"""The script of ``--sql``, for psql: text around Alembic's SQL, and the conditions that skip a step."""

import inspect
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import ModuleType

from scripts.common.connection import PROBE_IS_HELD, TAKE_PROBE, VARIABLES
from scripts.common.project import ROOT
from scripts.migration.guards import array

TESTED = "15, 16 and 18"
"""Versions of PostgreSQL in the tests."""

# At the end interactive psql gets its own settings back.
HEADER = """\
-- Run with: psql -X -f <this file> "$POSTGRES_URL_NON_POOLING"   (not with -1, not in a GUI: it commits in steps)
-- It has ended well when its last line prints "Applied". After an interruption run it again: it skips what is done.
-- {project}, tested with PostgreSQL {tested}. How to review it: docs/dba-review.md.
--
{contents}
\\set workshop_stop :ON_ERROR_STOP
\\set workshop_autocommit :AUTOCOMMIT
\\set workshop_rollback :ON_ERROR_ROLLBACK
\\set ON_ERROR_STOP on
\\set AUTOCOMMIT on
\\set ON_ERROR_ROLLBACK off

"""

STEP = re.compile(
    r"^BEGIN;\n\n((?:CREATE TABLE [^;]*;\n\n)?)-- Running (upgrade|downgrade) (\S*) -> (\S*)\n",
    re.M,
)
"""Start of a step in Alembic's script; the first step creates the version table."""

# Offline counterpart of scripts.common.connection.refuse_pooler. Two settings pass the answer into
# a DO block. If the session setting is lost at once, all settings of the script would be lost.
NO_POOLER = f"""\
{TAKE_PROBE} \\gset
\\connect
SET bridge.probe = :probe;
BEGIN;
SET LOCAL bridge.by_psql = :probe;
DO $pooler$
DECLARE
    probe CONSTANT bigint := nullif(current_setting('bridge.by_psql', true), '');
    lost CONSTANT boolean := probe::text IS DISTINCT FROM current_setting('bridge.probe', true);
    held boolean := lost;
BEGIN
    IF probe IS NULL THEN
        RAISE EXCEPTION 'this script is for psql, but another client runs it'
            USING HINT = 'Nothing was changed. Run the whole file with psql, as in its first line.';
    END IF;
    FOR look IN 1 .. 60 LOOP
        EXIT WHEN lost;
        held := {PROBE_IS_HELD.format(probe="probe")};
        EXIT WHEN NOT held OR probe = pg_backend_pid();
        PERFORM pg_sleep(0.05);
    END LOOP;
    IF held THEN
        RAISE EXCEPTION 'this address is a transaction pooler, which loses session locks and settings'
            USING HINT = 'Nothing was changed. Run the script at the direct address of the database, '
                         'for instance that of {VARIABLES[0]}.';
    END IF;
END
$pooler$;
COMMIT;
SET application_name = 'workshop migration';
"""


def steps_done(path: Sequence[str]) -> str:
    """Return the query that sets psql's variables ``done_1`` ...: true for a step that is done.

    ``path`` are the revisions from the start of the script to its end; '' is base.
    """
    steps = ", ".join(f"at > {number} AS done_{number}" for number in range(1, len(path)))
    at = f"array_position({array(path)}, current_setting('bridge.at'))"
    return f"SELECT {steps} FROM {at} AS at \\gset\n" if steps else ""


def unless_done(number: int, sql: str) -> str:
    """Return SQL that psql runs only if that step is not done; ``number`` 0: always."""
    if not sql or not number:
        return f"{sql};\n" if sql else ""
    return f"\\if :done_{number}\n\\else\n{sql};\n\\endif\n"


def readable(before: str, script: str, end: str, modules: Mapping[str, ModuleType]) -> str:
    """Return the whole script: contents, checks, the steps with the docstrings of their revisions, the end.

    ``before`` are the checks, ``script`` is Alembic's output, ``end`` its last revision.
    ``modules`` are the modules of the revisions; their ``legacy_locks`` are the locks of upgrade
    and downgrade on the legacy tables.
    """
    first, *found = STEP.split(script)
    parts, rows = [before + first], [("Checks, before anything is changed", "reads the catalog")]
    for number, step in enumerate(zip(*(found[i::5] for i in range(5)), strict=True), 1):
        table, direction, start, target, text = step
        name, upwards = (
            f"{direction} {start or 'base'} -> {target or 'base'}",
            direction == "upgrade",
        )
        module = modules[target if upwards else start]
        rows.append((name, getattr(module, "legacy_locks", ("none", "none"))[not upwards]))
        lines = inspect.cleandoc(module.__doc__ or "").splitlines()
        told = "".join(f"-- {line}".rstrip() + "\n" for line in lines)
        parts.append(
            f"-- Running {direction} {start} -> {target}\n{told}"
            f"\\if :done_{number}\n\\echo Skipped, done already: {name}\n\\else\n\\echo Begins: {name}\n"
            f"BEGIN;\n\n{table}{text.strip()}\n\\echo Done: {name}\n\\endif\n\n"
        )
    # line of the section, after the header; the header's length does not depend on its text
    header = _header([(name, lock, 0) for name, lock in rows])
    lengths = accumulate((part.count("\n") for part in parts), initial=header.count("\n") + 1)
    located = [(name, lock, line) for (name, lock), line in zip(rows, lengths, strict=False)]
    return _header(located) + "".join(parts) + _end(end)


def _header(rows: list[tuple[str, str, int]]) -> str:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = [("line", "section", "legacy tables: strongest lock, and for how long")]
    table += [(str(line), name, lock) for name, lock, line in rows]
    width = max(len(name) for _, name, _ in table)
    contents = [f"--   {line:>5}  {name:<{width}}  {lock}" for line, name, lock in table]
    contents.append('-- Each statement that touches the legacy tables is marked "LEGACY TABLES".')
    project = f"{about['name']} {about['version']}"
    return HEADER.format(project=project, tested=TESTED, contents="\n".join(contents))


def _end(revision: str) -> str:
    """Return SQL that restores the settings of an interactive session and reports success."""
    return f"""\
DO $end$ BEGIN PERFORM pg_advisory_unlock_all(); END $end$;
RESET ALL;
\\set ON_ERROR_STOP :workshop_stop
\\set AUTOCOMMIT :workshop_autocommit
\\set ON_ERROR_ROLLBACK :workshop_rollback
\\echo Applied: the database is at {revision}
"""
