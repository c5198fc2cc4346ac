"""Wants: who is asked to load what, when again, and when no more."""

from __future__ import annotations

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2, models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.rpc_status import to_status
from headrace_common.testing import FakeClock
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.wants import DEMAND_S, WANT_TTL_S, Wants


def version(uid: str = "uid-1", *, replicas: int = 0, device_types: tuple[str, ...] = ()) -> CatalogVersion:
    manifest = manifest_pb2.Manifest(
        backend="onnxruntime",
        device_types=device_types,
        execution=manifest_pb2.ExecutionPolicy(replicas=replicas),
    )
    proto = models_pb2.Version(uid=uid, model="m", version=1, manifest=manifest)
    return CatalogVersion(tenant_id="t", uid=uid, model="m", version=1, version_text="1", proto=proto)


class Mesh:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.directory = RunnerDirectory(clock=self.clock)
        self.wants = Wants(directory=self.directory, sign_ticket=lambda v: f"ticket {v.uid}", clock=self.clock)

    def join(self, name: str, *, device: str = "cpu", backend: str = "onnxruntime") -> RunnerSession:
        session = RunnerSession(
            hello=mesh_pb2.Hello(
                runner_name=name, boot_uuid=f"boot-{name}", device=mesh_pb2.Device(type=device), backends=[backend]
            ),
            limits=LaneLimits(),
            budget=ByteBudget(total_bytes=1),
            clock=self.clock,
            load=LoopLoad(),
            changed=self.directory.changed,
        )
        self.directory.add(session)
        return session


def commands(session: RunnerSession) -> list[mesh_pb2.Want]:
    found: list[mesh_pb2.Want] = []
    while not session.commands.empty():
        found.append(session.commands.get_nowait().want)
    return found


def tell(session: RunnerSession, uid: str, state: gateway_pb2.ModelState.ValueType) -> None:
    status = to_status(ModelError("no", entry=catalogue.MODEL_LOAD_FAILED)).SerializeToString()
    event = mesh_pb2.ModelEvent(version_uid=uid, state=state, status=status)
    session.on_event(mesh_pb2.RunnerEvent(model=event))


async def test_first_use_asks_two_runners_with_ticket_and_time_to_live() -> None:
    mesh = Mesh()
    sessions = [mesh.join(f"runner-{i}") for i in range(4)]
    mesh.wants.touch(version())
    asked = [want for session in sessions for want in commands(session)]
    assert [(want.ticket, want.version.uid, want.ttl.seconds) for want in asked] == [("ticket uid-1", "uid-1", 30)] * 2


async def test_two_gateways_choose_the_same_runners() -> None:
    chosen: list[set[str]] = []
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        mesh = Mesh()
        sessions = [mesh.join(f"runner-{i}") for i in order]
        mesh.wants.touch(version(replicas=3))
        chosen.append({session.hello.runner_name for session in sessions if commands(session)})
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 3


async def test_only_runners_with_the_backend_and_device_are_asked() -> None:
    mesh = Mesh()
    other_backend = mesh.join("a", backend="litert")
    other_device = mesh.join("b", device="cuda")
    fitting = mesh.join("c")
    mesh.wants.touch(version(device_types=("cpu",)))
    assert [len(commands(session)) for session in (other_backend, other_device, fitting)] == [0, 0, 1]


async def test_wants_are_repeated_before_they_lapse_and_end_with_the_demand() -> None:
    mesh = Mesh()
    session = mesh.join("a")
    wanted = version()
    mesh.wants.touch(wanted)
    tell(session, wanted.uid, gateway_pb2.MODEL_STATE_LOADED)
    assert len(commands(session)) == 1
    mesh.clock.advance(WANT_TTL_S / 2 - 1)
    mesh.wants.refresh()
    assert commands(session) == []
    mesh.clock.advance(2)
    mesh.wants.refresh()
    assert len(commands(session)) == 1
    mesh.clock.advance(DEMAND_S)
    mesh.wants.refresh()
    assert commands(session) == []


async def test_restarted_runner_gets_its_models_back_when_it_joins() -> None:
    mesh = Mesh()
    first = mesh.join("a")
    mesh.wants.touch(version())
    mesh.directory.remove(first)
    second = mesh.join("a")
    assert [want.version.uid for want in commands(second)] == ["uid-1"]


