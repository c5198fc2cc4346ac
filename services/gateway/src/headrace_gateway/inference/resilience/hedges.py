"""Second copies of calls whose first replica takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_common.deadline_wheel import DeadlineWheel
from headrace_gateway.inference.resilience.hedge import Hedge, HedgeAnswered
from headrace_gateway.inference.resilience.replica_health import ReplicaHealth
from headrace_gateway.inference.resilience.retry_budget import RetryBudget
from headrace_gateway.inference.resilience.traffic import ReplicaTraffic
from headrace_gateway.mesh.session_calls import Answer

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall

_TICK_S = 0.025


class Hedges:
    """Plans copies, sends them and takes them back. One event loop.

    Attributes:
        sent: Copies that were sent.
        won: Those of them that answered first.
    """

    def __init__(self, *, budget: RetryBudget, health: ReplicaHealth) -> None:
        self.sent = 0
        self.won = 0
        self._budget = budget
        self._health = health
        self._planned: DeadlineWheel[InferenceCall] = DeadlineWheel(tick_s=_TICK_S)

    def plan(self, call: InferenceCall, due_at: float) -> None:
        """The call was sent, and gets a copy when it has no answer by then."""
        self._planned.add(call, due_at)

    def due(self, now: float) -> list[InferenceCall]:
        """Takes out the calls that are to get a copy now: those that still are at their first replica."""
        return [call for call in self._planned.expired(now) if call.replica is not None and not call.attempt]

    def send(self, call: InferenceCall, replica: ReplicaTraffic, now: float, answered: HedgeAnswered) -> None:
        """Sends the copy, if the retry budget allows it."""
        if self._budget.take():
            hedge = call.hedge = Hedge(call=call, replica=replica, sent_at=now, routed=answered)
            replica.began(now)
            hedge.id = replica.session.calls.send(hedge)
            call.sends += 1
            self.sent += 1

    def win(self, hedge: Hedge, answer: Answer, now: float) -> None:
        """The copy has answered before the call's own replica, which is told to stop."""
        call, replica = hedge.call, hedge.replica
        self.won += 1
        self._health.answered(replica, answer, hedge.sent_at, now)
        first, call.replica = call.replica, None
        if first is not None:
            self._health.unknown(first, call.sent_at)
            first.ended()
            first.session.calls.leave(call.id)
        call.session = replica.session

    def drop(self, call: InferenceCall) -> None:
        """The call has ended: its copy is cancelled, if it has one."""
        hedge, call.hedge = call.hedge, None
        if hedge is not None:
            self._health.unknown(hedge.replica, hedge.sent_at)
            hedge.replica.ended()
            hedge.replica.session.calls.leave(hedge.id)
