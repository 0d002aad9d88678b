"""The page: one HTML file with style, script and data, and its Content-Security-Policy."""

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
SCRIPTS = ("base", "tables", "lists", "charts", "migration", "student", "main")
"""The files of the page's script, in this order."""
MARK = b'<meta name="generator" content="workshop-dashboard">'
"""Marks a page near its top: a page replaces only files with this mark."""

Mode = Literal["file", "live"]


def policy(style: str, script: str, mode: Mode) -> str:
    """Return the Content-Security-Policy: it allows the page's own style and script, by their hashes."""

    def source(text: str) -> str:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        return f"'sha256-{digest}'"

    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {source(style)}",
            f"script-src {source(script)}",
            "img-src data:",
            "connect-src 'self'" if mode == "live" else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def render(data: str, mode: Mode = "file", *, logged_in: bool = False) -> tuple[str, str]:
    """Return the page and its Content-Security-Policy. ``data``: JSON text, escaped here."""
    style = (STATIC / "dashboard.css").read_text(encoding="utf-8")
    script = "\n".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    allowed = policy(style, script, mode)
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        mode=mode,
        logged_in=logged_in,
        policy=allowed,
        # the project's own files; in a JSON string "\\u003c" is the same as "<"
        style=Markup(style),
        script=Markup(script),
        data=Markup(data.replace("<", "\\u003c")),
    )
    return page, allowed


def check_target(path: Path) -> None:
    """Raise OSError if the page may not be written: it replaces an earlier page, but no other file."""
    if path.exists():
        with path.open("rb") as file:
            if MARK not in file.read(1000):
                raise FileExistsError(f"{path} exists, and is not a dashboard")
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder")


def write(path: Path, page: str) -> None:
    """Write the page completely or not at all, readable for its owner only."""
    # mkstemp creates the file with mode 0600
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
