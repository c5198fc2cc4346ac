"""More calls than a runner can compute, in simulated time: what is answered, who is refused, and how soon."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

STEP_S = 0.001
EXECUTION_S = 0.02
TIMEOUT_S = 2.0
REQUEST = oip.ModelInferRequest(model_name="m").SerializeToString()


@dataclass
class Ended:
    """How a call ended, and how long after it came."""

    priority: int
    came_s: float
    reason: str
    after_s: float


class OneAtATime:
    """A runner that executes one call at a time in the order in which they come, and drops those whose time is over."""

    def __init__(self, runner: Runner, core: GatewayCore) -> None:
        self._runner = runner
        self._core = core
        self._seen = 0
        self._queue: deque[tuple[mesh_pb2.Call, float]] = deque()
        self._running: tuple[mesh_pb2.Call, float, float] | None = None
        self.queued_max = 0

    def step(self) -> None:
        now = self._core.clock.monotonic()
        for call in self._runner.received():
            if call.id > self._seen:
                self._seen = call.id
                self._queue.append((call, now))
        self.queued_max = max(self.queued_max, len(self._queue))
        if self._running is not None and now >= self._running[2]:
            call, came_at, done_at = self._running
            self._running = None
            self._answer(call, queue_s=done_at - EXECUTION_S - came_at)
        while self._running is None and self._queue:
            call, came_at = self._queue.popleft()
            if call.id in self._runner.cancelled:
                self._answer(call, queue_s=now - came_at)
            else:
                self._running = call, came_at, now + EXECUTION_S

    def _answer(self, call: mesh_pb2.Call, *, queue_s: float) -> None:
        self._runner.forget(call)
        result = mesh_pb2.Result(
            id=call.id,
            attempt=call.attempt,
            terminal=True,
            queue_us=int(queue_s * 1e6),
            compute_us=int(EXECUTION_S * 1e6),
            batch_rows=1,
            batch_calls=1,
            leads_batch=True,
        )
        credit = mesh_pb2.Credit(messages=1 << 40, payload_bytes=1 << 50)
        self._runner.session.on_results(mesh_pb2.ResultFrame(results=[result], credit=credit))


def overload(*, per_s: float, seconds: float, urgent_share: float = 0.0) -> tuple[list[Ended], int]:
    """Calls at a fixed rate, every so many of them urgent; how they ended, and the longest queue at the runner."""
    core = GatewayCore()
    joined = core.join()
    joined.loaded(core.register("m", manifest=manifest_pb2.Manifest(backend="onnxruntime")))
    runner = OneAtATime(joined, core)
    ended: list[Ended] = []
    started_at = core.clock.monotonic()

    def begin(number: int) -> None:
        came_at = core.clock.monotonic()
        priority = 8 if number * urgent_share % 1 + urgent_share >= 1 else 3

        def told(_call: InferenceCall, outcome: Outcome) -> None:
            reason = outcome.reason if isinstance(outcome, HeadraceError) else "OK"
            ended.append(Ended(priority, came_at - started_at, reason, core.clock.monotonic() - came_at))

        try:
            core.handler.begin(REQUEST, Caller("acme", "r", "", TIMEOUT_S, priority), told)
        except HeadraceError as error:
            ended.append(Ended(priority, came_at - started_at, error.reason, core.clock.monotonic() - came_at))

    begun = 0
    for step in range(int(seconds / STEP_S)):
        while begun < per_s * step * STEP_S:
            begin(begun)
            begun += 1
        runner.step()
        core.clock.advance(STEP_S)
        if step % 25 == 0:
            core.handler.end_overdue()
            core.dispatcher.tick()
    return ended, runner.queued_max


async def test_five_times_too_many_calls_cost_no_goodput_and_are_refused_at_once() -> None:
    ended, _ = overload(per_s=5 / EXECUTION_S, seconds=20.0)
    reasons = Counter(end.reason for end in ended)
    assert reasons["OK"] >= 0.95 * 20.0 / EXECUTION_S, "only what the client still waits for is computed"
    assert all(end.after_s <= TIMEOUT_S for end in ended if end.reason == "OK")
    refused = [end for end in ended if end.reason in ("CONCURRENCY_EXCEEDED", "DEADLINE_UNREACHABLE")]
    assert len(refused) >= 0.75 * len(ended)
    assert all(end.after_s == 0.0 for end in refused)
    assert len(refused) == len(ended) - reasons["OK"], "nobody who was let in has waited in vain"


async def test_urgent_calls_are_answered_as_if_there_were_no_others() -> None:
    ended, _ = overload(per_s=5 / EXECUTION_S, seconds=10.0, urgent_share=0.1)
    urgent = [end for end in ended if end.priority == 8]
    assert len(urgent) >= 200
    assert {end.reason for end in urgent} == {"OK"}
    later = sorted(end.after_s for end in urgent if end.came_s > 2.0)
    assert later[int(0.99 * len(later))] <= 0.35, "the first burst has been worked off"
    answered = sum(end.reason == "OK" for end in ended)
    assert answered >= 0.9 * 10.0 / EXECUTION_S


async def test_the_queue_lies_in_the_gateway_and_not_at_the_runner() -> None:
    _, queued_max = overload(per_s=5 / EXECUTION_S, seconds=2.0)
    _, queued_later = overload(per_s=1.0 / EXECUTION_S, seconds=10.0)
    assert queued_max <= 32
    assert queued_later <= 12
