"""The database and the connection to it: the one place that turns an environment into an engine.

``alembic/env.py`` and every script resolve their database here. Needs only Alembic, SQLAlchemy and
psycopg. No function ever shows a password.
"""

import ipaddress
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

VARIABLES = ("POSTGRES_URL_NON_POOLING", "POSTGRES_URL", "DATABASE_URL")
"""Environment variables that may name the database; the first one that is set counts."""

ENCODE = (
    "Percent-encode special characters in a user name or password: @ is %40, : is %3A, / is %2F, ? is %3F, "
    "# is %23, % is %25"
)

REFUSED_ENCODING = (
    "this database is encoded in {}, and UTF8 is needed. Nothing was changed. Restore a dump of it "
    "(pg_dump --encoding=UTF8) into a database that was created with ENCODING 'UTF8'"
)
VERSION_TABLE_ADVICE = (
    "It belongs to another project, or to a later version of this one. If another project uses that "
    "table, give this one a table of its own, in alembic.ini: version_table = workshop_version. "
    "Otherwise update this folder"
)

ADVISORY_LOCK = 5_283_017_740_012_345
"""Key of the lock that allows one migrator at a time in a database."""

_ACCEPTED = {
    "postgres",
    "postgresql",
    "postgresql+psycopg",
    "postgresql+psycopg2",
}

_PROBES = 528_301_774  # first half of a key of two integers; the second one is the backend's pid
TAKE_PROBE = f"SELECT pg_backend_pid() AS probe FROM pg_advisory_lock({_PROBES}, pg_backend_pid())"
"""Takes a session lock with the session's own key, and returns the second half of the key."""
PROBE_IS_HELD = f"""EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND classid = {_PROBES} AND objid = {{probe}} AND objsubid = 2
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
"""True if any session holds it; ``{probe}`` is the result of TAKE_PROBE."""

_driver = postgresql.dialect()
_quote = _driver.identifier_preparer
log = logging.getLogger("workshop.connection")


class ConnectionProblem(Exception):
    """The database cannot be named, reached or used; the message is one line for the operator."""


class NotApplicable(ConnectionProblem):
    """The command does not fit the state of the database; the message names the command to run first."""


def resolve_url(explicit: str | None = None, environ: Mapping[str, str] | None = None) -> URL:
    """Return the SQLAlchemy URL of the workshop database, for the psycopg driver.

    ``explicit`` (a command's ``--url``, ``sqlalchemy.url``) wins over ``environ`` (default: the
    process's environment). There is no default database: ConnectionProblem names the variables to
    set.
    """
    environ = os.environ if environ is None else environ
    source, value = "the given URL", explicit
    if not value:
        for source in VARIABLES:
            value = environ.get(source)
            if value:
                break
    if not value:
        raise ConnectionProblem(
            f"no database is named: set {VARIABLES[0]} (or {VARIABLES[1]}, or {VARIABLES[2]}) to "
            "postgresql://user:password@host/database; 'make demo KEEP=1' starts one for trying"
        )
    return _parse(value.strip(), source)


def _parse(value: str, source: str) -> URL:
    try:
        url = make_url(value)
        if url.port is not None and url.port > 65535:
            raise ValueError("no port")
        if re.search("[&=]", url.database or ""):
            raise ValueError("parameters without a question mark: a password may be one of them")
        _driver.create_connect_args(url)  # host and port of the query
    except (ArgumentError, ValueError):
        raise ConnectionProblem(
            f"{source} is not a database URL; expected postgresql://user:password@host/database. {ENCODE}"
        ) from None
    if url.drivername not in _ACCEPTED:
        raise ConnectionProblem(
            f"{source} is for '{url.drivername}'; this project needs PostgreSQL through psycopg: "
            "write postgresql://..."
        )
    _refuse_second_at(value, source)
    if not url.database:
        raise ConnectionProblem(
            f"{source} has no database name; expected postgresql://.../database"
        )
    return _with_tls(_known_parameters(url.set(drivername="postgresql+psycopg")))


def _refuse_second_at(value: str, source: str) -> None:
    """Raise ConnectionProblem if libpq would read the tail of a password as a host or a database."""
    rest = re.sub(r"^[^:]*://([^:/]*(:[^@]*)?@)?", "", value)
    place, _, query = rest.partition("?")
    names = {part.partition("=")[0] for part in query.split("&")}
    if "@" in place or ("@" in query and not names <= _libpq_parameters()):
        raise ConnectionProblem(f"{source} has more than one @, so it is ambiguous: {ENCODE}")


def _libpq_parameters() -> set[str]:
    return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}


def _known_parameters(url: URL) -> URL:
    """Drop parameters that hosting providers add for other drivers (``pgbouncer=true``): libpq refuses them."""
    unknown = sorted(set(url.query) - _libpq_parameters())
    if unknown:
        log.warning("URL parameters unknown to libpq are left out: %s", ", ".join(unknown))
    return url.difference_update_query(unknown)


def _with_tls(url: URL) -> URL:
    """Require TLS for a host on the internet unless the URL sets sslmode."""
    if "sslmode" in url.query or is_local(url):
        return url
    return url.update_query_dict({"sslmode": "require"})


def is_local(url: URL) -> bool:
    """Return True for sockets, loopback, private addresses and names without a dot (``db``)."""
    named = url.query.get("host", url.host)
    hosts = [named] if isinstance(named, str) or named is None else list(named)
    for host in ",".join(h or "" for h in hosts).split(","):
        name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host
        if not name or name.startswith(("/", "@")):
            continue
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            if "." in name:
                return False
        else:
            if not (address.is_private or address.is_loopback or address.is_link_local):
                return False
    return True


def version_table(config: Config) -> tuple[str, str]:
    """Return name and schema of the version table in alembic.ini."""
    name = config.get_main_option("version_table") or "alembic_version"
    return name, config.get_main_option("version_table_schema") or "public"


def qualified(name: str, schema: str | None) -> str:
    """Return a table's name as SQL text."""
    return _quote.format_table(table(name, schema=schema))


def _program() -> str:
    """Return the name of the running command, for pg_stat_activity."""
    path = Path(sys.argv[0])
    return f"workshop {path.parent.name if path.stem == '__main__' else path.stem}"


CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 10,
    # a role or a database may set an encoding that psycopg cannot read
    "client_encoding": "UTF8",
    # application_name of the URL or of PGAPPNAME wins
    "fallback_application_name": _program(),
    # behind a proxy a prepared statement must not outlive its backend
    "prepare_threshold": None,
}
"""Options of every connection."""


