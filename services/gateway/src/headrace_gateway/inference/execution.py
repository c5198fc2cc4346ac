"""What a client is told of an answer beside its tensors."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from headrace.gateway.internal.v1.raw_inference_pb2 import RawInferResponse
from headrace.gateway.v1.execution_pb2 import Execution
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.mesh.session_calls import Answer

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


def _write_duration(into: Duration, microseconds: int) -> None:
    if microseconds >= _US_PER_S:
        into.seconds, microseconds = divmod(microseconds, _US_PER_S)
    if microseconds:
        into.nanos = microseconds * 1000
