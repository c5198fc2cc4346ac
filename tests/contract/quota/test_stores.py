"""One suite over the store in memory and the one in PostgreSQL: both keep the same promises."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random, SystemRandom

import pytest

from headrace_common.clock import SystemClock
from headrace_common.errors import HeadraceError
from headrace_common.postgres import Database
from headrace_quota.api_keys import ApiKey, KeyDraft, KeyMaterial, Role, Rotation, draft_key
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.postgres_history import PostgresPrincipalHistory
from headrace_quota.postgres_store import PostgresTenantStore
from headrace_quota.principal_history import KeyState, PrincipalHistory, TenantState
from headrace_quota.resource_policies import Action, ResourcePolicy
from headrace_quota.store import KeyPosition, TenantStore
from headrace_quota.tenant_change import TenantChange
from headrace_quota.tenants import Isolation, TenantDraft, TenantStatus


@dataclass(frozen=True)
class Stores:
    tenants: TenantStore
    history: PrincipalHistory


@pytest.fixture(params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "memory":
        twin = MemoryTenantStore(clock=SystemClock(), dead_keys_shown_s=3600)
        yield Stores(twin, twin)
        return
    url: str = request.getfixturevalue("quota_database_url")
    async with Database(url=url, service="quota") as database:
        yield Stores(
            PostgresTenantStore(database=database),
            PostgresPrincipalHistory(database=database, dead_keys_shown_s=3600),
        )


def tenant_draft(tenant_id: str = "acme", **fields: str) -> TenantDraft:
    return TenantDraft.checked(
        tenant_id=tenant_id, display_name=fields.get("display_name", ""), tier="", metadata={"ключ": "värde %s"}
    )


def key_draft(
    tenant_id: str = "acme",
    *,
    expire_time: datetime | None = None,
    roles: Sequence[Role] = (Role.USER,),
    material: KeyMaterial | None = None,
    policies: Sequence[ResourcePolicy] = (),
) -> KeyDraft:
    return draft_key(
        material=material or KeyMaterial.mint(SystemRandom()),
        tenant_id=tenant_id,
        display_name="Key 'of' \"Acme\"",
        roles=roles,
        expire_time=expire_time,
        now=datetime(2000, 1, 1, tzinfo=UTC),
        policies=policies,
    )


def change(*paths: str, metadata: dict[str, str] | None = None, tenant_id: str = "acme", **fields: str) -> TenantChange:
    return TenantChange.checked(
        paths=paths,
        tenant_id=tenant_id,
        display_name=fields.get("display_name", ""),
        tier=fields.get("tier", ""),
        metadata=metadata or {},
        isolation=Isolation(fields.get("isolation", "SHARED")),
    )


def rotation(key: ApiKey, *, overlap: timedelta = timedelta(hours=1), expire_time: datetime | None = None) -> Rotation:
    material = KeyMaterial.mint(SystemRandom())
    return Rotation(former_id=key.id, material=material, overlap=overlap, expire_time=expire_time)


async def rotated(
    stores: Stores, wanted: Rotation, *, tenant_id: str | None = "acme", limit: int = 100, forced: bool = False
) -> tuple[ApiKey, ApiKey] | None:
    return await stores.tenants.rotate_api_key(
        wanted, tenant_id=tenant_id, active_keys_max=limit, even_if_suspended=forced
    )


async def new_key(stores: Stores, draft: KeyDraft, *, limit: int = 100, forced: bool = False) -> ApiKey:
    return await stores.tenants.insert_api_key(draft, active_keys_max=limit, even_if_suspended=forced)


async def reason(awaitable: object) -> str:
    with pytest.raises(HeadraceError) as refused:
        await awaitable  # pyright: ignore[reportGeneralTypeIssues]
    return refused.value.reason


async def test_tenant_is_stored_as_drafted(stores: Stores) -> None:
    tenant, created = await stores.tenants.insert_tenant(tenant_draft())
    assert created
    assert tenant_draft().describes(tenant)
    assert tenant.status is TenantStatus.ACTIVE
    assert tenant.create_time == tenant.update_time
    assert tenant.create_time.utcoffset() == timedelta(0)
    assert await stores.tenants.tenant("acme") == tenant


async def test_second_insert_returns_the_first_tenant_unchanged(stores: Stores) -> None:
    first, _ = await stores.tenants.insert_tenant(tenant_draft())
    again, created = await stores.tenants.insert_tenant(tenant_draft(display_name="Other"))
    assert (again, created) == (first, False)


async def test_concurrent_inserts_make_one_tenant(stores: Stores) -> None:
    drafts = [tenant_draft(display_name=f"Name {number}") for number in range(8)]
    results = await asyncio.gather(*(stores.tenants.insert_tenant(draft) for draft in drafts))
    assert sum(created for _, created in results) == 1
    assert len({tenant.display_name for tenant, _ in results}) == 1


async def test_absent_tenant_is_none(stores: Stores) -> None:
    assert await stores.tenants.tenant("ghost") is None
    assert await stores.tenants.set_tenant_status("ghost", TenantStatus.SUSPENDED) is None
    assert await stores.tenants.api_keys("ghost", after=None, limit=5) == []


async def test_tenants_are_listed_by_the_bytes_of_their_ids(stores: Stores) -> None:
    ids = ["a-b", "a1", "ab", "abc", "b-a", "b0", "ba"]
    for tenant_id in reversed(ids):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    listed = await stores.tenants.tenants(after_id="", limit=100)
    assert [tenant.id for tenant in listed] == sorted(ids)
    after = await stores.tenants.tenants(after_id="a1", limit=2)
    assert [tenant.id for tenant in after] == sorted(ids)[2:4]


async def test_status_changes_once_and_repeating_it_changes_nothing(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    suspended = await stores.tenants.set_tenant_status("acme", TenantStatus.SUSPENDED)
    assert suspended is not None
    assert suspended.status is TenantStatus.SUSPENDED
    assert suspended.update_time > suspended.create_time
    assert await stores.tenants.set_tenant_status("acme", TenantStatus.SUSPENDED) == suspended
    assert (await stores.history.head()).revision == 2


async def test_key_is_stored_as_drafted(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    expiry = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    draft = key_draft(roles=tuple(Role), expire_time=expiry)
    key = await new_key(stores, draft)
    assert (key.id, key.tenant_id, key.prefix, key.sha256) == (draft.id, "acme", draft.prefix, draft.sha256)
    assert (key.display_name, key.roles, key.expire_time) == (draft.display_name, tuple(Role), expiry)
    assert key.revoke_time is None
    assert await stores.tenants.api_keys("acme", after=None, limit=5) == [key]


async def test_key_of_an_absent_tenant_is_refused(stores: Stores) -> None:
    assert await reason(new_key(stores, key_draft("ghost"))) == "TENANT_NOT_FOUND"


async def test_key_of_a_suspended_tenant_needs_force(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    await stores.tenants.set_tenant_status("acme", TenantStatus.SUSPENDED)
    assert await reason(new_key(stores, key_draft())) == "TENANT_SUSPENDED"
    assert (await new_key(stores, key_draft(), forced=True)).tenant_id == "acme"


async def test_concurrent_creations_never_pass_the_limit_of_active_keys(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    dead = await new_key(stores, key_draft())
    await stores.tenants.revoke_api_key(dead.id, tenant_id="acme")
    await new_key(stores, key_draft(expire_time=datetime(2001, 1, 1, tzinfo=UTC)))
    results = await asyncio.gather(*(new_key(stores, key_draft(), limit=4) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, ApiKey) for result in results) == 4
    refused = {result.reason for result in results if isinstance(result, HeadraceError)}
    assert refused == {"KEY_LIMIT_REACHED"}


async def test_keys_are_listed_newest_first_in_pages(stores: Stores) -> None:
    for tenant_id in ("acme", "rival"):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    made = [await new_key(stores, key_draft()) for _ in range(7)]
    await new_key(stores, key_draft("rival"))
    seen: list[ApiKey] = []
    position: KeyPosition | None = None
    while page := await stores.tenants.api_keys("acme", after=position, limit=3):
        seen.extend(page)
        position = KeyPosition(page[-1].create_time, page[-1].id)
    assert sorted(key.id for key in seen) == sorted(key.id for key in made)
    order = [(key.create_time, key.id) for key in seen]
    assert order == sorted(order, reverse=True)


async def test_revoked_key_stays_revoked_with_its_first_time(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    key = await new_key(stores, key_draft())
    revoked = await stores.tenants.revoke_api_key(key.id, tenant_id="acme")
    assert revoked is not None
    assert revoked.revoke_time is not None
    assert replace(revoked, revoke_time=None) == key
    assert await stores.tenants.revoke_api_key(key.id, tenant_id=None) == revoked


async def test_key_is_revoked_only_in_the_scope_of_its_tenant_or_of_the_service(stores: Stores) -> None:
    for tenant_id in ("acme", "rival"):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    key = await new_key(stores, key_draft())
    assert await stores.tenants.revoke_api_key(key.id, tenant_id="rival") is None
    assert await stores.tenants.revoke_api_key(str(uuid.uuid4()), tenant_id=None) is None
    (listed,) = await stores.tenants.api_keys("acme", after=None, limit=5)
    assert listed.revoke_time is None
    revoked = await stores.tenants.revoke_api_key(key.id, tenant_id=None)
    assert revoked is not None
    assert revoked.revoke_time is not None


async def test_adopting_stores_a_key_once_and_takes_none_from_another_tenant(stores: Stores) -> None:
    for tenant_id in ("acme", "rival"):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    material = KeyMaterial.mint(Random(99))
    adopted = await asyncio.gather(*(stores.tenants.adopt_api_key(key_draft(material=material)) for _ in range(6)))
    assert len({key.id for key in adopted if key is not None}) == 1
    assert len(await stores.tenants.api_keys("acme", after=None, limit=5)) == 1
    assert await stores.tenants.adopt_api_key(key_draft("rival", material=material)) is None


async def test_every_change_is_one_revision_that_tells_what_changed(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    key = await new_key(stores, key_draft(roles=(Role.VIEWER, Role.ADMIN)))
    await stores.tenants.set_tenant_status("acme", TenantStatus.SUSPENDED)
    await stores.tenants.revoke_api_key(key.id, tenant_id="acme")
    await stores.tenants.revoke_api_key(key.id, tenant_id="acme")
    head = await stores.history.head()
    assert (head.revision, head.compacted) == (4, 0)
    changes = await stores.history.changes(after_revision=0, limit=10)
    assert [change.revision for change in changes] == [1, 2, 3, 4]
    tenant = TenantState(tenant_id="acme", status=TenantStatus.SUSPENDED, tier="standard")
    revoked = KeyState(
        key_id=key.id, tenant_id="acme", sha256=key.sha256, roles=key.roles, expire_time=None, revoked=True
    )
    assert [change.state for change in changes] == [tenant, revoked, tenant, revoked]
    assert [change.revision for change in await stores.history.changes(after_revision=1, limit=2)] == [2, 3]
    assert await stores.history.changes(after_revision=4, limit=10) == []


async def test_snapshot_is_the_state_at_its_revision(stores: Stores) -> None:
    empty = await stores.history.snapshot()
    assert (empty.head.revision, list(empty.tenants), list(empty.keys)) == (0, [], [])
    for tenant_id in ("acme", "rival"):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    expiry = datetime(2099, 1, 1, tzinfo=UTC)
    working = await new_key(stores, key_draft(expire_time=expiry))
    revoked = await new_key(stores, key_draft("rival"))
    await stores.tenants.revoke_api_key(revoked.id, tenant_id=None)
    snapshot = await stores.history.snapshot()
    assert snapshot.head == await stores.history.head()
    assert [tenant.tenant_id for tenant in snapshot.tenants] == ["acme", "rival"]
    assert {key.key_id: (key.expire_time, key.revoked) for key in snapshot.keys} == {
        working.id: (expiry, False),
        revoked.id: (None, True),
    }


async def test_snapshot_leaves_out_keys_that_ended_long_ago(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    now = datetime.now(UTC)
    lately = await new_key(stores, key_draft(expire_time=now - timedelta(minutes=50)))
    await new_key(stores, key_draft(expire_time=now - timedelta(minutes=70)))
    assert [key.key_id for key in (await stores.history.snapshot()).keys] == [lately.id]


async def test_change_reaches_the_named_fields_and_no_other(stores: Stores) -> None:
    made, _ = await stores.tenants.insert_tenant(tenant_draft(display_name="Acme"))
    changed = await stores.tenants.update_tenant(
        change("tier", "isolation", display_name="Unheard", tier="gold", isolation="DEDICATED")
    )
    assert changed is not None
    assert changed == replace(made, tier="gold", isolation=Isolation.DEDICATED, update_time=changed.update_time)
    assert changed.update_time > made.update_time
    assert await stores.tenants.tenant("acme") == changed
    assert await stores.tenants.update_tenant(change("tier", tenant_id="ghost")) is None


async def test_single_pairs_come_and_go_and_the_others_stay(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    wanted = change("metadata.a.b", "metadata.ключ", "metadata.none", metadata={"a.b": "1", "unheard": "2"})
    changed = await stores.tenants.update_tenant(wanted)
    assert changed is not None
    assert dict(changed.metadata) == {"a.b": "1"}
    whole = await stores.tenants.update_tenant(change("metadata", metadata={"c": "3"}))
    assert whole is not None
    assert dict(whole.metadata) == {"c": "3"}


async def test_concurrent_changes_of_single_pairs_lose_none(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    await asyncio.gather(
        *(stores.tenants.update_tenant(change(f"metadata.{n}", metadata={str(n): "x"})) for n in range(12))
    )
    tenant = await stores.tenants.tenant("acme")
    assert tenant is not None
    assert set(tenant.metadata) == {"ключ", *(str(n) for n in range(12))}


async def test_pairs_that_would_be_too_many_change_nothing(stores: Stores) -> None:
    made, _ = await stores.tenants.insert_tenant(tenant_draft())
    pairs = {str(number): "" for number in range(64)}
    wanted = change(*(f"metadata.{key}" for key in pairs), metadata=pairs)
    assert await reason(stores.tenants.update_tenant(wanted)) == "FIELD_TOO_LONG"
    assert await stores.tenants.tenant("acme") == made


async def test_change_to_what_is_there_changes_nothing(stores: Stores) -> None:
    made, _ = await stores.tenants.insert_tenant(tenant_draft())
    assert await stores.tenants.update_tenant(change("tier", "display_name", "isolation")) == made
    assert (await stores.history.head()).revision == 1


async def test_gateways_learn_what_concerns_them_of_a_changed_tenant(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    await stores.tenants.update_tenant(change("display_name", display_name="Only for people"))
    assert (await stores.history.head()).revision == 1
    switched = change("metadata.feature.http", "isolation", metadata={"feature.http": "off"}, isolation="DEDICATED")
    await stores.tenants.update_tenant(switched)
    (told,) = await stores.history.changes(after_revision=1, limit=5)
    assert told.state == TenantState(
        tenant_id="acme",
        status=TenantStatus.ACTIVE,
        tier="standard",
        features={"http": "off"},
        isolation=Isolation.DEDICATED,
    )
    assert list((await stores.history.snapshot()).tenants) == [told.state]


async def test_policies_are_kept_and_told(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    policies = (
        ResourcePolicy((Action.INFER, Action.READ), ("model-a", "team-*")),
        ResourcePolicy((Action.WRITE,), ()),
    )
    key = await new_key(stores, key_draft(policies=policies))
    assert key.policies == policies
    assert await stores.tenants.api_keys("acme", after=None, limit=5) == [key]
    (told,) = (await stores.history.snapshot()).keys
    assert told.policies == policies
    (_, change_of_key) = await stores.history.changes(after_revision=0, limit=5)
    assert isinstance(change_of_key.state, KeyState)
    assert change_of_key.state.policies == policies


async def test_rotated_key_is_followed_by_one_that_may_do_the_same(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    policies = (ResourcePolicy((Action.INFER,), ("model-a",)),)
    key = await new_key(stores, key_draft(roles=(Role.VIEWER, Role.USER), policies=policies))
    wanted = rotation(key, expire_time=datetime(2099, 1, 1, tzinfo=UTC))
    before = datetime.now(UTC)
    pair = await rotated(stores, wanted)
    assert pair is not None
    made, former = pair
    assert (made.sha256, made.prefix) == (wanted.material.sha256, wanted.material.prefix)
    assert (made.tenant_id, made.display_name, made.roles, made.policies) == (
        key.tenant_id,
        key.display_name,
        key.roles,
        key.policies,
    )
    assert (made.rotated_from, made.expire_time) == (key.id, wanted.expire_time)
    assert former.expire_time is not None
    assert abs(former.expire_time - before - wanted.overlap) < timedelta(minutes=1)
    assert replace(former, expire_time=None) == key
    assert await stores.tenants.api_keys("acme", after=None, limit=5) == [made, former]
    assert {told.key_id for told in (await stores.history.snapshot()).keys} == {made.id, former.id}


async def test_rotation_never_prolongs_a_key_and_ends_it_at_once_without_an_overlap(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    soon = datetime.now(UTC) + timedelta(minutes=30)
    pair = await rotated(stores, rotation(await new_key(stores, key_draft(expire_time=soon))))
    assert pair is not None
    assert pair[1].expire_time == soon
    pair = await rotated(stores, rotation(pair[0], overlap=timedelta()))
    assert pair is not None
    assert await reason(rotated(stores, rotation(pair[1]))) == "KEY_ENDED"


async def test_only_keys_that_work_are_rotated_and_only_in_their_scope(stores: Stores) -> None:
    for tenant_id in ("acme", "rival"):
        await stores.tenants.insert_tenant(tenant_draft(tenant_id))
    key = await new_key(stores, key_draft())
    assert await rotated(stores, rotation(key), tenant_id="rival") is None
    assert await rotated(stores, rotation(replace(key, id=str(uuid.uuid4()))), tenant_id=None) is None
    await stores.tenants.revoke_api_key(key.id, tenant_id="acme")
    assert await reason(rotated(stores, rotation(key), tenant_id=None)) == "KEY_ENDED"
    working = await new_key(stores, key_draft())
    await stores.tenants.set_tenant_status("acme", TenantStatus.SUSPENDED)
    assert await reason(rotated(stores, rotation(working))) == "TENANT_SUSPENDED"
    assert await rotated(stores, rotation(working), tenant_id=None, forced=True) is not None


async def test_rotation_counts_the_former_key_while_it_works(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    key = await new_key(stores, key_draft())
    assert await reason(rotated(stores, rotation(key), limit=1)) == "KEY_LIMIT_REACHED"
    (listed,) = await stores.tenants.api_keys("acme", after=None, limit=5)
    assert listed == key
    assert await rotated(stores, rotation(key, overlap=timedelta()), limit=1) is not None


async def test_concurrent_rotations_of_one_key_stay_within_the_limit(stores: Stores) -> None:
    await stores.tenants.insert_tenant(tenant_draft())
    key = await new_key(stores, key_draft())
    results = await asyncio.gather(*(rotated(stores, rotation(key), limit=4) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, tuple) for result in results) == 3
    assert {result.reason for result in results if isinstance(result, HeadraceError)} == {"KEY_LIMIT_REACHED"}
