"""Load in short: both applications write while the migration goes up. The long form is soak.py."""

import pytest

from conftest import Clone
from databases import upgrade
from soak import Traffic, compare
from writers import NewApplication, OldApplication


@pytest.mark.parametrize("writers", [(OldApplication, OldApplication, NewApplication)])
def test_nobody_notices(clone: Clone, writers: tuple[type, ...]) -> None:
    """No error in anybody's request, no write lost."""
    database = clone("legacy")
    with Traffic(database, *writers, few=100, pause=0.01) as load:
        upgrade(database)
    assert load.errors == []
    assert sum(load.requests.values()) > 50
    assert compare(database) == []
