"""One inference between its admission and its one outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.errors import HeadraceError
from headrace_common.request_id import trace_id_of
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.runner_session import RunnerSession
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.model_access import Policies
from headrace_gateway.version_meters import VersionMeters

if TYPE_CHECKING:
    import asyncio

    from headrace_gateway.accounting.call_accounts import Account
    from headrace_gateway.accounting.records import Estimate
    from headrace_gateway.inference.generation.answer_parts import AnswerParts
    from headrace_gateway.inference.resilience.hedge import Hedge
    from headrace_gateway.inference.resilience.traffic import ReplicaTraffic
    from headrace_gateway.quota.reservation import Reservation

Outcome: TypeAlias = Answer | HeadraceError
Ended: TypeAlias = "Callable[[InferenceCall, Outcome], None]"


TIMEOUT_MAX_S = 86_400.0
"""No call waits longer than a day, whatever its client says."""


class Caller(NamedTuple):
    """Who calls, and until when the answer is wanted.

    Attributes:
        timeout_s: Time left of the client's deadline; None where it set none for this call.
        priority: 0 to 9, 9 is most urgent; None leaves it to the request's parameters.
        within_s: Time left of the stream that the call came by.
        subject: Which key or token it is, as the ledger says it.
        kind: How the call came, as the ledger says it.
        policies: What its key may do with models; empty means all that its roles allow.
    """

    tenant_id: str
    request_id: str
    traceparent: str
    timeout_s: float | None
    priority: int | None = None
    within_s: float = TIMEOUT_MAX_S
    subject: str = ""
    kind: str = "unary"
    policies: Policies = ()


@dataclass(slots=True, eq=False)
class InferenceCall:
    """A call and what has happened to it so far. Event loop only.

    Attributes:
        payload: The client's ModelInferRequest as it came, or a GenerateCall around its GenerateRequest.
        arrived_at: Reading of the monotonic clock, as `deadline` is, at which the answer is worth nothing any more.
        ended: Told once how the call ended; None when that was told or nobody wants to know any more.
        tag: Whatever `ended` knows the call by.
        finished: Told by whoever learns first how the call ended: the handler, which tells `ended`.
        routed: Told what a runner answered: the dispatcher, which may try another one.
        attempt: How often it was sent to some runner before.
        losses: How many of those attempts the loss of a runner ended; `last_error` is how the last one failed.
        refused_by: Tokens of the sessions that have refused it.
        session: Who has it now or had it last; `id` is its identifier there and `sent_at` when it went.
        replica: What is counted of it where it is; None while it is at no runner.
        hedge: A second copy under way.
        windowed: Whether it came by a stream or a batch, whose window bounds how many calls it may have open.
        waits_since: When it began to wait for a replica, 0 while it doesn't.
        retry_at: When its pause before a retry is over, 0 while there is none.
        latency_critical: Whether it may not be sent to a replica only because that one is cheap.
        parts: Takes parts of the answer; None for a call that is answered whole.
        parted: Told each part by the session that has the call: the dispatcher.
        kind: What the payload is.
        affinity: The same for calls that should go to the same replica; empty where any will do.
        places: How many of a replica's slots it takes.
        held_bytes: What the gateway holds for it, by its own count.
        sequence: Tells its sequence from others of the version, whose state a runner keeps; empty where it has none.
        sequence_start: Whether it begins it.
        request_bytes: Of the request as its client sent it.
        tokens_max: Tokens that each completion may have; 0 where the request doesn't say.
        sends: How often it went to a runner, copies included.
        account: What it is written down under; `estimate` is what it is expected to use.
        reservation: Its part of its tenant's limits; None while it has none.
        grant: Waits for that, if there was none at once.
        admitted_at: Reading of the monotonic clock when it was admitted; `row` is its number in the spool, 0 before
            that and after its end, and `row_text` what its row says of whose it is.
    """

    version: CatalogVersion
    request_id: str
    traceparent: str
    priority: int
    arrived_at: float
    deadline: float
    payload: bytes
    meters: VersionMeters
    ended: Ended | None
    tag: int
    finished: Ended
    routed: Ended | None = None
    attempt: int = 0
    losses: int = 0
    last_error: HeadraceError | None = None
    refused_by: frozenset[str] = frozenset()
    session: RunnerSession | None = None
    id: int = 0
    sent_at: float = 0.0
    replica: ReplicaTraffic | None = None
    hedge: Hedge | None = None
    windowed: bool = False
    waits_since: float = 0.0
    retry_at: float = 0.0
    latency_critical: bool = False
    sequence: str = ""
    sequence_start: bool = False
    parts: AnswerParts | None = None
    parted: Callable[[InferenceCall, bytes], None] | None = None
    kind: mesh_pb2.CallKind.ValueType = mesh_pb2.CALL_KIND_INFER
    affinity: bytes = b""
    places: int = 1
    held_bytes: int = 0
    request_bytes: int = 0
    tokens_max: int = 0
    sends: int = 0
    account: Account | None = None
    estimate: Estimate | None = None
    reservation: Reservation | None = None
    grant: asyncio.Task[None] | None = None
    admitted_at: float = 0.0
    row: int = 0
    row_text: bytes = b""

    @property
    def version_uid(self) -> str:
        """What a session counts it by."""
        return self.version.uid

    @property
    def streams(self) -> bool:
        """Whether its answer may come in parts."""
        return self.parts is not None

    def describe(self, into: mesh_pb2.Call) -> None:
        """Writes what a runner must know beside the payload."""
        version = self.version
        into.kind = self.kind
        into.tenant_id = version.tenant_id
        into.version_uid = version.uid
        into.timeout_ms = max(0, int((self.deadline - self.sent_at) * 1000))
        into.priority = self.priority
        into.request_id = self.request_id
        if self.traceparent:
            into.traceparent = self.traceparent

    def forget_request(self) -> bytes:
        """Lets go of the request of a call that has ended, which nobody counts any more, and returns it."""
        payload, self.payload = self.payload, b""
        if self.parts is not None:
            self.parts.request = b""
        return payload

    def part(self, payload: bytes) -> None:
        """What the session says that has the call, before the last part of the answer."""
        assert self.parted is not None, "a call is routed before it is sent"
        self.parted(self, payload)

    def answered(self, outcome: Outcome) -> None:
        """What the session says that has the call."""
        assert self.routed is not None, "a call is routed before it is sent"
        self.routed(self, outcome)


def accept_traceparent(value: str | bytes | None) -> str:
    """The caller's trace context, empty where it is absent or malformed."""
    return value if isinstance(value, str) and trace_id_of(value) else ""
