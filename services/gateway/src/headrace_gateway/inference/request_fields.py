"""What a gateway must know of a ModelInferRequest, read without parsing it."""

from __future__ import annotations

from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import ValidationError
from headrace_common.request_templates import RequestTemplates

_MODEL_NAME, _MODEL_VERSION, _PARAMETERS, _RAW_CONTENTS = 1, 2, 4, 7
_KEY, _VALUE = 1, 2
_BOOL, _INT64, _STRING, _UINT64 = 1, 2, 3, 5
_PARAMETER_FIELDS_MAX = 64
_SEQUENCE_BYTES_MAX = 128

_ROUTING = frozenset(
    ("priority", "timeout", "latency_critical", "sequence_id", "sequence_start", "session", "n", "max_tokens")
)

PRIORITY_DEFAULT = 5
"""Between 0 and 9, 9 is most urgent."""
PRIORITY_MAX = 9


class RequestFields(NamedTuple):
    """Model name and version as the client wrote them; an empty version means the latest.

    Attributes:
        priority: The parameter `priority` on our scale, 5 where there is none.
        timeout_us: The parameter `timeout` in microseconds, 0 where there is none.
        sequence: Tells the sequence of the parameter `sequence_id` from others, empty where there is none. Bad ones are
            none here, and refused by runners.
        sequence_start: The parameter of that name; so is `latency_critical`.
        session: The parameter of that name, or else the sequence: requests that should go to the same replica.
        completions: The parameter `n` of a request to generate, 1 where it is none that can be right; so is
            `tokens_max`, the parameter `max_tokens`, 0 where it is none.
    """

    model_name: str
    model_version: str
    priority: int = PRIORITY_DEFAULT
    timeout_us: int = 0
    sequence: str = ""
    sequence_start: bool = False
    latency_critical: bool = False
    session: str = ""
    completions: int = 1
    tokens_max: int = 0


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
    read = _read_parameters(parameters)
    sequence = _sequence_of(read.get("sequence_id", 0))
    session = read.get("session")
    return RequestFields(
        wire.text(name),
        wire.text(version),
        _priority_of(_number(read, "priority")),
        _number(read, "timeout"),
        sequence,
        read.get("sequence_start") is True,
        _flag(read, "latency_critical"),
        session if session and isinstance(session, str) else sequence,
        # Runners refuse what can't be right; to a model that doesn't generate it may mean anything.
        n if isinstance(n := read.get("n"), int) and n > 0 else 1,
        tokens if isinstance(tokens := read.get("max_tokens"), int) and tokens > 0 else 0,
    )


def _priority_of(triton: int) -> int:
    """Triton's levels (1 is most urgent, 0 the default, up to 2^32 and more) on ours (9 is most urgent)."""
    return PRIORITY_DEFAULT if triton == 0 else max(0, 10 - triton)


def _number(parameters: dict[str, bool | int | str | None], name: str) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _invalid(name, "must be a whole number of 0 or more")


def _flag(parameters: dict[str, bool | int | str | None], name: str) -> bool:
    value = parameters.get(name, False)
    if isinstance(value, bool):
        return value
    raise _invalid(name, "must be a truth value")


def _invalid(name: str, complaint: str) -> ValidationError:
    field = f"parameters.{name}"
    return ValidationError(
        f"{field} {complaint}", entry=catalogue.PARAMETER_INVALID, field=field, context={"parameter": name}
    )


def _sequence_of(name: bool | int | str | None) -> str:
    """Numbers and texts apart; numbers below 0 are their two's complement, as runners read them."""
    if isinstance(name, str):
        return f"t{name}" if name and len(name.encode()) <= _SEQUENCE_BYTES_MAX else ""
    return f"n{name & ((1 << 64) - 1)}" if name and not isinstance(name, bool) else ""


def _read_parameters(entries: list[memoryview]) -> dict[str, bool | int | str | None]:
    """Those of the request's parameters that say how it is to be routed, None for a value of another kind."""
    read: dict[str, bool | int | str | None] = {}
    for entry in entries:
        key = ""
        value: bool | int | str | None = None
        for number, _, field in wire.fields(entry, fields_max=_PARAMETER_FIELDS_MAX):
            if number == _KEY:
                key = wire.text(field)
            elif number == _VALUE and not isinstance(field, int):
                value = _value_of(field)
        if key in _ROUTING:
            read[key] = value
    return read


def _value_of(choice: memoryview) -> bool | int | str | None:
    found: bool | int | str | None = None
    for number, kind, value in wire.fields(choice, fields_max=_PARAMETER_FIELDS_MAX):
        found = None
        if kind == wire.VARINT and isinstance(value, int):
            if number == _BOOL:
                found = bool(value)
            elif number == _INT64:
                found = wire.signed(value)
            elif number == _UINT64:
                found = value
        elif number == _STRING and isinstance(value, memoryview):
            found = wire.text(value)
    return found


def checked_priority(priority: int, field: str) -> int:
    """The priority, if it is one.

    Raises:
        ValidationError: FIELD_INVALID (INVALID_ARGUMENT).
    """
    if priority > PRIORITY_MAX:
        raise ValidationError(
            f"{field} must be 0 to {PRIORITY_MAX}, {PRIORITY_MAX} is most urgent",
            entry=catalogue.FIELD_INVALID,
            field=field,
            context={"field": field},
        )
    return priority
