"""Two operations for revisions, the same SQL text online and offline. Alembic and psycopg only.

``op.expect_revision(revision)``
    First statement of every step: refuses unless the database is at that revision.
``op.run_sql(revision, name, commits=False)``
    Runs ``alembic/sql/<revision>/<name>.sql`` as it stands. ``commits=True`` is for a CALL whose
    procedure commits chunk by chunk, and runs outside the step's transaction.
"""

from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from scripts.common.connection import qualified

SQL_FOLDER = Path(__file__).parents[2] / "alembic" / "sql"


def ddl(text: str) -> sa.DDL:
    """Wrap SQL so that no colon and no percent sign in it means anything to SQLAlchemy."""
    return sa.DDL(text.replace("%", "%%"))


def sql_file(*parts: str) -> str:
    """Return the text of ``alembic/sql/<parts>.sql`` without its last semicolon."""
    text = SQL_FOLDER.joinpath(*parts).with_suffix(".sql").read_text(encoding="utf-8")
    if "\t" in text:
        raise CommandError(f"{'/'.join(parts)}.sql contains a tab; offline output would change it")
    return text.rstrip().removesuffix(";")


def version_table_of(migration: MigrationContext) -> str:
    """Return the name of the table that holds the revision, as SQL takes it."""
    return qualified(migration.version_table, migration.version_table_schema)


@Operations.register_operation("expect_revision")
class ExpectRevision(MigrateOperation):
    """Refuse the step, before it changes anything, unless the database is where it starts."""

    def __init__(self, revision: str | None) -> None:
        self.revision = revision

    @classmethod
    def expect_revision(cls, operations: Operations, revision: str | None) -> None:
        """Raise in the database unless the version table holds ``revision`` (None: nothing)."""
        operations.invoke(cls(revision))


@Operations.implementation_for(ExpectRevision)
def _expect_revision(operations: Operations, operation: ExpectRevision) -> None:
    # A script is written for one starting point. Applied anywhere else, its DDL would run and its
    # UPDATE of the version table would match no row, with exit status 0.
    expected = "NULL" if operation.revision is None else f"'{operation.revision}'"
    guard = f"""\
DO $guard$
DECLARE
    found text := (SELECT string_agg(version_num, ', ') FROM {version_table_of(operations.get_context())});
    wanted CONSTANT text := {expected};
BEGIN
    IF found IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'this step starts at revision %, but the database is at %',
            coalesce(wanted, '(base)'), coalesce(found, '(base)')
            USING HINT = 'Nothing was changed by it. Run "alembic current", and write the script '
                         'for that revision: alembic upgrade <current>:<target> --sql';
    END IF;
END
$guard$"""
    operations.execute(ddl(guard))


@Operations.register_operation("run_sql")
class RunSql(MigrateOperation):
    """Run one SQL file of a revision, the same text online and offline."""

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
