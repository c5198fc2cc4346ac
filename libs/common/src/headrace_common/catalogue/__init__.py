"""The error catalogue: every failure that a caller can meet, with its stable code.

Import the entries from here; the modules below only group them.
"""

from __future__ import annotations

from headrace_common.catalogue import (
    access,
    durability,
    generation,
    http,
    models,
    operations,
    processing,
    requests,
    tensors,
)
from headrace_common.catalogue.access import AUTHORITY_FORBIDDEN as AUTHORITY_FORBIDDEN
from headrace_common.catalogue.access import CONCURRENCY_LIMIT_EXCEEDED as CONCURRENCY_LIMIT_EXCEEDED
from headrace_common.catalogue.access import CREDENTIAL_MALFORMED as CREDENTIAL_MALFORMED
from headrace_common.catalogue.access import CREDENTIAL_MISSING as CREDENTIAL_MISSING
from headrace_common.catalogue.access import CREDENTIAL_UNKNOWN as CREDENTIAL_UNKNOWN
from headrace_common.catalogue.access import CREDENTIALS_NOT_READY as CREDENTIALS_NOT_READY
from headrace_common.catalogue.access import FEATURE_DISABLED as FEATURE_DISABLED
from headrace_common.catalogue.access import FEATURE_UNKNOWN as FEATURE_UNKNOWN
from headrace_common.catalogue.access import JOIN_FORBIDDEN as JOIN_FORBIDDEN
from headrace_common.catalogue.access import JOIN_TOKEN_INVALID as JOIN_TOKEN_INVALID
from headrace_common.catalogue.access import KEY_ENDED as KEY_ENDED
from headrace_common.catalogue.access import KEY_EXPIRED as KEY_EXPIRED
from headrace_common.catalogue.access import KEY_LIMIT_REACHED as KEY_LIMIT_REACHED
from headrace_common.catalogue.access import KEY_NOT_FOUND as KEY_NOT_FOUND
from headrace_common.catalogue.access import KEY_REVOKED as KEY_REVOKED
from headrace_common.catalogue.access import METHOD_FORBIDDEN as METHOD_FORBIDDEN
from headrace_common.catalogue.access import PLAN_IN_USE as PLAN_IN_USE
from headrace_common.catalogue.access import PLAN_NOT_FOUND as PLAN_NOT_FOUND
from headrace_common.catalogue.access import POLICY_FORBIDDEN as POLICY_FORBIDDEN
from headrace_common.catalogue.access import QUOTA_EXCEEDED as QUOTA_EXCEEDED
from headrace_common.catalogue.access import QUOTA_UNAVAILABLE as QUOTA_UNAVAILABLE
from headrace_common.catalogue.access import RATE_LIMIT_EXCEEDED as RATE_LIMIT_EXCEEDED
from headrace_common.catalogue.access import ROLE_FORBIDDEN as ROLE_FORBIDDEN
from headrace_common.catalogue.access import TENANT_ALREADY_EXISTS as TENANT_ALREADY_EXISTS
from headrace_common.catalogue.access import TENANT_ID_INVALID as TENANT_ID_INVALID
from headrace_common.catalogue.access import TENANT_MISMATCH as TENANT_MISMATCH
from headrace_common.catalogue.access import TENANT_NOT_FOUND as TENANT_NOT_FOUND
from headrace_common.catalogue.access import TENANT_PROTECTED as TENANT_PROTECTED
from headrace_common.catalogue.access import TENANT_SUSPENDED as TENANT_SUSPENDED
from headrace_common.catalogue.access import TICKET_INVALID as TICKET_INVALID
from headrace_common.catalogue.access import TOKEN_AUDIENCE_MISMATCH as TOKEN_AUDIENCE_MISMATCH
from headrace_common.catalogue.access import TOKEN_EXPIRED as TOKEN_EXPIRED
from headrace_common.catalogue.access import TOKEN_INVALID as TOKEN_INVALID
from headrace_common.catalogue.durability import CALL_ABANDONED as CALL_ABANDONED
from headrace_common.catalogue.durability import CONVERSION_FAILED as CONVERSION_FAILED
from headrace_common.catalogue.durability import CONVERSION_UNSUPPORTED as CONVERSION_UNSUPPORTED
from headrace_common.catalogue.durability import DATABASE_CONFLICT as DATABASE_CONFLICT
from headrace_common.catalogue.durability import DATABASE_CONSTRAINT as DATABASE_CONSTRAINT
from headrace_common.catalogue.durability import DATABASE_FAILED as DATABASE_FAILED
from headrace_common.catalogue.durability import DATABASE_TIMEOUT as DATABASE_TIMEOUT
from headrace_common.catalogue.durability import DATABASE_UNAVAILABLE as DATABASE_UNAVAILABLE
from headrace_common.catalogue.durability import DISK_FULL as DISK_FULL
from headrace_common.catalogue.durability import JOB_ALREADY_ENDED as JOB_ALREADY_ENDED
from headrace_common.catalogue.durability import JOB_NOT_FOUND as JOB_NOT_FOUND
from headrace_common.catalogue.durability import OBJECT_CORRUPT as OBJECT_CORRUPT
from headrace_common.catalogue.durability import OBJECT_NOT_FOUND as OBJECT_NOT_FOUND
from headrace_common.catalogue.durability import SPOOL_FULL as SPOOL_FULL
from headrace_common.catalogue.durability import STORAGE_DENIED as STORAGE_DENIED
from headrace_common.catalogue.durability import STORAGE_FAILED as STORAGE_FAILED
from headrace_common.catalogue.durability import STORAGE_UNAVAILABLE as STORAGE_UNAVAILABLE
from headrace_common.catalogue.entry import CatalogueEntry as CatalogueEntry
from headrace_common.catalogue.entry import RetryPolicy as RetryPolicy
from headrace_common.catalogue.generation import CHAT_TEMPLATE_FAILED as CHAT_TEMPLATE_FAILED
from headrace_common.catalogue.generation import CONSTRAINT_INVALID as CONSTRAINT_INVALID
from headrace_common.catalogue.generation import CONTEXT_LENGTH_EXCEEDED as CONTEXT_LENGTH_EXCEEDED
from headrace_common.catalogue.generation import GENERATION_INTERRUPTED as GENERATION_INTERRUPTED
from headrace_common.catalogue.generation import MODEL_PROCESS_LOST as MODEL_PROCESS_LOST
from headrace_common.catalogue.generation import MODEL_TASK_MISMATCH as MODEL_TASK_MISMATCH
from headrace_common.catalogue.http import CONTENT_TYPE_UNSUPPORTED as CONTENT_TYPE_UNSUPPORTED
from headrace_common.catalogue.http import GATEWAY_UNREACHABLE as GATEWAY_UNREACHABLE
from headrace_common.catalogue.http import HEADERS_TOO_LARGE as HEADERS_TOO_LARGE
from headrace_common.catalogue.http import HTTP_METHOD_NOT_ALLOWED as HTTP_METHOD_NOT_ALLOWED
from headrace_common.catalogue.http import JOB_SERVICE_UNAVAILABLE as JOB_SERVICE_UNAVAILABLE
from headrace_common.catalogue.http import PATH_UNKNOWN as PATH_UNKNOWN
from headrace_common.catalogue.http import REQUEST_TOO_SLOW as REQUEST_TOO_SLOW
from headrace_common.catalogue.models import MODEL_ALREADY_EXISTS as MODEL_ALREADY_EXISTS
from headrace_common.catalogue.models import MODEL_EXECUTION_FAILED as MODEL_EXECUTION_FAILED
from headrace_common.catalogue.models import MODEL_FILE_DIGEST_MISMATCH as MODEL_FILE_DIGEST_MISMATCH
from headrace_common.catalogue.models import MODEL_FILE_INVALID as MODEL_FILE_INVALID
from headrace_common.catalogue.models import MODEL_FILE_NOT_FOUND as MODEL_FILE_NOT_FOUND
from headrace_common.catalogue.models import MODEL_FILE_SIZE_MISMATCH as MODEL_FILE_SIZE_MISMATCH
from headrace_common.catalogue.models import MODEL_FILE_TOO_LARGE as MODEL_FILE_TOO_LARGE
from headrace_common.catalogue.models import MODEL_FORMAT_UNSUPPORTED as MODEL_FORMAT_UNSUPPORTED
from headrace_common.catalogue.models import MODEL_INSPECTION_LIMIT as MODEL_INSPECTION_LIMIT
from headrace_common.catalogue.models import MODEL_LOAD_FAILED as MODEL_LOAD_FAILED
from headrace_common.catalogue.models import MODEL_LOADING as MODEL_LOADING
from headrace_common.catalogue.models import MODEL_MANIFEST_INVALID as MODEL_MANIFEST_INVALID
from headrace_common.catalogue.models import MODEL_MANIFEST_MISMATCH as MODEL_MANIFEST_MISMATCH
from headrace_common.catalogue.models import MODEL_NAME_INVALID as MODEL_NAME_INVALID
from headrace_common.catalogue.models import MODEL_NOT_FOUND as MODEL_NOT_FOUND
from headrace_common.catalogue.models import MODEL_TOO_LARGE_TO_LOAD as MODEL_TOO_LARGE_TO_LOAD
from headrace_common.catalogue.models import MODEL_VERSION_ARCHIVED as MODEL_VERSION_ARCHIVED
from headrace_common.catalogue.models import MODEL_VERSION_CONFLICT as MODEL_VERSION_CONFLICT
from headrace_common.catalogue.models import MODEL_VERSION_INVALID as MODEL_VERSION_INVALID
from headrace_common.catalogue.models import MODEL_VERSION_NOT_FOUND as MODEL_VERSION_NOT_FOUND
from headrace_common.catalogue.models import MODEL_VERSION_NOT_READY as MODEL_VERSION_NOT_READY
from headrace_common.catalogue.operations import BACKEND_MISSING as BACKEND_MISSING
from headrace_common.catalogue.operations import CALL_CANCELLED as CALL_CANCELLED
from headrace_common.catalogue.operations import CALL_TIMEOUT as CALL_TIMEOUT
from headrace_common.catalogue.operations import CATALOG_NOT_READY as CATALOG_NOT_READY
from headrace_common.catalogue.operations import CIRCUIT_OPEN as CIRCUIT_OPEN
from headrace_common.catalogue.operations import CONCURRENCY_EXCEEDED as CONCURRENCY_EXCEEDED
from headrace_common.catalogue.operations import DEADLINE_ALREADY_OVER as DEADLINE_ALREADY_OVER
from headrace_common.catalogue.operations import DEADLINE_UNREACHABLE as DEADLINE_UNREACHABLE
from headrace_common.catalogue.operations import DEVICE_NOT_AVAILABLE as DEVICE_NOT_AVAILABLE
from headrace_common.catalogue.operations import DEVICE_OUT_OF_MEMORY as DEVICE_OUT_OF_MEMORY
from headrace_common.catalogue.operations import DEVICE_UNKNOWN as DEVICE_UNKNOWN
from headrace_common.catalogue.operations import EXECUTION_TIMEOUT as EXECUTION_TIMEOUT
from headrace_common.catalogue.operations import INFERENCE_TIMEOUT as INFERENCE_TIMEOUT
from headrace_common.catalogue.operations import INITIALIZATION_FAILED as INITIALIZATION_FAILED
from headrace_common.catalogue.operations import LISTEN_FAILED as LISTEN_FAILED
from headrace_common.catalogue.operations import LOAD_SHED as LOAD_SHED
from headrace_common.catalogue.operations import METHOD_UNKNOWN as METHOD_UNKNOWN
from headrace_common.catalogue.operations import MIGRATION_FAILED as MIGRATION_FAILED
from headrace_common.catalogue.operations import MODEL_LOAD_TIMEOUT as MODEL_LOAD_TIMEOUT
from headrace_common.catalogue.operations import QUEUE_TIMEOUT as QUEUE_TIMEOUT
from headrace_common.catalogue.operations import READER_TOO_SLOW as READER_TOO_SLOW
from headrace_common.catalogue.operations import REGISTRY_UNAVAILABLE as REGISTRY_UNAVAILABLE
from headrace_common.catalogue.operations import RETRIES_EXHAUSTED as RETRIES_EXHAUSTED
from headrace_common.catalogue.operations import RUNNER_DRAINING as RUNNER_DRAINING
from headrace_common.catalogue.operations import RUNNER_LOST as RUNNER_LOST
from headrace_common.catalogue.operations import RUNNER_NOT_AVAILABLE as RUNNER_NOT_AVAILABLE
from headrace_common.catalogue.operations import RUNNER_NOT_FOUND as RUNNER_NOT_FOUND
from headrace_common.catalogue.operations import RUNNER_OVERLOADED as RUNNER_OVERLOADED
from headrace_common.catalogue.operations import RUNNER_PROTOCOL_UNSUPPORTED as RUNNER_PROTOCOL_UNSUPPORTED
from headrace_common.catalogue.operations import RUNNER_PROTOCOL_VIOLATION as RUNNER_PROTOCOL_VIOLATION
from headrace_common.catalogue.operations import RUNNER_STATE_INVALID as RUNNER_STATE_INVALID
from headrace_common.catalogue.operations import SEQUENCE_LIMIT_REACHED as SEQUENCE_LIMIT_REACHED
from headrace_common.catalogue.operations import SEQUENCE_NOT_FOUND as SEQUENCE_NOT_FOUND
from headrace_common.catalogue.operations import SERVER_DRAINING as SERVER_DRAINING
from headrace_common.catalogue.operations import SERVER_OVERLOADED as SERVER_OVERLOADED
from headrace_common.catalogue.operations import SERVICE_NOT_READY as SERVICE_NOT_READY
from headrace_common.catalogue.operations import SERVICE_UNKNOWN as SERVICE_UNKNOWN
from headrace_common.catalogue.operations import SESSION_UNKNOWN as SESSION_UNKNOWN
from headrace_common.catalogue.operations import STATE_DIRECTORY_IN_USE as STATE_DIRECTORY_IN_USE
from headrace_common.catalogue.operations import UPSTREAM_UNAVAILABLE as UPSTREAM_UNAVAILABLE
from headrace_common.catalogue.processing import IMAGE_INVALID as IMAGE_INVALID
from headrace_common.catalogue.processing import IMAGE_TOO_LARGE as IMAGE_TOO_LARGE
from headrace_common.catalogue.processing import PROCESSED_INPUT_CONFLICT as PROCESSED_INPUT_CONFLICT
from headrace_common.catalogue.processing import TEXT_TOO_LONG as TEXT_TOO_LONG
from headrace_common.catalogue.requests import CALL_ID_IN_USE as CALL_ID_IN_USE
from headrace_common.catalogue.requests import CONFIG_FILE_INVALID as CONFIG_FILE_INVALID
from headrace_common.catalogue.requests import FIELD_INVALID as FIELD_INVALID
from headrace_common.catalogue.requests import FIELD_REQUIRED as FIELD_REQUIRED
from headrace_common.catalogue.requests import FIELD_TOO_LONG as FIELD_TOO_LONG
from headrace_common.catalogue.requests import INTERNAL_ERROR as INTERNAL_ERROR
from headrace_common.catalogue.requests import MESSAGE_TOO_LARGE as MESSAGE_TOO_LARGE
from headrace_common.catalogue.requests import NAME_INVALID as NAME_INVALID
from headrace_common.catalogue.requests import PAGE_TOKEN_INVALID as PAGE_TOKEN_INVALID
from headrace_common.catalogue.requests import PARAMETER_INVALID as PARAMETER_INVALID
from headrace_common.catalogue.requests import REQUEST_MALFORMED as REQUEST_MALFORMED
from headrace_common.catalogue.requests import REQUEST_MISSING as REQUEST_MISSING
from headrace_common.catalogue.requests import SECRET_UNAVAILABLE as SECRET_UNAVAILABLE
from headrace_common.catalogue.requests import SETTING_INVALID as SETTING_INVALID
from headrace_common.catalogue.requests import SETTING_MISSING as SETTING_MISSING
from headrace_common.catalogue.requests import STREAM_ORDER_INVALID as STREAM_ORDER_INVALID
from headrace_common.catalogue.tensors import TENSOR_BATCH_TOO_LARGE as TENSOR_BATCH_TOO_LARGE
from headrace_common.catalogue.tensors import TENSOR_BYTES_MISMATCH as TENSOR_BYTES_MISMATCH
from headrace_common.catalogue.tensors import TENSOR_CONTENT_CONFLICT as TENSOR_CONTENT_CONFLICT
from headrace_common.catalogue.tensors import TENSOR_CONTENT_MISSING as TENSOR_CONTENT_MISSING
from headrace_common.catalogue.tensors import TENSOR_CONTENT_TYPE_MISMATCH as TENSOR_CONTENT_TYPE_MISMATCH
from headrace_common.catalogue.tensors import TENSOR_DATATYPE_MISMATCH as TENSOR_DATATYPE_MISMATCH
from headrace_common.catalogue.tensors import TENSOR_DATATYPE_UNSUPPORTED as TENSOR_DATATYPE_UNSUPPORTED
from headrace_common.catalogue.tensors import TENSOR_DIMENSION_INVALID as TENSOR_DIMENSION_INVALID
from headrace_common.catalogue.tensors import TENSOR_DUPLICATED as TENSOR_DUPLICATED
from headrace_common.catalogue.tensors import TENSOR_ELEMENT_INVALID as TENSOR_ELEMENT_INVALID
from headrace_common.catalogue.tensors import TENSOR_MISSING as TENSOR_MISSING
from headrace_common.catalogue.tensors import TENSOR_NAME_UNKNOWN as TENSOR_NAME_UNKNOWN
from headrace_common.catalogue.tensors import TENSOR_OUTPUT_UNKNOWN as TENSOR_OUTPUT_UNKNOWN
from headrace_common.catalogue.tensors import TENSOR_RAW_COUNT_MISMATCH as TENSOR_RAW_COUNT_MISMATCH
from headrace_common.catalogue.tensors import TENSOR_SHAPE_MISMATCH as TENSOR_SHAPE_MISMATCH
from headrace_common.catalogue.tensors import TENSOR_STRING_MALFORMED as TENSOR_STRING_MALFORMED

ALL: tuple[CatalogueEntry, ...] = tuple(
    value
    for module in (models, generation, tensors, processing, access, operations, durability, requests, http)
    for value in vars(module).values()
    if isinstance(value, CatalogueEntry)
)
"""Every entry, in the order of the documentation."""

BY_REASON: dict[str, CatalogueEntry] = {entry.reason: entry for entry in ALL}
