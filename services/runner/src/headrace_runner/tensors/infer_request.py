"""Reads a `ModelInferRequest` by a walk over its fields: tensors stay views of the received bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace_common import catalogue, wire
from headrace_common.errors import TensorError, ValidationError

TENSORS_MAX = 1_024
RANK_MAX = 32
_PARAMETERS_MAX = 1_024
_TENSOR_FIELDS_MAX = 256


@dataclass(frozen=True, slots=True)
class RequestTensor:
    """One input as sent, not yet checked.

    Attributes:
        name: Name of the input.
        datatype: Name of its datatype, possibly one that does not exist.
        shape: Its dimensions, possibly negative.
        raw: Its elements in raw form, or None when the request carries no raw contents.
        contents: Serialised `InferTensorContents`, to be read one after another as one message.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: memoryview | None
    contents: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request as sent, not yet checked against a model's signature.

    Attributes:
        id: The caller's identifier, empty when there is none.
        inputs: In the order of the request.
        outputs: Names of the wanted outputs, empty for all.
        raw_count: Number of raw contents; 0 when the request uses the typed form.
        parameters: Serialised entries of the parameter map.
    """

    id: str
    inputs: tuple[RequestTensor, ...]
    outputs: tuple[str, ...]
    raw_count: int
    parameters: tuple[memoryview, ...]


@dataclass(slots=True)
class _Parts:
    """Fields of a request as the walk meets them."""

    id: str = ""
    parameters: list[memoryview] = field(default_factory=list[memoryview])
    inputs: list[memoryview] = field(default_factory=list[memoryview])
    outputs: list[memoryview] = field(default_factory=list[memoryview])
    raws: list[memoryview] = field(default_factory=list[memoryview])


def read_infer_request(payload: wire.Buffer) -> InferRequest:
    """Reads a serialised `ModelInferRequest`.

    The views in the result keep `payload` alive. Costs time in proportion to the number of fields, not of bytes.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT): not a message of that type, or one of more
            fields than any model needs; FIELD_TOO_LONG (INVALID_ARGUMENT): more tensors or parameters than that.
        TensorError: TENSOR_CONTENT_CONFLICT, TENSOR_RAW_COUNT_MISMATCH or TENSOR_DIMENSION_INVALID
            (INVALID_ARGUMENT).
    """
    parts = _Parts()
    for number, kind, value in wire.fields(payload, fields_max=wire.REQUEST_FIELDS_MAX):
        if kind != wire.LENGTH_DELIMITED or isinstance(value, int):
            if 1 <= number <= 7:
                raise wire.malformed()
        elif number == 7:
            _append(parts.raws, value, "raw_input_contents", TENSORS_MAX)
        elif number == 5:
            _append(parts.inputs, value, "inputs", TENSORS_MAX)
        elif number == 6:
            _append(parts.outputs, value, "outputs", TENSORS_MAX)
        elif number == 3:
            parts.id = wire.text(value)
        elif number == 4:
            _append(parts.parameters, value, "parameters", _PARAMETERS_MAX)
        elif number <= 2:
            wire.text(value)
    raws = parts.raws
    if raws and len(raws) != len(parts.inputs):
        raise TensorError(
            f"the request has {len(parts.inputs)} inputs but {len(raws)} raw_input_contents",
            entry=catalogue.TENSOR_RAW_COUNT_MISMATCH,
            context={"expected": len(parts.inputs), "actual": len(raws)},
            field="raw_input_contents",
        )
    inputs = tuple(_read_tensor(view, index, raws[index] if raws else None) for index, view in enumerate(parts.inputs))
    outputs = tuple(_read_output_name(view) for view in parts.outputs)
    return InferRequest(parts.id, inputs, outputs, len(raws), tuple(parts.parameters))


def _read_tensor(view: memoryview, index: int, raw: memoryview | None) -> RequestTensor:
    name = ""
    datatype = ""
    shape: list[int] = []
    contents: list[memoryview] = []
    for number, kind, value in wire.fields(view, fields_max=_TENSOR_FIELDS_MAX):
        if number == 1:
            name = wire.text(value)
        elif number == 2:
            datatype = wire.text(value)
        elif number == 3:
            _read_dimensions(kind, value, shape, index)
        elif number == 5:
            if isinstance(value, int):
                raise wire.malformed()
            contents.append(value)
    if raw is not None and any(contents):
        raise TensorError(
            f"input '{name}' has contents while the request has raw_input_contents; use one of the two forms",
            entry=catalogue.TENSOR_CONTENT_CONFLICT,
            context={"tensor": name},
            field=f"inputs[{index}].contents",
        )
    return RequestTensor(name, datatype, tuple(shape), raw, tuple(contents))


def _read_dimensions(kind: int, value: int | memoryview, shape: list[int], index: int) -> None:
    """Adds one dimension, or a packed run of them."""
    if isinstance(value, int):
        if kind != wire.VARINT:
            raise wire.malformed()
        shape.append(wire.signed(value))
    else:
        position = 0
        while position < len(value) and len(shape) <= RANK_MAX:
            number, position = wire.read_varint(value, position)
            shape.append(wire.signed(number))
    if len(shape) > RANK_MAX:
        raise TensorError(
            f"inputs[{index}].shape has more than {RANK_MAX} dimensions",
            entry=catalogue.TENSOR_DIMENSION_INVALID,
            context={"tensor": str(index), "dimension": RANK_MAX},
            field=f"inputs[{index}].shape",
        )


def _read_output_name(view: memoryview) -> str:
    name = ""
    for number, _, value in wire.fields(view, fields_max=_TENSOR_FIELDS_MAX):
        if number == 1:
            name = wire.text(value)
    return name


def _append(views: list[memoryview], value: memoryview, name: str, limit: int) -> None:
    if len(views) >= limit:
        raise _too_long(name, limit)
    views.append(value)


def _too_long(name: str, limit: int) -> ValidationError:
    return ValidationError(
        f"{name} has more than {limit} elements",
        entry=catalogue.FIELD_TOO_LONG,
        context={"field": name, "limit": limit},
        field=name,
    )