def make_engine(url: URL) -> Engine:
    """Return an engine with one connection at a time; server notices become log records."""
    engine = create_engine(url, poolclass=NullPool, connect_args=CONNECT_ARGS)
    event.listen(engine, "connect", _begin)
    return engine


def _begin(raw: psycopg.Connection[Any], _record: object) -> None:
    raw.add_notice_handler(log_notice)
    # Compiling a query over the adapters takes longer than running it. Poolers refuse start-up
    # options.
    raw.execute("SET jit = off; SET plpgsql.extra_errors = ''; SET plpgsql.extra_warnings = ''")
    raw.commit()


def log_notice(notice: psycopg.errors.Diagnostic) -> None:
    """Write a server notice (RAISE NOTICE, WARNING) as a log record."""
    level = logging.WARNING if notice.severity_nonlocalized == "WARNING" else logging.INFO
    logging.getLogger("workshop.server").log(level, "%s", notice.message_primary)


def explain(error: DBAPIError) -> str:
    """Return the error of the server or the driver in one line, without passwords or row values.

    DETAIL of a constraint violation and the message of a data exception quote the row. Only
    messages of the project's own RAISE statements are passed on in full.
    """
    original = error.orig
    if not isinstance(original, psycopg.Error) or not original.diag.message_primary:
        return " ".join(str(original).split())
    diag = original.diag
    parts = [diag.message_primary]
    if diag.source_function == "exec_stmt_raise":
        parts += [diag.message_detail, diag.message_hint]
    elif (diag.sqlstate or "").startswith("22"):
        parts = [re.sub(r'".*"', '"..."', diag.message_primary or "", flags=re.DOTALL)]
    return "; ".join(" ".join(part.split()) for part in parts if part)


SHOWN = {"host", "hostaddr", "port", "sslmode", "service"}
"""Parameters of a URL that a message may show; others may be secrets."""


def connect(engine: Engine) -> Connection:
    """Open a connection. ConnectionProblem names host and database if that fails."""
    try:
        connection = engine.connect()
    except DBAPIError as error:
        named = engine.url.difference_update_query(set(engine.url.query) - SHOWN)
        shown = named.render_as_string(hide_password=True)
        raise ConnectionProblem(f"cannot connect to {shown}: {explain(error)}") from error
    try:
        refuse_encoding(connection)
    except ConnectionProblem:
        connection.close()
        raise
    return connection


def refuse_encoding(connection: Connection) -> None:
    """Raise ConnectionProblem for a database that cannot hold every character."""
    raw = connection.connection.dbapi_connection
    encoding = raw.info.parameter_status("server_encoding") if raw else None
    if encoding not in (None, "UTF8"):
        raise ConnectionProblem(REFUSED_ENCODING.format(encoding))


def refuse_pooler(engine: Engine, connection: Connection) -> None:
    """Raise ConnectionProblem behind a transaction pooler, which loses session locks and settings.

    A second connection takes a session lock and ends. A server frees the lock with the session; a
    session pooler frees it before it reuses the session. A transaction pooler keeps it, or loses it
    at once.
    """
    with connect(engine) as second:
        probe = second.scalar(text(TAKE_PROBE))
        held = text(f"SELECT {PROBE_IS_HELD.format(probe=probe)}, pg_backend_pid() = {probe}")
        second.commit()
        kept, _ = second.execute(held).one()
        second.commit()
    pooled = not kept
    give_up_at = time.monotonic() + 3
    while not pooled:
        still_held, same_session = connection.execute(held).one()
        connection.commit()
        if not still_held:
            return
        pooled = same_session or time.monotonic() > give_up_at
        time.sleep(0.02)
    raise ConnectionProblem(
        "this URL leads to a transaction pooler, which loses session locks and settings; nothing was "
        f"changed. Set {VARIABLES[0]} to the direct address of the database"
    )
