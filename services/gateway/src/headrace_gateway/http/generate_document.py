"""Triton's generate extension: members of a JSON object become inputs and parameters, and outputs become members. Pure.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from __future__ import annotations

from typing import Any, cast

import orjson

from headrace_client import failures
from headrace_client.contracts.inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)
from headrace_client.errors import InternalError, TensorError
from headrace_client.inference import parameter_of
from headrace_client.model_reference import ModelReference
from headrace_gateway.http.document_fields import SHOWN, WHOLE, Object, object_at, parse_json, text_at
from headrace_gateway.http.json_tensors import data_of, tensor_of
from headrace_gateway.http.streamed_inference import told_parameters

_ID, _PARAMETERS = "id", "parameters"
_STREAM, _SAMPLING = "stream", "sampling_parameters"


def read_generate(
    body: bytes, metadata: ModelMetadataResponse, model: ModelReference, *, streams: bool
) -> ModelInferRequest:
    """The request for inference that a body asks for.

    A member that has the name of an input is its value: one element, or elements in lists. All others are parameters,
    and so are the members of `parameters`, among which there may be inputs too.

    Args:
        body: JSON.
        metadata: The model's tensors.
        model: As the path names it.
        streams: Whether a model that can send parts is to do so, where the body says nothing about it.

    Raises:
        ValidationError: It is no JSON object, or a parameter is neither a text, a number nor a truth value.
        TensorError: An input can't be right.
    """
    document = object_at(parse_json(body), WHOLE)
    members = {**document, **object_at(document.get(_PARAMETERS) or {}, _PARAMETERS)}
    members.pop(_PARAMETERS, None)
    request = ModelInferRequest(model_name=model.name, model_version=model.model_version)
    if (given_id := members.pop(_ID, None)) is not None:
        request.id = text_at(given_id, _ID)
    inputs = {tensor.name: tensor for tensor in metadata.inputs}
    if _STREAM in inputs and inputs[_STREAM].datatype == "BOOL":
        members.setdefault(_STREAM, streams)
    for name, value in members.items():
        if name in inputs:
            _add_input(request, inputs[name], value)
        else:
            field = name[:SHOWN]
            request.parameters[name].CopyFrom(parameter_of(field, value, field=field))
    return request


def write_generate(response: ModelInferResponse) -> bytes:
    """A response as JSON: an output of one element is that element, others are flat lists.

    Raises:
        TensorError: A text of an output is not UTF-8, which JSON can't hold.
    """
    if len(response.raw_output_contents) != len(response.outputs):
        raise InternalError("the answer doesn't carry its outputs as raw bytes")
    document: Object = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document[_ID] = response.id
    document.update(told_parameters(response))
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        data: Any = data_of(output.datatype, list(output.shape), raw, flat=True, name=output.name)
        document[output.name] = data[0] if len(data) == 1 else data
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _add_input(request: ModelInferRequest, wanted: ModelMetadataResponse.TensorMetadata, value: Any) -> None:
    if wanted.name == _SAMPLING and isinstance(value, dict):
        value = orjson.dumps(value).decode()
    elements: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    tensor = tensor_of(wanted.name, wanted.datatype, None, elements, field=wanted.name)
    missing = len(wanted.shape) - len(tensor.shape)
    if missing < 0:
        why = f"{wanted.name} is nested deeper than the {len(wanted.shape)} axes that the model takes"
        raise TensorError(why, failures.TENSOR_SHAPE_MISMATCH, context={"tensor": wanted.name}, field=wanted.name)
    # One request is one row, where the model takes rows.
    shape = (*[1] * missing, *tensor.shape)
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
    request.raw_input_contents.append(tensor.raw)
