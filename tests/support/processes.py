"""The project's programs as child processes that begin with the imports done.

A new interpreter needs a second for the imports. A child of the standard library's fork server has
them. It is a process of its own, with its own environment, streams, folder and exit code. Tests of
signals, of the environment of Python itself and of the installed programs start an interpreter.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120

_context = get_context("forkserver")
_context.set_forkserver_preload(
    [
        "alembic.config",
        "sqlalchemy.dialects.postgresql.psycopg",
        "typer._adapters",
        "typer.rich_utils",
        "scripts.migration.script",
        "scripts.migration.session",
        *(entry.module for entry in COMMANDS.values()),
    ]
)


def python_m(module: str, *args: str, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """``python -m <module> ...`` from the repository's root, with this environment."""
    with TemporaryDirectory() as folder:
        streams = Path(folder, "stdout"), Path(folder, "stderr")
        process = _context.Process(target=_run, args=(module, args, dict(env), streams))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *args], SECONDS)
        out, err = (stream.read_text(encoding="utf-8") for stream in streams)
        return subprocess.CompletedProcess([module, *args], process.exitcode, out, err)


def _run(
    module: str, args: tuple[str, ...], env: dict[str, str], streams: tuple[Path, Path]
) -> None:
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
