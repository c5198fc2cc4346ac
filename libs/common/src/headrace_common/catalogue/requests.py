"""Settings and requests that can't be right, and the failure that nobody foresaw."""

from __future__ import annotations

from headrace_common.catalogue.entry import CatalogueEntry

SETTING_INVALID = CatalogueEntry(
    code="CONFIG_001",
    reason="SETTING_INVALID",
    grpc="FAILED_PRECONDITION",
    http=500,
    context=("variable",),
    summary="A setting has a value that it can't have.",
    remedy="Operators: correct the named variable.",
)
SETTING_MISSING = CatalogueEntry(
    code="CONFIG_002",
    reason="SETTING_MISSING",
    grpc="FAILED_PRECONDITION",
    http=500,
    context=("variable",),
    summary="A setting that is required has no value.",
    remedy="Operators: set the named variable.",
)
CONFIG_FILE_INVALID = CatalogueEntry(
    code="CONFIG_003",
    reason="CONFIG_FILE_INVALID",
    grpc="FAILED_PRECONDITION",
    http=500,
    context=("file",),
    summary="A configuration file can't be read.",
    remedy="Operators: correct the named file.",
)
SECRET_UNAVAILABLE = CatalogueEntry(
    code="CONFIG_004",
    reason="SECRET_UNAVAILABLE",
    grpc="FAILED_PRECONDITION",
    http=500,
    context=("reference",),
    summary="A referenced secret can't be read.",
    remedy="Operators: check the file or the Vault path, and the access to it.",
)
REQUEST_MALFORMED = CatalogueEntry(
    code="VALIDATION_001",
    reason="REQUEST_MALFORMED",
    grpc="INVALID_ARGUMENT",
    http=400,
    summary="The bytes aren't a message of the method's request type.",
    remedy="Regenerate the client from the published contract.",
)
MESSAGE_TOO_LARGE = CatalogueEntry(
    code="VALIDATION_002",
    reason="MESSAGE_TOO_LARGE",
    grpc="RESOURCE_EXHAUSTED",
    http=413,
    context=("limit", "actual"),
    summary="The message is larger than the server accepts.",
    remedy="Send smaller messages, or ask the operator to raise the limit.",
)
FIELD_REQUIRED = CatalogueEntry(
    code="VALIDATION_003",
    reason="FIELD_REQUIRED",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="A required field is empty.",
    remedy="Set the named field.",
)
FIELD_INVALID = CatalogueEntry(
    code="VALIDATION_004",
    reason="FIELD_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="A field has a value that it can't have.",
    remedy="Correct the named field.",
)
FIELD_TOO_LONG = CatalogueEntry(
    code="VALIDATION_005",
    reason="FIELD_TOO_LONG",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field", "limit"),
    summary="A field is longer, or has more elements, than allowed.",
    remedy="Shorten the named field.",
)
PAGE_TOKEN_INVALID = CatalogueEntry(
    code="VALIDATION_006",
    reason="PAGE_TOKEN_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="The page token is damaged or belongs to another query.",
    remedy="Start again without a page token.",
)
NAME_INVALID = CatalogueEntry(
    code="VALIDATION_007",
    reason="NAME_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field",),
    summary="A name doesn't follow its grammar.",
    remedy="Correct the named field.",
)
STREAM_ORDER_INVALID = CatalogueEntry(
    code="VALIDATION_008",
    reason="STREAM_ORDER_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("rule",),
    summary="The messages of the stream came in an order that isn't allowed.",
    remedy="Follow the order that the method's contract states.",
)
REQUEST_MISSING = CatalogueEntry(
    code="VALIDATION_009",
    reason="REQUEST_MISSING",
    grpc="INVALID_ARGUMENT",
    http=400,
    summary="The stream was closed before its first message.",
    remedy="Send at least one message.",
)
PARAMETER_INVALID = CatalogueEntry(
    code="VALIDATION_010",
    reason="PARAMETER_INVALID",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("parameter",),
    summary="A parameter of the request has a value or type that it can't have.",
    remedy="Correct the named parameter.",
)
CALL_ID_IN_USE = CatalogueEntry(
    code="VALIDATION_011",
    reason="CALL_ID_IN_USE",
    grpc="INVALID_ARGUMENT",
    http=400,
    context=("field", "id"),
    summary="A call on a stream has the identifier of another one that is still in flight there.",
    remedy="Use each identifier once, for example by counting up. The stream has ended; open another one.",
)
INTERNAL_ERROR = CatalogueEntry(
    code="INTERNAL_001",
    reason="INTERNAL_ERROR",
    grpc="INTERNAL",
    http=500,
    context=("correlation_id",),
    summary="Something failed that the service didn't foresee.",
    remedy="Tell the operator the correlation id; it finds the failure in the log.",
)
