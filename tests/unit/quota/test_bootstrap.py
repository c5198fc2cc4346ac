"""What is there before the first call."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from headrace_common.errors import ConfigError
from headrace_common.secrets import write_secret_file
from headrace_common.testing import FakeClock
from headrace_quota.api_keys import KeyMaterial, Role, draft_key
from headrace_quota.bootstrap import prepare_tenants, read_admin_key
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.tenants import TenantDraft

CLOCK = FakeClock()
KEY = KeyMaterial.mint(Random(5))


async def prepare(store: MemoryTenantStore, *, embedded: bool = True, key: KeyMaterial | None = KEY) -> None:
    await prepare_tenants(store, embedded=embedded, admin_key=key, now=CLOCK.now())


async def test_embedded_mesh_gets_two_tenants_and_any_other_only_the_operators() -> None:
    for embedded, expected in ((True, ["community", "default"]), (False, ["default"])):
        store = MemoryTenantStore(clock=CLOCK)
        await prepare(store, embedded=embedded)
        assert [tenant.id for tenant in await store.tenants(after_id="", limit=10)] == expected


async def test_preparing_again_changes_nothing() -> None:
    store = MemoryTenantStore(clock=CLOCK)
    await prepare(store)
    before = (await store.snapshot(), await store.head())
    await prepare(store)
    assert (await store.snapshot(), await store.head()) == before
    (key,) = (await store.snapshot()).keys
    assert (key.tenant_id, key.sha256, key.roles) == ("default", KEY.sha256, (Role.ADMIN,))


async def test_revoked_admin_key_stays_revoked_after_a_restart() -> None:
    store = MemoryTenantStore(clock=CLOCK)
    await prepare(store)
    (key,) = (await store.snapshot()).keys
    await store.revoke_api_key(key.key_id, tenant_id=None)
    await prepare(store)
    assert [key.revoked for key in (await store.snapshot()).keys] == [True]


async def test_admin_key_that_another_tenant_uses_stops_the_start() -> None:
    store = MemoryTenantStore(clock=CLOCK)
    await store.insert_tenant(TenantDraft(id="acme"))
    draft = draft_key(material=KEY, tenant_id="acme", display_name="", roles=(), expire_time=None, now=CLOCK.now())
    await store.adopt_api_key(draft)
    with pytest.raises(ConfigError, match="HEADRACE_QUOTA_BOOTSTRAP_ADMIN_KEY_FILE"):
        await prepare(store)


def test_key_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    write_secret_file(path, KEY.key + "\n")
    assert read_admin_key(path) == KEY
    assert read_admin_key(None) is None


def test_file_without_a_key_is_refused_and_its_text_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    write_secret_file(path, "hunter2 is no key")
    with pytest.raises(ConfigError, match="BOOTSTRAP_ADMIN_KEY_FILE") as refused:
        read_admin_key(path)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigError):
        read_admin_key(tmp_path / "absent")
