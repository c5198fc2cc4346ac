"""The one table between catalogue failures and `google.rpc.Status`, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.errors import ContextValue, HeadraceError, InternalError, error_class

DOMAIN = "headrace"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# A peer drops trailing metadata above 8 KiB and its client sees a broken transport instead of the failure. On the way
# the message grows to three times its bytes (percent-encoding) and the status to four thirds (base64), so both are
# bounded here in bytes of UTF-8: 3 * 512 B + 4/3 * 4 KiB < 8 KiB. Texts come from callers, in any script.
_MESSAGE_BYTES_MAX = 512
_VALUE_BYTES_MAX = 128
_CONTEXT_BYTES_MAX = 2_048
_CONTEXT_VALUES_MAX = 16

_CODE_BY_NAME: dict[str, grpc.StatusCode] = {code.name: code for code in grpc.StatusCode}
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# What a bare gRPC status means when its sender attached no details: transports and foreign servers send those.
_ENTRY_BY_CODE: dict[str, tuple[CatalogueEntry, str]] = {
    # A caller that cancels doesn't look for a status: grpc ends calls so that reach a server as it stops.
    "CANCELLED": (catalogue.UPSTREAM_UNAVAILABLE, "the service went away before it took the call"),
    "DEADLINE_EXCEEDED": (catalogue.CALL_TIMEOUT, "the call did not finish within its deadline"),
    "UNAVAILABLE": (catalogue.UPSTREAM_UNAVAILABLE, "the service can't be reached"),
    "UNIMPLEMENTED": (catalogue.METHOD_UNKNOWN, "the server does not have this method"),
    "RESOURCE_EXHAUSTED": (catalogue.MESSAGE_TOO_LARGE, "the message is larger than the peer accepts"),
    "UNAUTHENTICATED": (catalogue.CREDENTIAL_UNKNOWN, "the server did not accept the credential"),
    "PERMISSION_DENIED": (catalogue.ROLE_FORBIDDEN, "the server does not allow this call"),
    "INVALID_ARGUMENT": (catalogue.REQUEST_MALFORMED, "the server did not accept the request"),
}


def grpc_code(entry: CatalogueEntry) -> grpc.StatusCode:
    return _CODE_BY_NAME[entry.grpc]


def from_exception(error: BaseException, correlation_id: str) -> HeadraceError:
    """A catalogue failure as it is; anything else as INTERNAL with the correlation id and no detail."""
    if isinstance(error, HeadraceError):
        return error
    return InternalError(
        f"internal error; correlation id {correlation_id}",
        context={"correlation_id": correlation_id},
        correlation_id=correlation_id,
    )


def to_status(error: BaseException, correlation_id: str = "") -> status_pb2.Status:
    """Maps any failure to the wire: `ErrorInfo` always, `RetryInfo`, `QuotaFailure`, `BadRequest` where they apply.

    At most 4 KiB serialised: long texts are cut at a character, and context that does not fit is left out.
    """
    failure = from_exception(error, correlation_id)
    entry = failure.entry
    info = error_details_pb2.ErrorInfo(reason=entry.reason, domain=DOMAIN)
    info.metadata.update(_bounded_context(failure.context))
    info.metadata["code"] = entry.code
    if failure.correlation_id or correlation_id:
        info.metadata["correlation_id"] = _cut(failure.correlation_id or correlation_id)
    status = status_pb2.Status(code=grpc_code(entry).value[0], message=_cut(failure.message, _MESSAGE_BYTES_MAX))
    _attach(status, info)
    if entry.retry is not None:
        retry = error_details_pb2.RetryInfo()
        delay_s = entry.retry.initial_s if failure.retry_after_s is None else failure.retry_after_s
        retry.retry_delay.FromNanoseconds(int(delay_s * 1e9))
        _attach(status, retry)
    if entry.family == "QUOTA" and entry.grpc == "RESOURCE_EXHAUSTED":
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(
            subject=_cut(_text(failure.context.get("quotaType", entry.reason))), description=_cut(failure.message)
        )
        _attach(status, quota)
    if failure.field is not None:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=_cut(failure.field))
        _attach(status, bad)
    return status


def from_status(status: status_pb2.Status) -> HeadraceError:
    """Restores the typed failure. A reason that this version doesn't know becomes the status code's general failure."""
    info: error_details_pb2.ErrorInfo | None = None
    retry_after_s: float | None = None
    field: str | None = None
    for detail in status.details:
        try:
            kind = detail.TypeName()
            if kind == "google.rpc.ErrorInfo":
                candidate = error_details_pb2.ErrorInfo.FromString(detail.value)
                info = candidate if candidate.domain == DOMAIN else info
            elif kind == "google.rpc.RetryInfo":
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                retry_after_s = delay.seconds + delay.nanos / 1e9
            elif kind == "google.rpc.BadRequest":
                violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
                field = violations[0].field if violations else None
        except DecodeError:
            continue
    entry = catalogue.BY_REASON.get(info.reason) if info is not None else None
    if info is None or entry is None:
        return from_bare_code(_CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN), retry_after_s)
    context: dict[str, ContextValue] = {key: value for key, value in info.metadata.items() if key != "code"}
    correlation_id = context.pop("correlation_id", None)
    return error_class(entry)(
        status.message,
        entry=entry,
        context=context,
        retry_after_s=retry_after_s,
        field=field,
        correlation_id=str(correlation_id) if correlation_id is not None else None,
    )


def from_status_bytes(serialised: bytes) -> HeadraceError:
    """Restores the typed failure from a serialised `google.rpc.Status`; damaged bytes become INTERNAL."""
    try:
        return from_status(status_pb2.Status.FromString(serialised))
    except DecodeError:
        return InternalError("the service answered with a damaged status")


def from_bare_code(code: grpc.StatusCode, retry_after_s: float | None = None) -> HeadraceError:
    """The general failure for a status without our details; the peer's text is not passed on."""
    known = _ENTRY_BY_CODE.get(code.name)
    if known is None:
        return InternalError(f"the service answered {code.name} without details")
    entry, message = known
    return error_class(entry)(message, entry=entry, retry_after_s=retry_after_s)


