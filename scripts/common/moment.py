"""One moment of the database, copied into temporary tables without blocking the application.

The legacy application runs ALTER TABLE on every save, and waits for any transaction that has read
its table. So each range of pages is read in its own transaction of some 40 ms. All of them see one
snapshot, exported by a second connection that reads no table. Meanwhile VACUUM keeps rows deleted
since, and CREATE INDEX CONCURRENTLY waits. The strongest lock on a table is ACCESS SHARE.
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
"""Longest time in seconds that a transaction reads a table."""

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
    """``schema`` is the schema of the temporary tables; ``say`` gets a line of progress."""

    connection: Connection
    schema: str
    snapshot: str | None
    say: Callable[[str], None]

    def copy(self, source: str, into: str, columns: Sequence[tuple[str, str]]) -> None:
        """Fill a temporary table from a permanent one.

        ``source`` and ``into`` are names as SQL text. ``columns`` are pairs of a column of ``into``
        and its expression over ``source`` (alias t). Raises ConnectionProblem if another session
        emptied or rewrote the table meanwhile.
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
            # later rows are behind the last page, and the snapshot does not see them
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
                f"another session emptied or rewrote {source} while it was read; run this again"
            )


@contextmanager
def moment(connection: Connection, say: Callable[[str], None]) -> Iterator[Moment]:
    """Yield a ``Moment`` for a connection in AUTOCOMMIT, or in the caller's transaction.

    Inside a transaction each table is read in one statement: the transaction has its own moment and
    its own locks. Raises ConnectionProblem on a standby, which has no temporary tables, and behind
    a transaction pooler, which loses them.
    """
    if run(connection, "SELECT pg_is_in_recovery()").scalar_one():
        raise ConnectionProblem(
            "this server is a standby, which cannot create temporary tables: name the primary; "
            "reading there blocks no application either"
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
