"""Cutovers: requests that name no version stay with the one before until the newer one is where it is."""

from __future__ import annotations

import pytest

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.testing import FakeClock
from headrace_gateway.mesh.placement.cutover import SETTLE_S
from headrace_gateway.mesh.runner_session import RunnerSession
from support.placement_mesh import (
    FAILED,
    LOADED,
    LOADING,
    UNLOADED,
    PlacementMesh,
    commands,
    entry,
    tell,
    tell_released,
)


def served(mesh: PlacementMesh) -> int:
    return mesh.catalog.resolve("t", "m", "").version


async def test_requests_stay_with_the_old_version_until_the_new_one_is_loaded_at_scale() -> None:
    mesh = PlacementMesh()
    mesh.register(1)
    sessions = tuple(mesh.join(f"runner-{i}", loaded=("uid-1",)) for i in range(3))
    mesh.register(2)
    assert (served(mesh), mesh.catalog.resolve("t", "m", "2").version) == (1, 2)
    mesh.wants.refresh()
    assert {want.version.uid for session in sessions for want in commands(session)} == {"uid-2"}
    for session in sessions[:2]:
        tell(session, "uid-2", LOADED)
    mesh.wants.refresh()
    assert (served(mesh), len(mesh.wants.cutovers)) == (1, 1)
    tell(sessions[2], "uid-2", LOADED)
    mesh.wants.refresh()
    assert (served(mesh), len(mesh.wants.cutovers), mesh.wants.cutovers.done) == (2, 0, 1)


async def test_requests_go_to_a_new_version_at_once_where_the_old_one_is_not_loaded() -> None:
    mesh = PlacementMesh()
    mesh.join("a")
    mesh.register(1)
    mesh.register(2)
    assert served(mesh) == 2


async def test_a_new_version_that_fails_gets_no_requests_and_a_third_one_is_waited_for_instead() -> None:
    mesh = PlacementMesh(cutover_wait_s=10.0)
    session = mesh.join("a", loaded=("uid-1",))
    mesh.register(1)
    mesh.register(2)
    tell(session, "uid-2", FAILED)
    mesh.pass_time(30)
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)
    mesh.register(3)
    assert (served(mesh), mesh.wants.cutovers.failing, mesh.wants.cutovers.given_up) == (1, 0, 1)
    tell(session, "uid-3", LOADED)
    mesh.wants.refresh()
    assert served(mesh) == 3


async def test_a_cutover_is_given_up_when_one_of_its_versions_leaves_service() -> None:
    for gone, then in ((1, 2), (2, 1)):
        mesh = PlacementMesh()
        mesh.join("a", loaded=("uid-1",))
        entries = [entry(f"uid-{number}", number, mesh.clock, replicas=0, model="m") for number in (1, 2)]
        for one in entries:
            mesh.catalog.apply([one])
        assert served(mesh) == 1
        entries[gone - 1].version.state = models_pb2.VERSION_STATE_ARCHIVED
        mesh.catalog.apply([entries[gone - 1]])
        assert served(mesh) == then
        mesh.wants.refresh()
        assert (served(mesh), len(mesh.wants.cutovers), mesh.wants.cutovers.given_up) == (then, 0, 1)


async def test_a_snapshot_in_the_middle_of_a_cutover_changes_nothing() -> None:
    mesh = PlacementMesh()
    mesh.join("a", loaded=("uid-1",))
    entries = [entry(f"uid-{number}", number, mesh.clock, replicas=0, model="m") for number in (1, 2)]
    for one in entries:
        mesh.catalog.apply([one])
    mesh.catalog.replace(entries)
    mesh.wants.refresh()
    assert (served(mesh), len(mesh.wants.cutovers)) == (1, 1)


@pytest.mark.parametrize(
    ("age_s", "state", "serves"),
    [(30, LOADING, 1), (30, LOADED, 2), (300, LOADING, 2), (300, FAILED, 1)],
    ids=["young and loading", "loaded", "old and evicted", "old and failed"],
)
async def test_a_gateway_that_has_just_started_decides_as_those_that_saw_the_new_version_come(
    age_s: float, state: gateway_pb2.ModelState.ValueType, serves: int
) -> None:
    mesh = PlacementMesh()
    entries = [entry(f"uid-{number}", number, mesh.clock, replicas=0, model="m") for number in (1, 2)]
    mesh.clock.advance(age_s)
    mesh.catalog.replace(entries)
    mesh.wants.refresh()
    session = mesh.join("a", loaded=("uid-1",))
    tell(session, "uid-2", state)
    mesh.wants.refresh()
    assert served(mesh) == serves


async def test_unloading_a_model_ends_its_cutover() -> None:
    mesh = PlacementMesh()
    session = mesh.join("a", loaded=("uid-1",))
    mesh.register(1)
    mesh.register(2)
    for uid in ("uid-1", "uid-2"):
        mesh.wants.release(uid)
    commands(session)
    tell_released(session, "uid-1")
    mesh.pass_time(SETTLE_S + 1)
    assert (served(mesh), commands(session)) == (2, [])


