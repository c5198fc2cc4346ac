"""Reads a `ModelInferRequest` by a walk over its fields: tensors stay views of the received bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from headrace_common import catalogue, wire
from headrace_common.errors import TensorError, ValidationError
from headrace_runner.tensors.output_form import OutputForm, Parameters, read_output_form, refuse_shared_memory
from headrace_runner.tensors.parameters import read_parameters
from headrace_runner.tensors.sequence_parameters import SequenceUse, read_sequence

TENSORS_MAX = 1_024
RANK_MAX = 32
_PARAMETERS_MAX = 1_024
PARAMETER_BYTES_MAX = 64 << 10
"""All parameters of a request, of its inputs and of its outputs together: they are read on the event loop."""
_TENSOR_FIELDS_MAX = 256
_NONE: Parameters = MappingProxyType({})


class RequestTensor(NamedTuple):
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


class InferRequest(NamedTuple):
    """A request as sent, not yet checked against a model's signature.

    Attributes:
        id: The caller's identifier, empty when there is none.
        inputs: In the order of the request.
        outputs: Names of the wanted outputs, empty for all.
        raw_count: Number of raw contents; 0 when the request uses the typed form.
        parameters: Serialised entries of the parameter map.
        form: How the outputs are wanted; None for all raw.
        sequence: The sequence that it says it belongs to; means nothing to a model that keeps no state.
    """

    id: str
    inputs: tuple[RequestTensor, ...]
    outputs: tuple[str, ...]
    raw_count: int
    parameters: tuple[memoryview, ...]
    form: OutputForm | None = None
    sequence: SequenceUse | None = None


@dataclass(slots=True)
class _Parts:
    """Fields of a request as the walk meets them."""

    id: str = ""
    parameters: list[memoryview] = field(default_factory=list[memoryview])
    inputs: list[memoryview] = field(default_factory=list[memoryview])
    outputs: list[memoryview] = field(default_factory=list[memoryview])
    raws: list[memoryview] = field(default_factory=list[memoryview])
    parameter_bytes: int = 0

    def read_parameters(self, entries: Sequence[memoryview]) -> Parameters:
        """Reads a parameter map, which counts against the bound for all of them."""
        self.parameter_bytes += sum(map(len, entries))
        if self.parameter_bytes > PARAMETER_BYTES_MAX:
            raise ValidationError(
                f"the parameters of the request have more than {PARAMETER_BYTES_MAX} bytes",
                entry=catalogue.FIELD_TOO_LONG,
                context={"field": "parameters", "limit": PARAMETER_BYTES_MAX},
                field="parameters",
            )
        return read_parameters(entries)


def read_infer_request(payload: wire.Buffer) -> InferRequest:
    """Reads a serialised `ModelInferRequest`.

    The views in the result keep `payload` alive. Costs time in proportion to the number of fields, not of bytes.

    Raises:
        ValidationError: REQUEST_MALFORMED (INVALID_ARGUMENT): not a message of that type, or one of more
            fields than any model needs; FIELD_TOO_LONG (INVALID_ARGUMENT): more tensors or parameters than that;
            PARAMETER_INVALID (INVALID_ARGUMENT).
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
    inputs = tuple(
        _read_tensor(view, index, raws[index] if raws else None, parts) for index, view in enumerate(parts.inputs)
    )
    outputs = [_read_output(view, parts) for view in parts.outputs]
    form = sequence = None
    if parts.parameters or parts.parameter_bytes:
        parameters = parts.read_parameters(parts.parameters)
        form = read_output_form(parameters, outputs)
        sequence = read_sequence(parameters)
    names = tuple(name for name, _ in outputs)
    return InferRequest(parts.id, inputs, names, len(raws), tuple(parts.parameters), form, sequence)


def _read_tensor(view: memoryview, index: int, raw: memoryview | None, parts: _Parts) -> RequestTensor:
    name = ""
    datatype = ""
    shape: list[int] = []
    contents: list[memoryview] = []
    parameters: list[memoryview] = []
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
            # An empty one says nothing, and a view of it would keep the payload alive.
            if value:
                contents.append(value)
        elif number == 4:
            if isinstance(value, int):
                raise wire.malformed()
            parameters.append(value)
    if parameters:
        refuse_shared_memory(parts.read_parameters(parameters), f"inputs[{index}].parameters")
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


def _read_output(view: memoryview, parts: _Parts) -> tuple[str, Parameters]:
    name = ""
    parameters: list[memoryview] = []
    for number, _, value in wire.fields(view, fields_max=_TENSOR_FIELDS_MAX):
        if number == 1:
            name = wire.text(value)
        elif number == 2:
            if isinstance(value, int):
                raise wire.malformed()
            parameters.append(value)
    return name, parts.read_parameters(parameters) if parameters else _NONE


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
