"""One inference: what a caller asks for as a message, and the answer as arrays."""

from __future__ import annotations

import operator
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from numpy.typing import ArrayLike, NDArray

from headrace_client import failures
from headrace_client.contracts.google.protobuf import duration_pb2
from headrace_client.contracts.headrace.gateway.v1 import execution_pb2, inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import TensorError, ValidationError
from headrace_client.model_reference import named
from headrace_client.tensors import Tensor, decode, encode

ParameterValue = bool | int | float | str
_PRIORITY_MAX = 9
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
# Later versions of the format may append fields.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,256})?")


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """One inference to run.

    Attributes:
        model: Name of the model, alone or with its version: `resnet`, `resnet:3`, `resnet:staging`.
        inputs: Values by name of the input: arrays, what numpy makes arrays of, or `Tensor` to name a datatype.
        version: Number of the version, or the name of an alias or stage; empty or 0 means the newest that is ready.
        outputs: Names of the outputs to send back, in this order; empty means all.
        parameters: Parameters of the Open Inference Protocol. A request with a `sequence_id` is never tried again.
        priority: 0 to 9, 9 is most urgent; None means 5. Orders the queues of gateways and runners.
        timeout_s: Time for the answer in seconds; None means that of the client.
        request_id: For the logs of the mesh and for `InferResult.id`: up to 128 letters, digits and `._:/-`, a letter
            or digit first.
        traceparent: W3C trace context; empty means none.
    """

    model: str
    inputs: Mapping[str, ArrayLike | Tensor]
    version: str | int = field(default="", kw_only=True)
    outputs: Sequence[str] = field(default=(), kw_only=True)
    parameters: Mapping[str, ParameterValue] | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    timeout_s: float | None = field(default=None, kw_only=True)
    request_id: str | None = field(default=None, kw_only=True)
    traceparent: str = field(default="", kw_only=True)

    @property
    def repeatable(self) -> bool:
        """Whether it may run twice. One of a sequence may not: its state may have moved on although no answer came."""
        return not (self.parameters and self.parameters.get("sequence_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Where and how long an inference ran.

    Attributes:
        runner: Name of the runner.
        backend: What computed, for example `onnxruntime`.
        device_type: What it computed on: `cpu`, `cuda`, `tpu` or `npu`.
        queue_s: Seconds in the runner's queue.
        compute_s: Seconds of the execution, tensors read and written included.
    """

    runner: str
    backend: str
    device_type: str
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InferResult:
    """The answer to one inference; `result["name"]` is one of its outputs.

    Attributes:
        model: Name of the model that ran.
        version: Version that ran, as a decimal number.
        id: The request's `request_id`; empty when it had none.
        outputs: Arrays by name, in the order asked for: read-only views of the received bytes, object arrays of `bytes`
            for BYTES, float32 for BF16.
        datatypes: Datatypes by name of the output.
        parameters: Parameters of the response; usually empty.
        execution: Where and how long it ran.
    """

    model: str
    version: str
    id: str
    outputs: Mapping[str, NDArray[Any]]
    datatypes: Mapping[str, str]
    parameters: Mapping[str, ParameterValue]
    execution: Execution

    def __getitem__(self, output: str) -> NDArray[Any]:
        return self.outputs[output]


def encode_request(request: InferRequest) -> inference_pb2.InferRequest:
    """The message for a request.

    Raises:
        TensorError: an input can't be sent.
        ValidationError: another field can't be right.
    """
    try:
        return _message(request)
    except UnicodeEncodeError:
        raise ValidationError("a name or a parameter can't be encoded as UTF-8") from None


def decode_response(message: inference_pb2.InferResponse) -> InferResult:
    """The answer as arrays.

    Raises:
        TensorError: an output can't be read.
    """
    response = message.response
    contents = response.raw_output_contents
    if len(contents) != len(response.outputs):
        raise TensorError("the answer doesn't carry its outputs as raw bytes", failures.TENSOR_RAW_COUNT_MISMATCH)
    outputs: dict[str, NDArray[Any]] = {}
    datatypes: dict[str, str] = {}
    for output, raw in zip(response.outputs, contents, strict=True):
        outputs[output.name] = decode(output.name, output.datatype, output.shape, raw)
        datatypes[output.name] = output.datatype
    return InferResult(
        model=response.model_name,
        version=response.model_version,
        id=response.id,
        outputs=outputs,
        datatypes=datatypes,
        parameters={name: parameter_value(value) for name, value in response.parameters.items()},
        execution=execution_of(message.execution),
    )


def execution_of(message: execution_pb2.Execution) -> Execution:
    """Where and how long a call ran."""
    return Execution(
        runner=message.runner,
        backend=message.backend,
        device_type=message.device_type,
        queue_s=seconds_of(message.queue_time),
        compute_s=seconds_of(message.compute_time),
    )


def seconds_of(duration: duration_pb2.Duration) -> float:
    """A time of the contracts in seconds."""
    return duration.seconds + duration.nanos / 1e9


def version_text(version: str | int) -> str:
    """A version as requests name it: a decimal number, an alias or stage, or empty for the newest.

    Raises:
        ValidationError: it is none of them.
    """
    text = version if isinstance(version, str) else str(_whole_number(version))
    if text.startswith("-"):
        raise ValidationError(
            f"a version is a whole number of 1 or more, or the name of an alias or stage, not {version!r}",
            field="version",
        )
    return "" if text == "0" else text


def checked_request_id(request_id: str | None) -> str | None:
    """The id as it is.

    Raises:
        ValidationError: it is another text than that.
    """
    if request_id is None:
        return None
    if not (_is_text(request_id) and _REQUEST_ID.fullmatch(request_id)):
        raise ValidationError(
            "request_id is up to 128 letters, digits and ._:/-, a letter or digit first", field="request_id"
        )
    return request_id


def checked_traceparent(traceparent: str) -> str:
    """The trace context as it is.

    Raises:
        ValidationError: it is neither empty nor one of W3C's form.
    """
    if traceparent == "" or (_is_text(traceparent) and _TRACEPARENT.fullmatch(traceparent)):
        return traceparent
    raise ValidationError(f"traceparent is a W3C trace context, not {traceparent!r}", field="traceparent")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _are_texts(values: object) -> bool:
    return isinstance(values, Iterable) and all(map(_is_text, cast("Iterable[object]", values)))


def _message(request: InferRequest) -> inference_pb2.InferRequest:
    _check_types(request)
    message = inference_pb2.InferRequest()
    inner = message.request
    inner.model_name, inner.model_version = named(request.model, version_text(request.version))
    inner.id = checked_request_id(request.request_id) or ""
    for name, value in request.inputs.items():
        tensor = encode(name, value)
        inner.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        inner.raw_input_contents.append(tensor.raw)
    for name in request.outputs:
        inner.outputs.add(name=name)
    for name, value in (request.parameters or {}).items():
        inner.parameters[name].CopyFrom(parameter_of(name, value))
    if request.priority is not None:
        message.priority = _checked_priority(request.priority)
    return message


def _check_types(request: InferRequest) -> None:
    """Refuses what Python's types would have told: callers may have no type checker."""
    if not (_is_text(request.model) and request.model):
        raise ValidationError(f"the name of a model is needed, not {request.model!r}", field="model")
    if _is_text(request.outputs) or not _are_texts(request.outputs):
        raise ValidationError(f"outputs must be a list of names, not {request.outputs!r}", field="outputs")
    for field_name, values in (("inputs", request.inputs), ("parameters", request.parameters or {})):
        if not (_is_mapping(values) and _are_texts(values)):
            raise ValidationError(f"{field_name} must be a mapping with texts as names", field=field_name)


def _checked_priority(priority: int) -> int:
    checked = _whole_number(priority)
    if not 0 <= checked <= _PRIORITY_MAX:
        raise ValidationError(f"priority is 0 to {_PRIORITY_MAX}, not {priority!r}", field="priority")
    return checked


def _whole_number(value: Any) -> int:
    """The number, -1 for anything else."""
    try:
        # Also numpy's whole numbers; a bool is an int to Python.
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def parameter_of(name: str, value: object, *, field: str | None = None) -> open_inference_pb2.InferParameter:
    """The message for a parameter.

    Args:
        name: Its name.
        value: A text, a number or a bool.
        field: Where the request has it; None means its name.

    Raises:
        ValidationError: the value is of another kind, or a whole number of more than 64 bits.
    """
    message = open_inference_pb2.InferParameter()
    # A bool is an int to Python, so it comes first.
    if isinstance(value, bool):
        message.bool_param = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        message.int64_param = value
    elif isinstance(value, int) and 0 < value < 1 << 64:
        message.uint64_param = value
    elif isinstance(value, float):
        message.double_param = value
    elif isinstance(value, str):
        message.string_param = value
    else:
        raise ValidationError(
            f"parameter '{name}' is a text, a number of up to 64 bits or a bool, not {reprlib.repr(value)}",
            failures.PARAMETER_INVALID,
            field=field or name,
        )
    return message


def parameter_value(message: open_inference_pb2.InferParameter) -> ParameterValue:
    """What a parameter says; empty for one that says nothing."""
    chosen = message.WhichOneof("parameter_choice")
    return getattr(message, chosen) if chosen is not None else ""
