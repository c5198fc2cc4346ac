"""What crosses the line between the mesh sessions and the models: one call in, perhaps parts and one outcome out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from headrace.runner.internal.v1.mesh_pb2 import CallKind
from headrace_common.errors import HeadraceError
from headrace_common.lanes import PayloadParts

Emit: TypeAlias = Callable[[bytes], None]
"""Sends a part of a call's answer: at most so many bytes as travel inline, and only until its caller was told how it
ended. A call of which too much is unsent is cancelled meanwhile."""


class IncomingCall(NamedTuple):
    """One call as it came from a gateway.

    Attributes:
        tenant_id: Tenant that the call belongs to; must own the version.
        version_uid: Identifier of the model version (UUID).
        request_id: For logs.
        traceparent: W3C trace context, empty when the call is not traced.
        priority: 0 to 9, 9 is most urgent.
        attempt: How often the call was sent to some runner before, from 0.
        deadline: End of the call's time as a reading of the monotonic clock, in seconds.
        payload: A serialised message, by `kind` an `inference.ModelInferRequest` or a `GenerateCall`.
        emit: Takes parts of the answer; None where nobody takes any.
    """

    tenant_id: str
    version_uid: str
    request_id: str
    traceparent: str
    priority: int
    attempt: int
    deadline: float
    payload: bytes | bytearray | memoryview
    kind: CallKind.ValueType = CallKind.CALL_KIND_INFER
    emit: Emit | None = None


class Answer(NamedTuple):
    """The result of a call, times in microseconds.

    Attributes:
        payload: A serialised message, of the kind that answers the call's; a large one in parts.
        queue_us: Time that the call waited for an execution slot.
        compute_us: Time of its execution; in `input_us` and `output_us` of it tensors were read and written.
        rows: Rows of the execution, over all calls that shared it.
        batch_calls: Calls that shared it.
        leads_batch: Whether the call counts for the execution: one of them does.
        share_us: The call's part of `compute_us`, by its rows; None means all of it.
    """

    payload: bytes | PayloadParts
    queue_us: int
    compute_us: int
    input_us: int = 0
    output_us: int = 0
    rows: int = 1
    batch_calls: int = 1
    leads_batch: bool = True
    share_us: int | None = None


Outcome: TypeAlias = Answer | HeadraceError
Ended: TypeAlias = Callable[[Outcome], None]
"""Told once, on the event loop, how a call ended."""
Cancel: TypeAlias = Callable[[], None]
"""Nobody waits for a call any more: it is told nothing. Does nothing when the call has ended."""
