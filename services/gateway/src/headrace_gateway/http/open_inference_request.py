"""Requests of Open Inference REST, with JSON or binary tensors, as the message of the same protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import orjson

from headrace_client import failures
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import ValidationError
from headrace_client.inference import parameter_of
from headrace_gateway.http.binary_tensors import BinaryParts, split
from headrace_gateway.http.json_tensors import tensor_of

_BINARY_SIZE = "binary_data_size"
_BINARY = "binary_data"
_BINARY_OUTPUT = "binary_data_output"
_SHOWN = 64
# So that a body of nothing but names can't hold up other requests; runners take no more either.
_ENTRIES_MAX = 1_024

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """How outputs are to be written.

    Attributes:
        binary: Whether as binary tensors.
        by_output: The same for single outputs, by name.
    """

    binary: bool
    by_output: dict[str, bool]

    def is_binary(self, output: str) -> bool:
        """Whether an output goes behind the JSON."""
        return self.by_output.get(output, self.binary)


def read_request(
    body: bytes, *, json_length: str | None, model_name: str, model_version: str
) -> tuple[inference_pb2.InferRequest, AnswerForm]:
    """The message for a body. Fields that the protocol doesn't have are ignored, as it says.

    Args:
        body: All of it, inflated.
        json_length: The header `Inference-Header-Content-Length`; None where there is none.
        model_name: The model, from the path.
        model_version: Its version, from the path; empty means the newest that is ready.

    Raises:
        ValidationError: the body isn't of the protocol's form.
        TensorError: a tensor isn't.
    """
    text, parts = split(body, json_length)
    document = _object(parse_json(text), "the body")
    message = inference_pb2.InferRequest()
    request = message.request
    request.model_name, request.model_version = model_name, model_version
    request.id = _text(document.get("id", ""), "id")
    parameters = _object(document.get("parameters", {}), "parameters")
    binary = _flag(parameters.pop(_BINARY_OUTPUT, False), f"parameters.{_BINARY_OUTPUT}")
    _set_parameters(request.parameters, parameters, "parameters")
    for index, entry in enumerate(_list(document.get("inputs"), "inputs")):
        _add_input(request, _object(entry, f"inputs[{index}]"), f"inputs[{index}]", parts)
    parts.finish()
    form = AnswerForm(binary=binary, by_output={})
    for index, entry in enumerate(_list(document.get("outputs", []), "outputs")):
        field = f"outputs[{index}]"
        output = _object(entry, field)
        name = _name(output, field)
        own = _object(output.get("parameters", {}), f"{field}.parameters")
        if _BINARY in own:
            form.by_output[name] = _flag(own.pop(_BINARY), f"{field}.parameters.{_BINARY}")
        _set_parameters(request.outputs.add(name=name).parameters, own, f"{field}.parameters")
    return message, form


def parse_json(text: bytes | memoryview) -> object:
    """What a JSON text says.

    Raises:
        ValidationError: REQUEST_MALFORMED, it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = ""
        if bytes(text[error.pos : error.pos + 9]).lstrip(b"-").startswith((b"NaN", b"Inf")):
            hint = '; JSON has no NaN or infinity: write them as texts, "NaN", "Infinity", "-Infinity"'
        raise ValidationError(f"the JSON can't be read: {error}{hint}", failures.REQUEST_MALFORMED) from None


def _add_input(request: open_inference_pb2.ModelInferRequest, entry: Object, field: str, parts: BinaryParts) -> None:
    name = _name(entry, field)
    parameters = _object(entry.get("parameters", {}), f"{field}.parameters")
    data = entry.get("data")
    if _BINARY_SIZE in parameters:
        if data is not None:
            raise _refused(f"{field}.data", f"must be absent where there is a {_BINARY_SIZE}")
        size = parameters.pop(_BINARY_SIZE)
        data = parts.take(size, tensor=name[:_SHOWN], field=f"{field}.parameters.{_BINARY_SIZE}")
    elif data is None:
        raise _refused(f"{field}.data", f"is missing, and so is parameters.{_BINARY_SIZE}")
    if entry.get("shape") is None:
        raise _refused(f"{field}.shape", "is missing")
    tensor = tensor_of(name, entry.get("datatype"), entry["shape"], data, field=field)
    added = request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
    _set_parameters(added.parameters, parameters, f"{field}.parameters")
    request.raw_input_contents.append(tensor.raw)


def _set_parameters(target: Any, parameters: Object, field: str) -> None:
    if len(parameters) > _ENTRIES_MAX:
        raise _refused(field, f"may have {_ENTRIES_MAX} entries at most")
    for name, value in parameters.items():
        target[name].CopyFrom(parameter_of(name[:_SHOWN], value, field=f"{field}.{name[:_SHOWN]}"))


def _name(entry: Object, field: str) -> str:
    name = _text(entry.get("name", ""), f"{field}.name")
    if not name:
        raise _refused(f"{field}.name", "is missing")
    return name


def _object(value: object, field: str) -> Object:
    if isinstance(value, dict):
        return cast("Object", value)
    raise _refused(field, "must be an object")


def _list(value: object, field: str) -> list[object]:
    if not isinstance(value, list):
        raise _refused(field, "is missing" if value is None else "must be a list")
    entries = cast("list[object]", value)
    if len(entries) > _ENTRIES_MAX:
        raise _refused(field, f"may have {_ENTRIES_MAX} entries at most")
    return entries


def _text(value: object, field: str) -> str:
    if isinstance(value, str):
        return value
    raise _refused(field, "must be a text")


def _flag(value: object, field: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _refused(field, "must be true or false")


def _refused(field: str, why: str) -> ValidationError:
    return ValidationError(f"{field} {why}", field=field)
