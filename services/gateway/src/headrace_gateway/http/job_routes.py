"""`/v1/infer/async`: an inference that is accepted now and fetched later. The job service does the rest."""

from __future__ import annotations

import time
from typing import TypeVar

import orjson
from fastapi import APIRouter
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import failures as client_failures
from headrace_client import rpcs
from headrace_client.contracts.google.protobuf import timestamp_pb2
from headrace_client.contracts.headrace.jobs.v1 import jobs_pb2
from headrace_client.errors import HeadraceError
from headrace_client.rpcs import Rpc
from headrace_client.status import from_status
from headrace_common import catalogue
from headrace_gateway.http import infer_schema
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import Object
from headrace_gateway.http.failures import document as failure_document
from headrace_gateway.http.failures import failed
from headrace_gateway.http.infer_document import answer_document
from headrace_gateway.http.infer_routes import read_body
from headrace_gateway.http.negotiation import Form, body_form
from headrace_gateway.http.sessions import CallContext, Session

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

_NO_SERVICE = frozenset((client_failures.METHOD_UNKNOWN.reason, catalogue.SERVICE_UNKNOWN.reason))
_STATUSES = ("PENDING", "PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")
_RETRY_AFTER_S = 30.0

router = APIRouter(tags=["inference"])


@router.post(
    "/v1/infer/async",
    status_code=202,
    summary="Accept an inference that is run later",
    openapi_extra=infer_schema.JOB,
    responses=infer_schema.JOB_ANSWERS,
    response_class=Response,
)
async def submit(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    form = body_form(request, Form.JSON, Form.PROTOBUF, Form.MESSAGE_PACK)
    async with front.bodies.read(request) as body:
        inference = read_body(body, form)
        asked = jobs_pb2.SubmitInferenceRequest(inference=inference.message)
        if inference.timeout_s is not None:
            asked.timeout.FromMilliseconds(round(inference.timeout_s * 1_000))
        answer = await _asked(session, rpcs.SUBMIT_INFERENCE, asked, call)
    return _answered(answer.job, call, status=202)


@router.get(
    "/v1/infer/async/{job_id}",
    summary="How a job is, with its result once it has one",
    responses=infer_schema.JOB_ANSWERS,
    response_class=Response,
)
async def status(job_id: str, session: CurrentSession, call: CurrentCall) -> Response:
    answer = await _asked(session, rpcs.GET_JOB, jobs_pb2.GetJobRequest(id=job_id), call)
    return _answered(answer.job, call, status=200)


async def _asked(session: Session, rpc: Rpc[Q, R], request: Q, call: CallContext) -> R:
    try:
        return await session.unary(rpc, request, call=call)
    except HeadraceError as error:
        if error.reason not in _NO_SERVICE:
            raise
        raise failed(
            catalogue.JOB_SERVICE_UNAVAILABLE, "this mesh has no job service", retry_after_s=_RETRY_AFTER_S
        ) from None


def _answered(job: jobs_pb2.Job, call: CallContext, *, status: int) -> Response:
    result: Object | None = None
    error: Object | None = None
    if job.WhichOneof("outcome") == "infer":
        result = answer_document(job.infer, request_id=call.request_id, started=time.perf_counter())
        # How long a fetched answer took to make is not how long it took to fetch.
        result["latencyMs"] = _milliseconds(job.create_time, job.complete_time)
    elif job.WhichOneof("outcome") == "error":
        error = failure_document(from_status(job.error), path="", request_id=call.request_id)
    document: Object = {
        "jobId": job.id,
        "status": _STATUSES[job.state] if job.state < len(_STATUSES) else "PROCESSING",
        "progress": round(job.progress, 4),
        "result": result,
        "error": error,
        "createdAt": _time(job, "create_time"),
        "completedAt": _time(job, "complete_time"),
    }
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), status_code=status, media_type=Form.JSON)


def _time(job: jobs_pb2.Job, field: str) -> str | None:
    if not job.HasField(field):  # pyright: ignore[reportArgumentType] - one of its names
        return None
    stamp: timestamp_pb2.Timestamp = getattr(job, field)
    return stamp.ToJsonString()


def _milliseconds(begun: timestamp_pb2.Timestamp, ended: timestamp_pb2.Timestamp) -> float:
    return round((ended.ToNanoseconds() - begun.ToNanoseconds()) / 1e6, 3)
