"""The database of a command, its connection, and messages without passwords."""

import logging
import os
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import StaticPool, create_engine, make_url

from scripts.common.connection import (
    VARIABLES,
    ConnectionProblem,
    connect,
    is_local,
    make_engine,
    refuse_pooler,
    resolve_url,
)
from support.commands import script
from support.databases import Database, Server, alembic_cli, psql, script_of, upgrade

NON_POOLING, PLAIN, GENERIC = VARIABLES


def url_of(name: str) -> str:
    return f"postgresql://u:geheim@localhost/{name}"


@pytest.mark.parametrize(
    ("explicit", "environ", "database"),
    [
        ("given", {NON_POOLING: "a", PLAIN: "b", GENERIC: "c"}, "given"),
        (None, {NON_POOLING: "a", PLAIN: "b", GENERIC: "c"}, "a"),
        (None, {PLAIN: "b", GENERIC: "c"}, "b"),
        (None, {GENERIC: "c"}, "c"),
    ],
)
def test_the_first_that_is_set_wins(
    explicit: str | None, environ: dict[str, str], database: str
) -> None:
    urls = {variable: url_of(name) for variable, name in environ.items()}
    assert resolve_url(explicit and url_of(explicit), urls).database == database


def test_an_empty_setting_counts_as_none() -> None:
    environ = {NON_POOLING: "", PLAIN: url_of("b")}
    assert resolve_url("", environ).database == "b"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GENERIC, url_of("c"))
    assert resolve_url().database == "c"


def test_there_is_no_default_database() -> None:
    with pytest.raises(ConnectionProblem) as problem:
        resolve_url(None, {"PGHOST": "localhost", "PGDATABASE": "somebodys"})
    for name in VARIABLES:
        assert name in str(problem.value)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"]
)
def test_accepted_schemes_all_mean_psycopg(scheme: str) -> None:
    url = resolve_url(f"{scheme}://u:ge%40heim@localhost:6543/db?application_name=x%20y", {})
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("u", "ge@heim", "localhost", 6543)
    assert url.query == {"application_name": "x y"}


def test_white_space_around_a_url_is_no_part_of_it() -> None:
    assert resolve_url(f" {url_of('db')}\n", {}).database == "db"


@pytest.mark.parametrize(
    ("text", "clue"),
    [
        ("nonsense", "not a database URL"),
        ("host=localhost dbname=db password=geheim", "not a database URL"),
        ("postgresql://u:geheim@localhost:port/db", "not a database URL"),
        ("postgresql://u:geheim@localhost", "has no database name"),
        ("postgresql://u:geheim@localhost/", "has no database name"),
        ("mysql://u:geheim@localhost/db", "'mysql'"),
        ("sqlite:///geheim.db", "'sqlite'"),
        ("postgresql+asyncpg://u:geheim@localhost/db", "'postgresql+asyncpg'"),
    ],
)
def test_a_refusal_is_one_line_that_names_its_source(text: str, clue: str) -> None:
    for explicit, environ, source in (
        (text, {}, "the given URL"),
        (None, {PLAIN: text}, PLAIN),
    ):
        with pytest.raises(ConnectionProblem) as problem:
            resolve_url(explicit, environ)
        message = str(problem.value)
        assert clue in message
        assert source in message
        assert "geheim" not in message
        assert "\n" not in message


SECOND_AT = (
    "postgresql://u:Correct@geheim@localhost:5999/d",
    "postgresql://u:Correct@geheim/x@localhost:5999/d",
    "postgresql://u:Correct@x:geheim@localhost/d",
    "postgresql://u:p@x?geheim@localhost/d",
    "postgresql://u:p@x/?geheim=1&y@localhost/d",
    "postgres://u:p@geheim%40@localhost/d?sslmode=require",
    "postgresql://u:geheim:5432/d",
    "postgresql://u:7654321/d",
    "postgresql://u@localhost/d&password=geheim",
    "postgresql://u@localhost/d?port=geheim",
)


