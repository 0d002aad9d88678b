"""The size of the script that a DBA reviews: it must not grow. The budgets are in docs/performance.md."""

from pathlib import Path

import pytest

from support.databases import ROOT, Clone, script_of

SCRIPT_LINES = 5833
"""Lines of ``alembic upgrade head --sql``."""
SQL_LINES = 3590
"""Lines of the SQL files of 0003, 0004 and 0007, downgrades included."""
OBJECTS = {"functions and procedures": 86, "views": 12, "tables": 6}
"""Objects of schema ``bridge`` at head."""

COUNTED = {
    "functions and procedures": "pg_proc WHERE pronamespace = 'bridge'::regnamespace AND prokind IN ('f', 'p', 'a')",
    "views": "pg_class WHERE relnamespace = 'bridge'::regnamespace AND relkind IN ('v', 'm')",
    "tables": "pg_class WHERE relnamespace = 'bridge'::regnamespace AND relkind IN ('r', 'p')",
}


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_lines_of_the_script() -> None:
    found = len(script_of("upgrade", "head").splitlines())
    assert found <= SCRIPT_LINES, f"{found} lines of alembic upgrade head --sql"


def test_lines_of_the_sql_of_the_bridge() -> None:
    folders = [
        folder
        for folder in (ROOT / "alembic" / "sql").iterdir()
        if folder.name.startswith(("0003_", "0004_", "0007_"))
    ]
    assert len(folders) == 3
    by_file = {
        f"{folder.name}/{file.name}": lines(file)
        for folder in folders
        for file in folder.glob("*.sql")
    }
    found = sum(by_file.values())
    largest = sorted(by_file.items(), key=lambda item: -item[1])[:5]
    assert found <= SQL_LINES, f"{found} lines of SQL in 0003, 0004 and 0007; largest: {largest}"


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_of_the_bridge(clone: Clone, kind: str) -> None:
    ((found,),) = clone("head").query(f"SELECT count(*) FROM {COUNTED[kind]}")
    assert found <= OBJECTS[kind], f"{found} {kind} in schema bridge"
