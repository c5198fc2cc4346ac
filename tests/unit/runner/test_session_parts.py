"""Answers that come in parts, as the runner's end of a session sends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from headrace.runner.internal.v1.mesh_pb2 import Call, CallFrame, CallKind, Credit, Result, ResultFrame
from headrace_common import catalogue
from headrace_common.errors import ModelError
from headrace_common.lanes import ByteBudget, LaneLimits
from headrace_common.rpc_status import from_status
from headrace_common.testing import FakeClock
from headrace_runner.calls import Answer, Cancel, Emit, Ended, IncomingCall
from headrace_runner.mesh.part_queue import UNSENT_BYTES_MAX
from headrace_runner.mesh.session_calls import SessionCalls

LIMITS = LaneLimits(inline_bytes_max=1 << 16, frame_bytes_max=1 << 18)
LARGE = b"x" * LIMITS.inline_bytes_max


@dataclass
class Session:
    """The runner's end of a session, and the calls that it has handed over."""

    running: dict[str, tuple[Emit, Ended]] = field(default_factory=dict[str, tuple[Emit, Ended]])
    cancelled: list[str] = field(default_factory=list[str])
    sent: list[Result] = field(default_factory=list[Result])
    frames: int = 0

    def __post_init__(self) -> None:
        self.wakes = 0
        self.calls = SessionCalls(
            begin=self._begin,
            limits=LIMITS,
            budget=ByteBudget(total_bytes=1 << 20),
            clock=FakeClock(),
            wake=self._woken,
        )
        self.ids: dict[str, int] = {}
        assert self.calls.next_small_frame(), "the gateway's credit"

    def call(self, name: str, *, kind: CallKind.ValueType = CallKind.CALL_KIND_GENERATE) -> int:
        call_id = len(self.ids) + 1
        self.ids[name] = call_id
        frame = CallFrame(calls=[Call(id=call_id, attempt=3, kind=kind, request_id=name, timeout_ms=1_000)])
        self.calls.on_call_frame(frame)
        return call_id

    def credit(self, messages: int) -> None:
        self.calls.on_call_frame(CallFrame(credit=Credit(messages=messages, payload_bytes=1 << 30)))

    def cancel(self, name: str) -> None:
        self.calls.on_call_frame(CallFrame(cancels=[self.ids[name]]))

    def emit(self, name: str, payload: bytes) -> None:
        self.running[name][0](payload)

    def end(self, name: str, payload: bytes = b"") -> None:
        self.running[name][1](Answer(payload, 0, 0))

    def send(self) -> list[Result]:
        """Sends one frame."""
        data = self.calls.next_small_frame()
        if data is None:
            return []
        assert len(data) <= LIMITS.frame_bytes_max
        self.frames += 1
        results = list(ResultFrame.FromString(data).results)
        self.sent += results
        return results

    def send_all(self) -> list[Result]:
        while self.send():
            pass
        return self.sent

    def of(self, name: str) -> list[Result]:
        return [result for result in self.sent if result.id == self.ids[name]]

    def _begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        assert call.emit is not None
        self.running[call.request_id] = (call.emit, ended)
        return partial(self.cancelled.append, call.request_id)

    def _woken(self) -> None:
        self.wakes += 1


def reason(result: Result) -> str:
    return from_status(Status.FromString(result.status)).reason


def test_parts_leave_at_once_in_order_and_before_the_end() -> None:
    session = Session()
    session.call("a")
    session.emit("a", b"one")
    assert session.wakes
    (first,) = session.send()
    assert (first.terminal, first.payload, first.payload_bytes, first.attempt) == (False, b"one", 3, 3)
    session.credit(1)
    session.emit("a", b"two")
    session.end("a", b"three")
    assert [(result.terminal, result.payload) for result in session.send()] == [(False, b"two"), (True, b"three")]
    assert session.calls.idle


def test_parts_need_no_credit_and_their_end_does() -> None:
    session = Session()
    session.call("a")
    session.emit("a", b"part")
    session.end("a", b"end")
    assert [result.terminal for result in session.send_all()] == [False]
    assert not session.calls.idle
    session.credit(1)
    assert [result.terminal for result in session.send_all()] == [False, True]
    assert session.calls.idle


def test_parts_of_many_calls_share_a_frame() -> None:
    session = Session()
    for name in "abcdefgh":
        session.call(name)
    for name in "abcdefgh":
        session.emit(name, name.encode())
    assert len(session.send()) == 8


