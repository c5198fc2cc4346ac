"""Which failed calls are tried again, and when."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from headrace_common.deadline_wheel import DeadlineWheel
from headrace_common.errors import HeadraceError
from headrace_gateway.inference.resilience import failures
from headrace_gateway.inference.resilience.backoff import backoff_s
from headrace_gateway.inference.resilience.retry_budget import RetryBudget

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall

_TICK_S = 0.025


class Retries:
    """Decides about each failure, and keeps the calls that pause. Pure: told the time; one event loop.

    Attributes:
        counts: Retries by the reason of the failure.
        denied: Retries that there was no budget for.
    """

    def __init__(self, *, budget: RetryBudget, random: Random) -> None:
        self.budget = budget
        self.counts: Counter[str] = Counter()
        self.denied = 0
        self._random = random
        self._paused: DeadlineWheel[InferenceCall] = DeadlineWheel(tick_s=_TICK_S)

    def allow(self, call: InferenceCall, error: HeadraceError) -> bool:
        """Counts the failed attempt; whether there may be another one.

        What is refused for load costs only once it is `moved`.

        A call of a sequence is never computed again, because its state may have moved on; it is only passed on to the
        next replica by one that does not know the sequence, or has no room for a new one, which costs no budget. What
        ends a call for good is the last failure, which says more than that there were several.
        """
        reason = error.reason
        if call.sequence:
            reasons = failures.START_ELSEWHERE if call.sequence_start else failures.ASK_NEXT
            call.attempt += 1
            return reason in reasons and call.attempt < failures.ASKS_MAX
        at_once = reason in failures.AT_ONCE
        # Nothing was computed, and a client that has a part of its answer is not to lose it for want of a place.
        patient = at_once and call.parts is not None and call.parts.begun
        if (
            reason not in failures.ELSEWHERE
            or call.attempt >= (failures.ASKS_MAX if patient else failures.RETRIES_MAX)
            or call.losses > failures.LOSSES_MAX
        ):
            return False
        if reason in failures.MOVES:
            self.budget.charge()
        elif self.budget.left < 1 if at_once else not self.budget.take():
            self.denied += 1
            return False
        call.attempt += 1
        call.last_error = error
        self.counts[reason] += not at_once
        return True

    def moved(self, call: InferenceCall, error: HeadraceError) -> None:
        """Another replica has taken a call that one has refused."""
        if error.reason in failures.AT_ONCE and not call.sequence:
            self.budget.take()
            self.counts[error.reason] += 1

    def pause(self, call: InferenceCall, error: HeadraceError, now: float) -> bool:
        """Lets the call pause where every replica has refused it; False when its deadline comes before that is over."""
        retry_at = now + backoff_s(call.attempt, self._random, hint_s=error.retry_after_s)
        if retry_at >= call.deadline:
            return False
        call.retry_at = retry_at
        self._paused.add(call, retry_at)
        return True

    def due(self, now: float) -> list[InferenceCall]:
        """Takes out the calls whose pause is over. Replicas that refused them may be asked again."""
        calls = self._paused.expired(now)
        for call in calls:
            call.retry_at = 0.0
            call.refused_by = frozenset()
        return calls

    def forget(self, call: InferenceCall) -> None:
        """The call has ended while it paused."""
        self._paused.discard(call, call.retry_at)
        call.retry_at = 0.0
