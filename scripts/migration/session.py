"""Settings of the migrating session: the SQL that begins every run, and the restore of a caller's settings."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa
from alembic.util import CommandError

from scripts.migration.operations import sql_file


def settings(arguments: Mapping[str, str | list[str]]) -> str:
    """Return session.sql and the setting of ``-x``; CommandError for any other argument."""
    unknown = set(arguments) - {"drop_existing"}
    if unknown or arguments.get("drop_existing", "false") not in ("true", "false"):
        raise CommandError("-x takes drop_existing=true or drop_existing=false, nothing else")
    drop = "on" if arguments.get("drop_existing") == "true" else "off"
    return f"{sql_file('session')};\nSET bridge.drop_existing = {drop}"


@contextmanager
def given_back_as_it_was(connection: sa.Connection, changed: str) -> Iterator[None]:
    """Restore the settings of the caller's connection at the end; ``changed`` is the SQL that sets them."""
    inside = connection.in_transaction()
    names = re.findall(r"^SET ([\w.]+) =", changed, re.MULTILINE)
    query = sa.select(*(sa.func.current_setting(name, True).label(name) for name in names))
    before = connection.execute(query).one()
    if not inside:
        connection.commit()
    try:
        yield
    finally:
        # after an error the caller's rollback restores the settings
        status = connection.connection.dbapi_connection.info.transaction_status.name  # type: ignore[union-attr]
        if status != "INERROR":
            restore = (
                sa.func.set_config(n, v or "", False) for n, v in zip(names, before, strict=True)
            )
            connection.execute(sa.select(*restore))
            if not inside:
                connection.commit()
