"""Options of Alembic for every run; which commands need a database."""

import re
from typing import Any, Literal

from alembic.config import Config
from alembic.script import ScriptDirectory

from models import Base
from scripts.common.connection import version_table


def options(config: Config, project: ScriptDirectory) -> dict[str, Any]:
    """Return the arguments of ``context.configure()``, online and offline."""
    table, schema = version_table(config)

    def name_revision(_context: Any, _revision: Any, directives: list[Any]) -> None:
        directives[0].rev_id = _revision_id(project, directives[0])

    return {
        "target_metadata": Base.metadata,
        "transaction_per_migration": True,
        "compare_type": True,
        "compare_server_default": True,
        "include_name": _include_name,
        "process_revision_directives": name_revision,
        "version_table": table,
        "version_table_schema": None if schema == "public" else schema,
    }


def _include_name(
    name: str | None,
    kind: Literal[
        "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"
    ],
    _parents: Any,
) -> bool:
    """Compare the four tables only: the models do not describe legacy tables, backups and the bridge."""
    return kind != "table" or name in Base.metadata.tables


def _revision_id(project: ScriptDirectory, new: Any) -> str:
    """Name a new revision by the next number and its message, unless --rev-id names it."""
    if not re.fullmatch(r"[0-9a-f]{12}", new.rev_id):
        return str(new.rev_id)
    known = [script.revision[:4] for script in project.walk_revisions()]
    number = 1 + max((int(known) for known in known if known.isdigit()), default=0)
    slug = re.sub(r"[^a-z0-9]+", "_", (new.message or "").lower()).strip("_") or "revision"
    # alembic_version has 32 characters
    return f"{number:04d}_{slug[:27].rpartition('_')[0] if len(slug) > 27 else slug}"


def needs_database(command: Any) -> bool:
    """Return whether a command needs the database; ``command`` is the command line's, None in-process."""
    match command and command.cmd[0].__name__:
        case "merge":
            return False
        case "revision":
            return bool(command.autogenerate)
        case "history":
            return command.indicate_current or "current" in (command.rev_range or "")
    return True
