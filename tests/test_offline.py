"""Offline equals online."""

from pathlib import Path
from databases import *
from databases import (
    Database,
    catalog,
    changes,
    dump,
    psql,
    script_of,
    failed_checks,
    deviations,
    downgrade,
)


def test_up(legacy: Database, migrated: Database, tmp_path: Path) -> None:
    done = psql(legacy, script_of("upgrade", "head"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert changes(dump(migrated), dump(legacy)) == []
    assert catalog(migrated) == catalog(legacy)
    assert deviations(legacy) == []
    assert failed_checks(legacy) == []


def test_down(clone, tmp_path):
    a, b = clone("head"), clone("head")
    downgrade(a)
    done = psql(b, script_of("downgrade", "head:base"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert changes(dump(a), dump(b)) == []
    assert changes(dump(a, without=("alembic_version",)), dump(clone("legacy"))) == []


def test_std(postgresql):
    assert postgresql.execute("select 1").fetchone() == (1,)