@pytest.mark.parametrize("text", SECOND_AT)
def test_the_tail_of_a_password_is_not_taken_for_a_host(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectionProblem, match="Percent-encode") as problem:
        resolve_url(text, {})
    assert "%40" in str(problem.value)
    for secret in ("geheim", "Correct", "7654321"):
        assert secret not in str(problem.value) + caplog.text


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("postgresql://u:ge%40heim@localhost/d", "ge@heim"),
        ("postgresql://u@tenant:geheim@localhost/d", "geheim"),
        ("postgresql://u:ge/h?e#i:m@localhost/d", "ge/h?e#i:m"),
        ("postgresql://u@/d?host=@abstract&application_name=a@b", None),
    ],
)
def test_an_at_that_has_one_meaning_is_read(text: str, password: str | None) -> None:
    url = resolve_url(text, {})
    assert (url.password, url.database) == (password, "d")


# --- TLS ------------------------------------------------------------------------------------------

LOCAL = (
    "postgresql:///db",
    "postgresql://u@/db?host=/tmp/socket",
    "postgresql://u@/db?host=@abstract",
    "postgresql://localhost/db",
    "postgresql://127.0.0.1:5433/db",
    "postgresql://[::1]/db",
    "postgresql://10.1.2.3/db",
    "postgresql://172.16.0.1/db",
    "postgresql://192.168.1.2/db",
    "postgresql://[fd00::1]:5432/db",
    "postgresql://db/db",
    "postgresql://postgres:5432/db",
    "postgresql://u@/db?host=one:5432&host=two:5433",
)
INTERNET = (
    "postgresql://ep-cool-name.eu-central-1.aws.example.com/db",
    "postgresql://db.example.com:6543/db",
    "postgresql://8.8.8.8/db",
    "postgresql://[2606:4700:4700::1111]/db",
    "postgresql://u@/db?host=db.example.com",
    "postgresql://u@/db?host=localhost&host=db.example.com",
    "postgresql://u@/db?host=localhost,db.example.com",
)


@pytest.mark.parametrize("text", LOCAL)
def test_a_local_server_needs_no_tls(text: str) -> None:
    assert is_local(make_url(text))
    assert "sslmode" not in resolve_url(text, {}).query


@pytest.mark.parametrize("text", INTERNET)
def test_a_host_on_the_internet_needs_tls(text: str) -> None:
    assert not is_local(make_url(text))
    assert resolve_url(text, {}).query["sslmode"] == "require"


@pytest.mark.parametrize("mode", ["disable", "verify-full"])
def test_the_url_may_say_otherwise(mode: str) -> None:
    for text in (*LOCAL, *INTERNET):
        named = f"{text}{'&' if '?' in text else '?'}sslmode={mode}"
        assert resolve_url(named, {}).query["sslmode"] == mode


# --- parameters and messages ------------------------------------------------------------------------


def test_unknown_parameters_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    text = "postgresql://u:geheim@localhost/db?pgbouncer=true&connect_timeout=5&supa=base"
    with caplog.at_level(logging.WARNING):
        url = resolve_url(text, {})
    assert url.query == {"connect_timeout": "5"}
    assert "pgbouncer, supa" in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:geheim@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=geheim",
        "postgresql://u:geheim@/db?host=/nonexistent",
        "postgresql://u@127.0.0.1:1/db?passfile=geheim&options=geheim&sslkey=geheim",
    ],
)
def test_a_failed_connection_names_the_host_and_no_password(text: str) -> None:
    with pytest.raises(ConnectionProblem) as problem:
        connect(make_engine(resolve_url(text, {})))
    message = str(problem.value)
    assert message.startswith("cannot connect to ")
    assert "127.0.0.1" in message or "/nonexistent" in message
    assert "geheim" not in message
    assert "\n" not in message


def test_a_connection_to_the_server_works(server: Server) -> None:
    with connect(make_engine(resolve_url(server.url(server.maintenance_dbname), {}))) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        connection.rollback()
        # compiling a query over the adapters takes longer than running it
        assert connection.exec_driver_sql("SHOW jit").scalar() == "off"