def restart(mesh: PlacementMesh, session: RunnerSession, *, away_s: float = 20) -> RunnerSession:
    """The runner comes back and knows nothing of what it had, nor of what failed."""
    mesh.directory.remove(session)
    mesh.pass_time(away_s)
    return mesh.join(session.hello.runner_name)


def held_on_failure(mesh: PlacementMesh) -> RunnerSession:
    """The only runner has version 1, which serves, and could not load version 2."""
    session = mesh.join("a", loaded=("uid-1",))
    mesh.register(1)
    mesh.register(2)
    tell(session, "uid-2", FAILED)
    mesh.wants.refresh()
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)
    return session


@pytest.mark.parametrize("loads", ["neither version", "the old one again"])
async def test_a_version_that_failed_gets_no_requests_when_the_only_runner_restarts(loads: str) -> None:
    mesh = PlacementMesh()
    second = restart(mesh, held_on_failure(mesh))
    mesh.wants.refresh()
    assert {want.version.uid for want in commands(second)} == {"uid-1", "uid-2"}, "what serves is loaded again, too"
    tell(second, "uid-1", LOADING)
    tell(second, "uid-2", LOADING)
    mesh.pass_time(10 * SETTLE_S)
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)
    tell(second, "uid-2", FAILED)
    tell(second, "uid-1", LOADED if loads == "the old one again" else FAILED)
    mesh.pass_time(10 * SETTLE_S)
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)
    tell(second, "uid-2", LOADED)
    mesh.wants.refresh()
    assert (served(mesh), mesh.wants.cutovers.done) == (2, 1), "what is loaded after all serves"


async def test_a_version_that_failed_gets_no_requests_when_the_only_runner_falls_silent_and_comes_back() -> None:
    mesh = PlacementMesh()
    session = held_on_failure(mesh)
    mesh.pass_time(2)
    mesh.clock.advance(0.1)
    session.check_heartbeat()
    assert not session.takes_calls
    mesh.pass_time(2)
    assert served(mesh) == 1
    session.on_event(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat()))
    mesh.pass_time(2, (session,))
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)


@pytest.mark.parametrize("seen", [True, False], ids=["after they were there", "before they came"])
async def test_a_version_that_is_registered_without_runners_waits_for_their_word(seen: bool) -> None:
    mesh = PlacementMesh()
    mesh.register(1)
    if seen:
        mesh.directory.remove(mesh.join("a", loaded=("uid-1",)))
    mesh.register(2)
    mesh.pass_time(60)
    session = mesh.join("a")
    mesh.wants.refresh()
    assert {want.version.uid for want in commands(session)} == {"uid-1", "uid-2"}
    tell(session, "uid-2", FAILED)
    mesh.pass_time(2 * SETTLE_S)
    tell(session, "uid-1", LOADED)
    mesh.pass_time(2 * SETTLE_S)
    assert (served(mesh), mesh.wants.cutovers.failing) == (1, 1)


async def test_a_version_that_is_registered_while_the_runner_restarts_is_waited_for() -> None:
    mesh = PlacementMesh()
    mesh.register(1)
    session, other = mesh.join("a", loaded=("uid-1",)), mesh.join("b")
    mesh.wants.refresh()
    mesh.directory.remove(session)
    mesh.pass_time(1)
    mesh.register(2)
    assert served(mesh) == 1
    mesh.wants.refresh()
    assert {want.version.uid for want in commands(other)} == {"uid-1", "uid-2"}
    tell(other, "uid-1", LOADING)
    mesh.pass_time(3 * SETTLE_S)
    assert served(mesh) == 1
    tell(other, "uid-1", FAILED)
    mesh.pass_time(SETTLE_S)
    assert served(mesh) == 2, "no runner has had or loaded the old one for as long"


async def test_what_serves_makes_room_for_the_new_version_while_nobody_calls_it() -> None:
    mesh = PlacementMesh()
    session = held_on_failure(mesh)
    commands(session)
    mesh.pass_time(60, (session,))
    assert {want.version.uid for want in commands(session)} == {"uid-2"}
    tell(session, "uid-1", UNLOADED)
    tell(session, "uid-2", LOADED)
    mesh.wants.refresh()
    assert served(mesh) == 2


async def test_two_gateways_decide_alike_while_runners_come_and_go() -> None:
    clock = FakeClock()
    meshes = [PlacementMesh(clock=clock) for _ in range(2)]
    held = [held_on_failure(mesh) for mesh in meshes]
    # One of them hears of the restart at once, the other one has seen the runner fall silent before.
    meshes[1].directory.remove(held[1])
    meshes[1].pass_time(3)
    sessions = [restart(meshes[0], held[0], away_s=4), meshes[1].join("a")]
    for state in (LOADING, FAILED):
        for mesh, session in zip(meshes, sessions, strict=True):
            tell(session, "uid-2", state)
            mesh.pass_time(3)
        assert [served(mesh) for mesh in meshes] == [1, 1]
    for mesh, session in zip(meshes, sessions, strict=True):
        tell(session, "uid-1", LOADED)
        mesh.wants.refresh()
        tell(session, "uid-2", LOADED)
        mesh.wants.refresh()
    assert [(served(mesh), mesh.wants.cutovers.done) for mesh in meshes] == [(2, 1), (2, 1)]
