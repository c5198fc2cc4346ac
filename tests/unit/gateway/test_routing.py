"""Choice of a replica."""

from __future__ import annotations

from random import Random

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.loop_load import LoopLoad
from headrace_common.testing import FakeClock
from headrace_gateway.inference.routing import FULL_SCAN_MAX, choose
from headrace_gateway.mesh.runner_session import RunnerSession
from support.mesh_ends import SentCall

UID = "uid-1"


def replica(name: str, *, in_flight: int = 0, slots: int = 1, latency_s: float = 0.0) -> RunnerSession:
    event = mesh_pb2.ModelEvent(version_uid=UID, state=gateway_pb2.MODEL_STATE_LOADED, execution_slots=slots)
    session = RunnerSession(
        hello=mesh_pb2.Hello(runner_name=name, boot_uuid="1", models=[event]),
        limits=LaneLimits(),
        budget=ByteBudget(total_bytes=1),
        clock=FakeClock(),
        load=LoopLoad(),
        changed=lambda session: None,
    )
    credit = mesh_pb2.ResultFrame(credit=mesh_pb2.Credit(messages=100, payload_bytes=1000))
    session.calls.on_result_frame(credit)
    for _ in range(in_flight):
        session.calls.send(SentCall())
    session.latency_s = latency_s
    return session


async def test_fewest_calls_per_execution_slot_win() -> None:
    busy, idle = replica("a", in_flight=3, slots=1), replica("b", in_flight=4, slots=4)
    assert choose([busy, idle], UID, 10, set(), Random(0)) is idle


async def test_lower_latency_wins_between_equally_loaded_replicas() -> None:
    slow, fast = replica("a", latency_s=0.5), replica("b", latency_s=0.1)
    assert choose([slow, fast], UID, 10, set(), Random(0)) is fast


async def test_no_replica_is_no_choice() -> None:
    assert choose([], UID, 10, set(), Random(0)) is None


async def test_of_many_replicas_the_busiest_is_never_chosen_and_load_spreads() -> None:
    replicas = [replica(str(i), in_flight=i) for i in range(FULL_SCAN_MAX + 4)]
    random = Random(1)
    chosen = {choose(replicas, UID, 10, set(), random) for _ in range(300)}
    assert replicas[-1] not in chosen
    assert len(chosen) > 4


async def test_replicas_without_credit_or_that_failed_the_call_are_left_out() -> None:
    full, tried, free = replica("a", in_flight=100), replica("b"), replica("c")
    assert choose([full, tried, free], UID, 10, {tried.token}, Random(0)) is free
    assert choose([free], UID, 1001, set(), Random(0)) is None


async def test_short_calls_gather_at_one_replica_and_spread_when_a_millisecond_of_work_lies_there() -> None:
    first, second = replica("a"), replica("b")
    for session in (first, second):
        for _ in range(200):
            session.observe(UID, 0.001, 0.0001)
    counts = {first.id: 0, second.id: 0}
    for _ in range(16):
        chosen = choose([first, second], UID, 10, set(), Random(0))
        assert chosen is not None
        counts[chosen.id] += 1
        chosen.calls.send(SentCall())
    assert sorted(counts.values()) == [6, 10]


async def test_long_calls_are_spread_one_by_one() -> None:
    first, second = replica("a"), replica("b")
    for session in (first, second):
        for _ in range(200):
            session.observe(UID, 0.03, 0.02)
    chosen = choose([first, second], UID, 10, set(), Random(0))
    assert chosen is not None
    chosen.calls.send(SentCall())
    assert choose([first, second], UID, 10, set(), Random(0)) is not chosen
