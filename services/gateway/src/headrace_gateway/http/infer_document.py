"""Inferences of `/v1/infer` as documents: the request's fields as a message, and an answer as fields."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from headrace_client import model_reference
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import InternalError
from headrace_client.inference import Execution, execution_of, parameter_value
from headrace_gateway.http.document_fields import (
    SHOWN,
    WHOLE,
    Object,
    flag_at,
    known_fields,
    list_at,
    object_at,
    refused,
    set_parameters,
    text_at,
    whole_number_at,
)
from headrace_gateway.http.json_tensors import data_of, tensor_of

TIMEOUT_MS_MAX = 3_600_000
OPTIONS = frozenset(("outputs", "parameters", "priority", "latencyCritical", "timeoutMs", "outputEncoding"))
_FIELDS = OPTIONS | {"modelId", "inputs"}
_TENSOR_FIELDS = frozenset(("shape", "dtype", "data", "parameters"))
_ENCODINGS = ("json", "base64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """One inference that a document asks for.

    Attributes:
        message: For the gateway.
        timeout_s: Time for the answer; None where the document states none.
        base64: Whether outputs go as base64 of their bytes.
    """

    message: inference_pb2.InferRequest
    timeout_s: float | None = None
    base64: bool = False


def read_inference(value: object, *, place: str = "") -> Inference:
    """What a document of `/v1/infer` asks for.

    Args:
        value: The document, parsed.
        place: Path of the document in the body; empty for all of it.

    Raises:
        ValidationError: A field is missing, unknown or can't be right.
        TensorError: An input can't be right.
    """
    document = object_at(value, place or WHOLE)
    known_fields(document, _FIELDS, place)
    prefix = f"{place}." if place else ""
    message = inference_pb2.InferRequest()
    set_model(message, text_at(document.get("modelId"), f"{prefix}modelId"), f"{prefix}modelId")
    for name, entry in object_at(document.get("inputs"), f"{prefix}inputs").items():
        _add_input(message, name, entry, f"{prefix}inputs.{name[:SHOWN]}")
    return read_options(message, document, prefix)


def set_model(message: inference_pb2.InferRequest, text: str, field: str) -> None:
    """Puts the model that a text names into a message.

    Raises:
        ValidationError: It names none.
    """
    model = model_reference.parse(text, field=field)
    message.request.model_name, message.request.model_version = model.name, model.model_version


def read_options(message: inference_pb2.InferRequest, document: Object, prefix: str = "") -> Inference:
    """All of a document but the model and the inputs, which the message has already.

    Raises:
        ValidationError: A field can't be right.
    """
    for index, name in enumerate(list_at(document.get("outputs", []), f"{prefix}outputs")):
        message.request.outputs.add(name=text_at(name, f"{prefix}outputs[{index}]"))
    parameters, field = message.request.parameters, f"{prefix}parameters"
    set_parameters(parameters, object_at(document.get("parameters", {}), field), field)
    if "priority" in document:
        message.priority = whole_number_at(document["priority"], f"{prefix}priority", least=0, most=9)
    if "latencyCritical" in document:
        parameters["latency_critical"].bool_param = flag_at(document["latencyCritical"], f"{prefix}latencyCritical")
    timeout_s = None
    if "timeoutMs" in document:
        field = f"{prefix}timeoutMs"
        timeout_s = whole_number_at(document["timeoutMs"], field, least=1, most=TIMEOUT_MS_MAX) / 1_000
    encoding = document.get("outputEncoding", "json")
    if encoding not in _ENCODINGS:
        raise refused(f"{prefix}outputEncoding", f"must be {' or '.join(_ENCODINGS)}")
    return Inference(message=message, timeout_s=timeout_s, base64=encoding == "base64")


def answer_document(
    answer: inference_pb2.InferResponse, *, request_id: str, started: float, base64: bool = False, binary: bool = False
) -> Object:
    """What `/v1/infer` answers.

    Args:
        answer: The gateway's.
        request_id: Of the request.
        started: When it came, by `time.perf_counter()`.
        base64: Whether outputs go as base64 of their bytes,
        binary: or as these bytes themselves, for MessagePack.

    Raises:
        TensorError: A text of an output is not UTF-8, which JSON can't hold.
    """
    response, execution = answer.response, execution_of(answer.execution)
    outputs = output_documents(response, base64=base64, binary=binary)
    metadata: Object = {
        "model": response.model_name,
        "version": response.model_version,
        **replica_fields(execution),
    }
    if response.parameters:
        metadata["parameters"] = {name: parameter_value(value) for name, value in response.parameters.items()}
    return {
        "requestId": request_id,
        "outputs": outputs,
        "latencyMs": round((time.perf_counter() - started) * 1_000, 3),
        **runner_fields(execution),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "metadata": metadata,
    }


def runner_fields(execution: Execution) -> Object:
    """What kind of runner answered."""
    return {"runnerName": f"{execution.backend}-{execution.device_type}", "deviceType": execution.device_type}


def replica_fields(execution: Execution) -> Object:
    """Of the metadata: which runner it was, and the time that the call had there."""
    return {
        "replica": execution.runner,
        "backend": execution.backend,
        "queueMs": round(execution.queue_s * 1_000, 3),
        "computeMs": round(execution.compute_s * 1_000, 3),
    }


def output_documents(
    response: open_inference_pb2.ModelInferResponse, *, base64: bool = False, binary: bool = False
) -> Object:
    """The outputs by name; arguments and failures as of `answer_document`."""
    contents = response.raw_output_contents
    if len(contents) != len(response.outputs):
        raise InternalError("the answer doesn't carry its outputs as raw bytes")
    outputs: Object = {}
    for output, raw in zip(response.outputs, contents, strict=True):
        shape = list(output.shape)
        data: Any = raw if binary else data_of(output.datatype, shape, raw, base64=base64, name=output.name)
        outputs[output.name] = {"shape": shape, "dtype": output.datatype, "data": data}
    return outputs


def _add_input(message: inference_pb2.InferRequest, name: str, value: object, field: str) -> None:
    entry = object_at(value, field)
    known_fields(entry, _TENSOR_FIELDS, field)
    if not name:
        raise refused(field, "needs a name")
    if "data" not in entry:
        raise refused(f"{field}.data", "is missing")
    tensor = tensor_of(name, entry.get("dtype"), entry.get("shape"), entry["data"], field=field, datatype_key="dtype")
    request = message.request
    added = request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
    if "parameters" in entry:
        set_parameters(added.parameters, object_at(entry["parameters"], f"{field}.parameters"), f"{field}.parameters")
    request.raw_input_contents.append(tensor.raw)
