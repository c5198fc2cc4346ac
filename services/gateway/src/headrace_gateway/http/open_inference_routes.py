"""The Open Inference Protocol by REST, with Triton's binary tensors, configuration and statistics.

`{model}` is a name, or a name with a version or alias as `headrace_client.model_reference` reads it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from headrace_client import rpcs
from headrace_client.contracts.inference import model_statistics_pb2, open_inference_pb2
from headrace_client.errors import ValidationError
from headrace_client.model_reference import ModelReference, parse
from headrace_common import catalogue
from headrace_gateway.http.binary_tensors import LENGTH_HEADER
from headrace_gateway.http.bodies import content_type
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.failures import failed
from headrace_gateway.http.health_routes import gateway_is_ready
from headrace_gateway.http.open_inference_answer import write_answer
from headrace_gateway.http.open_inference_request import read_request
from headrace_gateway.http.open_inference_schema import INFER
from headrace_gateway.http.proto_documents import answer, document_of

_BINARY = "application/octet-stream"
# What curl says of a body when it isn't told; tritonclient says nothing.
_BODY_TYPES = frozenset(("", "application/json", _BINARY, "application/x-www-form-urlencoded"))

router = APIRouter(prefix="/v2", tags=["open inference"])


@router.get("", summary="What the server is")
@router.get("/", include_in_schema=False)
async def server(session: CurrentSession, call: CurrentCall) -> Response:
    request = open_inference_pb2.ServerMetadataRequest()
    return answer(document_of(await session.unary(rpcs.SERVER_METADATA, request, call=call), snake_case=True))


@router.get("/health/live", summary="Whether the server lives")
async def live() -> Response:
    return answer({"live": True})


@router.get("/health/ready", summary="Whether inferences are taken")
async def ready(front: CurrentFront) -> Response:
    is_ready = not front.draining.is_set() and await gateway_is_ready(front)
    return answer({"ready": is_ready}, status=200 if is_ready else 503)


@router.get("/models/stats", summary="What the gateway counted of all models")
async def all_statistics(session: CurrentSession, call: CurrentCall) -> Response:
    request = model_statistics_pb2.ModelStatisticsRequest()
    return answer(document_of(await session.unary(rpcs.MODEL_STATISTICS, request, call=call), snake_case=True))


async def model_in_path(model: str, request: Request) -> ModelReference:
    """The model that the path names, with its version where the path has one."""
    version = request.path_params.get("version")
    return parse(model if version is None else f"{model}:{version}")


async def declare_version(version: str) -> None:
    """Has OpenAPI tell the part of the path that `model_in_path` reads."""


Named = Annotated[ModelReference, Depends(model_in_path)]
VERSION = "/models/{model}/versions/{version}"
DECLARED = [Depends(declare_version)]


@router.get(VERSION, summary="Tensors of a version", dependencies=DECLARED)
@router.get("/models/{model}", summary="Tensors of a model")
async def metadata(session: CurrentSession, call: CurrentCall, named: Named) -> Response:
    request = open_inference_pb2.ModelMetadataRequest(name=named.name, version=named.model_version)
    return answer(document_of(await session.unary(rpcs.MODEL_METADATA, request, call=call), snake_case=True))


@router.get(f"{VERSION}/ready", summary="Whether a version could be served now", dependencies=DECLARED)
@router.get("/models/{model}/ready", summary="Whether a model could be served now")
async def model_ready(session: CurrentSession, call: CurrentCall, named: Named) -> Response:
    request = open_inference_pb2.ModelReadyRequest(name=named.name, version=named.model_version)
    is_ready = (await session.unary(rpcs.MODEL_READY, request, call=call)).ready
    return answer({"name": named.name, "ready": is_ready}, status=200 if is_ready else 503)


@router.get(f"{VERSION}/config", summary="Configuration of a version, as Triton has it", dependencies=DECLARED)
@router.get("/models/{model}/config", summary="Configuration of a model, as Triton has it")
async def config(session: CurrentSession, call: CurrentCall, named: Named) -> Response:
    request = open_inference_pb2.ModelConfigRequest(name=named.name, version=named.model_version)
    found = await session.unary(rpcs.MODEL_CONFIG, request, call=call)
    return answer(document_of(found.config, snake_case=True))


@router.get(f"{VERSION}/stats", summary="What the gateway counted of a version", dependencies=DECLARED)
@router.get("/models/{model}/stats", summary="What the gateway counted of a model's versions")
async def statistics(session: CurrentSession, call: CurrentCall, named: Named) -> Response:
    request = model_statistics_pb2.ModelStatisticsRequest(name=named.name, version=named.model_version)
    return answer(document_of(await session.unary(rpcs.MODEL_STATISTICS, request, call=call), snake_case=True))


@router.post(f"{VERSION}/infer", summary="Run an inference on a version", openapi_extra=INFER, dependencies=DECLARED)
@router.post("/models/{model}/infer", summary="Run an inference", openapi_extra=INFER)
async def infer(
    request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall, named: Named
) -> Response:
    json_length = _json_length(request)
    async with front.bodies.read(request) as body:
        message, form = read_request(
            body, json_length=json_length, model_name=named.name, model_version=named.model_version
        )
        found = await session.infer(message, call=call)
    content, length = write_answer(found.response, form)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={LENGTH_HEADER: str(length)}, media_type=_BINARY)


def _json_length(request: Request) -> str | None:
    kind = content_type(request)
    if kind not in _BODY_TYPES:
        raise failed(
            catalogue.CONTENT_TYPE_UNSUPPORTED,
            f"the body must be application/json or {_BINARY}, not {kind[:80]}",
            context={"contentType": kind[:80]},
        )
    lengths = request.headers.getlist(LENGTH_HEADER)
    if len(lengths) > 1:
        raise ValidationError(f"{LENGTH_HEADER} may come once", field=LENGTH_HEADER)
    return lengths[0] if lengths else None
