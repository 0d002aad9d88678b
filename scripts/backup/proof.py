"""The proof of a backup: restore it into a new database, compare, drop that database."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from psycopg import sql
from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError

from scripts.backup.manifest import Manifest
from scripts.backup.programs import ProgramFailed, major_of, play, programs_for
from scripts.backup.tables import check_sql
from scripts.common.connection import ConnectionProblem, connect, explain, make_engine, resolve_url
from scripts.common.database import run
from scripts.common.server import ServerUnavailable, embedded_server

RIGHTS = """
SELECT r.rolsuper AS superuser, (r.rolcreatedb OR r.rolsuper) AND NOT pg_is_in_recovery() AS creates
FROM pg_roles AS r WHERE r.rolname = current_user
"""
# Locale of the original: in another one an expression over text may have another value.
LIKE = """
SELECT format('ENCODING ''UTF8'' LC_COLLATE %L LC_CTYPE %L ', d.datcollate, d.datctype)
    || CASE d.datlocprovider
       WHEN 'c' THEN 'LOCALE_PROVIDER libc'
       WHEN 'i' THEN format('LOCALE_PROVIDER icu ICU_LOCALE %L', l.locale)
       ELSE format('LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', l.locale)
       END
FROM pg_database AS d
CROSS JOIN LATERAL (
    SELECT coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale) AS l
WHERE d.datname = current_database()
"""
# A plain file names owners, which a throw-away server lacks at first.
ROLES = "SELECT format('CREATE ROLE %I', rolname) FROM pg_roles WHERE rolname !~ '^(pg_|postgres$)'"


class Place(StrEnum):
    """The server of the proof."""

    same = "same"
    embedded = "embedded"


def prove(
    connection: Connection, file: Path, manifest: Manifest, place: Place | None
) -> tuple[bool, str]:
    """Restore a backup elsewhere and compare it with its manifest; return whether it is the same, and why not."""
    try:
        if place is None:
            rights = run(connection, RIGHTS).mappings().one()
            # a plain file sets owners, which needs a member of each role
            able = rights["creates"] and (rights["superuser"] or manifest.format == "custom")
            place = Place.same if able else Place.embedded
        if place is Place.same:
            like = run(connection, LIKE).scalar_one()
            _restore(connection.engine.url, file, manifest, like, [])
            return True, "restored on the same server, with the same rows"
        roles = list(run(connection, ROLES).scalars())
        with embedded_server() as server:
            _restore(resolve_url(server.url("postgres")), file, manifest, "ENCODING 'UTF8'", roles)
        return True, "restored on a throw-away server, with the same rows"
    except ServerUnavailable as error:
        return False, f"there is no server to restore it on: {error}"
    except (ProgramFailed, ConnectionProblem) as error:
        return False, f"it could not be restored: {error}"
    except DBAPIError as error:
        return False, f"it could not be restored: {explain(error)}"


def _restore(url: URL, file: Path, manifest: Manifest, like: str, roles: list[str]) -> None:
    with _scratch(url, like, roles) as (target, major):
        programs = programs_for(max(major, manifest.made_with_major))
        custom = ["--no-owner", "--no-privileges"] if manifest.format == "custom" else None
        play(programs, target, major, file, custom, after=check_sql(manifest.tables))


@contextmanager
def _scratch(url: URL, like: str, roles: list[str]) -> Iterator[tuple[URL, int]]:
    """Yield a new database on that server, and the server's major version; drop it at the end."""
    name = f"workshop_backup_proof_{secrets.token_hex(4)}"
    quoted = sql.Identifier(name).as_string()
    with connect(make_engine(url)) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        major = major_of(connection)
        # the connection is idle while the backup is restored
        run(connection, "SET statement_timeout = 0; SET idle_session_timeout = 0")
        for role in roles:
            run(connection, role)
        run(connection, f"CREATE DATABASE {quoted} TEMPLATE template0 {like}")
        try:
            yield url.set(database=name), major
        finally:
            run(connection, f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")
