"""What a gateway must know of a ModelInferRequest, read without parsing it."""

from __future__ import annotations

from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError
from headrace_common.request_templates import RequestTemplates

_MODEL_NAME, _MODEL_VERSION, _PARAMETERS, _RAW_CONTENTS = 1, 2, 4, 7
_KEY, _VALUE = 1, 2
_INT64, _UINT64 = 2, 5
_PARAMETER_FIELDS_MAX = 64

PRIORITY_DEFAULT = 5
"""Between 0 and 9, 9 is most urgent."""


class RequestFields(NamedTuple):
    """Model name and version as the client wrote them; an empty version means the latest.

    Attributes:
        priority: The parameter `priority` on our scale, 5 where there is none.
        timeout_us: The parameter `timeout` in microseconds, 0 where there is none.
    """

    model_name: str
    model_version: str
    priority: int = PRIORITY_DEFAULT
    timeout_us: int = 0


class RequestFieldReader:
    """Reads the fields of requests; one that differs from a former one in its elements alone takes no walk."""

    def __init__(self) -> None:
        self._templates: RequestTemplates[RequestFields] = RequestTemplates()

    def read(self, request: bytes) -> RequestFields:
        """Walks the top-level fields; as in protobuf, the last of a repeated scalar wins.

        Raises:
            ValidationError: REQUEST_MALFORMED, FIELD_REQUIRED or PARAMETER_INVALID (INVALID_ARGUMENT).
        """
        found = self._templates.find(request)
        if found is not None:
            return found[0]
        raw_sizes: list[int] = []
        fields = _walk(request, raw_sizes)
        self._templates.remember(request, raw_sizes, fields)
        return fields


def _walk(request: bytes, raw_sizes: list[int]) -> RequestFields:
    name: int | memoryview = memoryview(b"")
    version: int | memoryview = memoryview(b"")
    parameters: list[memoryview] = []
    for number, _, value in wire.fields(request, fields_max=wire.REQUEST_FIELDS_MAX):
        if number == _MODEL_NAME:
            name = value
        elif number == _MODEL_VERSION:
            version = value
        elif isinstance(value, memoryview):
            if number == _PARAMETERS:
                parameters.append(value)
            elif number == _RAW_CONTENTS:
                raw_sizes.append(len(value))
    if not name:
        raise ValidationError(
            "model_name is required",
            entry=catalogue.FIELD_REQUIRED,
            field="model_name",
            context={"field": "model_name"},
        )
    if not parameters:
        return RequestFields(wire.text(name), wire.text(version))
    numbers = _read_numbers(parameters)
    return RequestFields(
        wire.text(name), wire.text(version), _priority_of(numbers.get("priority", 0)), numbers.get("timeout", 0)
    )


def _priority_of(triton: int) -> int:
    """Triton's levels (1 is most urgent, 0 the default, up to 2^32 and more) on ours (9 is most urgent)."""
    return PRIORITY_DEFAULT if triton == 0 else max(0, 10 - triton)


def _read_numbers(entries: list[memoryview]) -> dict[str, int]:
    """Those of the request's parameters that say how it is to be routed; clients send them as either integer type."""
    numbers: dict[str, int] = {}
    for entry in entries:
        key = ""
        value: int | None = None
        for number, _, field in wire.fields(entry, fields_max=_PARAMETER_FIELDS_MAX):
            if number == _KEY:
                key = wire.text(field)
            elif number == _VALUE and not isinstance(field, int):
                value = _whole_number(field)
        if key in ("priority", "timeout"):
            if value is None:
                raise ValidationError(
                    f"parameters.{key} must be a whole number of 0 or more",
                    entry=catalogue.PARAMETER_INVALID,
                    field=f"parameters.{key}",
                    context={"parameter": key},
                )
            numbers[key] = value
    return numbers


def _whole_number(choice: memoryview) -> int | None:
    found: int | None = None
    for number, kind, value in wire.fields(choice, fields_max=_PARAMETER_FIELDS_MAX):
        if kind != wire.VARINT or not isinstance(value, int) or number not in (_INT64, _UINT64):
            found = None
        else:
            found = None if number == _INT64 and wire.signed(value) < 0 else value
    return found
