"""`/v1/infer`: one inference, many at once, and one that is fetched later."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import failures as client_failures
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import HeadraceError, ValidationError
from headrace_gateway.http import infer_schema
from headrace_gateway.http.dependencies import BatchSession, CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import (
    WHOLE,
    Object,
    known_fields,
    list_at,
    object_at,
    parse_json,
    refused,
    whole_number_at,
)
from headrace_gateway.http.failures import document as failure_document
from headrace_gateway.http.failures import restated
from headrace_gateway.http.infer_document import Inference, answer_document, read_inference
from headrace_gateway.http.infer_form import read_form
from headrace_gateway.http.message_pack import packed, unpacked
from headrace_gateway.http.negotiation import Form, answer_form, body_form
from headrace_gateway.http.sessions import CallContext, Session

_BATCH_FIELDS = frozenset(("requests", "maxConcurrency"))
_CONCURRENCY = 16
_REQUEST_ID_CHARACTERS_MAX = 128

router = APIRouter(tags=["inference"])


@router.post(
    "/v1/infer",
    summary="Run one inference",
    openapi_extra=infer_schema.INFER,
    responses=infer_schema.ANSWERS,
    response_class=Response,
)
async def infer(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    started = time.perf_counter()
    form = body_form(request, *Form)
    async with front.bodies.read(request) as body:
        if form is Form.MULTIPART:
            inference = read_form(body, request.headers["content-type"])
        else:
            inference = read_body(body, form)
        if inference.timeout_s is not None:
            call = replace(call, timeout_s=inference.timeout_s)
        answer = await session.infer(inference.message, call=call)
    return _answered(answer, answer_form(request, form), call=call, started=started, base64=inference.base64)


@router.post(
    "/v1/infer/batch",
    summary="Run many inferences, each of which succeeds or fails alone",
    openapi_extra=infer_schema.BATCH,
    responses=infer_schema.BATCH_ANSWERS,
    response_class=Response,
)
async def infer_batch(request: Request, front: CurrentFront, session: BatchSession, call: CurrentCall) -> Response:
    form = body_form(request, Form.JSON, Form.MESSAGE_PACK)
    binary = answer_form(request, form) is Form.MESSAGE_PACK
    async with front.bodies.read(request) as body:
        document = object_at(_document(body, form), WHOLE)
        known_fields(document, _BATCH_FIELDS)
        items = list_at(document.get("requests"), "requests", entries_max=front.settings.batch_requests_max)
        if not items:
            raise refused("requests", "must have an entry")
        concurrency = document.get("maxConcurrency", _CONCURRENCY)
        places = asyncio.Semaphore(whole_number_at(concurrency, "maxConcurrency", least=1, most=1_024))

        # Read at once: what a document holds takes many times its bytes while it is there.
        asked = [_batch_item(item, index=index) for index, item in enumerate(items)]
        del document, items

        async def run(index: int, item: Inference | HeadraceError) -> Object:
            async with places:
                return await _batch_result(session, item, index=index, call=call, binary=binary)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(index, item)) for index, item in enumerate(asked)]
    results = [task.result() for task in tasks]
    return _written({"results": results}, Form.MESSAGE_PACK if binary else Form.JSON)


def _batch_item(item: object, *, index: int) -> Inference | HeadraceError:
    try:
        return read_inference(item, place=f"requests[{index}]")
    except HeadraceError as error:
        return error


async def _batch_result(
    session: Session, item: Inference | HeadraceError, *, index: int, call: CallContext, binary: bool
) -> Object:
    """The result of one of a batch, or why there is none."""
    started = time.perf_counter()
    request_id = f"{call.request_id}/{index}"[-_REQUEST_ID_CHARACTERS_MAX:].lstrip("._:/-")
    try:
        if isinstance(item, HeadraceError):
            raise item
        own = replace(call, request_id=request_id, timeout_s=item.timeout_s)
        answer = await session.infer(item.message, call=own)
        return {
            "result": answer_document(answer, request_id=request_id, started=started, base64=item.base64, binary=binary)
        }
    except HeadraceError as error:
        return {"error": failure_document(restated(error), path="", request_id=request_id)}


def read_body(body: bytes, form: Form) -> Inference:
    """What a body asks for.

    Raises:
        ValidationError: It isn't of its form, or a field can't be right.
        TensorError: An input can't be right.
    """
    if form is not Form.PROTOBUF:
        return read_inference(_document(body, form))
    message = inference_pb2.InferRequest()
    try:
        message.request.MergeFromString(body)
    except DecodeError:
        raise ValidationError(
            "the body is not an inference.ModelInferRequest", client_failures.REQUEST_MALFORMED
        ) from None
    return Inference(message=message)


def _document(body: bytes, form: Form) -> object:
    return unpacked(body) if form is Form.MESSAGE_PACK else parse_json(body)


def _answered(
    answer: inference_pb2.InferResponse, form: Form, *, call: CallContext, started: float, base64: bool
) -> Response:
    if form is Form.PROTOBUF:
        response: open_inference_pb2.ModelInferResponse = answer.response
        return Response(response.SerializeToString(), media_type=form)
    document = answer_document(
        answer, request_id=call.request_id, started=started, base64=base64, binary=form is Form.MESSAGE_PACK
    )
    return _written(document, form)


def _written(document: Any, form: Form) -> Response:
    if form is Form.MESSAGE_PACK:
        return Response(packed(document), media_type=form)
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type=form)
