"""One moment of the database, copied into temporary tables without keeping anybody waiting.

The old application runs ALTER TABLE on every save, and waits for any transaction that has read its
table. So a table is read in ranges of pages, each in a transaction of its own that lasts some
40 ms. All of them see the same moment: a second connection, which reads no table, exports its
snapshot to them. While it does, VACUUM leaves what was deleted since, and CREATE INDEX CONCURRENTLY
waits; the application notices nothing. Nothing stronger than ACCESS SHARE is taken on a table that is read.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection

from scripts.common.connection import ConnectionProblem, connect, refuse_pooler
from scripts.common.database import run

TARGET = 0.04
"""Seconds that a transaction may read a table."""

SESSION = """
SET row_security = off;
CREATE TEMPORARY TABLE moment ();
DROP TABLE pg_temp.moment
"""
# A rewritten or emptied table looks empty to an older snapshot.
FILE = "SELECT pg_relation_filenode('{}'), pg_relation_size('{}') / current_setting('block_size')::integer"
CHUNK = """
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET TRANSACTION SNAPSHOT '{snapshot}';
{insert} WHERE t.ctid >= '({first},0)'::tid AND t.ctid < '({last},0)'::tid;
COMMIT
"""
LAST_PAGE = 4_294_967_295


@dataclass
class Moment:
    """``schema`` is that of the temporary tables; ``say`` gets a line on how far it is."""

    connection: Connection
    schema: str
    snapshot: str | None
    say: Callable[[str], None]

    def copy(self, source: str, into: str, columns: Sequence[tuple[str, str]]) -> None:
        """Fill a temporary table from a permanent one.

        ``source`` and ``into`` are names as SQL takes them; ``columns`` are pairs of a column of
        ``into`` and the expression over ``source`` (alias t) that it gets. Raises ConnectionProblem
        where somebody emptied or rewrote the table meanwhile.
        """
        names = ", ".join(name for name, _ in columns)
        values = ", ".join(value for _, value in columns)
        insert = (
            f"INSERT INTO pg_temp.{into} ({names}) OVERRIDING SYSTEM VALUE "
            f"SELECT {values} FROM {source} AS t"
        )
        if self.snapshot is None:
            run(self.connection, insert)
            return
        look = FILE.format(source.replace("'", "''"), source.replace("'", "''"))
        file, pages = run(self.connection, look).one()
        first, size = 0, 16
        while first < LAST_PAGE:
            # rows that came after the moment lie behind the last page, and are not seen anyway
            last = first + size if first + size < pages else LAST_PAGE
            began = time.monotonic()
            run(
                self.connection,
                CHUNK.format(snapshot=self.snapshot, insert=insert, first=first, last=last),
            )
            took = max(time.monotonic() - began, 0.001)
            size = max(1, min(2 * size, int(size * TARGET / took)))
            first = last
            self.say(f"reading {source}: page {min(first, pages):,} of {pages:,}")
        if run(self.connection, look).one()[0] != file:
            raise ConnectionProblem(
                f"somebody emptied or rewrote {source} while it was read; run this again"
            )


@contextmanager
def moment(connection: Connection, say: Callable[[str], None]) -> Iterator[Moment]:
    """Yield a ``Moment`` for a connection in AUTOCOMMIT, or in a transaction of the caller's.

    Inside a transaction each table is read at once: that one has its own moment, and its own locks.
    Raises ConnectionProblem on a standby and behind a transaction pooler, where there are no
    temporary tables.
    """
    if run(connection, "SELECT pg_is_in_recovery()").scalar_one():
        raise ConnectionProblem(
            "this server is a standby, where nobody can create temporary tables: name the primary; "
            "reading there keeps nobody waiting either"
        )
    raw = connection.connection.dbapi_connection
    inside = raw is not None and raw.info.transaction_status == TransactionStatus.INTRANS
    if not inside:
        refuse_pooler(connection.engine, connection)
    run(connection, SESSION)
    schema = run(connection, "SELECT pg_my_temp_schema()::regnamespace::text").scalar_one()
    if inside:
        yield Moment(connection, schema, None, say)
        return
    with connect(connection.engine) as keeper:
        run(keeper, "SET idle_in_transaction_session_timeout = 0")
        keeper.commit()
        run(keeper, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = run(keeper, "SELECT pg_export_snapshot()").scalar_one()
        yield Moment(connection, schema, snapshot, say)
        keeper.rollback()
