"""An inference that is answered in parts, where the model has parts to tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from headrace_client.contracts.inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from headrace_client.errors import HeadraceError, InternalError
from headrace_client.inference import Execution, parameter_value
from headrace_client.rpcs import Rpc
from headrace_common import catalogue
from headrace_gateway.http.failures import failed
from headrace_gateway.http.sessions import CallContext, Session

# A stream of one request is on the wire what a single request is.
_STREAM_INFER = Rpc("/inference.GRPCInferenceService/ModelStreamInfer", ModelInferRequest, ModelStreamInferResponse)
_FINAL, _REASON = "triton_final_response", "headrace_reason"
_OURS = "headrace_"
ASKS_EXECUTION = ("headrace-execution", "true")
"""Metadata that has the gateway tell in the last part where the call ran."""


async def streamed(
    session: Session, request: ModelInferRequest, *, call: CallContext
) -> AsyncGenerator[ModelInferResponse, None]:
    """The parts of the answer: those of a text as they come, all of any other at once. Closing it cancels the call.

    Raises:
        HeadraceError: What the mesh answered, or that it didn't.
    """
    async with aclosing(session.stream(_STREAM_INFER, request, call=call)) as messages:
        async for message in messages:
            if message.error_message:
                raise _restored(message)
            yield message.infer_response


def is_final(response: ModelInferResponse) -> bool:
    """Whether no other part follows."""
    return response.parameters[_FINAL].bool_param if _FINAL in response.parameters else False


def execution_in(response: ModelInferResponse) -> Execution:
    """Where and how long the call ran, in the last part of an answer; nothing in others."""
    said = {name: parameter_value(parameter) for name, parameter in response.parameters.items()}
    return Execution(
        runner=str(said.get(f"{_OURS}runner", "")),
        backend=str(said.get(f"{_OURS}backend", "")),
        device_type=str(said.get(f"{_OURS}device_type", "")),
        queue_s=float(said.get(f"{_OURS}queue_us", 0)) / 1e6,
        compute_s=float(said.get(f"{_OURS}compute_us", 0)) / 1e6,
    )


def told_parameters(response: ModelInferResponse) -> dict[str, str | int | float | bool]:
    """The parameters that are not about the protocol."""
    told: dict[str, str | int | float | bool] = {}
    for name, parameter in response.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None and name != _FINAL and not name.startswith(_OURS):
            told[name] = getattr(parameter, kind)
    return told


def _restored(message: ModelStreamInferResponse) -> HeadraceError:
    reason = message.infer_response.parameters[_REASON].string_param
    entry = catalogue.BY_REASON.get(reason)
    return failed(entry, message.error_message) if entry is not None else InternalError(message.error_message)