def test_a_transaction_pooler_is_refused(server: Server) -> None:
    """One backend behind two connections, as a pooler has between transactions."""
    url = resolve_url(server.url(server.maintenance_dbname), {})
    direct, pooled = make_engine(url), create_engine(url, poolclass=StaticPool)
    with connect(direct) as connection:
        refuse_pooler(direct, connection)
    with (
        connect(pooled) as connection,
        pytest.raises(ConnectionProblem, match=f"pooler.*{NON_POOLING}"),
    ):
        refuse_pooler(pooled, connection)
    pooled.dispose()


def test_notices_become_log_records(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    url = resolve_url(server.url(server.maintenance_dbname), {})
    with caplog.at_level(logging.INFO), connect(make_engine(url)) as connection:
        connection.exec_driver_sql("DO 'BEGIN RAISE NOTICE ''100 percent''; END'")
        connection.exec_driver_sql("DO 'BEGIN RAISE WARNING ''careful''; END'")
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert found == [("INFO", "100 percent"), ("WARNING", "careful")]


# --- encodings and names ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_an_encoding_of_the_role_or_the_database_is_not_used(
    legacy: Database, encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command sets UTF8 itself: the values of a SQL_ASCII client are bytes."""
    legacy.execute(
        f"ALTER DATABASE {legacy.name} SET client_encoding = '{encoding}';"
        "UPDATE student_configs SET ivr_greeting = 'Zoë Łukasz' WHERE session_token ="
        " (SELECT min(session_token) FROM student_configs)"
    )
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    upgrade(legacy, "0003")
    with connect(make_engine(resolve_url(legacy.url, {}))) as connection:
        assert connection.exec_driver_sql("SHOW client_encoding").scalar() == "UTF8"
    done = psql(legacy, script_of("upgrade", "0003:head"), tmp_path)
    assert done.returncode == 0, done.stderr
    for name, *options in (
        ("status",),
        ("dashboard", "--out", f"{tmp_path}/d.html"),
        ("backup", "--file", f"{tmp_path}/b.dump"),
        ("backup", "--format", "json", "--file", f"{tmp_path}/b.json"),
    ):
        done = script(name, *options, url=legacy.url)
        assert done.returncode == 0, (name, done.stdout + done.stderr)
    assert "Łukasz" in (tmp_path / "b.json").read_text(encoding="utf-8")
    monkeypatch.setenv("PGCLIENTENCODING", "UTF8")
    assert legacy.query("SELECT count(*) FROM sessions WHERE ivr_greeting ~ 'Łukasz'") == [(1,)]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_character_is_refused(
    server: Server, encoding: str, tmp_path: Path
) -> None:
    name = f"workshop_{encoding.lower()}_{os.getpid()}"
    server.execute(
        sql.SQL(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' "
            "LC_CTYPE 'C' LOCALE_PROVIDER 'libc'"
        )
    )
    try:
        database = Database(server, name)
        clue = f"encoded in {encoding}, and UTF8 is needed"
        done = psql(database, script_of("upgrade", "head"), tmp_path)
        assert done.returncode == 3
        assert clue in done.stderr
        done = alembic_cli("upgrade", "head", url=database.url)
        assert done.returncode != 0
        assert (clue in done.stdout, "Traceback" in done.stderr) == (True, False)
        done = script("status", url=database.url)
        assert done.returncode == 2
        assert (clue in done.stderr, "Traceback" in done.stderr) == (True, False)
        assert database.query("SELECT FROM pg_class WHERE relname = 'alembic_version'") == []
    finally:
        server.execute(sql.SQL(f"DROP DATABASE {name}"))


def test_every_session_says_which_command_it_belongs_to(legacy: Database) -> None:
    with connect(make_engine(resolve_url(legacy.url, {}))) as connection:
        name = connection.exec_driver_sql("SHOW application_name").scalar_one()
        assert name.startswith("workshop ")
    named = resolve_url(legacy.url, {}).update_query_dict({"application_name": "x"})
    with connect(make_engine(named)) as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "x"
