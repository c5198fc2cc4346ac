"""Requests of Open Inference REST, with JSON or binary tensors, as the message of the same protocol."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_gateway.http.binary_tensors import BinaryParts, split
from headrace_gateway.http.document_fields import (
    SHOWN,
    WHOLE,
    Object,
    flag_at,
    list_at,
    object_at,
    parse_json,
    refused,
    set_parameters,
    text_at,
)
from headrace_gateway.http.json_tensors import tensor_of

_BINARY_SIZE = "binary_data_size"
_BINARY = "binary_data"
_BINARY_OUTPUT = "binary_data_output"


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
    document = object_at(parse_json(text), WHOLE)
    message = inference_pb2.InferRequest()
    request = message.request
    request.model_name, request.model_version = model_name, model_version
    request.id = text_at(document.get("id", ""), "id")
    parameters = object_at(document.get("parameters", {}), "parameters")
    binary = flag_at(parameters.pop(_BINARY_OUTPUT, False), f"parameters.{_BINARY_OUTPUT}")
    set_parameters(request.parameters, parameters, "parameters")
    for index, entry in enumerate(list_at(document.get("inputs"), "inputs")):
        _add_input(request, object_at(entry, f"inputs[{index}]"), f"inputs[{index}]", parts)
    parts.finish()
    form = AnswerForm(binary=binary, by_output={})
    for index, entry in enumerate(list_at(document.get("outputs", []), "outputs")):
        field = f"outputs[{index}]"
        output = object_at(entry, field)
        name = _name(output, field)
        own = object_at(output.get("parameters", {}), f"{field}.parameters")
        if _BINARY in own:
            form.by_output[name] = flag_at(own.pop(_BINARY), f"{field}.parameters.{_BINARY}")
        set_parameters(request.outputs.add(name=name).parameters, own, f"{field}.parameters")
    return message, form


def _add_input(request: open_inference_pb2.ModelInferRequest, entry: Object, field: str, parts: BinaryParts) -> None:
    name = _name(entry, field)
    parameters = object_at(entry.get("parameters", {}), f"{field}.parameters")
    data = entry.get("data")
    if _BINARY_SIZE in parameters:
        if data is not None:
            raise refused(f"{field}.data", f"must be absent where there is a {_BINARY_SIZE}")
        size = parameters.pop(_BINARY_SIZE)
        data = parts.take(size, tensor=name[:SHOWN], field=f"{field}.parameters.{_BINARY_SIZE}")
    elif data is None:
        raise refused(f"{field}.data", f"is missing, and so is parameters.{_BINARY_SIZE}")
    if entry.get("shape") is None:
        raise refused(f"{field}.shape", "is missing")
    tensor = tensor_of(name, entry.get("datatype"), entry["shape"], data, field=field)
    added = request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
    set_parameters(added.parameters, parameters, f"{field}.parameters")
    request.raw_input_contents.append(tensor.raw)


def _name(entry: Object, field: str) -> str:
    name = text_at(entry.get("name"), f"{field}.name")
    if not name:
        raise refused(f"{field}.name", "is missing")
    return name
