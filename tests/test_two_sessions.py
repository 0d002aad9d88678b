"""The first merge is shared by two sessions of the migrator: who does what, and what if one is lost."""

import threading
import time
from contextlib import closing

import psycopg
import pytest
from alembic import command
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy import text

from conftest import Clone
from databases import Database, alembic_config, changes, deviations, dump, failed_checks, upgrade
from scripts.sample_data import fill

SESSIONS = 6000
"""Enough for several blocks of each stage."""
BLOCKS_LEFT = "SELECT count(*) FROM bridge.block WHERE NOT done"
WORKERS = """
CREATE TABLE worker (pid integer, table_name text, PRIMARY KEY (pid, table_name));
CREATE FUNCTION note_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.worker VALUES (pg_backend_pid(), TG_TABLE_NAME) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER note_worker AFTER INSERT ON sessions EXECUTE FUNCTION note_worker();
CREATE TRIGGER note_worker AFTER INSERT ON students EXECUTE FUNCTION note_worker();
"""
"""Notes which sessions of the server insert rows."""


@pytest.fixture
def early(clone: Clone) -> Database:
    """A database of some size at 0003: nothing is merged yet."""
    database = clone("empty")
    with database.connect() as connection:
        fill(connection, SESSIONS)
    upgrade(database, "0003")
    return database


def workers(database: Database) -> dict[str, int]:
    """How many sessions of the server have inserted rows, by table."""
    return dict(database.query("SELECT table_name, count(*) FROM worker GROUP BY 1"))


def merge(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("CALL bridge.merge()")


def complete(database: Database) -> None:
    assert database.query("SELECT count(*) FROM sessions") == [(SESSIONS,)]
    assert database.query("SELECT count(*) FROM bridge.block") == [(0,)]
    assert database.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert failed_checks(database) == []
    assert deviations(database) == []


def until(database: Database, query: str) -> None:
    give_up_at = time.monotonic() + 30
    while database.query(query) != [(True,)]:
        assert time.monotonic() < give_up_at, f"never true: {query}"
        time.sleep(0.005)


def test_an_upgrade_merges_in_two_sessions(early: Database) -> None:
    early.execute(WORKERS)
    upgrade(early, "0004")
    assert workers(early) == {"students": 2, "sessions": 2}
    early.execute("DROP FUNCTION note_worker CASCADE; DROP TABLE worker")
    complete(early)


def test_two_sessions_and_one_make_the_same(early: Database, clone: Clone) -> None:
    upgrade(early, "0004")
    alone = clone("empty")
    with alone.connect() as connection:
        fill(connection, SESSIONS)
    upgrade(alone, "0003")
    with alone.connect() as connection:
        for step in ("merge()", "drain(false)", "require_verified()"):
            connection.execute(f"CALL bridge.{step}".encode())
    alone.execute("UPDATE alembic_version SET version_num = '0004_merge_legacy_data'")
    assert changes(dump(alone), dump(early)) == []


def test_where_a_second_session_may_not_connect_one_does_it_all(
    early: Database, caplog: pytest.LogCaptureFixture
) -> None:
    early.execute(WORKERS)
    name = sql.Identifier(early.name)
    config = alembic_config(early.url)
    with early.engine() as engine, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.rollback()
        config.attributes["connection"] = connection
        # who is in already may stay
        early.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        try:
            with caplog.at_level("INFO", "workshop"):
                command.upgrade(config, "0004")
        finally:
            early.server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    assert workers(early) == {"students": 1, "sessions": 1}
    assert "a second session could not help" in caplog.text
    early.execute("DROP FUNCTION note_worker CASCADE; DROP TABLE worker")
    complete(early)


def test_what_another_session_has_is_waited_for(early: Database) -> None:
    """A block that somebody works on is left to them, and taken over when they are gone."""
    with closing(early.connect()) as other:
        with other.cursor() as cursor:
            cursor.execute("CALL bridge.make_blocks(2000)")
            cursor.execute("SELECT bridge.lock_block(2)")
            assert cursor.fetchone() == (True,)
        merging = threading.Thread(target=merge, args=(early,))
        merging.start()
        # while the blocks are made their numbers are negative
        left = "bridge.block WHERE stage = 'sources' AND number > 0 AND NOT done"
        until(early, f"SELECT count(*) = 1 FROM {left}")
        time.sleep(0.2)
        assert early.query(f"{BLOCKS_LEFT} AND number > 0") == [(1,)]
        assert merging.is_alive()
    merging.join(30)
    assert not merging.is_alive()
    complete(early)


def test_a_session_that_is_lost_on_the_way_loses_nothing(early: Database) -> None:
    """The second session is ended again and again, wherever it is: the first one does the rest."""
    over = threading.Event()

    def help_until_over() -> None:
        while not over.is_set():
            try:
                with early.connect() as second:
                    second.execute("SET application_name = 'second'")
                    while not over.is_set():
                        second.execute("CALL bridge.help()")
            except psycopg.OperationalError:  # ended, in whatever it did
                continue

    helper = threading.Thread(target=help_until_over)
    helper.start()
    merging = threading.Thread(target=merge, args=(early,))
    merging.start()
    ended = 0
    while merging.is_alive():
        time.sleep(0.05)
        ended += early.query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'second'"
        )[0][0]
    over.set()
    helper.join(30)
    merging.join(30)
    assert ended > 3
    complete(early)


def test_helping_before_and_after_does_nothing(early: Database) -> None:
    before = dump(early)
    early.execute("CALL bridge.help()")
    assert changes(before, dump(early)) == []
    upgrade(early, "0004")
    before = dump(early)
    early.execute("CALL bridge.help()")
    assert changes(before, dump(early)) == []


def test_a_caller_s_connection_keeps_no_block_after_an_error(early: Database) -> None:
    """Else the next run, from another connection, would wait for it."""
    early.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH STATEMENT EXECUTE FUNCTION refuse();
    """)
    config = alembic_config(early.url)
    with early.engine() as engine, engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(CommandError, match="not now"):
            command.upgrade(config, "0004")
        assert early.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        early.execute("DROP FUNCTION refuse CASCADE")
        upgrade(early, "0004")
    complete(early)
