"""One model in memory that answers calls."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import ClassVar

import structlog

from headrace.runner.internal.v1.mesh_pb2 import CallKind
from headrace_common.clock import Clock
from headrace_common.deadline_wheel import DeadlineWheel
from headrace_common.errors import HeadraceError, InferenceTimeout, RunnerUnavailable
from headrace_runner.backends.contract import Interruptible, LoadedModel
from headrace_runner.calls import Answer, Cancel, Ended, IncomingCall, Outcome
from headrace_runner.execution.batch_execution import BatchExecution
from headrace_runner.execution.failures import (
    deadline_over,
    deadline_passed,
    instance_lost,
    leaving,
    overloaded,
    too_long,
    too_many_rows,
    unreachable,
    waited_too_long,
)
from headrace_runner.execution.fair_queue import Waiting
from headrace_runner.execution.instances import Instances
from headrace_runner.execution.pending_call import PendingCall
from headrace_runner.execution.policy import SchedulingPolicy
from headrace_runner.execution.runs import Done, Run, RunExecution
from headrace_runner.execution.scheduler import Scheduler
from headrace_runner.execution.sequence_policy import SequencePolicy
from headrace_runner.execution.sequence_turns import SequenceTurns
from headrace_runner.execution.sequences import Sequences, SequenceStep
from headrace_runner.execution.tenant_use import TenantUse
from headrace_runner.execution.time_shares import time_shares_us
from headrace_runner.metrics import ReplicaMetrics
from headrace_runner.processing.processing import Processing
from headrace_runner.tensors.infer_response import ResponseWriter
from headrace_runner.tensors.request_reader import RequestReader
from headrace_runner.tensors.signature import Signature

_RETRY_AFTER_MIN_S = 0.05
_RETRY_AFTER_MAX_S = 2.0
# Weight of the newest call in the moving average of the time in the queue.
_SMOOTHING = 0.05
_TICK_S = 0.01
# How long an execution that is interrupted may take to notice.
_INTERRUPT_S = 1.0
_INTERRUPT_AGAIN_S = 0.05


class Replica:
    """Executes calls of one model version in threads, as many executions at once as it has slots.

    Event loop only, but for what runs in the threads. A failing call fails alone: a batch that fails is executed again
    call by call. An execution that takes longer than it may is interrupted, and its thread replaced if that is in vain.

    Args:
        name: Model and version for messages.
        tenant_id: Whose model it is.
        use: What all tenants have computed on this runner.
        model: The loaded model.
        signature: What requests must fit.
        writer: Makes the answers.
        policy: How calls wait and are put together.
        batched: Whether the first axis of every tensor counts rows.
        sequences: The state that is kept for sequences; None for a model without.
        processing: What is done before and after the model; None for nothing.
    """

    kinds: ClassVar[frozenset[int]] = frozenset((CallKind.CALL_KIND_INFER,))

    def __init__(
        self,
        *,
        name: str,
        tenant_id: str,
        use: TenantUse,
        model: LoadedModel,
        signature: Signature,
        writer: ResponseWriter,
        policy: SchedulingPolicy,
        batched: bool,
        clock: Clock,
        metrics: ReplicaMetrics,
        sequences: SequencePolicy | None = None,
        processing: Processing | None = None,
    ) -> None:
        self.signature = signature
        self.queue_wait_s = 0.0
        self.calls = 0
        self._requests = RequestReader(signature, batched=batched)
        self._name = name
        self._tenant_id = tenant_id
        self._use = use
        self._model = model
        self._policy = policy
        self._scheduler: Scheduler[PendingCall] = Scheduler(policy=policy)
        self._execution = BatchExecution(
            name=name, model=model, signature=signature, writer=writer, clock=clock, processing=processing
        )
        self._clock = clock
        self._metrics = metrics
        runs = RunExecution(execution=self._execution, clock=clock, tell=self._tell)
        self._instances: Instances[Run] = Instances(name=name, execute=runs.execute)
        self._runs: set[Run] = set()
        self._unanswered: set[PendingCall] = set()
        self._deadlines: DeadlineWheel[PendingCall] = DeadlineWheel(tick_s=_TICK_S)
        self._loop = asyncio.get_running_loop()
        self._filling = False
        self._ticking = False
        self._waking: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._turns: SequenceTurns[PendingCall] | None = None
        if sequences is not None:
            kept: Sequences[PendingCall] = Sequences(policy=sequences, counts=metrics.sequences)
            self._turns = SequenceTurns(sequences=kept, clock=clock, proceed=self._proceed)
        self._log = structlog.stdlib.get_logger("execution")

    @property
    def slots(self) -> int:
        """Executions at the same time."""
        return self._scheduler.slots

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Slots that execute, also for callers that have gone."""
        return self._scheduler.running

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer, and those that execute though nobody waits for them any more."""
        left = sum(pending.ended is None for run in self._runs for batch in run.batches for pending in batch)
        return len(self._unanswered) + left

    @property
    def executions(self) -> int:
        """Executions since the model was loaded."""
        return self._metrics.executions

    @property
    def busy(self) -> bool:
        """Whether a call runs or waits, or a sequence has its state here."""
        return self._scheduler.busy or (self._turns is not None and self._turns.any)

    def begin(self, call: IncomingCall, ended: Ended) -> Cancel:
        """Takes a call; `ended` is told later how it ended.

        Cancelling takes it out of the queue; an execution that has begun runs to its end.

        Raises:
            TensorError, ValidationError: The request doesn't fit the model (INVALID_ARGUMENT).
            InferenceTimeout: DEADLINE_ALREADY_OVER, DEADLINE_UNREACHABLE (DEADLINE_EXCEEDED).
            RunnerUnavailable: RUNNER_OVERLOADED (RESOURCE_EXHAUSTED): the queue is full.
        """
        self.calls += 1
        try:
            pending = self._admit(call, ended)
        except HeadraceError as error:
            self._count(error)
            raise
        self._unanswered.add(pending)
        self._deadlines.add(pending, pending.leave_at)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK_S, self._tick)
        return partial(self._cancel, pending)

    def _admit(self, call: IncomingCall, ended: Ended) -> PendingCall:
        now_s = self._clock.monotonic()
        if call.deadline <= now_s:
            raise deadline_over()
        request = self._requests.read(call.payload)
        rows_max = self._policy.rows_max
        if rows_max and request.kind.rows > rows_max:
            raise too_many_rows(self._name, request.kind.rows, rows_max)
        needed_s = self._scheduler.needed_s(request.kind.rows, now_s)
        if now_s + needed_s >= call.deadline:
            raise unreachable(self._name, needed_s)
        waits_max_s = self._policy.waits_max_s(call.priority)
        leave_at = min(call.deadline, now_s + waits_max_s) if waits_max_s else call.deadline
        pending = PendingCall(request, now_s, call.deadline, leave_at, ended)
        group = request.kind.group if self._execution.splits else None
        waiting = Waiting(
            pending,
            call.tenant_id,
            call.priority,
            group,
            max(1, request.kind.rows),
            len(call.payload),
            call.deadline,
            now_s,
        )
        if self._turns is not None and request.kind.request.sequence is not None:
            pending.step = self._turns.enter(pending, request.kind.request)
            pending.waiting = waiting
            if pending.step is None:
                return pending
        try:
            self._enter(waiting)
        except HeadraceError:
            self._leave_sequence(pending)
            raise
        return pending

    def _enter(self, waiting: Waiting[PendingCall]) -> None:
        refusal = self._scheduler.enter(waiting)
        if refusal is not None:
            raise overloaded(self._name, refusal, self._retry_after_s())
        self._idle.clear()
        if not self._filling:
            # Once per turn of the event loop, so that calls that came in one frame can share an execution.
            self._filling = True
            self._loop.call_soon(self._fill)

    def _proceed(self, pending: PendingCall, step: SequenceStep | HeadraceError) -> None:
        """The turn of a call has come that had to wait for others of its sequence."""
        assert pending.waiting is not None, "it belongs to a sequence"
        if isinstance(step, HeadraceError):
            self._end(pending, step)
            return
        pending.step = step
        try:
            self._enter(pending.waiting)
        except HeadraceError as error:
            self._end(pending, error)

    def _leave_sequence(self, pending: PendingCall) -> None:
        if pending.waiting is not None and self._turns is not None:
            pending.waiting = None
            self._turns.leave(pending, pending.request.kind.request)

    def _cancel(self, pending: PendingCall) -> None:
        if pending.ended is not None:
            self._metrics.calls["cancelled"] += 1
            self._forget(pending)

    def _end(self, pending: PendingCall, outcome: Outcome) -> None:
        """Tells the caller, if it has neither been told nor left."""
        ended = pending.ended
        if ended is not None:
            self._forget(pending)
            self._count(outcome)
            try:
                ended(outcome)
            except Exception:  # noqa: BLE001 - what one caller does with its answer is no other's concern
                self._log.exception("caller failed", model=self._name)

    def _forget(self, pending: PendingCall) -> None:
        pending.ended = None
        self._unanswered.discard(pending)
        self._deadlines.discard(pending, pending.leave_at)
        left = not pending.started_s and self._scheduler.leave(pending)
        self._leave_sequence(pending)
        if left:
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
            self._forget_sequences()
            if not await self._interrupted():
                self._log.warning("executions do not end", model=self._name, running=self.running)
                self._instances.stop()
                return False
        self._forget_sequences()
        await asyncio.to_thread(self._close)
        return True

    def _forget_sequences(self) -> None:
        if self._turns is not None:
            self._turns.close()

    def _close(self) -> None:
        self._instances.stop()
        self._instances.join()
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
            self._interrupt()
            ended = await self._idle_within(_INTERRUPT_AGAIN_S)
        return ended

    def _fail_all(self) -> None:
        for pending in list(self._unanswered):
            self._end(pending, leaving())

    def _fill(self) -> None:
        """Hands what waits to the slots that are free."""
        self._filling = False
        scheduler = self._scheduler
        now_s = self._clock.monotonic()
        while (started := scheduler.start(now_s)) is not None:
            for late in started.late:
                self._end_late(late, now_s)
            if not started.batches:
                break
            for batch in started.batches:
                for pending in batch:
                    pending.started_s = now_s
            self._submit(Run(started.batches), now_s)
        self._wake_at(scheduler.wake_at, now_s)
        self._rest()

    def _submit(self, run: Run, now_s: float) -> None:
        self._runs.add(run)
        try:
            self._instances.submit(run, background=self._use.is_above(self._tenant_id, now_s))
        except RuntimeError:
            # The system gives this process no more threads.
            self._log.exception("no thread for an execution", model=self._name)
            self._runs.discard(run)
            self._scheduler.finish()
            for pending in [pending for batch in run.batches for pending in batch]:
                self._end(pending, instance_lost())

    def _wake_at(self, wake_at: float | None, now_s: float) -> None:
        """Looks again when a batch has waited for company for as long as it may."""
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        if wake_at is not None:
            self._waking = self._loop.call_later(max(0.0, wake_at - now_s), self._fill)

    def _tell(self, run: Run, ended: bool) -> None:
        """Called in a thread of this replica, which may outlive the event loop where it can't be stopped."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, run, ended)

    def _take(self, run: Run, ended: bool) -> None:
        """Back on the event loop: answers what was executed, and starts what waits when the slot is free."""
        try:
            while run.done:
                self._answer(run.done.popleft(), run)
        finally:
            if ended and run in self._runs:
                self._runs.discard(run)
                self._instances.ended(run)
                self._scheduler.finish()
                self._fill()

    def _answer(self, done: Done, run: Run) -> None:
        calls, executed = done.calls, done.executed
        metrics = self._metrics
        metrics.executions_repeated += done.repeated
        compute_s = done.ended_s - done.began_s
        self._use.used(self._tenant_id, compute_s, done.ended_s)
        payloads = executed.payloads
        if isinstance(payloads, HeadraceError):
            for pending in calls:
                self._end(pending, payloads)
            return
        if executed.rows:
            if not run.given_up_s:
                self._scheduler.observe(executed.rows, compute_s, done.ended_s)
            metrics.batch_rows.observe(executed.rows)
            metrics.execution.observe(compute_s)
        times_us = (int(compute_s * 1e6), int(executed.input_s * 1e6), int(executed.output_s * 1e6))
        shares_us = time_shares_us(
            times_us[0],
            [
                0 if isinstance(payload, HeadraceError) else pending.request.kind.rows
                for pending, payload in zip(calls, payloads, strict=True)
            ],
        )
        leads = True
        for pending, payload, share_us in zip(calls, payloads, shares_us, strict=True):
            if pending.ended is None:
                continue
            if isinstance(payload, HeadraceError):
                self._end(pending, payload)
                continue
            if self._turns is not None and pending.waiting is not None:
                failure = self._turns.commit(pending, pending.request.kind.request)
                if failure is not None:
                    self._end(pending, failure)
                    continue
            queue_s = done.began_s - pending.entered_s
            self.queue_wait_s += _SMOOTHING * (queue_s - self.queue_wait_s)
            queue_us = int(queue_s * 1e6)
            self._end(pending, Answer(payload, queue_us, *times_us, executed.rows, len(calls), leads, share_us))
            leads = False

    def _tick(self) -> None:
        """Ends what is over time: calls by their deadlines or the queue's, executions by the watchdog's."""
        now_s = self._clock.monotonic()
        try:
            for pending in self._deadlines.expired(now_s):
                self._end_late(pending, now_s)
            for run in tuple(self._runs):
                # Those that were quick don't wait for one of the same run that is not.
                self._take(run, False)
                self._watch(run, now_s)
        finally:
            self._ticking = bool(self._unanswered or self._runs)
            if self._ticking:
                self._loop.call_later(_TICK_S, self._tick)

    def _watch(self, run: Run, now_s: float) -> None:
        timeout_s = self._policy.timeout_s
        if not run.began_s or now_s - run.began_s < timeout_s:
            return
        if not run.given_up_s:
            run.given_up_s = now_s
            self._metrics.executions_given_up += 1
            self._log.warning("execution takes too long", model=self._name, timeout_s=timeout_s)
            for batch in run.batches:
                failure = too_long(self._name, timeout_s) if batch is run.present else instance_lost()
                for pending in batch:
                    self._end(pending, failure)
        if now_s - run.given_up_s < _INTERRUPT_S:
            self._interrupt(self._instances.thread_of(run))
        elif self._instances.replace(run):
            self._log.error("execution can't be stopped; another thread takes its place", model=self._name)
            self._runs.discard(run)
            self._scheduler.finish()
            self._fill()

    def _interrupt(self, thread_id: int | None = None) -> None:
        if isinstance(self._model, Interruptible):
            try:
                self._model.interrupt(thread_id)
            except Exception:  # noqa: BLE001 - a backend may raise anything
                self._log.exception("backend could not interrupt", model=self._name)

    def _end_late(self, pending: PendingCall, now_s: float) -> None:
        if pending.deadline <= now_s:
            self._end(pending, deadline_passed(self._name, executing=bool(pending.started_s)))
        elif pending.started_s:
            # Only its time in the queue was bounded, and that is over.
            self._deadlines.add(pending, pending.deadline)
            pending.leave_at = pending.deadline
        elif pending.leave_at <= now_s:
            waited_s = pending.leave_at - pending.entered_s
            self._end(pending, waited_too_long(self._name, waited_s, self._retry_after_s()))
        else:
            self._end(pending, unreachable(self._name, self._scheduler.fit.predict(pending.request.kind.rows)))

    def _rest(self) -> None:
        if not self._scheduler.busy:
            self._idle.set()

    def _retry_after_s(self) -> float:
        """When a good part of what waits will have been executed."""
        scheduler = self._scheduler
        rows = self._policy.batch_rows
        wait_s = scheduler.waiting / rows * scheduler.fit.predict(rows) / scheduler.slots
        return min(max(wait_s, _RETRY_AFTER_MIN_S), _RETRY_AFTER_MAX_S)
