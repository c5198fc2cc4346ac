"""A registry over a database and a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.quota import Keys
from support.registry import RegistryClient, RunningRegistry, running_registry
from support.restartable_postgres import RestartablePostgres, restartable_postgres


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Fresh signing keys."""
    return Keys.generate(tmp_path)


@pytest.fixture
def database_url(registry_database_url: str) -> str:
    """A database that has the schema already; outages and plain users start from an empty server."""
    return registry_database_url


@pytest.fixture
async def registry(database_url: str, keys: Keys, tmp_path: Path) -> AsyncIterator[RunningRegistry]:
    """A service that serves."""
    async with running_registry(database_url, keys, tmp_path) as running:
        yield running


@pytest.fixture
def client(registry: RunningRegistry) -> RegistryClient:
    """A client of the service."""
    return registry.client


@pytest.fixture
def postgres() -> Iterator[RestartablePostgres]:
    """A PostgreSQL server for this test alone."""
    with restartable_postgres() as server:
        yield server
