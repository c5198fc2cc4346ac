"""`/v1/infer/stream`: one inference, its outputs as events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import InferRequest
from headrace_client.contracts.inference.open_inference_pb2 import ModelInferRequest
from headrace_client.errors import HeadraceError
from headrace_client.inference import Execution
from headrace_gateway.http import infer_schema
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import Object, parse_json
from headrace_gateway.http.failures import document as failure_document
from headrace_gateway.http.infer_document import (
    Inference,
    output_documents,
    read_inference,
    replica_fields,
    runner_fields,
)
from headrace_gateway.http.negotiation import Form, body_form
from headrace_gateway.http.server_sent_events import EventStream, event
from headrace_gateway.http.sessions import CallContext, Session
from headrace_gateway.http.streamed_inference import execution_in, is_final, streamed, told_parameters

# Triton's levels of priority, in which 1 is most urgent, for ours.
_TRITON_PRIORITIES = 10
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": infer_schema.INFER["requestBody"]["content"]["application/json"]},
    }
}
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events: `chunk` for each part of the outputs, then `done`, or `error`.",
        "content": {"text/event-stream": {}},
    },
    "default": infer_schema.ANSWERS["default"],
}

router = APIRouter(tags=["inference"])


@router.post(
    "/v1/infer/stream",
    summary="Run one inference whose outputs come as events, those of a text token by token",
    openapi_extra=_BODY,
    responses=_EVENTS,
    response_class=Response,
)
async def infer_stream(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    started = time.perf_counter()
    body_form(request, Form.JSON)
    async with front.bodies.read(request) as body:
        inference = read_inference(parse_json(body))
    if inference.timeout_s is not None:
        call = replace(call, timeout_s=inference.timeout_s)
    return EventStream(
        _events(session, inference, call, started),
        streams=front.streams,
        failure=lambda error: _failed(error, call),
    )


async def _events(
    session: Session, inference: Inference, call: CallContext, started: float
) -> AsyncGenerator[bytes, None]:
    metadata: Object = {}
    execution: Execution | None = None
    async with aclosing(streamed(session, _open_inference(inference.message), call=call)) as parts:
        async for part in parts:
            if part.model_name:
                metadata.update(model=part.model_name, version=part.model_version)
            if is_final(part):
                execution = execution_in(part)
                metadata.update(replica_fields(execution))
            if parameters := told_parameters(part):
                metadata["parameters"] = parameters
            if part.outputs:
                outputs = output_documents(part, base64=inference.base64)
                yield _event("chunk", {"requestId": call.request_id, "outputs": outputs})
    done: Object = {
        "requestId": call.request_id,
        "latencyMs": round((time.perf_counter() - started) * 1_000, 3),
        **(runner_fields(execution) if execution is not None else {}),
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "metadata": metadata,
    }
    yield _event("done", done)


def _open_inference(message: InferRequest) -> ModelInferRequest:
    """The request with its priority where the Open Inference Protocol has it."""
    request = message.request
    if message.HasField("priority"):
        request.parameters["priority"].int64_param = _TRITON_PRIORITIES - message.priority
    return request


def _failed(error: HeadraceError, call: CallContext) -> bytes:
    return _event("error", failure_document(error, path="", request_id=call.request_id))


def _event(name: str, document: Object) -> bytes:
    return event(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), name=name)
