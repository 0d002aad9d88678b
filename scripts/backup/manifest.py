"""The manifest: the content of a backup. It lies beside the backup; a backup without one is not finished."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import typer

from scripts.common.connection import ConnectionProblem


class Refused(Exception):
    """The command was refused; the message has the reason and the advice. Nothing was changed."""


@contextmanager
def refusing() -> Iterator[None]:
    """End the command with one line on stderr and exit code 1 if the block raises ``Refused``."""
    try:
        yield
    except Refused as reason:
        typer.echo(f"error: {reason}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def publishing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside ``path``, readable only for its owner; rename it to ``path`` once it is whole.

    If the block raises, the file is deleted, and an existing ``path`` stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        out = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Refused(
            f"{partial} exists: another backup is being written, or one was killed. Nothing was "
            "changed; wait for it, or delete that file"
        ) from None
    except OSError as error:
        raise ConnectionProblem(f"cannot write {partial}: {error.strerror}") from None
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@dataclass
class Manifest:
    """The content of a backup. ``tables`` maps a table, named as SQL, to its ``rows`` and ``checksum``.

    ``format`` is custom, plain or json; ``options`` are the operator's options for pg_dump.
    ``proven``: it was restored elsewhere, with the same rows. ``held_seconds``: the time that
    pg_dump held ACCESS SHARE on all tables.
    """

    file: str
    format: str
    made_at: str
    database: str
    server: str
    server_major: int
    revision: str | None
    made_with: str
    made_with_major: int
    bytes: int = 0
    sha256: str = ""
    options: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_seconds: float = 0.0
    proven: bool = False
    proof: str = ""

    @staticmethod
    def path(file: Path) -> Path:
        """Return the path of the manifest of a backup."""
        return file.with_name(file.name + ".manifest.json")

    def write(self, file: Path) -> None:
        """Write it beside the backup."""
        with publishing(self.path(file)) as out:
            out.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def of(cls, file: Path) -> "Manifest":
        """Read the manifest of a backup, if the file is the one that it describes.

        Refused for a file that is missing, damaged, or not made by this command.
        """
        beside = cls.path(file)
        if not file.is_file() or not beside.is_file():
            raise Refused(
                f"{beside if file.is_file() else file} is missing: the backup was not finished, or made "
                "by hand. Nothing was changed; psql or pg_restore can read a dump of pg_dump"
            )
        try:
            told = json.loads(beside.read_text(encoding="utf-8"))
            manifest = cls(**{f.name: told[f.name] for f in fields(cls) if f.name in told})
        except (ValueError, TypeError):
            raise Refused(f"{beside} is no manifest of a backup. Nothing was changed") from None
        if (file.stat().st_size, digest(file)) != (manifest.bytes, manifest.sha256):
            raise Refused(
                f"{file} is not the file that its manifest describes: it was damaged or replaced. "
                "Nothing was changed; use another copy of it"
            )
        return manifest


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
