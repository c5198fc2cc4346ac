"""One model in memory that answers calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, InferenceTimeout, ModelError, RunnerUnavailable
from headrace_common.lanes import PayloadParts
from headrace_runner.backends.contract import Interruptible, LoadedModel
from headrace_runner.calls import Answer, Cancel, Ended, IncomingCall, Outcome
from headrace_runner.execution.slots import ExecutionSlots
from headrace_runner.metrics import ReplicaMetrics
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import InferRequest
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.parameters import read_parameters
from headrace_runner.tensors.request_reader import RequestReader
from headrace_runner.tensors.signature import Signature

_RETRY_AFTER_MIN_S = 0.05
_RETRY_AFTER_MAX_S = 2.0
# Weight of the newest execution in the moving average that retry hints are made of.
_SMOOTHING = 0.1
# A thread is given calls for about so long at once, and tells what it has done at least so often.
_RUN_S = 0.001
_RUN_CALLS_MAX = 64
# How long an execution that is interrupted may take to notice.
_INTERRUPT_S = 1.0
_INTERRUPT_AGAIN_S = 0.05


@dataclass(slots=True, eq=False)
class _Pending:
    """A call between its arrival and its outcome.

    `ended` is None once the caller was told or has left, which may be before the execution ends.
    """

    request: InferRequest
    outputs: tuple[str, ...]
    entered_s: float
    ended: Ended | None
    timer: asyncio.TimerHandle | None = None
    started_s: float = 0.0


class _Executed(NamedTuple):
    """What came of one execution."""

    pending: _Pending
    ended_s: float
    outcome: tuple[bytes | PayloadParts, float, float] | HeadraceError
    """The answer's bytes, and the seconds in which tensors were read and written."""


