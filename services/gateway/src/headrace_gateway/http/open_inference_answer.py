"""Answers of Open Inference REST, with JSON or binary tensors."""

from __future__ import annotations

from typing import Any

import orjson

from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import InternalError
from headrace_client.inference import parameter_value
from headrace_gateway.http.binary_tensors import joined
from headrace_gateway.http.json_tensors import data_of
from headrace_gateway.http.open_inference_request import AnswerForm


def write_answer(response: open_inference_pb2.ModelInferResponse, form: AnswerForm) -> tuple[bytes, int | None]:
    """The body, and for binary ones the length of the JSON at its beginning.

    Raises:
        TensorError: a text of an output is not UTF-8, which JSON can't hold.
    """
    contents = response.raw_output_contents
    if len(contents) != len(response.outputs):
        raise InternalError("the answer doesn't carry its outputs as raw bytes")
    behind: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for output, raw in zip(response.outputs, contents, strict=True):
        shape = list(output.shape)
        written: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        parameters = _parameters(output.parameters)
        if form.is_binary(output.name):
            parameters["binary_data_size"] = len(raw)
            behind.append(raw)
        else:
            written["data"] = data_of(output.datatype, shape, raw, flat=True, name=output.name)
        if parameters:
            written["parameters"] = parameters
        outputs.append(written)
    document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = _parameters(response.parameters)
    document["outputs"] = outputs
    return joined(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), behind)


def _parameters(parameters: Any) -> dict[str, Any]:
    return {name: parameter_value(value) for name, value in parameters.items()}
