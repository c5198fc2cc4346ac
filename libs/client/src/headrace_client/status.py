"""Restores typed failures from `google.rpc.Status`, wherever it arrives: at the end of an RPC, or inside a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from headrace_client import failures
from headrace_client.contracts.google.rpc import error_details_pb2, status_pb2
from headrace_client.endings import is_replaced
from headrace_client.errors import HeadraceError, InternalError, UnreachableError, error_class
from headrace_client.failures import Failure

_DOMAIN = "headrace"
_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# What a status without Headrace's details means: transports and proxies send those.
_BARE: dict[grpc.StatusCode, Failure] = {
    grpc.StatusCode.CANCELLED: failures.CALL_CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED: failures.CALL_TIMEOUT,
    grpc.StatusCode.INVALID_ARGUMENT: failures.REQUEST_MALFORMED,
    grpc.StatusCode.PERMISSION_DENIED: failures.ROLE_FORBIDDEN,
    grpc.StatusCode.RESOURCE_EXHAUSTED: failures.MESSAGE_TOO_LARGE,
    grpc.StatusCode.UNAUTHENTICATED: failures.CREDENTIAL_UNKNOWN,
    grpc.StatusCode.UNIMPLEMENTED: failures.METHOD_UNKNOWN,
}

_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def from_status(status: status_pb2.Status) -> HeadraceError:
    """The failure that a status names; the general one of its gRPC code where the details are not Headrace's."""
    info: error_details_pb2.ErrorInfo | None = None
    retry: error_details_pb2.RetryInfo | None = None
    field: str | None = None
    for detail in status.details:
        try:
            kind = detail.TypeName()
            if kind == "google.rpc.ErrorInfo":
                candidate = error_details_pb2.ErrorInfo.FromString(detail.value)
                info = candidate if candidate.domain == _DOMAIN else info
            elif kind == "google.rpc.RetryInfo":
                retry = error_details_pb2.RetryInfo.FromString(detail.value)
            elif kind == "google.rpc.BadRequest":
                violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
                field = violations[0].field if violations else None
        except DecodeError:
            continue
    grpc_code = _CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    if info is None:
        return _bare(grpc_code, status.message)
    context = dict(info.metadata)
    request_id = context.pop("correlation_id", None)
    failure = Failure(context.pop("code", info.reason), info.reason, grpc_code, retry is not None)
    return error_class(failure)(
        status.message,
        failure,
        context=context,
        retry_after_s=None if retry is None else retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9,
        field=field,
        request_id=request_id,
    )


def from_status_bytes(serialised: bytes) -> HeadraceError:
    """As `from_status`; damaged bytes are an InternalError."""
    try:
        return from_status(status_pb2.Status.FromString(serialised))
    except DecodeError:
        return InternalError("the mesh answered with a damaged status")


def from_rpc_error(error: grpc.RpcError, *, endpoint: str) -> HeadraceError:
    """The failure that ended an RPC. Without details from a mesh, UNAVAILABLE means that none was reached.

    So does CANCELLED: what this side cancels ends with `asyncio.CancelledError`, a mesh that cancels says why, and grpc
    ends calls so that reach a server as it stops.
    """
    rpc: Any = error
    code: grpc.StatusCode = rpc.code() or grpc.StatusCode.UNKNOWN
    trailing: dict[str, str | bytes] = dict(_pairs(rpc.trailing_metadata()))
    details = trailing.get(_DETAILS_KEY)
    if isinstance(details, bytes):
        restored = from_status_bytes(details)
    elif code in _UNANSWERED or is_replaced(rpc):
        restored = UnreachableError(f"no mesh answers at {endpoint}", context={"endpoint": endpoint})
    else:
        restored = _bare(code, rpc.details() or "")
    request_id = trailing.get(_REQUEST_ID_KEY)
    if restored.request_id is None and isinstance(request_id, str):
        restored.request_id = request_id
    return restored


def _bare(code: grpc.StatusCode, text: str) -> HeadraceError:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = "the call's time was over before it had ended"  # gRPC has several words of its own for that.
    known = _BARE.get(code)
    if known is None:
        failure = Failure(failures.INTERNAL_ERROR.code, failures.INTERNAL_ERROR.reason, code)
        return error_class(failure)(f"the call ended with {code.name}: {text}", failure)
    return error_class(known)(text or f"the call ended with {code.name}", known)


def _pairs(metadata: Any) -> Iterable[tuple[str, str | bytes]]:
    return metadata if metadata is not None else ()