class Replica:
    """Executes calls of one model version in threads, as many at once as it has slots.

    Event loop only, but for what runs in the threads. A failing call fails alone.

    Args:
        name: Model and version for messages.
        model: The loaded model.
        signature: What requests must fit.
        writer: Makes the answers.
        slots: Slots and queue; its `slots` is also the number of threads.
        batched: Whether the first axis of every tensor counts rows.
    """

    def __init__(
        self,
        *,
        name: str,
        model: LoadedModel,
        signature: Signature,
        writer: ResponseWriter,
        slots: ExecutionSlots[_Pending],
        batched: bool,
        clock: Clock,
        metrics: ReplicaMetrics,
    ) -> None:
        self.signature = signature
        self._requests = RequestReader(signature)
        self._name = name
        self._model = model
        self._writer = writer
        self._slots = slots
        self._batched = batched
        self._clock = clock
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(max_workers=slots.slots, thread_name_prefix=f"infer-{name}")
        self._compute_s = 0.0
        self._unanswered: set[_Pending] = set()
        self._loop = asyncio.get_running_loop()
        self._filling = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._log = structlog.stdlib.get_logger("execution")

    @property
    def slots(self) -> int:
        """Executions at the same time."""
        return self._slots.slots

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._slots.waiting

    @property
    def running(self) -> int:
        """Slots that execute, also for callers that have gone."""
        return self._slots.running

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits."""
        return self._slots.busy

    def begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        """Takes a call; `ended` is told later how it ended.

        Cancelling takes it out of the queue; an execution that has begun runs to its end.

        Raises:
            TensorError, ValidationError: The request doesn't fit the model (INVALID_ARGUMENT).
            InferenceTimeout: DEADLINE_ALREADY_OVER (DEADLINE_EXCEEDED).
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): the queue is full.
        """
        try:
            pending = self._admit(call, ended)
        except HeadraceError as error:
            self._count(error)
            raise
        self._idle.clear()
        self._unanswered.add(pending)
        if not self._filling:
            # Once per turn of the event loop, so that calls that came in one frame can leave in one run.
            self._filling = True
            self._loop.call_soon(self._fill)
        return partial(self._cancel, pending)

    def _admit(self, call: IncomingCall, ended: Ended) -> _Pending:
        now_s = self._clock.monotonic()
        if call.deadline <= now_s:
            raise InferenceTimeout(
                "the call's deadline was over before its execution could begin", entry=catalogue.DEADLINE_ALREADY_OVER
            )
        request, outputs = self._requests.read(call.payload)
        pending = _Pending(request, outputs, now_s, ended)
        if not self._slots.enter(pending, len(call.payload), call.deadline):
            raise self._overloaded()
        pending.timer = self._loop.call_later(call.deadline - now_s, self._expire, pending)
        return pending

    def _cancel(self, pending: _Pending) -> None:
        if pending.ended is not None:
            self._metrics.calls["cancelled"] += 1
            self._forget(pending)

    def _end(self, pending: _Pending, outcome: Outcome) -> None:
        """Tells the caller, if it has neither been told nor left."""
        ended = pending.ended
        if ended is not None:
            self._forget(pending)
            self._count(outcome)
            ended(outcome)

    def _forget(self, pending: _Pending) -> None:
        pending.ended = None
        self._unanswered.discard(pending)
        if pending.timer is not None:
            pending.timer.cancel()
        if self._slots.leave(pending):
            self._rest()

    def _count(self, outcome: Outcome) -> None:
        metrics = self._metrics
        if isinstance(outcome, Answer):
            metrics.calls["ok"] += 1
            metrics.queue_wait.observe(outcome.queue_us / 1e6)
            metrics.compute.observe(outcome.compute_us / 1e6)
        elif isinstance(outcome, InferenceTimeout):
            metrics.calls["expired"] += 1
        elif isinstance(outcome, RunnerUnavailable):
            metrics.calls["refused"] += 1
        else:
            metrics.calls["invalid" if outcome.entry.http < 500 else "failed"] += 1

    async def close(self, *, grace_s: float | None = None) -> bool:
        """Waits until no execution runs, then frees the model. No call may come in any more.

        Args:
            grace_s: How long executions may go on. Then every call here fails with RUNNER_DRAINING (UNAVAILABLE), and
                what still runs is interrupted. None waits for ever.

        Returns:
            Whether the model is free. Otherwise it still executes, about a second after the grace.
        """
        if not await self._idle_within(grace_s):
            self._fail_all()
            if not await self._interrupted():
                self._log.warning("executions do not end", model=self._name, running=self.running)
                self._threads.shutdown(wait=False)
                return False
        await asyncio.to_thread(self._close)
        return True

    def _close(self) -> None:
        self._threads.shutdown(wait=True)
        self._model.close()

    async def _idle_within(self, within_s: float | None) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _interrupted(self) -> bool:
        """Interrupts again and again: an execution that was about to begin may have missed it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _INTERRUPT_S
        ended = False
        while not ended and loop.time() < deadline:
            if isinstance(self._model, Interruptible):
                self._model.interrupt()
            ended = await self._idle_within(_INTERRUPT_AGAIN_S)
        return ended

    def _fail_all(self) -> None:
        for pending in list(self._unanswered):
            self._end(
                pending, RunnerUnavailable("the runner that had the call is leaving", entry=catalogue.RUNNER_DRAINING)
            )

    def _fill(self) -> None:
        """Hands what waits to the slots that are free."""
        self._filling = False
        while self._slots.startable:
            now_s = self._clock.monotonic()
            run, expired = self._slots.start(now_s, self._run_max())
            for late in expired:
                self._expire(late)
            for pending in run:
                pending.started_s = now_s
            if run:
                self._threads.submit(self._execute, run, self._loop.call_soon_threadsafe)
        self._rest()

    def _run_max(self) -> int:
        """Calls that a thread is given at once: short ones share the cost of waking it, long ones share nothing."""
        if not self._compute_s:
            return 1
        return max(1, min(_RUN_CALLS_MAX, int(_RUN_S / self._compute_s)))

    def _execute(self, run: list[_Pending], on_loop: Callable[..., object]) -> None:
        """Runs in a thread of this replica."""
        executed: list[_Executed] = []
        told_s = self._clock.monotonic()
        for pending in run:
            executed.append(self._executed(pending))
            now_s = executed[-1].ended_s
            if pending is run[-1] or now_s - told_s > _RUN_S:
                on_loop(self._take, executed, pending is run[-1])
                executed, told_s = [], now_s

    def _executed(self, pending: _Pending) -> _Executed:
        outcome: tuple[bytes | PayloadParts, float, float] | HeadraceError = (b"", 0.0, 0.0)
        try:
            if pending.ended is not None:
                pending.started_s = self._clock.monotonic()
                outcome = self._compute(pending)
        except HeadraceError as failure:
            outcome = failure
        except BaseException as failure:  # noqa: BLE001 - a backend may raise anything; the slot must come back
            self._log.error("backend failed", model=self._name, exc_info=failure)
            outcome = ModelError(
                "the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED
            )
        return _Executed(pending, self._clock.monotonic(), outcome)

    def _compute(self, pending: _Pending) -> tuple[bytes | PayloadParts, float, float]:
        request = pending.request
        inputs = {tensor.name: to_array(tensor) for tensor in request.inputs}
        parameters = read_parameters(request.parameters) if request.parameters else {}
        read_s = self._clock.monotonic()
        arrays = self._model.infer(inputs, pending.outputs, parameters)
        inferred_s = self._clock.monotonic()
        specs = self.signature.outputs
        payload = self._writer.write(
            request.id,
            [(name, specs[name].datatype, array) for name, array in zip(pending.outputs, arrays, strict=True)],
            request.form,
        )
        return payload, read_s - pending.started_s, self._clock.monotonic() - inferred_s

    def _take(self, run: list[_Executed], ended: bool) -> None:
        """Back on the event loop: answers what was executed, and starts what waits when the slot is free."""
        for pending, ended_s, outcome in run:
            if isinstance(outcome, HeadraceError):
                self._end(pending, outcome)
            elif pending.ended is not None:
                self._answer(pending, ended_s, *outcome)
        if ended:
            self._slots.finish()
            self._fill()

    def _answer(
        self, pending: _Pending, ended_s: float, payload: bytes | PayloadParts, input_s: float, output_s: float
    ) -> None:
        compute_s = ended_s - pending.started_s
        self._compute_s += _SMOOTHING * (compute_s - self._compute_s) if self._compute_s else compute_s
        shape = pending.request.inputs[0].shape if self._batched else ()
        self._end(
            pending,
            Answer(
                payload,
                int((pending.started_s - pending.entered_s) * 1e6),
                int(compute_s * 1e6),
                int(input_s * 1e6),
                int(output_s * 1e6),
                shape[0] if shape else 1,
            ),
        )

    def _expire(self, pending: _Pending) -> None:
        if pending.ended is not None:
            where = "executing" if pending.started_s else "waiting for an execution slot"
            self._end(
                pending,
                InferenceTimeout(
                    f"the deadline of the call to {self._name} passed while it was {where}",
                    entry=catalogue.INFERENCE_TIMEOUT,
                    context={"model": self._name},
                ),
            )

    def _rest(self) -> None:
        if not self._slots.busy:
            self._idle.set()

    def _overloaded(self) -> RunnerUnavailable:
        wait_s = self._slots.waiting * self._compute_s / self._slots.slots
        return RunnerUnavailable(
            f"the queue of {self._name} is full with {self._slots.waiting} calls on this runner",
            entry=catalogue.RUNNER_OVERLOADED,
            context={"model": self._name, "limit": self._slots.waiting},
            retry_after_s=min(max(wait_s, _RETRY_AFTER_MIN_S), _RETRY_AFTER_MAX_S),
        )
