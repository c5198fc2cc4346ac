"""Triton's model repository by REST: what the caller's models are in memory, loading one ahead, letting one go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import failures, rpcs
from headrace_client.contracts.inference import model_repository_pb2
from headrace_client.errors import ValidationError
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import SHOWN, Object, flag_at, object_at
from headrace_gateway.http.proto_documents import answer, document_of, read_document
from headrace_gateway.http.sessions import CallContext

LOAD_TIMEOUT_S = 600.0

router = APIRouter(prefix="/v2/repository", tags=["open inference"])


@router.post("/index", summary="State of every model's versions")
async def index(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    ready = flag_at((await read_document(request, front)).get("ready", False), "ready")
    asked = model_repository_pb2.RepositoryIndexRequest(ready=ready)
    found = await session.unary(rpcs.REPOSITORY_INDEX, asked, call=call)
    return answer(document_of(found, snake_case=True)["models"])


@router.post("/models/{model}/load", summary="Load a model ahead of its use")
async def load(
    model: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = model_repository_pb2.RepositoryModelLoadRequest(model_name=model)
    _set_parameters(asked.parameters, await read_document(request, front))
    await session.unary(rpcs.LOAD_MODEL, asked, call=_patient(call))
    return answer({})


@router.post("/models/{model}/unload", summary="Take a model out of memory")
async def unload(
    model: str, request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall
) -> Response:
    asked = model_repository_pb2.RepositoryModelUnloadRequest(model_name=model)
    _set_parameters(asked.parameters, await read_document(request, front))
    await session.unary(rpcs.UNLOAD_MODEL, asked, call=_patient(call))
    return answer({})


def _patient(call: CallContext) -> CallContext:
    return call if call.timeout_s is not None else replace(call, timeout_s=LOAD_TIMEOUT_S)


def _set_parameters(target: Any, document: Object) -> None:
    for name, value in object_at(document.get("parameters", {}), "parameters").items():
        field = f"parameters.{name[:SHOWN]}"
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            target[name].int64_param = value
        elif isinstance(value, str):
            target[name].string_param = value
        else:
            raise ValidationError(
                f"{field} is a text, a whole number of up to 64 bits or a truth value",
                failures.PARAMETER_INVALID,
                field=field,
            )
