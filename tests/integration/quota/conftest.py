"""A quota service over a database of its own, and a PostgreSQL server that a test may stop and start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.quota import Keys, QuotaClient, RunningQuota, running_quota
from support.restartable_postgres import RestartablePostgres, restartable_postgres


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Fresh signing keys."""
    return Keys.generate(tmp_path)


@pytest.fixture
def database_url(quota_database_url: str) -> str:
    """A database that has the schema already; outages and plain users start from an empty server."""
    return quota_database_url


@pytest.fixture
async def quota(database_url: str, keys: Keys) -> AsyncIterator[RunningQuota]:
    """A service that serves."""
    async with running_quota(database_url, keys) as running:
        yield running


@pytest.fixture
def client(quota: RunningQuota) -> QuotaClient:
    """A client of the service."""
    return quota.client


@pytest.fixture
def postgres() -> Iterator[RestartablePostgres]:
    """A PostgreSQL server for this test alone."""
    with restartable_postgres() as server:
        yield server
