"""Who may do what: decided over the store's twin in memory, without a server."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from headrace_common.errors import HeadraceError
from headrace_common.principal import Principal
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_quota.administration import TenantAdministration
from headrace_quota.api_keys import Role
from headrace_quota.bootstrap import prepare_tenants
from headrace_quota.memory_store import MemoryTenantStore
from headrace_quota.tenants import TenantStatus

OPERATOR = Principal(tenant_id="default", roles=frozenset({"admin"}))
ADMIN = Principal(tenant_id="acme", roles=frozenset({"admin"}))
USER = Principal(tenant_id="acme", roles=frozenset({"user"}))
DEFAULT_USER = Principal(tenant_id="default", roles=frozenset({"user", "model_admin"}))

Administered = TenantAdministration
Act = Callable[[Administered, Principal, str], Awaitable[Any]]

# Every RPC that names somebody's tenant.
BY_TENANT: dict[str, Act] = {
    "GetTenant": lambda a, who, tenant: a.tenant(who, tenant),
    "SuspendTenant": lambda a, who, tenant: a.set_status(who, tenant, TenantStatus.SUSPENDED),
    "ResumeTenant": lambda a, who, tenant: a.set_status(who, tenant, TenantStatus.ACTIVE),
    "CreateApiKey": lambda a, who, tenant: a.create_api_key(
        who, tenant_id=tenant, display_name="", roles=(), expire_time=None
    ),
    "ListApiKeys": lambda a, who, tenant: a.api_keys(who, tenant_id=tenant, after=None, limit=10),
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def administration(clock: FakeClock) -> TenantAdministration:
    store = MemoryTenantStore(clock=clock)
    await prepare_tenants(store, embedded=False, admin_key=None, now=clock.now())
    made = TenantAdministration(store=store, clock=clock, random=Random(1), active_keys_max=3)
    for tenant_id in ("acme", "rival"):
        await made.create_tenant(OPERATOR, tenant_id=tenant_id, display_name="", tier="", metadata={})
    return made


async def failure(awaitable: Awaitable[Any]) -> HeadraceError:
    with pytest.raises(HeadraceError) as refused:
        await awaitable
    return refused.value


async def new_key(a: TenantAdministration, who: Principal, tenant_id: str = "", **fields: Any) -> Any:
    values: dict[str, Any] = {"display_name": "", "roles": (), "expire_time": None} | fields
    return (await a.create_api_key(who, tenant_id=tenant_id, **values))[0]


@pytest.mark.parametrize("rpc", BY_TENANT)
@pytest.mark.parametrize("caller", [ADMIN, USER], ids=["admin", "user"])
async def test_foreign_tenant_is_answered_like_an_absent_one_byte_for_byte(
    administration: TenantAdministration, rpc: str, caller: Principal
) -> None:
    foreign = await failure(BY_TENANT[rpc](administration, caller, "rival"))
    absent = await failure(BY_TENANT[rpc](administration, caller, "ghost"))
    assert foreign.entry.grpc == "NOT_FOUND"
    assert to_status(foreign).SerializeToString().replace(b"rival", b"ghost") == to_status(absent).SerializeToString()


@pytest.mark.parametrize("rpc", BY_TENANT)
async def test_absent_tenant_is_not_found_for_an_operator_too(administration: TenantAdministration, rpc: str) -> None:
    assert (await failure(BY_TENANT[rpc](administration, OPERATOR, "nobody"))).reason == "TENANT_NOT_FOUND"


async def test_foreign_key_is_answered_like_an_absent_one(administration: TenantAdministration) -> None:
    theirs = await new_key(administration, OPERATOR, "rival")
    unknown = str(uuid.UUID(int=0))
    foreign = await failure(administration.revoke_api_key(ADMIN, theirs.id))
    absent = await failure(administration.revoke_api_key(ADMIN, unknown))
    assert foreign.entry.grpc == "NOT_FOUND"
    told = to_status(foreign).SerializeToString().replace(theirs.id.encode(), unknown.encode())
    assert told == to_status(absent).SerializeToString()
    (listed,) = await administration.api_keys(OPERATOR, tenant_id="rival", after=None, limit=10)
    assert listed.revoke_time is None


@pytest.mark.parametrize("caller", [ADMIN, USER, DEFAULT_USER], ids=["admin", "user", "user of default"])
async def test_only_operators_make_list_and_stop_tenants(
    administration: TenantAdministration, caller: Principal
) -> None:
    refused = [
        await failure(administration.create_tenant(caller, tenant_id="new", display_name="", tier="", metadata={})),
        await failure(administration.tenants(caller, after_id="", limit=10)),
        await failure(administration.set_status(caller, caller.tenant_id, TenantStatus.SUSPENDED)),
    ]
    assert [error.reason for error in refused] == ["ROLE_FORBIDDEN"] * 3


async def test_creating_an_existing_tenant_tells_strangers_nothing(administration: TenantAdministration) -> None:
    async def create(tenant_id: str) -> HeadraceError:
        return await failure(
            administration.create_tenant(ADMIN, tenant_id=tenant_id, display_name="", tier="", metadata={})
        )

    taken, free = await create("rival"), await create("free")
    assert to_status(taken).SerializeToString() == to_status(free).SerializeToString()


@pytest.mark.parametrize("role", ["viewer", "user", "model_admin"])
async def test_keys_of_the_own_tenant_need_the_role_admin(administration: TenantAdministration, role: str) -> None:
    caller = Principal(tenant_id="acme", roles=frozenset({role}))
    assert (await failure(new_key(administration, caller))).reason == "ROLE_FORBIDDEN"
    listing = administration.api_keys(caller, tenant_id="", after=None, limit=1)
    assert (await failure(listing)).reason == "ROLE_FORBIDDEN"
    for key_id in ("no uuid", str(uuid.uuid4())):
        assert (await failure(administration.revoke_api_key(caller, key_id))).reason == "ROLE_FORBIDDEN"


async def test_everybody_sees_their_own_tenant(administration: TenantAdministration) -> None:
    assert (await administration.tenant(USER, "")).id == "acme"
    assert (await administration.tenant(USER, "acme")).id == "acme"


async def test_admin_manages_keys_of_the_own_tenant_and_operator_those_of_all(
    administration: TenantAdministration,
) -> None:
    own = await new_key(administration, ADMIN, roles=(Role.ADMIN, Role.VIEWER))
    assert (own.tenant_id, own.roles) == ("acme", (Role.VIEWER, Role.ADMIN))
    made = await new_key(administration, OPERATOR, "acme")
    listed = await administration.api_keys(ADMIN, tenant_id="", after=None, limit=10)
    assert {key.id for key in listed} == {own.id, made.id}
    assert (await administration.revoke_api_key(OPERATOR, own.id)).revoke_time is not None


async def test_operators_tenant_cannot_be_suspended(administration: TenantAdministration) -> None:
    refused = await failure(administration.set_status(OPERATOR, "default", TenantStatus.SUSPENDED))
    assert refused.reason == "TENANT_PROTECTED"


async def test_suspended_tenant_gets_new_keys_from_operators_only(administration: TenantAdministration) -> None:
    await administration.set_status(OPERATOR, "acme", TenantStatus.SUSPENDED)
    assert (await failure(new_key(administration, ADMIN))).reason == "TENANT_SUSPENDED"
    assert (await new_key(administration, OPERATOR, "acme")).tenant_id == "acme"


async def test_repeated_creation_is_one_creation_and_another_one_is_refused(
    administration: TenantAdministration,
) -> None:
    fields: dict[str, Any] = {"tenant_id": "new", "display_name": "New", "tier": "gold", "metadata": {"a": "b"}}
    first = await administration.create_tenant(OPERATOR, **fields)
    assert await administration.create_tenant(OPERATOR, **fields) == first
    refused = await failure(administration.create_tenant(OPERATOR, **{**fields, "tier": "silver"}))
    assert (refused.reason, refused.entry.grpc) == ("TENANT_ALREADY_EXISTS", "ALREADY_EXISTS")


async def test_only_keys_that_work_count_against_the_limit(
    administration: TenantAdministration, clock: FakeClock
) -> None:
    keys = [await new_key(administration, ADMIN) for _ in range(2)]
    await new_key(administration, ADMIN, expire_time=clock.now() + timedelta(seconds=5))
    refused = await failure(new_key(administration, ADMIN))
    assert (refused.reason, refused.context["limit"]) == ("KEY_LIMIT_REACHED", 3)
    clock.advance(5)
    await new_key(administration, ADMIN)
    assert (await failure(new_key(administration, ADMIN))).reason == "KEY_LIMIT_REACHED"
    await administration.revoke_api_key(ADMIN, keys[0].id)
    await new_key(administration, ADMIN)


async def test_revoking_again_keeps_the_first_time(administration: TenantAdministration, clock: FakeClock) -> None:
    key = await new_key(administration, ADMIN)
    first = await administration.revoke_api_key(ADMIN, key.id)
    clock.advance(10)
    assert await administration.revoke_api_key(ADMIN, key.id) == first
