"""One model in memory that generates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from math import inf
from typing import ClassVar

import structlog

from headrace.gateway.v1.generation_pb2 import PromptProgress
from headrace.runner.internal.v1.mesh_pb2 import CallKind
from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.deadline_wheel import DeadlineWheel
from headrace_common.errors import HeadraceError, InferenceTimeout, ModelError
from headrace_runner.backends.generation import SEEDS, Generated, GenerativeModel, PromptDone
from headrace_runner.calls import Answer, Cancel, Ended, IncomingCall, Outcome
from headrace_runner.execution.failures import (
    deadline_over,
    deadline_passed,
    leaving,
    overloaded,
    too_long,
    waited_too_long,
)
from headrace_runner.execution.fair_queue import Waiting
from headrace_runner.execution.generation.answers import AnswerWriter, GenerateWriter, Timings, TritonWriter
from headrace_runner.execution.generation.output import Output
from headrace_runner.execution.generation.pending_generation import PendingGeneration
from headrace_runner.execution.generation.process_share import ProcessShare
from headrace_runner.execution.generation.request import (
    GenerationRequest,
    ModelLimits,
    as_sent,
    read_generate_call,
    tokens_left,
)
from headrace_runner.execution.generation.side_by_side import side_by_side
from headrace_runner.execution.generation.slot_scheduler import SlotScheduler
from headrace_runner.execution.generation.triton_request import read_triton_request
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.metrics import ReplicaMetrics
from headrace_runner.tensors.infer_response import ResponseWriter

_RETRY_AFTER_MIN_S = 0.05
_RETRY_AFTER_MAX_S = 5.0
# Weight of the newest call in moving averages.
_SMOOTHING = 0.05
_TICK_S = 0.025
# How long what was cancelled may take to stop before the model is freed under it.
_STOP_S = 1.0
# Prompts that the model splits into tokens at the same time: each takes a connection to its process.
_TOKENIZING_MAX = 8
# What comes in one turn of the event loop goes as one part, up to about so much.
_PART_BYTES = 64 << 10
_REFUSALS = (catalogue.RUNNER_OVERLOADED, catalogue.QUEUE_TIMEOUT, catalogue.RUNNER_DRAINING)


class GenerativeReplica:
    """Generates text with one model version, as many completions at once as it has slots.

    Event loop only. What is generated is sent as it comes, where the call takes parts; what comes in one turn of the
    event loop shares a part. A cancelled call stops the model, and has its slots until that is done.

    Args:
        model_name: Name of the model.
        model_version: Number of the version.
        model: The loaded model.
        policy: How calls wait.
        timeout_s: How long a call may have its slots; 0 means until its deadline.
        seeds: Gives seeds to calls without one.
        share: Of the model's process; None where it has none of its own.
    """

    kinds: ClassVar[frozenset[int]] = frozenset((CallKind.CALL_KIND_INFER, CallKind.CALL_KIND_GENERATE))

    def __init__(
        self,
        *,
        model_name: str,
        model_version: str,
        model: GenerativeModel,
        policy: SchedulingPolicy,
        timeout_s: float,
        clock: Clock,
        metrics: ReplicaMetrics,
        seeds: Callable[[], int],
        share: ProcessShare | None,
    ) -> None:
        self.queue_wait_s = 0.0
        self.calls = 0
        self._names = (model_name, model_version)
        self._name = f"{model_name}:{model_version}"
        self._model = model
        self._policy = policy
        self._timeout_s = timeout_s
        self._clock = clock
        self._metrics = metrics
        self._counts = metrics.generation
        self._counts.slots = model.slots
        self._seeds = seeds
        self._share = share
        self._limits = ModelLimits(name=self._name, slots=model.slots, context_length=model.context_length)
        self._tensors = ResponseWriter(model_name=model_name, model_version=model_version)
        # Of prompts, about what one sequence can have is computed at the same time; of texts, one in each slot.
        self._scheduler: SlotScheduler[PendingGeneration] = SlotScheduler(
            policy=policy, slots=model.slots, prompt_tokens_max=model.context_length
        )
        self._tokenizing = asyncio.Semaphore(_TOKENIZING_MAX)
        self._serving: set[PendingGeneration] = set()
        self._unanswered: set[PendingGeneration] = set()
        self._deadlines: DeadlineWheel[PendingGeneration] = DeadlineWheel(tick_s=_TICK_S)
        self._news: dict[PendingGeneration, None] = {}
        self._loop = asyncio.get_running_loop()
        self._ticking = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._run_s = 0.0
        self._log = structlog.stdlib.get_logger("generation")

    @property
    def slots(self) -> int:
        """Completions at the same time."""
        return self._model.slots

    @property
    def waiting(self) -> int:
        """Calls without slots."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Calls that have slots, those that are being stopped included."""
        return self._scheduler.running

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer, and those that are being stopped."""
        return len(self._serving)

    @property
    def executions(self) -> int:
        """Calls answered since the model was loaded."""
        return self._metrics.executions

    @property
    def busy(self) -> bool:
        """Whether any call is here."""
        return bool(self._serving)

    def begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        """Takes a call; `ended` is told later how it ended. Cancelling stops the model.

        Raises:
            TensorError, ValidationError, ModelError: The request can't be right (INVALID_ARGUMENT).
            InferenceTimeout: DEADLINE_ALREADY_OVER (DEADLINE_EXCEEDED).
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): the queue is full.
        """
        self.calls += 1
        try:
            pending = self._admit(call, ended)
        except HeadraceError as error:
            self._count(error)
            raise
        self._idle.clear()
        self._serving.add(pending)
        self._unanswered.add(pending)
        self._deadlines.add(pending, pending.leave_at)
        pending.task = self._loop.create_task(self._serve(pending), name=f"generate-{call.request_id}")
        pending.task.add_done_callback(partial(self._leave, pending))
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK_S, self._tick)
        return partial(self._cancel, pending)

    async def close(self, *, grace_s: float | None = None) -> bool:
        """Waits until no call is here, then frees the model. No call may come in any more.

        Args:
            grace_s: How long calls may go on. Then every call here fails with RUNNER_DRAINING (UNAVAILABLE). None waits
                for ever.

        Returns:
            Whether the model is free: always.
        """
        if not await self._idle_within(grace_s):
            for pending in list(self._unanswered):
                self._abandon(pending, leaving())
            if not await self._idle_within(_STOP_S):
                self._log.warning("generations do not end", model=self._name, running=self.running)
        await asyncio.to_thread(self._model.close)
        return True

    def _admit(self, call: IncomingCall, ended: Ended) -> PendingGeneration:
        now_s = self._clock.monotonic()
        if call.deadline <= now_s:
            raise deadline_over()
        request, writer = self._read(call)
        waits_max_s = self._policy.waits_max_s(call.priority)
        leave_at = min(call.deadline, now_s + waits_max_s) if waits_max_s else call.deadline
        pending = PendingGeneration(call, request, writer, now_s, leave_at, ended, self._loop.create_future())
        refusal = self._scheduler.enter(pending, priority=call.priority, payload_bytes=len(call.payload))
        if refusal is not None:
            raise overloaded(self._name, refusal, self._retry_after_s())
        return pending

    def _read(self, call: IncomingCall) -> tuple[GenerationRequest, AnswerWriter]:
        self._limits.check_payload(call.payload)
        if call.kind == CallKind.CALL_KIND_GENERATE:
            request = read_generate_call(call.payload, self._limits, self._seeds)
            name, version = self._names
            return request, GenerateWriter(request=request, model_name=name, model_version=version)
        request = read_triton_request(call.payload, self._limits, self._seeds)
        return request, TritonWriter(request=request, tensors=self._tensors)

    async def _serve(self, pending: PendingGeneration) -> None:
        """The work for one call, from its arrival until its slots are free again."""
        try:
            await self._generate(pending)
        except HeadraceError as error:
            self._end(pending, error)
        except Exception:  # noqa: BLE001 - a backend may raise anything
            self._log.exception("generation failed", model=self._name)
            self._end(pending, _failed(self._name))

    def _leave(self, pending: PendingGeneration, _: asyncio.Task[None]) -> None:
        """The work for a call is over, or was cancelled before it began."""
        # Not answered only where the event loop itself is coming to its end.
        self._end(pending, leaving())
        if pending.output is not None and pending.started_s:
            usage = pending.output.usage
            self._counts.computed_prompt_tokens += usage.prompt_tokens - usage.cached_prompt_tokens
            self._counts.cached_prompt_tokens += usage.cached_prompt_tokens
            self._run_s += _SMOOTHING * (self._clock.monotonic() - pending.started_s - self._run_s)
        self._scheduler.leave(pending)
        self._serving.discard(pending)
        self._fill()
        if not self._serving:
            self._idle.set()
            if self._share is not None:
                self._share.rest()

    async def _generate(self, pending: PendingGeneration) -> None:
        request = pending.request
        async with self._tokenizing:
            await self._model.check(request.sampling)
            prompt = await self._model.tokens_of(request.prompt)
        pending.output = Output(completions=request.completions, prompt_tokens=len(prompt))
        pending.max_tokens = tokens_left(request, len(prompt), self._limits)
        if not pending.max_tokens:
            pending.output.finish_all()
            self._finish(pending, pending.output, self._clock.monotonic())
            return
        pending.prompt = [*prompt, *request.emitted]
        self._queue(pending)
        await pending.slots
        if request.completions == 1:
            await self._complete(pending, pending.output, 0)
        else:
            numbers = range(request.completions)
            await side_by_side(*(self._complete(pending, pending.output, number) for number in numbers))

    def _queue(self, pending: PendingGeneration) -> None:
        call, completions = pending.call, pending.request.completions
        tokens = completions * (len(pending.prompt) + pending.max_tokens)
        waiting = Waiting(
            pending, call.tenant_id, call.priority, None, tokens, len(call.payload), call.deadline, pending.entered_s
        )
        self._scheduler.queue(waiting, slots=completions, prompt_tokens=len(pending.prompt))
        self._fill()

    def _fill(self) -> None:
        """Hands free slots to those whose turn it is."""
        now_s = self._clock.monotonic()
        for pending in self._scheduler.start(now_s):
            pending.started_s = now_s
            self.queue_wait_s += _SMOOTHING * (now_s - pending.entered_s - self.queue_wait_s)
            self._deadlines.discard(pending, pending.leave_at)
            pending.leave_at = min(pending.call.deadline, now_s + (self._timeout_s or inf))
            self._deadlines.add(pending, pending.leave_at)
            pending.slots.set_result(None)
        self._counts.slots_used = self._scheduler.used
        self._counts.prompt_tokens = self._scheduler.prompt_tokens
        self._counts.waiting_tokens = self._scheduler.waiting_tokens

    async def _complete(self, pending: PendingGeneration, output: Output, number: int) -> None:
        """Makes one completion in one slot."""
        asked = pending.request.sampling
        sampling = replace(asked, max_tokens=pending.max_tokens, seed=(asked.seed + number) % SEEDS)
        left, finish = len(pending.prompt), None
        async with aclosing(self._model.generate(pending.prompt, sampling)) as events:
            async for event in events:
                if left:
                    # What the model knows from before counts as computed.
                    computed = event.computed_tokens if isinstance(event, PromptDone) else len(pending.prompt)
                    before, left = left, min(left, max(0, len(pending.prompt) - computed))
                    self._scheduler.computed(pending, before - left)
                    self._fill()
                self._take(pending, output, number, event)
                finish = event.finish if isinstance(event, Generated) else None
                if finish is not None:
                    break
        if finish is None:
            self._log.error("a completion has no end", model=self._name)
            raise _failed(self._name)
        self._scheduler.release(pending)
        self._fill()

    def _take(self, pending: PendingGeneration, output: Output, number: int, event: PromptDone | Generated) -> None:
        now_s = self._clock.monotonic()
        if isinstance(event, PromptDone):
            output.computed(event)
        else:
            first = not output.first_token_s
            gap_s = output.take(number, event, now_s)
            self._counts.took(event, gap_s)
            if first and output.first_token_s:
                self._counts.first_token.observe(now_s - pending.entered_s)
        if output.finished:
            self._finish(pending, output, now_s)
        elif output.unsent_bytes > _PART_BYTES:
            self._send(pending)
        elif output.due and pending.request.streams and pending.call.emit is not None:
            if not self._news:
                # What else comes in this turn of the event loop goes with it.
                self._loop.call_soon(self._send_news)
            self._news[pending] = None

    def _send_news(self) -> None:
        news, self._news = self._news, {}
        for pending in news:
            if not self._sent(pending):
                self._abandon(pending, _failed(self._name))

    def _sent(self, pending: PendingGeneration) -> bool:
        """Sends what has come; whatever goes wrong there is no other call's concern."""
        try:
            self._send(pending)
        except Exception:  # noqa: BLE001 - what one caller does with its answer is no other's concern
            self._log.exception("a part of an answer could not be sent", model=self._name)
            return False
        return True

    def _send(self, pending: PendingGeneration) -> None:
        """Sends what has come of a call whose caller is still there."""
        emit, output, request = pending.call.emit, pending.output, pending.request
        if pending.ended is None or emit is None or output is None or not request.streams:
            return
        computed = output.drain_progress()
        progress = None
        if computed is not None and request.report_progress:
            progress = PromptProgress(prompt_tokens=output.prompt_tokens, computed_tokens=computed)
        part = pending.writer.part(output.drain(), progress)
        if part is not None:
            emit(part)

    def _finish(self, pending: PendingGeneration, output: Output, now_s: float) -> None:
        """Answers a call as its last token comes; the model may still be stopping."""
        started_s = pending.started_s or now_s
        queue_s = started_s - pending.entered_s
        first_s = output.first_token_s or now_s
        timings = Timings(queue_s, first_s - pending.entered_s, output.last_token_s - output.first_token_s)
        payload = pending.writer.end(output.drain(), output.usage, timings)
        self._end(pending, Answer(payload, int(queue_s * 1e6), int((now_s - started_s) * 1e6)))

    def _cancel(self, pending: PendingGeneration) -> None:
        if pending.ended is not None:
            self._metrics.calls["cancelled"] += 1
            self._forget(pending)
            self._stop(pending)

    def _abandon(self, pending: PendingGeneration, error: HeadraceError) -> None:
        self._end(pending, error)
        self._stop(pending)

    def _stop(self, pending: PendingGeneration) -> None:
        if not pending.started_s:
            self._scheduler.leave(pending)
            self._fill()
        if pending.task is not None:
            pending.task.cancel()

    def _end(self, pending: PendingGeneration, outcome: Outcome) -> None:
        """Tells the caller, if it has neither been told nor left."""
        if isinstance(outcome, HeadraceError) and pending.ended is not None:
            self._sent(pending)
            # A backend knows neither what its model is called nor what its caller sent.
            if "model" in outcome.entry.context:
                outcome.context.setdefault("model", self._name)
            as_sent(outcome, pending.request)
        ended = pending.ended
        if ended is not None:
            self._forget(pending)
            self._count(outcome)
            try:
                ended(outcome)
            except Exception:  # noqa: BLE001 - what one caller does with its answer is no other's concern
                self._log.exception("caller failed", model=self._name)

    def _forget(self, pending: PendingGeneration) -> None:
        pending.ended = None
        self._unanswered.discard(pending)
        self._deadlines.discard(pending, pending.leave_at)

    def _count(self, outcome: Outcome) -> None:
        metrics = self._metrics
        if isinstance(outcome, Answer):
            metrics.calls["ok"] += 1
            metrics.queue_wait.observe(outcome.queue_us / 1e6)
            metrics.compute.observe(outcome.compute_us / 1e6)
            metrics.execution.observe(outcome.compute_us / 1e6)
        elif isinstance(outcome, InferenceTimeout):
            metrics.calls["expired"] += 1
        elif outcome.entry in _REFUSALS:
            metrics.calls["refused"] += 1
        else:
            metrics.calls["invalid" if outcome.entry.http < 500 else "failed"] += 1

    def _tick(self) -> None:
        """Ends what is over time, by its deadline or the queue's."""
        now_s = self._clock.monotonic()
        try:
            for pending in self._deadlines.expired(now_s):
                self._abandon(pending, self._lateness(pending, now_s))
            if self._share is not None and self._scheduler.used:
                self._share.look(now_s)
        finally:
            self._ticking = bool(self._unanswered)
            if self._ticking:
                self._loop.call_later(_TICK_S, self._tick)

    def _lateness(self, pending: PendingGeneration, now_s: float) -> HeadraceError:
        if pending.call.deadline <= now_s:
            return deadline_passed(self._name, executing=bool(pending.started_s))
        if pending.started_s:
            return too_long(self._name, self._timeout_s)
        return waited_too_long(self._name, pending.leave_at - pending.entered_s, self._retry_after_s())

    async def _idle_within(self, within_s: float | None) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _retry_after_s(self) -> float:
        """When a good part of what waits will have been generated."""
        wait_s = self._scheduler.waiting / self.slots * self._run_s
        return min(max(wait_s, _RETRY_AFTER_MIN_S), _RETRY_AFTER_MAX_S)


def _failed(name: str) -> ModelError:
    return ModelError(f"{name} failed to generate", entry=catalogue.MODEL_EXECUTION_FAILED, context={"model": name})
