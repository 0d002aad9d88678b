"""The merge against an independent oracle: generated databases, and the sample of 213 sessions."""

import json
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from pytest_postgresql.executors import NoopExecutor

from databases import (
    Database,
    Server,
    cloned,
    deviations,
    downgrade,
    dump,
    changes,
    failed_checks,
    prediction_of,
    upgrade,
)
from oracle import CONFIG, PROGRESS
from strategies import LegacyDatabase, legacy_databases, load


@pytest.mark.parametrize("shape", ["B", "before", "no_config", "no_progress"])
def test_any_legacy_database_becomes_what_the_oracle_says(
    shape: str, server: Server, postgresql_proc: NoopExecutor
) -> None:
    @given(legacy_databases((shape,)))
    def check(generated: LegacyDatabase) -> None:
        with cloned(server, postgresql_proc.template_dbname) as database:
            with database.connect() as connection:
                load(connection, generated)
            upgrade(database)
            assert deviations(database) == []
            assert failed_checks(database) == []

    check()
