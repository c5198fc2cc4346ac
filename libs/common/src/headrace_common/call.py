"""What a servicer's method learns about the call that it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio

from headrace_common import catalogue
from headrace_common.errors import AuthError
from headrace_common.principal import Principal
from headrace_common.request_id import REQUEST_ID_KEY, TRACEPARENT_KEY, accept_request_id, trace_id_of

MetadataMap = Mapping[str, str | bytes]
"""Invocation metadata by lower-case key; of a repeated key the last value counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One RPC as a servicer sees it.

    Attributes:
        method: `/package.Service/Method`.
        metadata: What the caller sent, credentials included: don't log it.
        request_id: The caller's id, or one made here.
        trace_id: From `traceparent`, where there is a valid one.
        deadline_s: `time.monotonic()` value at which the call ends; None for an unbounded stream.
        context: grpc's own context, for initial metadata and the peer. Don't call its `abort`: raise instead.
    """

    method: str
    metadata: MetadataMap
    request_id: str
    trace_id: str | None
    deadline_s: float | None
    context: grpc.aio.ServicerContext[Any, Any]
    caller: Principal | None

    @property
    def principal(self) -> Principal:
        """The authenticated caller.

        Raises:
            AuthError: CREDENTIAL_MISSING (UNAUTHENTICATED): the service has no authenticator.
        """
        if self.caller is None:
            raise AuthError("the call carries no credential", entry=catalogue.CREDENTIAL_MISSING)
        return self.caller

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, never negative; None for an unbounded stream."""
        return None if self.deadline_s is None else max(self.deadline_s - time.monotonic(), 0.0)


def metadata_map(metadata: Any) -> dict[str, str | bytes]:
    """Turns grpc's metadata pairs into a map."""
    return dict(metadata) if metadata is not None else {}


def request_id_of(metadata: MetadataMap) -> str:
    """The call's request id: the caller's where well-formed, else a new one."""
    return accept_request_id(metadata.get(REQUEST_ID_KEY))


def trace_of(metadata: MetadataMap) -> str | None:
    """The call's trace id, where the caller sent a valid `traceparent`."""
    return trace_id_of(metadata.get(TRACEPARENT_KEY))
