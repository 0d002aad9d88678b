"""The rooms of ``scripts/``: allowed imports, sizes of modules; the map of the tests."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from support.databases import ROOT

# Each may import those above it, and itself.
ROOMS = (
    "models",
    "scripts.common",
    "scripts.migration",
    "scripts.commands",
    "scripts.backup",
    "scripts.dashboard",
    "scripts.development",
    "scripts.cli",
    "shims",  # python -m scripts.<name>
)
LINES = 320
SHIM = 10


def modules() -> dict[str, Path]:
    """Name and file of every module."""
    found = {}
    for path in [*(ROOT / "models").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    if module.endswith(".__main__"):
        return "shims"
    known = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return known[0] if known else "shims"


def imports_of(module: str) -> Iterator[str]:
    """The project's modules that it imports, at the top or in a function."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(start), level=0):
                names = [f"{start}.{alias.name}" for alias in node.names]
                names = [name if name in MODULES else start for name in names]
            case ast.ImportFrom():
                raise AssertionError(f"{module}: a relative import")
            case _:
                continue
        yield from (name for name in names if name in MODULES)


IMPORTS = {module: set(imports_of(module)) - {module} for module in MODULES}


def test_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the modules


def test_no_import_upwards() -> None:
    for module, imported in IMPORTS.items():
        for name in imported:
            above, below = ROOMS.index(room_of(name)), ROOMS.index(room_of(module))
            assert above <= below, f"{module} imports {name}"


def test_modules_are_short() -> None:
    for module, path in MODULES.items():
        most = SHIM if room_of(module) == "shims" else LINES
        assert len(path.read_text(encoding="utf-8").splitlines()) <= most, module


def test_the_migration_needs_three_packages_only() -> None:
    """All imports of alembic/env.py, also indirect ones: alembic, sqlalchemy and psycopg."""
    env = ast.parse((ROOT / "alembic" / "env.py").read_text(encoding="utf-8"))
    todo = [name for name in MODULES if f"'{name}'" in ast.dump(env)]
    seen: set[str] = set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += IMPORTS[module]
            text = MODULES[module].read_text(encoding="utf-8")
            found = re.search(
                r"^(?:from|import) (typer|rich|jinja2|starlette)\b", text, re.MULTILINE
            )
            assert found is None, f"{module}: {found and found[0]}"
    assert "scripts.common.connection" in seen


def test_beside_the_tests_is_nothing_else() -> None:
    tests = ROOT / "tests"
    for path in tests.glob("*.py"):
        assert path.name == "conftest.py" or path.name.startswith("test_"), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith(("test_", "conftest")), path.name


def test_the_map_has_every_test() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    map_ = text.split("## Where a test belongs")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", map_))
    for path in (ROOT / "tests").glob("test_*.py"):
        name = path.stem.removeprefix("test_")
        command = name.removesuffix("_command") in (
            path.stem for path in (ROOT / "scripts").glob("*")
        )
        assert name in named or command, f"CONTRIBUTING.md does not say what {path.name} is for"
