"""What a thread of a replica is given: executions, one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError
from headrace_runner.execution.batch_execution import BatchExecution, Executed
from headrace_runner.execution.pending_call import PendingCall
from headrace_runner.execution.scheduler import RUN_S


class Done(NamedTuple):
    """One execution that has ended, times as readings of the monotonic clock.

    Attributes:
        repeated: Whether it is of a call whose batch failed before.
    """

    calls: list[PendingCall]
    began_s: float
    executed: Executed
    ended_s: float
    repeated: bool


@dataclass(slots=True, eq=False)
class Run:
    """Batches that one thread executes.

    Attributes:
        done: What has been executed and not been answered.
        present: The batch that is executed now.
        began_s: When its present execution began; 0 before the first and after the last.
        given_up_s: When its callers were told that it takes too long; 0 while they were not.
    """

    batches: list[list[PendingCall]]
    done: deque[Done] = field(default_factory=deque[Done])
    present: list[PendingCall] | None = None
    began_s: float = 0.0
    given_up_s: float = 0.0


class RunExecution:
    """Executes runs, in threads, and tells the event loop when there is something to answer.

    A batch that fails is executed again call by call: then only the poisoned one fails.

    Args:
        execution: Executes one batch.
        tell: Called in the thread with the run and whether it has ended.
    """

    def __init__(self, *, execution: BatchExecution, clock: Clock, tell: Callable[[Run, bool], None]) -> None:
        self._execution = execution
        self._clock = clock
        self._tell = tell

    def execute(self, run: Run) -> None:
        """Executes what a run consists of, as far as somebody still waits for it."""
        told_s = self._clock.monotonic()
        for batch in run.batches:
            run.present = batch
            self._execute_batch(run, batch)
            now_s = self._clock.monotonic()
            if now_s - told_s > RUN_S and batch is not run.batches[-1]:
                self._tell(run, False)
                told_s = now_s
        run.began_s = 0.0
        self._tell(run, True)

    def _execute_batch(self, run: Run, batch: list[PendingCall]) -> None:
        executions, repeated = [batch], False
        while executions and not run.given_up_s:
            # Those that nobody waits for any more are not worth computing.
            calls = [pending for pending in executions.pop(0) if pending.ended is not None]
            if not calls:
                continue
            run.began_s = began_s = self._clock.monotonic()
            executed = self._execution.run([pending.request for pending in calls], calls[0].step)
            if isinstance(executed.payloads, HeadraceError) and len(calls) > 1:
                executions, repeated = [[pending] for pending in calls], True
                continue
            run.done.append(Done(calls, began_s, executed, self._clock.monotonic(), repeated))
