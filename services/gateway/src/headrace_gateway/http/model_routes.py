"""Models and their versions: the registry's public service by REST."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from headrace_client import rpcs
from headrace_client.contracts.headrace.registry.v1 import models_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import HeadraceError, InternalError
from headrace_client.model_reference import parse
from headrace_gateway.http.bodies import content_type
from headrace_gateway.http.dependencies import CurrentCall, CurrentFront, CurrentSession
from headrace_gateway.http.document_fields import refused
from headrace_gateway.http.model_upload import UploadForm
from headrace_gateway.http.multipart_parts import PartReader
from headrace_gateway.http.pages import PageSize, PageToken
from headrace_gateway.http.proto_documents import answer, created, document_of, message_of, read_document
from headrace_gateway.http.sessions import CallContext, Session
from headrace_gateway.http.upload_schema import UPLOAD

_READY_WITHIN_S = 2.0
_READY_PAUSE_S = 0.01
DOWNLOAD_TIMEOUT_S = 3_600.0

router = APIRouter(prefix="/v1/models", tags=["models"])

Version = Annotated[int, Path(ge=1, lt=1 << 63)]


@router.post("", status_code=201, summary="Upload a version of a model, or register a model", openapi_extra=UPLOAD)
async def create(request: Request, front: CurrentFront, session: CurrentSession, call: CurrentCall) -> Response:
    """A form uploads a version; JSON registers a model without versions."""
    if content_type(request) == "application/json":
        asked = message_of(models_pb2.CreateModelRequest, await read_document(request, front))
        made = await session.unary(rpcs.CREATE_MODEL, asked, call=call)
        return created(document_of(made.model), "v1", "models", made.model.name)
    reader = PartReader(request.headers.get("content-type", ""))
    with front.uploads.place(), UploadForm(session=session, call=call, folder=front.uploads.folder) as form:
        await form.receive(front.bodies.chunks(request, bytes_max=front.settings.upload_bytes_max), reader)
        version = await form.send()
    await _wait_until_ready(version, session, call)
    return created(document_of(version), "v1", "models", version.model, "versions", str(version.version))


@router.get("", summary="A page of the models, by name")
async def list_models(
    session: CurrentSession, call: CurrentCall, page_size: PageSize = 0, page_token: PageToken = ""
) -> Response:
    asked = models_pb2.ListModelsRequest(page_size=page_size, page_token=page_token)
    return answer(document_of(await session.unary(rpcs.LIST_MODELS, asked, call=call)))


@router.get("/{model}", summary="One model")
async def get(model: str, session: CurrentSession, call: CurrentCall) -> Response:
    found = await session.unary(rpcs.GET_MODEL, models_pb2.GetModelRequest(name=model), call=call)
    return answer(document_of(found.model))


@router.get("/{model}/manifest", summary="What the newest version is, or the one that the name chooses")
async def manifest(model: str, session: CurrentSession, call: CurrentCall) -> Response:
    named = parse(model)
    if named.number is None:
        raise refused("model", "must name a version by its number here")
    return await _manifest(named.name, named.number, session, call)


@router.get("/{model}/versions", summary="A page of a model's versions, the newest first")
async def list_versions(
    model: str, session: CurrentSession, call: CurrentCall, page_size: PageSize = 0, page_token: PageToken = ""
) -> Response:
    asked = models_pb2.ListVersionsRequest(model=model, page_size=page_size, page_token=page_token)
    return answer(document_of(await session.unary(rpcs.LIST_VERSIONS, asked, call=call)))


@router.get("/{model}/versions/{version}", summary="One version with its manifest")
async def get_version(model: str, version: Version, session: CurrentSession, call: CurrentCall) -> Response:
    asked = models_pb2.GetVersionRequest(model=model, version=version)
    return answer(document_of((await session.unary(rpcs.GET_VERSION, asked, call=call)).version))


@router.get("/{model}/versions/{version}/manifest", summary="What a version is")
async def version_manifest(model: str, version: Version, session: CurrentSession, call: CurrentCall) -> Response:
    return await _manifest(model, version, session, call)


@router.post("/{model}/versions/{version}/archive", summary="Take a version out of service for good")
async def archive(model: str, version: Version, session: CurrentSession, call: CurrentCall) -> Response:
    asked = models_pb2.ArchiveVersionRequest(model=model, version=version)
    return answer(document_of((await session.unary(rpcs.ARCHIVE_VERSION, asked, call=call)).version))


@router.get("/{model}/versions/{version}/files/{path}", summary="The bytes of a version's file")
async def download(model: str, version: Version, path: str, session: CurrentSession, call: CurrentCall) -> Response:
    asked = models_pb2.DownloadVersionRequest(model=model, version=version, path=path)
    patient = replace(call, timeout_s=DOWNLOAD_TIMEOUT_S)
    messages = session.stream(rpcs.DOWNLOAD_VERSION, asked, call=patient)
    try:
        first = await anext(messages)
    except StopAsyncIteration:
        raise InternalError("the mesh answered a download without a file") from None
    headers = {"content-length": str(first.file.size_bytes), "etag": f'"{first.file.sha256}"'}
    return StreamingResponse(_contents(first, messages), headers=headers, media_type="application/octet-stream")


async def _contents(
    first: models_pb2.DownloadVersionResponse, messages: AsyncGenerator[models_pb2.DownloadVersionResponse, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(messages):
        yield first.chunk
        async for message in messages:
            yield message.chunk


async def _manifest(model: str, version: int, session: Session, call: CallContext) -> Response:
    asked = models_pb2.GetVersionRequest(model=model, version=version)
    return answer(document_of((await session.unary(rpcs.GET_VERSION, asked, call=call)).version.manifest))


async def _wait_until_ready(version: models_pb2.Version, session: Session, call: CallContext) -> None:
    """Gateways hear of a version just after its registration; a call in between would not find it."""
    asked = open_inference_pb2.ModelReadyRequest(name=version.model, version=str(version.version))
    loop = asyncio.get_running_loop()
    until, pause_s = loop.time() + _READY_WITHIN_S, _READY_PAUSE_S
    while loop.time() < until:
        try:
            if (await session.unary(rpcs.MODEL_READY, asked, call=call)).ready:
                return
        except HeadraceError as error:
            if error.reason not in ("MODEL_NOT_FOUND", "MODEL_VERSION_NOT_FOUND"):
                return  # The version is there, whatever keeps this question from being answered.
        await asyncio.sleep(pause_s)
        pause_s *= 2
