"""What OpenAPI says of an inference by Open Inference REST, whose bodies the route reads itself."""

from __future__ import annotations

from typing import Any, Final

from headrace_client.datatypes import ALL

_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": ["boolean", "integer", "number", "string"]},
}
_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 32}
_INPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "datatype": {"type": "string", "enum": list(ALL)},
        "shape": _SHAPE,
        "data": {"description": "Elements, flat or nested as the shape says; or a text of base64."},
        "parameters": _PARAMETERS,
    },
}
_NAMED_OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "minLength": 1}, "parameters": _PARAMETERS},
}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _INPUT, "maxItems": 1024},
        "outputs": {"type": "array", "items": _NAMED_OUTPUT, "maxItems": 1024},
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string"},
                    "shape": _SHAPE,
                    "data": {"type": "array"},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}
_BINARY: dict[str, Any] = {
    "description": "The JSON, then the bytes of tensors; the header Inference-Header-Content-Length is the length of "
    "the JSON.",
    "schema": {"type": "string", "format": "binary"},
}

INFER: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": _BINARY},
    },
    "responses": {
        "200": {
            "description": "The outputs",
            "content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": _BINARY},
        }
    },
}
"""`openapi_extra` of the route."""
