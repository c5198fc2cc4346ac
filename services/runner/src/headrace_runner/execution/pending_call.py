"""A call that a replica has."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_runner.calls import Ended
from headrace_runner.execution.fair_queue import Waiting
from headrace_runner.execution.sequences import SequenceStep
from headrace_runner.tensors.request_reader import CheckedRequest


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call between its arrival and its outcome.

    `ended` is None once the caller was told or has left, which may be before the execution ends. `waiting` and `step`
    are of a call that belongs to a sequence: what it enters the queue with in its turn, and its state.
    """

    request: CheckedRequest
    entered_s: float
    deadline: float
    leave_at: float
    ended: Ended | None
    started_s: float = 0.0
    waiting: Waiting[PendingCall] | None = None
    step: SequenceStep | None = None
