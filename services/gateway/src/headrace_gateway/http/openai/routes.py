"""The routes of OpenAI's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import InferRequest, InferResponse
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.errors import HeadraceError
from headrace_client.model_reference import parse
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, OpenAISession
from headrace_gateway.http.failures import http_status
from headrace_gateway.http.front import Front
from headrace_gateway.http.json_models import parsed, request_body
from headrace_gateway.http.negotiation import Form, body_form
from headrace_gateway.http.openai import embeddings as embedding
from headrace_gateway.http.openai.chat_answer import ChatAnswer, ChatChunks
from headrace_gateway.http.openai.chat_request import ChatRequest
from headrace_gateway.http.openai.completion_answer import CompletionAnswer, CompletionChunks
from headrace_gateway.http.openai.completion_request import CompletionRequest
from headrace_gateway.http.openai.errors import error_body, in_openai_terms
from headrace_gateway.http.openai.generation import events, head_of, parts
from headrace_gateway.http.openai.models import is_listed, model_document
from headrace_gateway.http.server_sent_events import EventStream, event
from headrace_gateway.http.sessions import CallContext, Session

M = TypeVar("M", bound=BaseModel)

_BODY_BYTES_MAX = 8 << 20
_GROUPS_AT_ONCE = 4
_PAGE = 1_000
_FAILURE: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A failure", "content": {"application/json": {"schema": _FAILURE}}}
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, or its chunks as events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    **_ERRORS,
}

router = APIRouter(tags=["openai"])


@router.post(
    "/openai/v1/chat/completions",
    summary="What a language model says next in a conversation",
    openapi_extra=request_body(ChatRequest),
    responses=_STREAMED,
)
@router.post("/v1/chat/completions", include_in_schema=False)
async def chat(request: Request, front: CurrentFront, session: OpenAISession, call: CurrentCall) -> Response:
    asked = await _read(ChatRequest, request, front)
    head = head_of("chatcmpl", asked.model, call)
    message = asked.to_generate(parse(asked.model), request_id=call.request_id)
    source = parts(session, [message], call=call)
    if asked.stream:
        chunks = ChatChunks(head, logprobs=bool(asked.logprobs), includes_usage=asked.includes_usage)
        return _stream(events(source, lambda _, part: chunks.add(part), chunks.end), front)
    answer = ChatAnswer(head, logprobs=bool(asked.logprobs))
    async with aclosing(source):
        async for _, part in source:
            answer.add(part)
    return _json(answer.document())


@router.post(
    "/openai/v1/completions",
    summary="How a language model continues texts",
    openapi_extra=request_body(CompletionRequest),
    responses=_STREAMED,
)
@router.post("/v1/completions", include_in_schema=False)
async def complete(request: Request, front: CurrentFront, session: OpenAISession, call: CurrentCall) -> Response:
    asked = await _read(CompletionRequest, request, front)
    head = head_of("cmpl", asked.model, call)
    messages = asked.to_generate(parse(asked.model), request_id=call.request_id)
    source = parts(session, messages, call=call)
    shape: dict[str, Any] = {
        "completions_each": asked.completions_each,
        "echoes": asked.echoes,
        "logprobs": asked.logprobs is not None,
    }
    if asked.stream:
        chunks = CompletionChunks(head, **shape, includes_usage=asked.includes_usage)
        return _stream(events(source, chunks.add, chunks.end), front)
    answer = CompletionAnswer(head, **shape)
    async with aclosing(source):
        async for prompt, part in source:
            answer.add(prompt, part)
    return _json(answer.document())


@router.post(
    "/openai/v1/embeddings",
    summary="Vectors of texts",
    openapi_extra=request_body(embedding.EmbeddingRequest),
    responses=_ERRORS,
)
@router.post("/v1/embeddings", include_in_schema=False)
async def embed(request: Request, front: CurrentFront, session: OpenAISession, call: CurrentCall) -> Response:
    asked = await _read(embedding.EmbeddingRequest, request, front)
    model = parse(asked.model)
    groups = list(embedding.infer_requests(model, asked.input, request_id=call.request_id))
    try:
        responses = await _inferred(session, groups, call)
        return _json(embedding.answer(asked, responses, model=model))
    except HeadraceError as error:
        raise in_openai_terms(error) from None


@router.get("/openai/v1/models", summary="The tenant's models, as OpenAI lists them", responses=_ERRORS)
async def list_models(session: OpenAISession, call: CurrentCall) -> Response:
    documents: list[dict[str, Any]] = []
    request = models_pb2.ListModelsRequest(page_size=_PAGE)
    while True:
        page = await session.unary(rpcs.LIST_MODELS, request, call=call)
        documents += [model_document(model) for model in page.models if is_listed(model)]
        if not page.next_page_token:
            return _json({"object": "list", "data": documents})
        request.page_token = page.next_page_token


@router.get("/openai/v1/models/{model}", summary="One model, as OpenAI tells of it", responses=_ERRORS)
async def get_model(model: str, session: OpenAISession, call: CurrentCall) -> Response:
    reference = parse(model)
    answer = await session.unary(rpcs.GET_MODEL, models_pb2.GetModelRequest(name=reference.name), call=call)
    if reference.number:
        version = models_pb2.GetVersionRequest(model=reference.name, version=reference.number)
        await session.unary(rpcs.GET_VERSION, version, call=call)
    return _json({**model_document(answer.model), "id": model})


async def _read(model: type[M], request: Request, front: Front) -> M:
    body_form(request, Form.JSON)
    async with front.bodies.read(request, bytes_max=_BODY_BYTES_MAX) as body:
        return parsed(model, body)


async def _inferred(session: Session, requests: Sequence[InferRequest], call: CallContext) -> list[InferResponse]:
    """The answers in the order of the requests; the first failure cancels what is under way."""
    gate = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def inferred(request: InferRequest) -> InferResponse:
        async with gate:
            return await session.infer(request, call=call)

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(inferred(request)) for request in requests]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]


def _stream(content: AsyncGenerator[bytes, None], front: Front) -> Response:
    return EventStream(
        content,
        streams=front.streams,
        failure=lambda error: event(orjson.dumps(error_body(error, http_status(error)))),
    )


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
