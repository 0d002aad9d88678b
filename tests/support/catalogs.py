"""The objects of a database: ``catalog`` for comparisons, ``in_lines`` for the committed files.

``tests/catalogs/`` has the objects that each revision adds (+) and removes (-) in the sample
database, and a fresh install at head. It leaves out owners, bodies of functions and views, and the
columns of the bridge's views: they are in the SQL files, and PostgreSQL 15 and 16 print a view
differently.
"""

import re
from pathlib import Path

from support.databases import ROOT, Database

CATALOG = Path(__file__).with_name("catalog.sql").read_text(encoding="utf-8")
COMMITTED = ROOT / "tests" / "catalogs"
BODY = re.compile(r"\n(AS \$|BEGIN ATOMIC|RETURN | SELECT| WITH).*?(?=\nowner )", re.DOTALL)
OWNER = re.compile(r"^owner .*$", re.MULTILINE)


def catalog(database: Database, *kinds: str) -> dict[str, str]:
    """Return every object of the database (of these kinds): its kind and name, and its definition."""
    return {
        f"{kind} {name}": definition
        for kind, name, definition in database.query(CATALOG)
        if not kinds or kind in kinds
    }


def in_lines(catalog: dict[str, str]) -> list[str]:
    """Return one line for each object, sorted, without bodies and owners, without the columns of bridge views."""
    views = tuple(
        f"column {name.removeprefix('view ')}."
        for name in catalog
        if name.startswith("view bridge.")
    )
    return sorted(
        _line(name, definition)
        for name, definition in catalog.items()
        if not name.startswith(views)
    )


def _line(name: str, definition: str) -> str:
    head = OWNER.sub("", BODY.sub("", "\n" + definition)).strip()
    # a line with CREATE has its kind and name already
    return " ".join((head if head.startswith("CREATE ") else f"{name} {head}").split())


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """Return the changes of a revision: ``-`` removed, ``+`` added, ordered by name."""
    old, new = set(in_lines(before)), set(in_lines(after))
    changed = [(line, "-") for line in old - new] + [(line, "+") for line in new - old]
    return "".join(f"{sign} {line}\n" for line, sign in sorted(changed))
