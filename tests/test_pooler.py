"""A real PgBouncer before the server: refused in transaction mode, accepted in session mode."""

import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from support.databases import (
    Clone,
    Database,
    alembic_cli,
    changes,
    deviations,
    dump,
    failed_checks,
    psql,
    script_of,
)

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on this machine")

MODES = {
    "transaction": "pool_mode = transaction",
    # the pooler resets session settings after each transaction
    "transaction, reset": "pool_mode = transaction\nserver_reset_query_always = 1",
    # the pooler uses its server connections in turn
    "transaction, in turn": "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 3",
    "session": "pool_mode = session",
}


@contextmanager
def pooled(database: Database, mode: str) -> Iterator[Database]:
    """The same database behind a PgBouncer."""
    server = database.server
    socket = server.host.startswith("/")
    # it refuses root, as PostgreSQL does
    uid = Path(server.host).stat().st_uid if socket else os.geteuid()
    uid = uid or pwd.getpwnam("nobody").pw_uid
    folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    password = f" password={server.password}" if server.password else ""
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host={server.host} port={server.port} user={server.user}{password}\n"
        "[pgbouncer]\n"
        "listen_addr =\n"
        "listen_port = 5432\n"
        f"unix_socket_dir = {folder}\n"
        "auth_type = any\n"
        f"{MODES[mode]}\n",
        encoding="utf-8",
    )
    for path in (folder, config):
        os.chown(path, uid, -1)
    assert PGBOUNCER is not None
    root = os.geteuid() == 0
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PGBOUNCER, config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid if root else None,
            group=pwd.getpwuid(uid).pw_gid if root else None,
            extra_groups=[] if root else None,
        )
    behind = Database(replace(server, host=str(folder), port=5432, password=None), database.name)
    try:
        give_up_at = time.monotonic() + 10
        while True:
            try:
                behind.query("SELECT 1")
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up_at, (folder / "log").read_text()
                time.sleep(0.05)
        yield behind
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "session"])
def test_a_transaction_pooler_is_refused(legacy: Database, tmp_path: Path, mode: str) -> None:
    before = dump(legacy)
    times = 3 if mode == "transaction" else 1
    with pooled(legacy, mode) as behind:
        for command in (("upgrade", "head"), ("downgrade", "base"), ("stamp", "head"))[:times]:
            done = alembic_cli(*command, url=behind.url)
            assert done.returncode != 0
            assert "transaction pooler" in done.stdout
            assert "POSTGRES_URL_NON_POOLING" in done.stdout
            assert "Traceback" not in done.stderr
        for _ in range(times):
            script = psql(behind, script_of("upgrade", "head"), tmp_path)
            assert script.returncode == 3, script.stderr
            assert "transaction pooler" in script.stderr
            assert "POSTGRES_URL_NON_POOLING" in script.stderr
        # and no later client gets its settings
        assert behind.query("SHOW lock_timeout") == [("0",)]
    assert changes(before, dump(legacy)) == []


def test_it_is_refused_while_others_use_it(legacy: Database, tmp_path: Path) -> None:
    """The pooler assigns its server connections to changing clients."""
    with pooled(legacy, "transaction") as behind, ExitStack() as stack:
        stop = threading.Event()

        def work() -> None:
            with behind.connect() as connection:
                while not stop.is_set():
                    connection.execute("SELECT pg_sleep(0.002)", prepare=False)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        for _ in range(3):
            assert "transaction pooler" in alembic_cli("upgrade", "head", url=behind.url).stdout
            done = psql(behind, script_of("upgrade", "head"), tmp_path)
            assert (done.returncode, "transaction pooler" in done.stderr) == (3, True), done.stderr


def test_a_session_pooler_is_as_good_as_none(clone: Clone, tmp_path: Path) -> None:
    online, offline = clone("legacy"), clone("legacy")
    with pooled(online, "session") as behind:
        done = alembic_cli("upgrade", "head", url=behind.url)
        assert done.returncode == 0, done.stdout + done.stderr
        done = psql(replace(behind, name=offline.name), script_of("upgrade", "head"), tmp_path)
        assert done.returncode == 0, done.stderr
    for database in (online, offline):
        assert deviations(database) == []
        assert failed_checks(database) == []
