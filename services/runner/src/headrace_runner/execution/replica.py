"""One model in memory that answers calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, InferenceTimeout, ModelError, RunnerUnavailable
from headrace_runner.backends.contract import Interruptible, LoadedModel
from headrace_runner.calls import Answer, IncomingCall
from headrace_runner.execution.slots import ExecutionSlots
from headrace_runner.metrics import ReplicaMetrics
from headrace_runner.tensors.elements import to_array
from headrace_runner.tensors.infer_request import InferRequest, read_infer_request
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.parameters import read_parameters
from headrace_runner.tensors.signature import Signature

_RETRY_AFTER_MIN_S = 0.05
_RETRY_AFTER_MAX_S = 2.0
# Weight of the newest execution in the moving average that retry hints are made of.
_SMOOTHING = 0.1
# How long an execution that is interrupted may take to notice.
_INTERRUPT_S = 1.0
_INTERRUPT_AGAIN_S = 0.05


@dataclass(slots=True, eq=False)
class _Pending:
    """A call between its arrival and its answer. `answer` may be over, by cancel or deadline, while it executes."""

    request: InferRequest
    outputs: tuple[str, ...]
    entered_s: float
    answer: asyncio.Future[Answer]
    started_s: float = field(default=0.0)


class Replica:
    """Executes calls of one model version, each in a thread, as many at once as it has slots.

    Event loop only, but for what runs in the threads. A failing call fails alone.

    Args:
        name: Model and version for messages.
        model: The loaded model.
        signature: What requests must fit.
        writer: Makes the answers.
        slots: Slots and queue; its `slots` is also the number of threads.
    """

    def __init__(
        self,
        *,
        name: str,
        model: LoadedModel,
        signature: Signature,
        writer: ResponseWriter,
        slots: ExecutionSlots[_Pending],
        clock: Clock,
        metrics: ReplicaMetrics,
    ) -> None:
        self.signature = signature
        self._name = name
        self._model = model
        self._writer = writer
        self._slots = slots
        self._clock = clock
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(max_workers=slots.slots, thread_name_prefix=f"infer-{name}")
        self._compute_s = 0.0
        self._unanswered: set[_Pending] = set()
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
        """Executions that run, also those whose caller has gone."""
        return self._slots.running

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits."""
        return self._slots.busy

    async def infer(self, call: IncomingCall) -> Answer:
        """Answers one call. Cancelling it takes it out of the queue; an execution that has begun runs to its end.

        Raises:
            TensorError, ValidationError: The request doesn't fit the model (INVALID_ARGUMENT).
            InferenceTimeout: DEADLINE_ALREADY_OVER or INFERENCE_TIMEOUT (DEADLINE_EXCEEDED).
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): the queue is full.
            ModelError: MODEL_EXECUTION_FAILED (INTERNAL).
        """
        try:
            answer = await self._infer(call)
        except asyncio.CancelledError:
            self._metrics.cancelled.inc()
            raise
        except InferenceTimeout:
            self._metrics.expired.inc()
            raise
        except RunnerUnavailable:
            self._metrics.refused.inc()
            raise
        except HeadraceError as error:
            (self._metrics.invalid if error.entry.http < 500 else self._metrics.failed).inc()
            raise
        self._metrics.succeeded.inc()
        self._metrics.queue_wait.observe(answer.queue_us / 1e6)
        self._metrics.compute.observe(answer.compute_us / 1e6)
        return answer

    async def _infer(self, call: IncomingCall) -> Answer:
        now_s = self._clock.monotonic()
        if call.deadline <= now_s:
            raise InferenceTimeout(
                "the call's deadline was over before its execution could begin", entry=catalogue.DEADLINE_ALREADY_OVER
            )
        request = read_infer_request(call.payload)
        outputs = self.signature.check(request)
        loop = asyncio.get_running_loop()
        pending = _Pending(request, outputs, now_s, loop.create_future())
        admitted = self._slots.enter(pending, len(call.payload), call.deadline)
        if admitted is None:
            raise self._overloaded()
        self._idle.clear()
        self._unanswered.add(pending)
        if admitted:
            self._start(pending)
        timer = loop.call_later(call.deadline - now_s, self._expire, pending)
        try:
            return await pending.answer
        finally:
            timer.cancel()
            self._unanswered.discard(pending)
            if self._slots.leave(pending):
                self._rest()

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
        for pending in self._unanswered:
            if not pending.answer.done():
                pending.answer.set_exception(
                    RunnerUnavailable("the runner that had the call is leaving", entry=catalogue.RUNNER_DRAINING)
                )

    def _start(self, pending: _Pending) -> None:
        pending.started_s = self._clock.monotonic()
        loop = pending.answer.get_loop()
        self._threads.submit(self._execute, pending, loop.call_soon_threadsafe)

    def _execute(self, pending: _Pending, on_loop: Callable[..., object]) -> None:
        """Runs in a thread of this replica."""
        payload = b""
        error: HeadraceError | None = None
        try:
            if not pending.answer.done():
                payload = self._compute(pending)
        except HeadraceError as failure:
            error = failure
        except BaseException as failure:  # noqa: BLE001 - a backend may raise anything; the slot must come back
            self._log.error("backend failed", model=self._name, exc_info=failure)
            error = ModelError(
                "the model failed while it computed this request", entry=catalogue.MODEL_EXECUTION_FAILED
            )
        on_loop(self._ended, pending, payload, error)

    def _compute(self, pending: _Pending) -> bytes:
        request = pending.request
        inputs = {tensor.name: to_array(tensor) for tensor in request.inputs}
        parameters = read_parameters(request.parameters) if request.parameters else {}
        arrays = self._model.infer(inputs, pending.outputs, parameters)
        specs = self.signature.outputs
        return self._writer.write(
            request.id,
            [(name, specs[name].datatype, array) for name, array in zip(pending.outputs, arrays, strict=True)],
            request.form,
        )

    def _ended(self, pending: _Pending, payload: bytes, error: HeadraceError | None) -> None:
        now_s = self._clock.monotonic()
        compute_s = now_s - pending.started_s
        self._compute_s += _SMOOTHING * (compute_s - self._compute_s) if self._compute_s else compute_s
        following, expired = self._slots.finish(now_s)
        for late in expired:
            self._expire(late)
        if following is not None:
            self._start(following)
        self._rest()
        if pending.answer.done():
            return
        if error is not None:
            pending.answer.set_exception(error)
        else:
            queue_us = int((pending.started_s - pending.entered_s) * 1e6)
            pending.answer.set_result(Answer(payload, queue_us, int(compute_s * 1e6)))

    def _expire(self, pending: _Pending) -> None:
        if not pending.answer.done():
            where = "executing" if pending.started_s else "waiting for an execution slot"
            pending.answer.set_exception(
                InferenceTimeout(
                    f"the deadline of the call to {self._name} passed while it was {where}",
                    entry=catalogue.INFERENCE_TIMEOUT,
                    context={"model": self._name},
                )
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
