"""The second copy of a call whose first replica takes its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_common.lanes import LaneViolation
from headrace_gateway.inference.resilience.traffic import ReplicaTraffic
from headrace_gateway.mesh.session_calls import Answer

if TYPE_CHECKING:
    from headrace_gateway.inference.call import InferenceCall

HedgeAnswered: TypeAlias = "Callable[[Hedge, Answer | HeadraceError], None]"


class Hedge:
    """One more attempt of a call while another one is under way; a call as a session sees it. Event loop only.

    Source: Dean and Barroso, "The Tail at Scale", 2013.

    Args:
        call: What is hedged.
        replica: Where this copy goes.
        sent_at: When it goes.
        routed: Told the answer, unless the copy is cancelled.
    """

    __slots__ = ("_routed", "attempt", "call", "id", "payload", "replica", "sent_at", "version_uid")
    streams = False
    places = 1

    def __init__(self, *, call: InferenceCall, replica: ReplicaTraffic, sent_at: float, routed: HedgeAnswered) -> None:
        self.call = call
        self.replica = replica
        self.sent_at = sent_at
        self.payload = call.payload
        self.version_uid = call.version_uid
        self.attempt = call.attempt + 1
        self.id = 0
        self._routed = routed

    def describe(self, into: mesh_pb2.Call) -> None:
        """Writes what a runner must know beside the payload."""
        self.call.describe(into)
        into.timeout_ms = max(0, int((self.call.deadline - self.sent_at) * 1000))

    def part(self, payload: bytes) -> None:
        """Never told: calls that are answered in parts are not hedged."""
        del payload
        raise LaneViolation("a second copy has its answer whole")

    def answered(self, outcome: Answer | HeadraceError) -> None:
        """What the session says that has the copy."""
        self._routed(self, outcome)
