"""The kinds of failure that this package tells by itself, with their codes in Headrace's catalogue.

All others are read from the answers of a mesh, so a mesh that is newer than the package can name new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class Failure:
    """One kind of failure.

    Attributes:
        code: Stable identifier, for example `MODEL_001`.
        reason: Stable upper-case name, for example `MODEL_NOT_FOUND`.
        grpc_code: The gRPC status that goes with it.
        retryable: Whether the same call may succeed a moment later.
    """

    code: str
    reason: str
    grpc_code: StatusCode
    retryable: bool = False

    @property
    def family(self) -> str:
        """What it concerns: the code without its number, for example `MODEL`."""
        return self.code.rpartition("_")[0] or self.code


MODEL_NOT_FOUND = Failure("MODEL_001", "MODEL_NOT_FOUND", StatusCode.NOT_FOUND)
MODEL_FILE_DIGEST_MISMATCH = Failure("MODEL_011", "MODEL_FILE_DIGEST_MISMATCH", StatusCode.INVALID_ARGUMENT)
MODEL_FILE_SIZE_MISMATCH = Failure("MODEL_012", "MODEL_FILE_SIZE_MISMATCH", StatusCode.INVALID_ARGUMENT)
MODEL_MANIFEST_INVALID = Failure("MODEL_014", "MODEL_MANIFEST_INVALID", StatusCode.INVALID_ARGUMENT)
TENSOR_SHAPE_MISMATCH = Failure("TENSOR_001", "TENSOR_SHAPE_MISMATCH", StatusCode.INVALID_ARGUMENT)
TENSOR_DATATYPE_MISMATCH = Failure("TENSOR_004", "TENSOR_DATATYPE_MISMATCH", StatusCode.INVALID_ARGUMENT)
TENSOR_DATATYPE_UNSUPPORTED = Failure("TENSOR_005", "TENSOR_DATATYPE_UNSUPPORTED", StatusCode.INVALID_ARGUMENT)
TENSOR_BYTES_MISMATCH = Failure("TENSOR_006", "TENSOR_BYTES_MISMATCH", StatusCode.INVALID_ARGUMENT)
TENSOR_RAW_COUNT_MISMATCH = Failure("TENSOR_010", "TENSOR_RAW_COUNT_MISMATCH", StatusCode.INVALID_ARGUMENT)
TENSOR_STRING_MALFORMED = Failure("TENSOR_012", "TENSOR_STRING_MALFORMED", StatusCode.INVALID_ARGUMENT)
TENSOR_ELEMENT_INVALID = Failure("TENSOR_016", "TENSOR_ELEMENT_INVALID", StatusCode.INVALID_ARGUMENT)
CREDENTIAL_MISSING = Failure("AUTH_001", "CREDENTIAL_MISSING", StatusCode.UNAUTHENTICATED)
CREDENTIAL_UNKNOWN = Failure("AUTH_002", "CREDENTIAL_UNKNOWN", StatusCode.UNAUTHENTICATED)
ROLE_FORBIDDEN = Failure("AUTH_005", "ROLE_FORBIDDEN", StatusCode.PERMISSION_DENIED)
CALL_TIMEOUT = Failure("TIMEOUT_003", "CALL_TIMEOUT", StatusCode.DEADLINE_EXCEEDED)
CALL_CANCELLED = Failure("TIMEOUT_004", "CALL_CANCELLED", StatusCode.CANCELLED)
METHOD_UNKNOWN = Failure("ROUTE_003", "METHOD_UNKNOWN", StatusCode.UNIMPLEMENTED)
SETTING_INVALID = Failure("CONFIG_001", "SETTING_INVALID", StatusCode.FAILED_PRECONDITION)
CONFIG_FILE_INVALID = Failure("CONFIG_003", "CONFIG_FILE_INVALID", StatusCode.FAILED_PRECONDITION)
SECRET_UNAVAILABLE = Failure("CONFIG_004", "SECRET_UNAVAILABLE", StatusCode.FAILED_PRECONDITION)
REQUEST_MALFORMED = Failure("VALIDATION_001", "REQUEST_MALFORMED", StatusCode.INVALID_ARGUMENT)
MESSAGE_TOO_LARGE = Failure("VALIDATION_002", "MESSAGE_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED)
FIELD_INVALID = Failure("VALIDATION_004", "FIELD_INVALID", StatusCode.INVALID_ARGUMENT)
PARAMETER_INVALID = Failure("VALIDATION_010", "PARAMETER_INVALID", StatusCode.INVALID_ARGUMENT)
INTERNAL_ERROR = Failure("INTERNAL_001", "INTERNAL_ERROR", StatusCode.INTERNAL)

UNREACHABLE = Failure("UNREACHABLE", "UNREACHABLE", StatusCode.UNAVAILABLE, retryable=True)
"""The only kind that no mesh ever sends: it stands for the absence of an answer."""
