"""The files of this project: configuration, revisions, SQL. Only Alembic is imported."""

from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[2]
SQL = ROOT / "alembic" / "sql"


def configuration(url: str = "") -> Config:
    """Return the configuration of alembic.ini, with this database URL if given."""
    config = Config(str(ROOT / "alembic.ini"))
    if url:
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


@cache
def project() -> ScriptDirectory:
    """Return the revisions of this folder."""
    return ScriptDirectory.from_config(configuration())


def known_revisions() -> list[str]:
    """Return the ids of all revisions, the first one first."""
    return [script.revision for script in project().walk_revisions()][::-1]


def sql_text(*path: str) -> str:
    """Return the text of a file of ``alembic/sql``."""
    return SQL.joinpath(*path).read_text(encoding="utf-8")
