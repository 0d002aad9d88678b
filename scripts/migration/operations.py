"""Two operations for revisions, with the same SQL text online and offline. Imports Alembic and psycopg only.

``op.expect_revision(revision)``
    Is the first statement of every step: refuses to run unless the database is at that revision.
``op.run_sql(revision, name, commits=False)``
    Runs ``alembic/sql/<revision>/<name>.sql`` unchanged. ``commits=True`` is for a CALL of a
    procedure that commits chunk by chunk; it runs outside the step's transaction.
"""

from contextlib import ExitStack

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from scripts.common.connection import qualified
from scripts.common.project import sql_text
from scripts.migration.guards import expect


def ddl(text: str) -> sa.DDL:
    """Wrap SQL so that SQLAlchemy interprets no colon and no percent sign in it."""
    return sa.DDL(text.replace("%", "%%"))


def sql_file(*parts: str) -> str:
    """Return the text of ``alembic/sql/<parts>.sql`` without its last semicolon."""
    text = sql_text(*parts[:-1], f"{parts[-1]}.sql")
    if "\t" in text:
        raise CommandError(f"{'/'.join(parts)}.sql contains a tab; offline output would change it")
    return text.rstrip().removesuffix(";")


@Operations.register_operation("expect_revision")
class ExpectRevision(MigrateOperation):
    """Refuse the step, before its first change, at any other revision than its start."""

    def __init__(self, revision: str | None) -> None:
        self.revision = revision

    @classmethod
    def expect_revision(cls, operations: Operations, revision: str | None) -> None:
        """Raise in the database unless the version table has ``revision`` (None: no row)."""
        operations.invoke(cls(revision))


@Operations.implementation_for(ExpectRevision)
def _expect_revision(operations: Operations, operation: ExpectRevision) -> None:
    migration = operations.get_context()
    table = qualified(migration.version_table, migration.version_table_schema)
    operations.execute(ddl(expect(table, operation.revision)))


@Operations.register_operation("run_sql")
class RunSql(MigrateOperation):
    """Run one SQL file of a revision, with the same text online and offline."""

    def __init__(self, revision: str, name: str, commits: bool) -> None:
        self.parts = (revision, name)
        self.commits = commits

    @classmethod
    def run_sql(
        cls, operations: Operations, revision: str, name: str, commits: bool = False
    ) -> None:
        """Execute ``alembic/sql/<revision>/<name>.sql``; ``commits``: outside the transaction."""
        operations.invoke(cls(revision, name, commits))


@Operations.implementation_for(RunSql)
def _run_sql(operations: Operations, operation: RunSql) -> None:
    migration = operations.get_context()
    with ExitStack() as stack:
        if operation.commits and not migration.opts.get("single_transaction"):
            stack.enter_context(migration.autocommit_block())
        operations.execute(ddl(sql_file(*operation.parts)))