def test_an_end_does_not_overtake_parts_that_take_several_frames() -> None:
    session = Session()
    session.credit(10)
    session.call("a")
    session.call("b")
    for _ in range(10):
        session.emit("a", LARGE)
    session.emit("b", b"b")
    session.end("b")
    session.end("a")
    session.send_all()
    assert session.frames > 3
    assert [result.terminal for result in session.of("a")] == [False] * 10 + [True]
    assert [result.terminal for result in session.of("b")] == [False, True]
    # Calls take turns, so the small one is not behind all of the other's.
    assert session.sent[1].id == session.ids["b"]


def test_a_call_of_which_too_much_is_unsent_is_cancelled_and_others_go_on() -> None:
    session = Session()
    session.credit(10)
    session.call("slow")
    session.call("other")
    for _ in range(UNSENT_BYTES_MAX // len(LARGE)):
        session.emit("slow", LARGE)
    assert session.cancelled == []
    session.emit("other", b"part")
    session.emit("slow", b"x")
    assert session.cancelled == ["slow"]
    session.emit("slow", b"late")
    session.end("other")
    session.send_all()
    (end,) = session.of("slow")
    assert end.terminal
    assert reason(end) == catalogue.READER_TOO_SLOW.reason
    assert [result.terminal for result in session.of("other")] == [False, True]
    assert session.calls.idle


def test_a_part_that_can_not_travel_inline_ends_its_call() -> None:
    session = Session()
    session.credit(1)
    session.call("a")
    session.emit("a", LARGE + b"x")
    (end,) = session.send_all()
    assert reason(end) == catalogue.MESSAGE_TOO_LARGE.reason
    assert session.cancelled == ["a"]


def test_a_cancelled_call_sends_no_more_parts() -> None:
    session = Session()
    session.credit(1)
    session.call("a")
    session.emit("a", b"part")
    session.cancel("a")
    assert session.cancelled == ["a"]
    session.emit("a", b"late")
    (end,) = session.send_all()
    assert end.terminal
    assert reason(end) == catalogue.CALL_CANCELLED.reason


def test_a_call_that_ended_before_its_cancel_came_is_cancelled_with_its_parts() -> None:
    session = Session()
    session.call("a")
    session.emit("a", b"part")
    session.end("a", b"end")
    session.cancel("a")
    session.credit(1)
    (end,) = session.send_all()
    assert reason(end) == catalogue.CALL_CANCELLED.reason
    assert session.calls.idle


def test_a_failure_comes_after_what_was_sent_before() -> None:
    session = Session()
    session.credit(1)
    session.call("a")
    session.emit("a", b"part")
    session.running["a"][1](ModelError("broken", entry=catalogue.MODEL_EXECUTION_FAILED))
    first, second = session.send_all()
    assert first.payload == b"part"
    assert reason(second) == catalogue.MODEL_EXECUTION_FAILED.reason


def test_a_lane_with_one_stream_has_nothing_to_wait_for() -> None:
    session = Session()
    session.call("a")
    session.emit("a", b"part")
    assert (session.calls.queued, session.calls.in_flight) == (1, 1)
    session.call("b")
    assert (session.calls.queued, session.calls.in_flight) == (1, 2)


def test_a_closed_session_takes_no_parts() -> None:
    session = Session()
    session.call("a")
    session.calls.close()
    assert session.cancelled == ["a"]
    session.emit("a", b"late")
    assert session.send_all() == []


Step = Callable[[Session, str], object]
STEPS: dict[str, Step] = {
    "emit": lambda session, name: session.emit(name, name.encode()),
    "end": lambda session, name: session.end(name),
    "cancel": lambda session, name: session.cancel(name),
    "send": lambda session, _: session.send(),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from("abc")), max_size=60))
def test_every_call_has_its_parts_in_front_of_its_one_end(steps: list[tuple[str, str]]) -> None:
    session = Session()
    session.credit(2)
    over: set[str] = set()
    for name in "abc":
        session.call(name)
    for step, name in steps:
        if step == "end" and name in over:
            continue
        if step in ("end", "cancel"):
            over.add(name)
        STEPS[step](session, name)
    for name in set("abc") - over:
        session.end(name)
    session.credit(3)
    session.send_all()
    for name in "abc":
        assert [result.terminal for result in session.of(name)][-1:] == [True]
        assert sum(result.terminal for result in session.of(name)) == 1
    assert session.calls.idle
