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
from headrace_client.rpcs import Rpc
from headrace_common import catalogue
from headrace_gateway.http.failures import failed
from headrace_gateway.http.sessions import CallContext, Session

# A stream of one request is on the wire what a single request is.
_STREAM_INFER = Rpc("/inference.GRPCInferenceService/ModelStreamInfer", ModelInferRequest, ModelStreamInferResponse)
_FINAL, _REASON = "triton_final_response", "headrace_reason"


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


def told_parameters(response: ModelInferResponse) -> dict[str, str | int | float | bool]:
    """The parameters that are not about the protocol."""
    told: dict[str, str | int | float | bool] = {}
    for name, parameter in response.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None and name != _FINAL:
            told[name] = getattr(parameter, kind)
    return told


def _restored(message: ModelStreamInferResponse) -> HeadraceError:
    reason = message.infer_response.parameters[_REASON].string_param
    entry = catalogue.BY_REASON.get(reason)
    return failed(entry, message.error_message) if entry is not None else InternalError(message.error_message)
