"""A dedicated tenant is served by runners of its own, which serve nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.internal.v1.principals_pb2 import TenantRecord
from headrace.quota.v1 import tenants_pb2
from headrace_gateway.mesh.isolation import Isolation
from headrace_gateway.mesh.runner_view import RunnerView
from headrace_gateway.principal_table import PrincipalTable
from support.fleet import Fleet
from support.placement_mesh import PlacementMesh, asked

PLACED = "t"
"""Whose the models of placement are."""
OWN, PLACED_OWN = {"tenant": "acme"}, {"tenant": PLACED}
OTHERS = {"tenant": "rival"}


def tenant(tenant_id: str = "acme", *, dedicated: bool) -> TenantRecord:
    isolation = tenants_pb2.ISOLATION_DEDICATED if dedicated else tenants_pb2.ISOLATION_SHARED
    return TenantRecord(tenant_id=tenant_id, status=tenants_pb2.TENANT_STATUS_ACTIVE, isolation=isolation)


def table(*, dedicated: bool) -> PrincipalTable:
    known = PrincipalTable()
    known.replace([tenant(dedicated=dedicated), tenant(PLACED, dedicated=dedicated)], [])
    return known


def isolation(known: PrincipalTable, tenant_of: Callable[[str], str] = lambda uid: "acme") -> Isolation:
    return Isolation(dedicated=known.is_dedicated, tenant_of=tenant_of)


def placing(known: PrincipalTable) -> PlacementMesh:
    return PlacementMesh(isolation=isolation(known, lambda uid: PLACED))


@pytest.mark.parametrize(("dedicated", "chosen"), [(False, {"shared", "own"}), (True, {"own"})])
def test_calls_go_to_runners_that_may_serve_the_tenant(dedicated: bool, chosen: set[str]) -> None:
    fleet = Fleet(isolation=isolation(table(dedicated=dedicated)))
    sessions = {
        "shared": fleet.join("shared"),
        "own": fleet.join("own", labels=OWN),
        "others": fleet.join("others", labels=OTHERS),
    }
    seen: set[str] = set()
    while (found := fleet.choose()) is not None:
        seen.add(found.hello.runner_name)
        fleet.directory.remove(sessions[found.hello.runner_name])
    assert seen == chosen


@pytest.mark.parametrize(("dedicated", "wanted"), [(False, ["own", "shared"]), (True, ["own"])])
async def test_models_are_loaded_on_runners_that_may_serve_the_tenant(dedicated: bool, wanted: list[str]) -> None:
    mesh = placing(table(dedicated=dedicated))
    sessions = (mesh.join("shared"), mesh.join("own", labels=PLACED_OWN), mesh.join("others", labels=OTHERS))
    mesh.wants.touch(mesh.register(replicas=3))
    assert sorted(asked(*sessions)) == wanted


async def test_nothing_is_loaded_for_a_dedicated_tenant_without_runners() -> None:
    mesh = placing(table(dedicated=True))
    session, version = mesh.join("shared"), mesh.register()
    mesh.wants.touch(version)
    assert asked(session) == []
    assert not mesh.directory.could_serve(version)


async def test_change_of_a_tenant_counts_at_once_and_back() -> None:
    known = table(dedicated=False)
    mesh = placing(known)
    known.add_isolation_listener(mesh.directory.isolation_changed)
    shared, own = mesh.join("shared", loaded=("uid-1",)), mesh.join("own", labels=PLACED_OWN, loaded=("uid-1",))
    version = mesh.register(replicas=1)
    mesh.wants.touch(version)
    assert set(mesh.directory.replicas("uid-1")) == {shared, own}
    known.apply([tenant(PLACED, dedicated=True)], [])
    assert mesh.directory.replicas("uid-1") == (own,)
    other = mesh.register(model="b", replicas=2)
    mesh.wants.touch(other)
    assert asked(shared) == []
    known.apply([tenant(PLACED, dedicated=True)], [])
    known.apply([tenant(PLACED, dedicated=False)], [])
    assert set(mesh.directory.replicas("uid-1")) == {shared, own}
    mesh.wants.touch(other)
    mesh.wants.refresh()
    assert asked(shared) != []


def test_nobody_shares_before_it_is_known_who_does() -> None:
    known = PrincipalTable()
    heard: list[int] = []
    known.add_isolation_listener(lambda: heard.append(1))
    fleet = Fleet(isolation=isolation(known))
    fleet.join("shared")
    assert fleet.choose() is None
    known.add_isolation_listener(fleet.directory.isolation_changed)
    known.replace([tenant(dedicated=False)], [])
    assert heard == [1]
    assert fleet.choose() is not None


def test_snapshot_without_a_tenant_forgets_its_isolation() -> None:
    known = table(dedicated=True)
    known.replace([], [])
    assert not known.is_dedicated("acme")


def test_tenants_dont_see_the_runners_of_others() -> None:
    fleet = Fleet()
    for name, labels in (("shared", {}), ("own", OWN), ("others", OTHERS)):
        fleet.join(name, labels=labels)
    closed = mesh_pb2.BREAKER_STATE_CLOSED
    view = RunnerView(
        runners=fleet.directory,
        known=lambda uid: None,
        breaker_state=lambda session, uid: closed,
        clock=fleet.clock,
    )
    assert {runner.name for runner in view.for_tenant("acme")} == {"shared", "own"}
    assert {runner.name for runner in view.all()} == {"shared", "own", "others"}
