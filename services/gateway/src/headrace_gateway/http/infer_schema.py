"""What OpenAPI says of `/v1/infer`, whose bodies the routes read themselves: no model class over tensors."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_DATATYPES: Final = [
    *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("FP16", "FP32", "FP64", "BF16", "BYTES", "BOOLEAN", "FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16", "STRING"),
]
_PARAMETERS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
    "maxProperties": 1_024,
}
_DATA: Final[Schema] = {
    "description": "Numbers, texts or truth values in lists nested as the shape says or in one flat list, or base64 of "
    "the raw little-endian bytes.",
    "type": ["array", "string", "number", "boolean"],
    "items": {},
}
_TENSOR: Final[Schema] = {
    "type": "object",
    "required": ["dtype", "data"],
    "additionalProperties": False,
    "properties": {
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 32},
        "dtype": {"type": "string", "enum": _DATATYPES},
        "data": _DATA,
        "parameters": _PARAMETERS,
    },
}
_INFERENCE: Final[Schema] = {
    "type": "object",
    "required": ["modelId", "inputs"],
    "additionalProperties": False,
    "properties": {
        "modelId": {
            "type": "string",
            "description": "NAME, NAME:VERSION, NAME:ALIAS or NAME:VERSION+VARIANT",
            "minLength": 1,
            "examples": ["mlp", "mlp:3"],
        },
        "inputs": {"type": "object", "additionalProperties": _TENSOR, "maxProperties": 1_024},
        "outputs": {"type": "array", "items": {"type": "string"}, "maxItems": 1_024},
        "parameters": _PARAMETERS,
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "latencyCritical": {"type": "boolean"},
        "timeoutMs": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
        "outputEncoding": {"type": "string", "enum": ["json", "base64"]},
    },
}
_OUTPUT: Final[Schema] = {
    "type": "object",
    "required": ["shape", "dtype", "data"],
    "properties": {
        "shape": {"type": "array", "items": {"type": "integer"}},
        "dtype": {"type": "string"},
        "data": {},
    },
}
_RESULT: Final[Schema] = {
    "type": "object",
    "required": ["requestId", "outputs", "latencyMs", "runnerName", "deviceType", "timestamp", "metadata"],
    "properties": {
        "requestId": {"type": "string"},
        "outputs": {"type": "object", "additionalProperties": _OUTPUT},
        "latencyMs": {"type": "number"},
        "runnerName": {"type": "string"},
        "deviceType": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "metadata": {"type": "object"},
    },
}
FAILURE: Final[Schema] = {
    "type": "object",
    "required": ["errorCode", "message", "httpStatus", "timestamp", "requestId", "context", "documentationUrl"],
    "properties": {
        "errorCode": {"type": "string"},
        "message": {"type": "string"},
        "httpStatus": {"type": "integer"},
        "timestamp": {"type": "string", "format": "date-time"},
        "requestId": {"type": "string"},
        "context": {"type": "object", "additionalProperties": {"type": "string"}},
        "retryAfterSeconds": {"type": ["number", "null"]},
        "documentationUrl": {"type": "string"},
    },
}
_BINARY: Final[Schema] = {"schema": {"type": "string", "format": "binary"}}


def _answers(schema: Schema, *others: str) -> dict[int | str, Schema]:
    content = {"application/json": {"schema": schema}, **dict.fromkeys(others, _BINARY)}
    return {
        200: {"description": "The answer", "content": content},
        "default": {"description": "A failure", "content": {"application/json": {"schema": FAILURE}}},
    }


def _body(schema: Schema, *others: str, multipart: Schema | None = None) -> Schema:
    content = {"application/json": {"schema": schema}, **dict.fromkeys(others, _BINARY)}
    if multipart is not None:
        content["multipart/form-data"] = {"schema": multipart}
    return {"requestBody": {"required": True, "content": content}}


_FORM: Final[Schema] = {
    "type": "object",
    "required": ["modelId"],
    "properties": {"modelId": {"type": "string"}},
    "additionalProperties": {"type": "string", "format": "binary"},
}
INFER: Final = _body(_INFERENCE, "application/x-protobuf", "application/msgpack", multipart=_FORM)
JOB: Final = _body(_INFERENCE, "application/x-protobuf", "application/msgpack")
ANSWERS: Final = _answers(_RESULT, "application/x-protobuf", "application/msgpack")
BATCH: Final = _body(
    {
        "type": "object",
        "required": ["requests"],
        "additionalProperties": False,
        "properties": {
            "requests": {"type": "array", "items": _INFERENCE, "minItems": 1},
            "maxConcurrency": {"type": "integer", "minimum": 1, "maximum": 1_024},
        },
    },
    "application/msgpack",
)
BATCH_ANSWERS: Final = _answers(
    {
        "type": "object",
        "required": ["results"],
        "properties": {
            "results": {
                "type": "array",
                "items": {"type": "object", "properties": {"result": _RESULT, "error": FAILURE}},
            }
        },
    },
    "application/msgpack",
)
JOB_ANSWERS: Final = _answers(
    {
        "type": "object",
        "required": ["jobId", "status", "progress", "result", "error", "createdAt", "completedAt"],
        "properties": {
            "jobId": {"type": "string"},
            "status": {"type": "string", "enum": ["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]},
            "progress": {"type": "number"},
            "result": {"anyOf": [_RESULT, {"type": "null"}]},
            "error": {"anyOf": [FAILURE, {"type": "null"}]},
            "createdAt": {"type": ["string", "null"]},
            "completedAt": {"type": ["string", "null"]},
        },
    }
)