def from_rpc_error(error: grpc.RpcError) -> HeadraceError:
    """Restores the typed failure from what a stub raised."""
    rpc: Any = error
    for key, value in _pairs(rpc.trailing_metadata()):
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    return from_bare_code(rpc.code() or grpc.StatusCode.UNKNOWN)


def trailing_details(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the details."""
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: BaseException,
    correlation_id: str = "",
    *,
    trailing: tuple[tuple[str, str | bytes], ...] = (),
) -> NoReturn:
    """Ends the RPC with the failure's status and details; raises, like the context's own `abort`.

    Args:
        context: The call to end.
        error: Any failure; see `to_status`.
        correlation_id: For failures that aren't of the catalogue.
        trailing: Further trailing metadata.
    """
    status = to_status(error, correlation_id)
    code = _CODE_BY_NUMBER[status.code]
    await context.abort(code, status.message, (*trailing, *trailing_details(status)))
    raise AssertionError("abort returned")


def _attach(status: status_pb2.Status, detail: Any) -> None:
    packed = AnyMessage()
    # Maps have an order of each process otherwise, by which one could tell who answers: "absent" must look one way.
    packed.Pack(detail, deterministic=True)
    status.details.append(packed)


def _bounded_context(context: Mapping[str, ContextValue]) -> dict[str, str]:
    bounded: dict[str, str] = {}
    left = _CONTEXT_BYTES_MAX
    for key, value in list(context.items())[:_CONTEXT_VALUES_MAX]:
        name, text = _cut(key), _cut(_text(value))
        left -= len(name.encode()) + len(text.encode())
        if left < 0:
            break
        bounded[name] = text
    return bounded


def _cut(text: str, bytes_max: int = _VALUE_BYTES_MAX) -> str:
    """As many whole characters as fit; a lone surrogate, which no protobuf string may hold, becomes `?`."""
    return text.encode(errors="replace")[:bytes_max].decode(errors="ignore")


def _text(value: ContextValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _pairs(metadata: Any) -> Iterable[tuple[str, str | bytes]]:
    return metadata if metadata is not None else ()
