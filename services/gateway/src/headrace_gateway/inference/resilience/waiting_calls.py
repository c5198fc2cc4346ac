"""The calls that wait for a replica: how many may, in whose turn they are, and which is given up for another."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from headrace_common import catalogue
from headrace_common.errors import RouteUnavailable
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.resilience.priority_line import PriorityLine
from headrace_gateway.inference.resilience.traffic import ModelTraffic
from headrace_gateway.inference.resilience.turns import Turns

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall


class WaitingCalls:
    """Places for waiting calls, and the turns of their models. Pure but for the calls; everything is O(1).

    A unary call needs a place in the waiting room of its tenant and of its model. A call of a stream or batch waits in
    the tenant's hall: the stream's own window bounds how many it has, and a client that has filled it waits itself.

    Attributes:
        models: Those with waiting calls, and whether each takes turns: one without a replica does not.
    """

    def __init__(self, *, limits: ResilienceLimits) -> None:
        self._limits = limits
        self._in_halls = 0
        self._turns: Turns[ModelTraffic] = Turns()
        self.models: dict[ModelTraffic, bool] = {}

    def admit(self, call: InferenceCall, model: ModelTraffic) -> InferenceCall | None:
        """Sees to it that there is a place for one more call, and returns the one that has to make room, if any.

        The caller ends that call, having taken it out with `leave`, before it lets the new one `enter`.

        Raises:
            RouteUnavailable: CONCURRENCY_EXCEEDED (RESOURCE_EXHAUSTED): no place, and none that waits is less urgent.
        """
        limits, tenant = self._limits, model.tenant
        if call.windowed:
            if self._in_halls >= limits.stream_calls_max or len(tenant.hall) >= limits.stream_calls_max // 2:
                return self._least_urgent(call, tenant.hall, "stream_calls", limits.stream_calls_max // 2)
            return None
        room = limits.waiting_room
        # A model's place is one of its tenant's, too.
        if model.sent + len(model.room) >= limits.model_calls_max + room:
            return self._least_urgent(call, model.room, "model", limits.model_calls_max + room)
        if tenant.sent + len(tenant.room) >= limits.tenant_calls_max + room:
            return self._least_urgent(call, tenant.room, "tenant", limits.tenant_calls_max + room)
        return None

    def enter(self, call: InferenceCall, model: ModelTraffic, now: float, *, front: bool = False) -> None:
        """The call waits from now on, in front of its equals if it was let in before."""
        priority, came = call.priority, call.arrived_at
        call.waits_since = now
        if not model.line:
            self.models[model] = False
        model.line.push(call, priority, came, front=front)
        if call.windowed:
            model.tenant.hall.push(call, priority, came, front=front)
            self._in_halls += 1
        else:
            model.tenant.room.push(call, priority, came, front=front)
            model.room.push(call, priority, came, front=front)

    def leave(self, call: InferenceCall, model: ModelTraffic) -> None:
        """The call waits no longer, because it is sent or has ended."""
        priority = call.priority
        call.waits_since = 0.0
        model.line.remove(call, priority)
        if call.windowed:
            model.tenant.hall.remove(call, priority)
            self._in_halls -= 1
        else:
            model.tenant.room.remove(call, priority)
            model.room.remove(call, priority)
        if not model.line and self.models.pop(model):
            self._turns.leave(model, model.tenant.id)

    def sent(self, call: InferenceCall, model: ModelTraffic) -> None:
        """The call was sent: it leaves, and others have their turn first."""
        self._turns.served(model, model.tenant.id)
        self.leave(call, model)

    def set_turning(self, model: ModelTraffic, turning: bool) -> None:
        """Whether the model has a replica, so that it is worth looking at when a place is free."""
        if self.models[model] is not turning:
            self.models[model] = turning
            if turning:
                self._turns.join(model, model.tenant.id)
            else:
                self._turns.leave(model, model.tenant.id)

    def next(self, tenants: int) -> list[ModelTraffic]:
        """The models whose turn it is, one of each of so many tenants."""
        return self._turns.first(tenants)

    def passed(self, model: ModelTraffic) -> None:
        """No replica takes a call of the model now."""
        if self.models.get(model):
            self._turns.passed(model, model.tenant.id)

    def all_turning_in(self, models: Container[ModelTraffic]) -> bool:
        """Whether all models that take turns are among these."""
        return all(model in models for model, turning in self.models.items() if turning)

    def _least_urgent(
        self, call: InferenceCall, line: PriorityLine[InferenceCall], scope: str, limit: int
    ) -> InferenceCall:
        victim = line.least_urgent(below=call.priority)
        if victim is None:
            raise RouteUnavailable(
                f"{_WHAT[scope]} has {limit} calls open, which is as many as it may; none that waits is less urgent",
                entry=catalogue.CONCURRENCY_EXCEEDED,
                context={"scope": scope, "limit": limit},
            )
        return victim


_WHAT = {"tenant": "the tenant", "model": "the model", "stream_calls": "the waiting line of streams and batches"}


def shed(priority: int) -> RouteUnavailable:
    """What a call ends with that has to make room."""
    return RouteUnavailable(
        f"a more urgent request took the place of this one of priority {priority}",
        entry=catalogue.LOAD_SHED,
        context={"priority": priority},
    )
