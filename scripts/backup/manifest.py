"""The manifest: the content of a backup. It lies beside the backup; a backup without one is not finished."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from scripts.common.connection import ConnectionProblem
from scripts.common.database import Refused


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Create a file that only its owner can read; delete it if the block raises."""
    try:
        out = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise ConnectionProblem(f"cannot write {path}: {error.strerror}") from None
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink()
        raise


@dataclass
class Manifest:
    """The content of a backup. ``tables`` maps a table, named as SQL, to its ``rows`` and ``checksum``.

    ``options`` are those of the operator for pg_dump, ``made_with_major`` is its version, and
    ``held_seconds`` the time that it held ACCESS SHARE on all tables.
    """

    file: str
    format: str
    made_at: str
    database: str
    server: str
    revision: str | None
    made_with_major: int
    options: list[str]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_seconds: float = 0.0
    sha256: str = ""
    proven: bool = False
    proof: str = ""

    @staticmethod
    def path(file: Path) -> Path:
        """Return the path of the manifest of a backup."""
        return file.with_name(file.name + ".manifest.json")

    def write(self, file: Path) -> None:
        """Write it beside the backup, or write it again."""
        self.path(file).unlink(missing_ok=True)
        with new_file(self.path(file)) as out:
            out.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def of(cls, file: Path) -> "Manifest":
        """Read the manifest of a backup. Refused unless the file is the one that it describes."""
        beside = cls.path(file)
        if missing := [path for path in (file, beside) if not path.is_file()]:
            raise Refused(
                f"{missing[0]} is missing: the backup was not finished, or made by hand. Nothing was "
                "changed; psql or pg_restore can read a dump of pg_dump"
            )
        try:
            found = json.loads(beside.read_text(encoding="utf-8"))
            manifest = cls(**{f.name: found[f.name] for f in fields(cls) if f.name in found})
        except (ValueError, TypeError):
            raise Refused(f"{beside} is no manifest of a backup. Nothing was changed") from None
        if digest(file) != manifest.sha256:
            raise Refused(
                f"{file} is not the file that its manifest describes: it was damaged or replaced. "
                "Nothing was changed; use another copy of it"
            )
        return manifest


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
