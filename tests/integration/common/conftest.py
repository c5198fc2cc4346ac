"""A migrated database for what services do with the common runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace_common.migrations import migrate
from headrace_common.postgres import Database
from support.ledger import FIRST, SECOND, add_revision


@pytest.fixture
def versions_dir(tmp_path: Path) -> Path:
    """The revisions of the service `ledger`."""
    directory = tmp_path / "versions"
    directory.mkdir()
    add_revision(directory, 1, FIRST)
    add_revision(directory, 2, SECOND)
    return directory


@pytest.fixture
async def database(database_url: str, versions_dir: Path) -> AsyncIterator[Database]:
    """The migrated schema, opened as the service's role."""
    migrate(database_url, service="ledger", versions_dir=versions_dir)
    async with Database(url=database_url, service="ledger", connections_max=4) as database:
        yield database
