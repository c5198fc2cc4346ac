"""Triton's generate extension: an inference with little JSON around it, answered at once or in events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
)
from headrace_client.errors import ValidationError
from headrace_client.model_reference import ModelReference
from headrace_common import catalogue
from headrace_gateway.http.bodies import content_type
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.failures import failed
from headrace_gateway.http.front import Front
from headrace_gateway.http.generate_document import read_generate, write_generate
from headrace_gateway.http.open_inference_routes import DECLARED, VERSION, Named
from headrace_gateway.http.server_sent_events import EventStream, event
from headrace_gateway.http.sessions import CallContext, Session
from headrace_gateway.http.streamed_inference import is_final, streamed

_BODY_BYTES_MAX = 8 << 20
# What curl says of a body when it isn't told, as in Triton's own examples.
_BODY_TYPES = frozenset(("", "application/json", "application/x-www-form-urlencoded"))
_EXAMPLE = {"text_input": "Once upon a time", "parameters": {"max_tokens": 16, "temperature": 0}}
_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "Inputs and parameters by name.",
                    "properties": {"id": {"type": "string"}, "parameters": {"type": "object"}},
                    "examples": [_EXAMPLE],
                }
            }
        },
    }
}
_FAILURE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Outputs and parameters by name.", "content": {"application/json": {}}},
    "default": {"description": "A failure", "content": {"application/json": {"schema": _FAILURE}}},
}
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    **_ANSWER,
    200: {"description": "An event for each part of the answer.", "content": {"text/event-stream": {}}},
}

router = APIRouter(prefix="/v2", tags=["open inference"])


@router.post(
    f"{VERSION}/generate",
    summary="Run a version on JSON",
    openapi_extra=_REQUEST,
    responses=_ANSWER,
    dependencies=DECLARED,
)
@router.post("/models/{model}/generate", summary="Run a model on JSON", openapi_extra=_REQUEST, responses=_ANSWER)
async def generate(
    request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall, named: Named
) -> Response:
    asked = await _read(request, front, session, call, named, streams=False)
    async with aclosing(streamed(session, asked, call=call)) as parts:
        async for part in parts:
            if not is_final(part):
                raise ValidationError("the model answers in parts: generate_stream has them", field="stream")
            return Response(write_generate(part), media_type="application/json")
    return Response(write_generate(ModelInferResponse()), media_type="application/json")


@router.post(
    f"{VERSION}/generate_stream",
    summary="Run a version on JSON, answered in events",
    openapi_extra=_REQUEST,
    responses=_EVENTS,
    dependencies=DECLARED,
)
@router.post(
    "/models/{model}/generate_stream",
    summary="Run a model on JSON, answered in events",
    openapi_extra=_REQUEST,
    responses=_EVENTS,
)
async def generate_stream(
    request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall, named: Named
) -> Response:
    asked = await _read(request, front, session, call, named, streams=True)
    return EventStream(
        _events(session, asked, call),
        streams=front.streams,
        failure=lambda error: event(orjson.dumps({"error": error.message})),
    )


async def _read(
    request: Request, front: Front, session: Session, call: CallContext, named: ModelReference, *, streams: bool
) -> ModelInferRequest:
    if (kind := content_type(request)) not in _BODY_TYPES:
        told = kind[:80]
        raise failed(
            catalogue.CONTENT_TYPE_UNSUPPORTED,
            f"the body must be application/json, not {told!r}",
            context={"contentType": told},
        )
    asked = ModelMetadataRequest(name=named.name, version=named.model_version)
    async with front.bodies.read(request, bytes_max=_BODY_BYTES_MAX) as body:
        metadata = await session.unary(rpcs.MODEL_METADATA, asked, call=call)
        return read_generate(body, metadata, named, streams=streams)


async def _events(session: Session, asked: ModelInferRequest, call: CallContext) -> AsyncGenerator[bytes, None]:
    async with aclosing(streamed(session, asked, call=call)) as parts:
        async for part in parts:
            yield event(write_generate(part))
