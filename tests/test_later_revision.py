"""A developer's first revision: a column, in a copy of the project, with every command before and after it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.databases import HEAD, Clone, Database, changes, copy_project, dump, psql

Run = Callable[..., str]
DRIVER = """
import shlex, sys
from scripts.cli import app
from typer.testing import CliRunner

for line in sys.argv[1:]:
    done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code in (0, 1), f"{line}: {done.output} {done.exception!r}"
    assert not done.exception or isinstance(done.exception, SystemExit), f"{line}: {done.exception!r}"
    print(done.exit_code, line)
    print(done.output)
"""
COMMANDS = (
    "status",
    "verify",
    "dry-run",
    "merge",
    "rollback-check base",
    "drop-backups",
    "dashboard --out page.html",
    "backup --file copy.dump",
)


def runner(copy: Path, database: Database) -> Run:
    """Run Python in a copy of the project, for this database; return the output; a traceback fails."""

    def run(*args: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=copy,
            env={**os.environ, "POSTGRES_URL": database.url, "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if "--sql" in args else done.stdout + done.stderr

    return run


def test_a_column_is_added_as_the_recipe_says(migrated: Database, tmp_path: Path) -> None:
    copy = copy_project(tmp_path / "copy")
    run = runner(copy, migrated)
    models = copy / "models" / "schema.py"
    column = '    demo_mode: Mapped[bool] = _flag("Session of a demonstration.")\n'
    new = '    nickname: Mapped[str | None] = _text("How the student wants to be called.")\n'
    models.write_text(models.read_text().replace(column, column + new))
    run("-m", "alembic", "revision", "--autogenerate", "-m", "Add nickname")
    written = copy / "alembic" / "versions" / "0008_add_nickname.py"
    assert re.search(r"^import sqlalchemy as sa$", written.read_text(), re.MULTILINE)
    assert '"nickname"' in written.read_text()
    for check in (("format", "--check"), ("check",)):
        run("-m", "ruff", *check, str(written))

    before = dump(migrated)
    assert "alembic upgrade head" in run("-m", "scripts.status", code=1)
    said = run("-m", "alembic", "upgrade", "head")
    assert "0008_add_nickname" in said.splitlines()[-1]
    assert "No new upgrade operations" in run("-m", "alembic", "check")
    said = run("-c", DRIVER, *COMMANDS, f"rollback-check {HEAD}")
    for line in (
        "0 status",
        "0 verify",
        "0 dashboard --out page.html",
        "0 backup --file copy.dump",
    ):
        assert line in said.splitlines(), said
    # the downgrade's line, not the revision's title
    said = run("-m", "alembic", "downgrade", HEAD)
    assert (
        f"Running downgrade 0008_add_nickname -> {HEAD}, State in one line what it undoes." in said
    )
    assert changes(before, dump(migrated)) == []

    for direction, span, at in (
        ("upgrade", f"{HEAD}:head", "0008_add_nickname"),
        ("downgrade", f"head:{HEAD}", HEAD),
    ):
        script = run("-m", "alembic", direction, span, "--sql")
        applied = psql(migrated, script, tmp_path)
        assert applied.stdout.splitlines()[-1] == f"Applied: the database is at {at}", (
            applied.stderr
        )
    run("-m", "alembic", "upgrade", "head")
    assert "0 verify" in run("-c", DRIVER, "verify").splitlines()


def test_a_new_revision_needs_no_database(tmp_path: Path) -> None:
    copy = copy_project(tmp_path / "copy")

    def alembic(*args: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *args], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    alembic("revision", "-m", "Second language, and a name that is much too long for it")
    alembic("revision", "-m", "By hand", "--rev-id", "0023_by_hand")
    alembic("revision", "-m", "Next")
    alembic("history")
    names = sorted(path.stem for path in (copy / "alembic" / "versions").glob("*.py"))
    assert names[-3:] == ["0008_second_language_and_a_name", "0023_by_hand", "0024_next"]


# --- another project's table --------------------------------------------------------------------------

THEIRS = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6')
"""
OURS = "SELECT version_num FROM {}"


def test_a_version_table_of_its_own(clone: Clone, tmp_path: Path) -> None:
    """Every command, the scripts and the script for psql use the table of alembic.ini."""
    schema = 'Über "uns"'
    database, copy = clone("legacy"), copy_project(tmp_path / "copy")
    database.execute(THEIRS)
    ini = copy / "alembic.ini"
    named = ini.read_text().replace(
        "version_table = alembic_version", "version_table = Our_version"
    )
    ini.write_text(named.replace("version_table_schema =", f"version_table_schema = {schema}"))
    quoted = '"' + schema.replace('"', '""') + '"'

    run = runner(copy, database)
    assert "there is no schema" in run("-m", "alembic", "upgrade", "head", code=255)
    database.execute(f"CREATE SCHEMA {quoted}")
    assert "0 dry-run" in run("-c", DRIVER, "dry-run", "status").splitlines()
    run("-m", "alembic", "upgrade", "0003")
    done = psql(database, run("-m", "alembic", "upgrade", "0003:head", "--sql"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert database.query(OURS.format(f'{quoted}."Our_version"')) == [(HEAD,)]
    assert "0 verify" in run("-c", DRIVER, "verify", "status", "rollback-check base").splitlines()
    run("-m", "alembic", "downgrade", "base")
    assert database.query(OURS.format("alembic_version")) == [("a1b2c3d4e5f6",)]
