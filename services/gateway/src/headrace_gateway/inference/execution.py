"""What a client is told of an answer beside its tensors."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from headrace.gateway.internal.v1.raw_inference_pb2 import RawInferResponse
from headrace.gateway.v1.execution_pb2 import Execution
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.mesh.session_calls import Answer
from inference import open_inference_pb2 as oip

_US_PER_S = 1_000_000


def write_response(into: RawInferResponse, call: InferenceCall, answer: Answer) -> None:
    """Fills an empty InferResponse."""
    into.response = answer.payload
    write_execution(into.execution, call, answer)


def write_execution(into: Execution, call: InferenceCall, answer: Answer) -> None:
    """Fills an empty Execution."""
    session = call.session
    if session is not None:
        into.runner = session.hello.runner_name
        into.device_type = session.hello.device.type
        into.backend = session.backend_of(call.version.uid)
    _write_duration(into.queue_time, answer.queue_us)
    _write_duration(into.compute_time, answer.compute_us)


def execution_parameters(call: InferenceCall, answer: Answer) -> bytes:
    """The same as parameters of a ModelInferResponse, serialised: more fields of one that is serialised."""
    execution = Execution()
    write_execution(execution, call, answer)
    parameters = {
        "headrace_runner": oip.InferParameter(string_param=execution.runner),
        "headrace_backend": oip.InferParameter(string_param=execution.backend),
        "headrace_device_type": oip.InferParameter(string_param=execution.device_type),
        "headrace_queue_us": oip.InferParameter(int64_param=answer.queue_us),
        "headrace_compute_us": oip.InferParameter(int64_param=answer.compute_us),
    }
    return oip.ModelInferResponse(parameters=parameters).SerializeToString()


def _write_duration(into: Duration, microseconds: int) -> None:
    if microseconds >= _US_PER_S:
        into.seconds, microseconds = divmod(microseconds, _US_PER_S)
    if microseconds:
        into.nanos = microseconds * 1000
