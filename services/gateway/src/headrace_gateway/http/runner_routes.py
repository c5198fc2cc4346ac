"""The runners that the gateway has sessions with: the public service by REST."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
from headrace_gateway.http.dependencies import CurrentCall, CurrentSession
from headrace_gateway.http.proto_documents import answer, document_of

router = APIRouter(prefix="/v1/runners", tags=["runners"])


@router.get("", summary="All runners with their models")
async def list_runners(session: CurrentSession, call: CurrentCall) -> Response:
    return answer(document_of(await session.unary(rpcs.LIST_RUNNERS, mesh_pb2.ListRunnersRequest(), call=call)))


@router.post("/{runner}/drain", summary="Have a runner finish what it has and leave")
async def drain(runner: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.DRAIN_RUNNER, mesh_pb2.DrainRunnerRequest(id=runner), call=call)
    return answer(document_of(found.runner))
