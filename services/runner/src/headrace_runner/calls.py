"""What crosses the line between the mesh sessions and the models: one call in, one answer out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """One inference call as it came from a gateway.

    Attributes:
        tenant_id: Tenant that the call belongs to; must own the version.
        version_uid: Identifier of the model version (UUID).
        request_id: For logs.
        traceparent: W3C trace context, empty when the call is not traced.
        priority: 0 to 9, 9 is most urgent.
        attempt: How often the call was sent to some runner before, from 0.
        deadline: End of the call's time as a reading of the monotonic clock, in seconds.
        payload: A serialised `inference.ModelInferRequest`.
    """

    tenant_id: str
    version_uid: str
    request_id: str
    traceparent: str
    priority: int
    attempt: int
    deadline: float
    payload: bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a call.

    Attributes:
        payload: A serialised `inference.ModelInferResponse`.
        queue_us: Time that the call waited for an execution slot, in microseconds.
        compute_us: Time of its execution, decoding and encoding of tensors included, in microseconds.
    """

    payload: bytes
    queue_us: int
    compute_us: int
