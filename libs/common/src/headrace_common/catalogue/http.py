"""What only the HTTP front tells: requests that are wrong as HTTP, and services that a mesh doesn't have."""

from __future__ import annotations

from headrace_common.catalogue.entry import LATER, SOON, CatalogueEntry

PATH_UNKNOWN = CatalogueEntry(
    code="ROUTE_014",
    reason="PATH_UNKNOWN",
    grpc="NOT_FOUND",
    http=404,
    context=("path",),
    summary="The HTTP front has no such path.",
    remedy="Look the path up at /openapi or in docs/api.md.",
)
HTTP_METHOD_NOT_ALLOWED = CatalogueEntry(
    code="ROUTE_015",
    reason="HTTP_METHOD_NOT_ALLOWED",
    grpc="UNIMPLEMENTED",
    http=405,
    context=("method", "path"),
    summary="The path exists, but not with this HTTP method.",
    remedy="Use one of the methods that the header Allow names.",
)
CONTENT_TYPE_UNSUPPORTED = CatalogueEntry(
    code="VALIDATION_013",
    reason="CONTENT_TYPE_UNSUPPORTED",
    grpc="INVALID_ARGUMENT",
    http=415,
    context=("contentType",),
    summary="The request's body has a content type or an encoding that the route doesn't take.",
    remedy="Send one of the content types of the route in docs/api.md, plain or compressed by gzip or deflate.",
)
HEADERS_TOO_LARGE = CatalogueEntry(
    code="VALIDATION_014",
    reason="HEADERS_TOO_LARGE",
    grpc="RESOURCE_EXHAUSTED",
    http=431,
    context=("limit",),
    summary="The request has more headers, or more bytes of them and of its path, than the server accepts.",
    remedy="Send fewer and shorter headers, or ask the operator to raise the limit.",
)
REQUEST_TOO_SLOW = CatalogueEntry(
    code="TIMEOUT_008",
    reason="REQUEST_TOO_SLOW",
    grpc="DEADLINE_EXCEEDED",
    http=408,
    context=("timeout_s",),
    summary="The request's head or body did not arrive in time.",
    remedy="Send the request again over a faster connection, or ask the operator for a longer receipt time.",
)
JOB_SERVICE_UNAVAILABLE = CatalogueEntry(
    code="JOB_003",
    reason="JOB_SERVICE_UNAVAILABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=LATER,
    summary="The mesh has no job service, or it can't be reached.",
    remedy="Call without a job, or ask the operator to run the job service.",
)
GATEWAY_UNREACHABLE = CatalogueEntry(
    code="ROUTE_016",
    reason="GATEWAY_UNREACHABLE",
    grpc="UNAVAILABLE",
    http=503,
    retry=SOON,
    summary="The HTTP front can't reach its gateway.",
    remedy="Retry after a short pause; if it lasts, the operator looks at the gateway.",
)