async def test_runner_that_failed_to_load_is_passed_over_for_one_that_did_not() -> None:
    mesh = Mesh()
    sessions = [mesh.join(f"runner-{i}") for i in range(3)]
    wanted = version(replicas=1)
    mesh.wants.touch(wanted)
    (chosen,) = [session for session in sessions if commands(session)]
    tell(chosen, wanted.uid, gateway_pb2.MODEL_STATE_FAILED)
    mesh.wants.refresh()
    assert [session for session in sessions if commands(session)] != []
    assert not commands(chosen)


async def test_waiting_call_asks_again_after_a_second_when_the_runner_dropped_the_model() -> None:
    mesh = Mesh()
    session = mesh.join("a")
    wanted = version()
    mesh.wants.ask(wanted)
    assert len(commands(session)) == 1
    mesh.wants.ask(wanted)
    assert commands(session) == []
    mesh.clock.advance(1.1)
    mesh.wants.ask(wanted)
    assert len(commands(session)) == 1


async def test_withdrawn_version_is_told_to_its_runners_with_no_time_to_live() -> None:
    mesh = Mesh()
    has, has_not = mesh.join("a"), mesh.join("b")
    wanted = version(replicas=2)
    mesh.wants.touch(wanted)
    tell(has, wanted.uid, gateway_pb2.MODEL_STATE_LOADED)
    commands(has)
    commands(has_not)
    mesh.wants.withdraw(wanted.uid)
    (withdrawal,) = commands(has)
    assert (withdrawal.version.uid, withdrawal.ttl.seconds) == ("uid-1", 0)
    mesh.clock.advance(WANT_TTL_S)
    mesh.wants.refresh()
    assert commands(has) == commands(has_not) == []


async def test_silent_runner_is_ejected_and_comes_back_with_its_next_heartbeat() -> None:
    mesh = Mesh()
    session = mesh.join("a")
    tell(session, "uid-1", gateway_pb2.MODEL_STATE_LOADED)
    assert mesh.directory.replicas("uid-1") == (session,)
    mesh.clock.advance(2.1)
    session.check_heartbeat()
    assert mesh.directory.replicas("uid-1") == ()
    assert not mesh.directory.could_serve(version())
    session.on_event(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat()))
    assert mesh.directory.replicas("uid-1") == (session,)


def tell_released(session: RunnerSession, uid: str) -> None:
    event = mesh_pb2.ModelEvent(version_uid=uid, state=gateway_pb2.MODEL_STATE_UNLOADED, released=True)
    session.on_event(mesh_pb2.RunnerEvent(model=event))


def released(session: RunnerSession) -> list[str]:
    """The versions that a runner was told to let go; forgets its other commands."""
    found: list[str] = []
    while not session.commands.empty():
        command = session.commands.get_nowait()
        if command.HasField("release"):
            found.append(command.release.version_uid)
    return found


async def test_release_tells_every_runner_that_has_the_version_and_waits_for_their_word() -> None:
    mesh = Mesh()
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
    mesh = Mesh()
    runner = mesh.join("a")
    mesh.wants.touch(version())
    tell(runner, "uid-1", gateway_pb2.MODEL_STATE_LOADED)
    commands(runner)
    # Another gateway asked for it.
    tell_released(runner, "uid-1")
    mesh.clock.advance(WANT_TTL_S)
    mesh.wants.refresh()
    assert commands(runner) == []
    mesh.wants.touch(version())
    assert [want.version.uid for want in commands(runner)] == ["uid-1"]


async def test_a_version_that_a_runner_unloads_by_itself_stays_wanted() -> None:
    mesh = Mesh()
    runner = mesh.join("a")
    mesh.wants.touch(version())
    tell(runner, "uid-1", gateway_pb2.MODEL_STATE_LOADED)
    commands(runner)
    mesh.clock.advance(2.0)
    tell(runner, "uid-1", gateway_pb2.MODEL_STATE_UNLOADED)
    assert [want.version.uid for want in commands(runner)] == ["uid-1"]
