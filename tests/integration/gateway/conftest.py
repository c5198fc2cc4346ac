"""Real quota and registry processes over a real PostgreSQL, and a gateway inside the test's own process."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from headrace_common.principal import generate_key_files
from support.gateway import Backends, FrontDoor, ServiceProcess, open_door
from support.postgres import fresh_database


@pytest.fixture(scope="session")
def quota_alone(postgres_url: str) -> Iterator[Backends]:
    """Quota, started once; a test that stops it starts it again. The registry is not up yet."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-test-gateway-"))
    admin_key = f"hr_{secrets.token_hex(4)}_{secrets.token_hex(20)}"
    (folder / "admin.key").write_text(admin_key)
    (folder / "admin.key").chmod(0o600)
    generate_key_files(folder / "gateway.jwk", folder / "principals.jwks")
    with fresh_database(postgres_url) as url:
        shared = {
            "HEADRACE_POSTGRES_URL": url,
            "HEADRACE_PRINCIPAL_JWKS_FILE": str(folder / "principals.jwks"),
            "HEADRACE_STORAGE_URL": str(folder / "artifacts"),
            "HEADRACE_STATE_DIR": str(folder / "state"),
            "HEADRACE_SHUTDOWN_GRACE_S": "2",
            "HEADRACE_QUOTA_EMBEDDED_TENANTS": "true",
            "HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE": str(folder / "admin.key"),
        }
        quota = ServiceProcess("quota", folder, shared)
        registry = ServiceProcess("registry", folder, shared)
        try:
            quota.start()
            yield Backends(folder=folder, quota=quota, registry=registry, admin_key=admin_key)
        finally:
            quota.stop()
            registry.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def backends(quota_alone: Backends) -> Backends:
    """Quota and registry, both up."""
    if quota_alone.registry.process is None:
        quota_alone.registry.start()
    return quota_alone


@pytest.fixture
async def quota_door(quota_alone: Backends) -> AsyncIterator[FrontDoor]:
    """A gateway that knows the keys, with the community key on and reflection open."""
    async with open_door(quota_alone) as opened:
        yield opened


@pytest.fixture
async def door(backends: Backends) -> AsyncIterator[FrontDoor]:
    """A gateway that serves, with the community key on and reflection open."""
    async with open_door(backends) as opened:
        yield opened
