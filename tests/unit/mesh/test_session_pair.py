"""Both ends of a session, gateway's and runner's, joined by lanes that deliver in any order between each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError
from headrace_common.lanes import ByteBudget, LaneLimits, LaneViolation, decode_chunks, encode_chunk
from headrace_common.testing import FakeClock
from headrace_gateway.mesh.runner_session import runner_lost
from headrace_gateway.mesh.runner_work import RunnerWork
from headrace_gateway.mesh.session_calls import Answer as GatewayAnswer
from headrace_gateway.mesh.session_calls import SessionCalls as GatewayCalls
from headrace_runner.calls import Answer, IncomingCall
from headrace_runner.mesh.session_calls import SessionCalls as RunnerCalls
from support.mesh_ends import SentCall, begin_with

LIMITS = LaneLimits(
    frame_bytes_max=4096,
    inline_bytes_max=64,
    chunk_bytes=50,
    header_bytes_max=200,
    message_bytes_max=400,
    window_messages=8,
    window_bytes=512,
)


PARTS = (b"once", b"", b"upon" * 16, b"a time")


class Model:
    """Executes calls when told to: echoes the payload, or fails on a payload that starts with `!`.

    One that starts with `+` is answered in parts, some before and some when it is told to.
    """

    def __init__(self) -> None:
        self.gates: deque[asyncio.Future[None]] = deque()
        self.seen: list[bytes] = []

    async def infer(self, call: IncomingCall) -> Answer:
        self.seen.append(bytes(call.payload))
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        streams = bytes(call.payload[:1]) == b"+"
        if streams:
            emit(call, PARTS[:2])
        await gate
        if streams:
            emit(call, PARTS[2:])
        if bytes(call.payload[:1]) == b"!":
            raise ModelError("poisoned", entry=catalogue.MODEL_EXECUTION_FAILED)
        return Answer(payload=bytes(call.payload), queue_us=1, compute_us=2)

    def finish_one(self) -> None:
        while self.gates:
            gate = self.gates.popleft()
            if not gate.done():
                gate.set_result(None)
                return


def emit(call: IncomingCall, parts: Iterable[bytes]) -> None:
    assert call.emit is not None
    for part in parts:
        call.emit(part)


@dataclass
class Pair:
    gateway_budget: ByteBudget = field(default_factory=lambda: ByteBudget(total_bytes=800))
    runner_budget: ByteBudget = field(default_factory=lambda: ByteBudget(total_bytes=800))
    model: Model = field(default_factory=Model)
    lanes: dict[str, deque[bytes]] = field(default_factory=lambda: {name: deque() for name in ("cs", "cb", "rs", "rb")})

    def __post_init__(self) -> None:
        self.work = RunnerWork(now=0.0)
        self.gateway = GatewayCalls(
            limits=LIMITS, budget=self.gateway_budget, work=self.work, wake=lambda: None, ended=lambda: None
        )
        self.runner = RunnerCalls(
            begin=begin_with(self.model.infer),
            limits=LIMITS,
            budget=self.runner_budget,
            clock=FakeClock(),
            wake=lambda: None,
        )

    def step(self, action: str) -> None:
        match action:
            case "gateway sends small":
                self._put("cs", self.gateway.next_small_frame())
            case "runner sends small":
                self._put("rs", self.runner.next_small_frame())
            case "gateway sends bulk":
                chunk = self.gateway.next_chunk()
                self._put("cb", None if chunk is None else encode_chunk(6, chunk))
            case "runner sends bulk":
                chunk = self.runner.next_chunk()
                self._put("rb", None if chunk is None else encode_chunk(5, chunk))
            case "runner gets small" if self.lanes["cs"]:
                self.runner.on_call_frame(mesh_pb2.CallFrame.FromString(self.lanes["cs"].popleft()))
            case "gateway gets small" if self.lanes["rs"]:
                self.gateway.on_result_frame(mesh_pb2.ResultFrame.FromString(self.lanes["rs"].popleft()))
            case "runner gets bulk" if self.lanes["cb"]:
                for chunk in decode_chunks(6, self.lanes["cb"].popleft()):
                    self.runner.on_chunk(chunk)
            case "gateway gets bulk" if self.lanes["rb"]:
                for chunk in decode_chunks(5, self.lanes["rb"].popleft()):
                    self.gateway.on_chunk(chunk)
            case "model finishes":
                self.model.finish_one()
            case _:
                return

    def _put(self, lane: str, frame: bytes | None) -> None:
        if frame is not None:
            assert len(frame) <= LIMITS.frame_bytes_max
            self.lanes[lane].append(frame)

    def send(self, payload: bytes) -> SentCall:
        sent = SentCall(payload, streams=payload[:1] == b"+")
        sent.id = self.gateway.send(sent)
        return sent


ACTIONS = (
    "gateway sends small",
    "runner sends small",
    "gateway sends bulk",
    "runner sends bulk",
    "runner gets small",
    "gateway gets small",
    "runner gets bulk",
    "gateway gets bulk",
    "model finishes",
)


async def settle(pair: Pair, rounds: int = 120) -> None:
    for _ in range(rounds):
        for action in ACTIONS:
            pair.step(action)
        await asyncio.sleep(0)


def payload_of(size: int, random: Random) -> bytes:
    """Random bytes, some poisoned, some to be answered in parts."""
    first = random.choice((b"!", b"-", b"-", b"+", b"+"))
    return (first + random.randbytes(size))[:size]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([0, 1, 64, 65, 120, 400]), min_size=1, max_size=10),
    steps=st.integers(0, 150),
)
async def test_every_call_ends_once_whatever_is_cancelled_when(seed: int, sizes: list[int], steps: int) -> None:
    random = Random(seed)
    pair = Pair()
    await settle(pair, 3)
    payloads = [payload_of(size, random) for size in sizes]
    waiting = list(payloads)
    calls: list[tuple[SentCall, bytes]] = []
    left: set[int] = set()
    for _ in range(steps):
        roll = random.random()
        if roll < 0.1 and waiting and pair.gateway.has_room(len(waiting[0])):
            payload = waiting.pop(0)
            calls.append((pair.send(payload), payload))
        elif roll < 0.17 and calls:
            sent, _ = random.choice(calls)
            if not sent.outcomes:
                left.add(sent.id)
            pair.gateway.leave(sent.id)
        else:
            pair.step(random.choice(ACTIONS))
        if roll > 0.7:
            await asyncio.sleep(0)
        assert pair.work.in_flight == pair.gateway.in_flight
    await settle(pair)
    for sent, payload in calls:
        parts = PARTS if payload.startswith(b"+") else ()
        assert tuple(sent.parts) == parts[: len(sent.parts)]
        if sent.id in left:
            assert sent.outcomes == []
            continue
        assert len(sent.parts) == len(parts)
        if payload.startswith(b"!"):
            assert sent.reason == catalogue.MODEL_EXECUTION_FAILED.reason
        else:
            assert sent.outcomes == [GatewayAnswer(payload, 1, 2, 0, 0, 1, True, 1, 2)]
    assert pair.gateway.in_flight == 0
    assert pair.work.in_flight == 0
    assert pair.work.pending_s == pytest.approx(0.0)
    assert pair.runner.open == 0
    assert pair.runner.idle
    for budget in (pair.gateway_budget, pair.runner_budget):
        assert (budget.held_bytes, budget.waiting) == (0, 0)
    for _ in range(LIMITS.window_messages):
        assert pair.gateway.has_room(64)
        pair.send(b"x" * 64)
    assert not pair.gateway.has_room(0)


@pytest.fixture
async def pair() -> Pair:
    pair = Pair()
    await settle(pair, 3)
    return pair


async def test_cancel_before_the_first_step_of_the_execution_still_gets_its_terminal_answer(pair: Pair) -> None:
    call = pair.send(b"x")
    pair.step("gateway sends small")
    pair.gateway.leave(call.id)
    pair.step("gateway sends small")
    pair.step("runner gets small")
    pair.step("runner gets small")
    await settle(pair)
    assert pair.model.seen == []
    assert (pair.gateway.in_flight, pair.runner.open) == (0, 0)


async def test_call_that_has_not_left_is_taken_back_without_a_word_to_the_runner(pair: Pair) -> None:
    pair.gateway.leave(pair.send(b"x").id)
    assert pair.gateway.in_flight == 0
    assert pair.gateway.next_small_frame() is None


async def test_slot_stays_taken_until_the_runner_has_ended_a_cancelled_call(pair: Pair) -> None:
    call = pair.send(b"x")
    for action in ("gateway sends small", "runner gets small"):
        pair.step(action)
    await asyncio.sleep(0)
    pair.gateway.leave(call.id)
    assert pair.gateway.in_flight == 1
    await settle(pair)
    assert pair.gateway.in_flight == 0


async def test_call_larger_than_all_room_of_the_runner_is_refused_alone() -> None:
    pair = Pair(runner_budget=ByteBudget(total_bytes=100))
    refused = pair.send(b"x" * 300)
    await settle(pair)
    (failure,) = refused.outcomes
    assert isinstance(failure, HeadraceError)
    assert failure.entry is catalogue.MESSAGE_TOO_LARGE
    assert failure.context["limit"] == "100"
    fits = pair.send(b"y" * 100)
    await settle(pair)
    (answer,) = fits.outcomes
    assert isinstance(answer, GatewayAnswer)
    assert answer.payload == b"y" * 100
    assert pair.runner.idle
    assert pair.gateway.in_flight == 0


async def test_waiting_callers_fail_over_when_the_session_is_lost(pair: Pair) -> None:
    calls = [pair.send(b"x"), pair.send(b"y" * 300)]
    await asyncio.sleep(0)
    pair.gateway.close(runner_lost())
    assert [call.reason for call in calls] == ["RUNNER_LOST", "RUNNER_LOST"]
    pair.runner.close()


@pytest.mark.parametrize(
    "result",
    [
        mesh_pb2.Result(id=99, terminal=True),
        mesh_pb2.Result(id=1, attempt=7, terminal=True),
        mesh_pb2.Result(id=1, terminal=False),
    ],
    ids=["call not open", "other attempt", "not terminal"],
)
async def test_result_that_belongs_to_no_call_is_a_violation(pair: Pair, result: mesh_pb2.Result) -> None:
    pair.send(b"x")
    with pytest.raises(LaneViolation):
        pair.gateway.on_result_frame(mesh_pb2.ResultFrame(results=[result]))


async def test_second_answer_to_a_call_is_a_violation(pair: Pair) -> None:
    pair.send(b"x")
    frame = mesh_pb2.ResultFrame(results=[mesh_pb2.Result(id=1, terminal=True)])
    pair.gateway.on_result_frame(frame)
    with pytest.raises(LaneViolation):
        pair.gateway.on_result_frame(frame)


async def test_id_used_twice_is_a_violation(pair: Pair) -> None:
    pair.runner.on_call_frame(mesh_pb2.CallFrame(calls=[mesh_pb2.Call(id=5)]))
    with pytest.raises(LaneViolation):
        pair.runner.on_call_frame(mesh_pb2.CallFrame(calls=[mesh_pb2.Call(id=4)]))
    pair.runner.close()
