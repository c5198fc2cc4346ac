"""What went wrong, as HTTP: one status and one body for each failure, in the form of the route's own protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from grpc import StatusCode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import failures as client_failures
from headrace_client.errors import HeadraceError, InternalError, error_class
from headrace_client.failures import Failure
from headrace_common import catalogue
from headrace_common.catalogue import CatalogueEntry
from headrace_common.request_id import new_request_id
from headrace_gateway.http.openai.errors import error_body

DOCUMENTATION_PATH = "/errors/"
"""Where the front itself explains a failure, by its reason."""
_OPENAI_PATHS = ("/openai/", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_STATUS_BY_GRPC: Mapping[StatusCode, int] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
_ROUTER_FAILURES = {404: catalogue.PATH_UNKNOWN, 405: catalogue.HTTP_METHOD_NOT_ALLOWED}


def failed(
    entry: CatalogueEntry,
    message: str,
    *,
    field: str | None = None,
    context: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
) -> HeadraceError:
    """A failure of the catalogue, told by the front itself, as an exception to raise."""
    failure = Failure(entry.code, entry.reason, StatusCode[entry.grpc], entry.retryable)
    return error_class(failure)(message, failure, context=context, field=field, retry_after_s=retry_after_s)


def http_status(error: HeadraceError) -> int:
    """The HTTP status of a failure: the catalogue's, or that of its gRPC code for kinds it doesn't know."""
    entry = catalogue.BY_REASON.get(error.reason)
    return entry.http if entry is not None else _STATUS_BY_GRPC.get(error.grpc_code, 500)


class Protocol(Enum):
    """Whose form failures of a path have."""

    OWN = auto()
    OPEN_INFERENCE = auto()
    OPENAI = auto()


def protocol_of(path: str) -> Protocol:
    """The one of a path."""
    if path.startswith("/v2"):
        return Protocol.OPEN_INFERENCE
    return Protocol.OPENAI if path.startswith(_OPENAI_PATHS) else Protocol.OWN


def document(error: HeadraceError, *, path: str, request_id: str) -> dict[str, Any]:
    """A failure in the form that clients of that path expect: ours, Open Inference's or OpenAI's."""
    protocol = protocol_of(path)
    if protocol is Protocol.OPEN_INFERENCE:
        return {"error": error.message}
    status = http_status(error)
    if protocol is Protocol.OPENAI:
        return error_body(error, status)
    context: dict[str, str] = dict(error.context)
    if error.field is not None:
        context.setdefault("field", error.field)
    return {
        "errorCode": error.reason,
        "message": error.message,
        "httpStatus": status,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "requestId": request_id,
        "context": context,
        "retryAfterSeconds": error.retry_after_s,
        "documentationUrl": f"{DOCUMENTATION_PATH}{error.reason}",
    }


def restated(error: HeadraceError) -> HeadraceError:
    """The failure as the front tells it: an address of its gateway is no business of its clients."""
    if error.failure is client_failures.UNREACHABLE:
        return failed(catalogue.GATEWAY_UNREACHABLE, "the gateway can't be reached for now", retry_after_s=1.0)
    return error


def failure_response(error: HeadraceError, *, path: str, request_id: str) -> Response:
    """The answer for a failure."""
    error = restated(error)
    headers = {"x-request-id": request_id, "x-headrace-error": error.reason}
    status = http_status(error)
    retry_after_s = error.retry_after_s
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    body = orjson.dumps(document(error, path=path, request_id=request_id))
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def on_headrace_error(request: Request, error: Exception) -> Response:
    """Answers for what the gateway, or a route, says is wrong."""
    assert isinstance(error, HeadraceError)
    return failure_response(error, path=request.url.path, request_id=request_id_of(request))


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answers for a body or parameter that doesn't have the declared form."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(where) or str(first["loc"][0])
    entry = {"missing": catalogue.FIELD_REQUIRED, "json_invalid": catalogue.REQUEST_MALFORMED}.get(
        first["type"], catalogue.FIELD_INVALID
    )
    message = f"{field}: {first['msg'][:300]}"
    failure = failed(entry, message, field=field[:200])
    return failure_response(failure, path=request.url.path, request_id=request_id_of(request))


async def on_router_error(request: Request, error: Exception) -> Response:
    """Answers where no route takes the request."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method
    entry = _ROUTER_FAILURES.get(error.status_code, catalogue.REQUEST_MALFORMED)
    message = {
        404: "there is no such path",
        405: f"the path doesn't take {method}",
    }.get(error.status_code, str(error.detail)[:300])
    context = {"path": path, "method": method} if error.status_code == 405 else {"path": path}
    answer = failure_response(failed(entry, message, context=context), path=path, request_id=request_id_of(request))
    answer.headers.update(error.headers or {})
    return answer


async def on_unexpected(request: Request, error: Exception) -> Response:
    """Answers for a defect: nothing of it but the id that finds it in the log."""
    request_id = request_id_of(request)
    structlog.stdlib.get_logger("http").error(
        "unexpected failure", path=request.url.path[:200], correlation_id=request_id, exc_info=error
    )
    failure = InternalError("something failed that the front didn't foresee", context={"correlation_id": request_id})
    return failure_response(failure, path=request.url.path, request_id=request_id)


def request_id_of(request: Request) -> str:
    """The id of the request, which the front gives each before anything else."""
    known: object = request.scope.get("headrace.request_id")
    return known if isinstance(known, str) else new_request_id()
