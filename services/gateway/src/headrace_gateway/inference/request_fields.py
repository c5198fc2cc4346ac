"""What a gateway must know of a ModelInferRequest, read without parsing it."""

from __future__ import annotations

from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError

_MODEL_NAME, _MODEL_VERSION = 1, 2

FIELDS_MAX = 8_192
"""Top-level fields that a request may have; runners have the same bound. A walk over this many takes a few ms."""


class RequestFields(NamedTuple):
    """Model name and version as the client wrote them; an empty version means the latest."""

    model_name: str
    model_version: str


def read_request_fields(request: bytes) -> RequestFields:
    """Walks the top-level fields; as in protobuf, the last of a repeated scalar wins.

    Raises:
        ValidationError: REQUEST_MALFORMED or FIELD_REQUIRED (INVALID_ARGUMENT).
    """
    name: int | memoryview = memoryview(b"")
    version: int | memoryview = memoryview(b"")
    for number, _, value in wire.fields(request, fields_max=FIELDS_MAX):
        if number == _MODEL_NAME:
            name = value
        elif number == _MODEL_VERSION:
            version = value
    if not name:
        raise ValidationError(
            "model_name is required",
            entry=catalogue.FIELD_REQUIRED,
            field="model_name",
            context={"field": "model_name"},
        )
    return RequestFields(wire.text(name), wire.text(version))
