"""The settings of the migrating session: what begins every run, and how a caller's connection gets its own back."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sqlalchemy as sa
from alembic.util import CommandError

from scripts.migration.operations import sql_file


def settings(arguments: Mapping[str, str | list[str]]) -> str:
    """Return session.sql, and what ``-x`` asks for; CommandError for any other argument."""
    unknown = set(arguments) - {"drop_existing"}
    if unknown or arguments.get("drop_existing", "false") not in ("true", "false"):
        raise CommandError("-x takes drop_existing=true or drop_existing=false, nothing else")
    drop = "on" if arguments.get("drop_existing") == "true" else "off"
    return f"{sql_file('session')};\nSET bridge.drop_existing = {drop}"


@contextmanager
def given_back_as_it_was(connection: sa.Connection, changed: str) -> Iterator[None]:
    """Give a caller's connection back with the settings that it came with; ``changed`` is the SQL that sets others."""
    inside = connection.in_transaction()
    names = re.findall(r"^SET ([\w.]+) =", changed, re.MULTILINE)
    query = sa.select(*(sa.func.current_setting(name, True).label(name) for name in names))
    before = connection.execute(query).one()
    if not inside:
        connection.commit()
    try:
        yield
    finally:
        # a failed transaction takes its settings with it when the caller rolls it back
        status = connection.connection.dbapi_connection.info.transaction_status.name  # type: ignore[union-attr]
        if status != "INERROR":
            restore = (
                sa.func.set_config(n, v or "", False) for n, v in zip(names, before, strict=True)
            )
            connection.execute(sa.select(*restore))
            if not inside:
                connection.commit()
