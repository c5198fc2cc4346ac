"""Wants: who is asked to have what, when again, and when no more; computed from what runners report."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.testing import FakeClock
from headrace_gateway.mesh.placement import PlacementMetrics
from headrace_gateway.mesh.placement.want_sender import WANT_TTL_S
from headrace_gateway.mesh.runner_session import RunnerSession
from support.placement_mesh import (
    FAILED,
    KEEP_S,
    LOADED,
    UNLOADED,
    PlacementMesh,
    asked,
    commands,
    report,
    tell,
    tell_released,
)


async def test_first_use_asks_two_runners_with_ticket_and_time_to_live() -> None:
    mesh = PlacementMesh()
    sessions = [mesh.join(f"runner-{i}") for i in range(4)]
    mesh.wants.touch(mesh.register())
    wants = [want for session in sessions for want in commands(session)]
    assert [(want.ticket, want.version.uid, want.ttl.seconds) for want in wants] == [("ticket uid-1", "uid-1", 30)] * 2
    assert wants[0].version.manifest.backend == "onnxruntime"


async def test_two_gateways_choose_the_same_runners() -> None:
    chosen: list[list[str]] = []
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        mesh = PlacementMesh()
        sessions = [mesh.join(f"runner-{i}") for i in order]
        mesh.wants.touch(mesh.register(replicas=3))
        chosen.append(sorted(asked(*sessions)))
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 3


async def test_only_runners_with_the_backend_and_device_are_asked() -> None:
    mesh = PlacementMesh()
    sessions = (mesh.join("a", backend="litert"), mesh.join("b", device="cuda"), mesh.join("c"))
    mesh.wants.touch(mesh.register(device_types=["cpu"]))
    assert asked(*sessions) == ["c"]


async def test_calls_for_what_a_runner_has_lead_to_no_want_by_themselves() -> None:
    mesh = PlacementMesh()
    session = mesh.join("a", loaded=("uid-1",))
    mesh.wants.touch(mesh.register())
    mesh.wants.refresh()
    assert commands(session) == []


async def test_a_gateway_without_calls_wants_what_runners_report_as_used() -> None:
    mesh = PlacementMesh()
    mesh.register()
    user, other = mesh.join("a", loaded=("uid-1",)), mesh.join("b")
    report(user, "uid-1", calls=0)
    mesh.wants.refresh()
    assert asked(user, other) == [], "it was loaded, and never used"
    report(user, "uid-1", idle_s=KEEP_S - 10)
    mesh.wants.refresh()
    assert sorted(asked(user, other)) == ["a", "b"]
    mesh.pass_time(60)
    commands(user)
    commands(other)
    mesh.pass_time(60)
    assert asked(user, other) == [], "its last call is too long ago"


async def test_two_gateways_want_the_same_whichever_of_them_has_the_calls() -> None:
    clock = FakeClock()
    meshes = [PlacementMesh(clock=clock) for _ in range(2)]
    runners: list[list[RunnerSession]] = []
    for mesh in meshes:
        mesh.register(replicas=1)
        runners.append([mesh.join(f"runner-{i}") for i in range(4)])
    meshes[0].wants.touch(meshes[0].register(replicas=1))
    (chosen,) = asked(*runners[0])
    for mesh, sessions in zip(meshes, runners, strict=True):
        (session,) = [session for session in sessions if session.hello.runner_name == chosen]
        tell(session, "uid-1", LOADED)
        report(session, "uid-1", queue_depth=50, in_flight=51, queue_wait_us=900_000)
        mesh.pass_time(20, (session,))
    again = [asked(*sessions) for sessions in runners]
    assert again[0] == again[1]
    assert len(again[0]) == 2, "calls waited for too long on the first one"


async def test_wants_are_repeated_before_they_lapse_and_end_with_the_use() -> None:
    mesh = PlacementMesh()
    session = mesh.join("a")
    mesh.wants.touch(mesh.register())
    tell(session, "uid-1", LOADED)
    assert len(commands(session)) == 1
    mesh.pass_time(WANT_TTL_S / 2)
    assert commands(session) == []
    mesh.pass_time(2)
    (renewal,) = commands(session)
    assert (renewal.version.uid, renewal.ttl.seconds, renewal.ticket) == ("uid-1", 30, "")
    assert renewal.ByteSize() < 100, "the runner knows the rest"
    mesh.pass_time(KEEP_S)
    commands(session)
    mesh.pass_time(WANT_TTL_S)
    assert commands(session) == []
    assert mesh.wants.replicas() == []


async def test_restarted_runner_gets_its_models_back_when_it_joins() -> None:
    mesh = PlacementMesh()
    mesh.register()
    first, other = mesh.join("a", loaded=("uid-1",)), mesh.join("b", loaded=("uid-1",))
    report(first, "uid-1")
    report(other, "uid-1", idle_s=1000)
    mesh.wants.refresh()
    mesh.directory.remove(first)
    mesh.wants.refresh()
    second = mesh.join("a")
    mesh.wants.refresh()
    assert [want.version.manifest.backend for want in commands(second)] == ["onnxruntime"]


async def test_runner_that_failed_to_load_is_passed_over_for_one_that_did_not() -> None:
    mesh = PlacementMesh()
    sessions = [mesh.join(f"runner-{i}") for i in range(3)]
    mesh.wants.touch(mesh.register(replicas=1))
    (name,) = asked(*sessions)
    (chosen,) = [session for session in sessions if session.hello.runner_name == name]
    tell(chosen, "uid-1", FAILED)
    mesh.wants.refresh()
    assert len(asked(*sessions)) == 1
    assert asked(chosen) == []


async def test_waiting_call_asks_again_after_a_second_when_the_runner_dropped_the_model() -> None:
    mesh = PlacementMesh()
    session = mesh.join("a")
    wanted = mesh.register()
    mesh.wants.ask(wanted)
    assert len(commands(session)) == 1
    mesh.wants.ask(wanted)
    assert commands(session) == []
    mesh.clock.advance(1.1)
    mesh.wants.ask(wanted)
    assert len(commands(session)) == 1


async def test_a_version_that_leaves_service_is_told_to_its_runners_with_no_time_to_live() -> None:
    mesh = PlacementMesh()
    has, has_not = mesh.join("a"), mesh.join("b")
    mesh.wants.touch(mesh.register())
    tell(has, "uid-1", LOADED)
    asked(has, has_not)
    mesh.catalog.replace([])
    (withdrawal,) = commands(has)
    assert (withdrawal.version.uid, withdrawal.ttl.seconds) == ("uid-1", 0)
    report(has, "uid-1")
    mesh.pass_time(WANT_TTL_S)
    assert asked(has, has_not) == []


async def test_silent_runner_is_ejected_and_comes_back_with_its_next_heartbeat() -> None:
    mesh = PlacementMesh()
    session, wanted = mesh.join("a"), mesh.register()
    tell(session, "uid-1", gateway_pb2.MODEL_STATE_LOADED)
    assert mesh.directory.replicas("uid-1") == (session,)
    mesh.clock.advance(2.1)
    session.check_heartbeat()
    assert mesh.directory.replicas("uid-1") == ()
    assert not mesh.directory.could_serve(wanted)
    session.on_event(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat()))
    assert mesh.directory.replicas("uid-1") == (session,)


def released(session: RunnerSession) -> list[str]:
    """The versions that a runner was told to let go; forgets its other commands."""
    found: list[str] = []
    while not session.commands.empty():
        command = session.commands.get_nowait()
        if command.HasField("release"):
            found.append(command.release.version_uid)
    return found


async def test_release_tells_every_runner_that_has_the_version_and_waits_for_their_word() -> None:
    mesh = PlacementMesh()
    loaded, loading, without = mesh.join("a"), mesh.join("b"), mesh.join("c")
    tell(loaded, "uid-1", gateway_pb2.MODEL_STATE_LOADED)
    tell(loading, "uid-1", gateway_pb2.MODEL_STATE_LOADING)
    mesh.wants.release("uid-1")
    assert [released(session) for session in (loaded, loading, without)] == [["uid-1"], ["uid-1"], []]
    tell_released(loaded, "uid-1")
    assert mesh.wants.releasing("uid-1"), "one runner has not answered"
    mesh.directory.remove(loading)
    assert not mesh.wants.releasing("uid-1"), "a runner that left has nothing to let go"
    assert not mesh.wants.releasing("uid-2")


async def test_a_version_that_a_runner_released_is_wanted_again_only_when_it_is_used() -> None:
    mesh = PlacementMesh()
    runner = mesh.join("a")
    version = mesh.register()
    mesh.wants.touch(version)
    tell(runner, "uid-1", LOADED)
    report(runner, "uid-1")
    mesh.wants.refresh()
    commands(runner)
    mesh.clock.advance(1.0)
    # Another gateway asked for it; the last heartbeat before still tells of its use.
    tell_released(runner, "uid-1")
    mesh.pass_time(WANT_TTL_S)
    assert commands(runner) == []
    mesh.wants.touch(version)
    assert [want.version.uid for want in commands(runner)] == ["uid-1"]


async def test_a_version_that_a_runner_unloads_by_itself_stays_wanted() -> None:
    mesh = PlacementMesh()
    runner = mesh.join("a")
    mesh.wants.touch(mesh.register())
    tell(runner, "uid-1", LOADED)
    commands(runner)
    mesh.clock.advance(2.0)
    tell(runner, "uid-1", UNLOADED)
    mesh.wants.refresh()
    assert [want.version.uid for want in commands(runner)] == ["uid-1"]


async def test_a_warm_pool_is_wanted_without_use_and_follows_its_schedule() -> None:
    mesh = PlacementMesh()
    sessions = tuple(mesh.join(f"runner-{i}") for i in range(4))
    minute = mesh.clock.now().minute
    rules = [manifest_pb2.PlacementRule(cron=f"{(minute + 10) % 60} * * * *", min_replicas=1)]
    mesh.register(placement=manifest_pb2.PlacementPolicy(min_replicas=3, schedule=rules))
    # A rule whose time comes every hour has held since its last time.
    mesh.wants.refresh()
    assert len(asked(*sessions)) == 1
    other = mesh.register(2, placement=manifest_pb2.PlacementPolicy(min_replicas=3))
    mesh.wants.refresh()
    assert [want.version.uid for session in sessions for want in commands(session)] == [other.uid] * 3


async def test_the_warm_pool_of_what_is_not_served_any_more_is_let_go() -> None:
    mesh = PlacementMesh()
    (session,) = (mesh.join("a"),)
    pool = manifest_pb2.PlacementPolicy(min_replicas=1)
    mesh.register(1, placement=pool)
    mesh.wants.refresh()
    mesh.register(2, placement=pool)
    mesh.wants.refresh()
    commands(session)
    mesh.pass_time(40)
    assert {want.version.uid for want in commands(session)} == {"uid-2"}


@pytest.mark.parametrize(("name", "wanted"), [("t/m", "uid-2"), ("t/m:1", "uid-1")])
async def test_the_prewarm_list_is_wanted_from_the_start_and_kept(name: str, wanted: str) -> None:
    mesh = PlacementMesh(prewarm=(name, "t/absent", "other/m"))
    session = mesh.join("a")
    mesh.wants.refresh()
    for number in (1, 2):
        mesh.register(number)
    mesh.wants.refresh()
    mesh.pass_time(2 * KEEP_S)
    assert {want.version.uid for want in commands(session)} == {wanted}


async def test_a_warm_pool_that_somebody_unloads_stays_so_until_it_is_used() -> None:
    mesh = PlacementMesh()
    session = mesh.join("a")
    version = mesh.register(placement=manifest_pb2.PlacementPolicy(min_replicas=1))
    mesh.wants.refresh()
    tell(session, "uid-1", LOADED)
    mesh.wants.release("uid-1")
    assert released(session) == ["uid-1"]
    tell_released(session, "uid-1")
    mesh.pass_time(2 * KEEP_S)
    assert commands(session) == []
    mesh.wants.ask(version)
    assert len(commands(session)) == 1


async def test_metrics_tell_what_is_wanted_and_what_is_there() -> None:
    mesh = PlacementMesh()
    registry = CollectorRegistry()
    PlacementMetrics(wants=mesh.wants, registry=registry)
    session = mesh.join("a", loaded=("uid-1",))
    mesh.register(1)
    report(session, "uid-1")
    mesh.wants.refresh()
    labels = {"tenant": "t", "model": "m", "version": "1"}
    assert registry.get_sample_value("headrace_placement_replicas_wanted", labels) == 2
    assert registry.get_sample_value("headrace_placement_replicas_ready", labels) == 1
    assert registry.get_sample_value("headrace_placement_wants_sent_total") == 1
    mesh.register(2)
    assert registry.get_sample_value("headrace_placement_cutovers_pending", {"state": "loading"}) == 1
    tell(session, "uid-2", FAILED)
    mesh.wants.refresh()
    assert registry.get_sample_value("headrace_placement_cutovers_pending", {"state": "failing"}) == 1
    tell(session, "uid-2", LOADED)
    mesh.wants.refresh()
    assert registry.get_sample_value("headrace_placement_cutovers_total", {"outcome": "done"}) == 1
    assert registry.get_sample_value("headrace_placement_cutovers_pending", {"state": "failing"}) == 0
