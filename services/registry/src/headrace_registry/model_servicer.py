"""`headrace.registry.v1.ModelService`: translate, ask the library, translate back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from headrace.registry.v1 import models_pb2 as pb
from headrace_common.grpc_server import Call, RpcMethod, client_stream, server_stream, unary
from headrace_registry.artifact_reader import ArtifactReader
from headrace_registry.library import ModelLibrary
from headrace_registry.messages import file_message, model_message, version_message
from headrace_registry.uploads import Uploads

MODEL_SERVICE = "headrace.registry.v1.ModelService"

_READ = "viewer"
_WRITE = "model_admin"


class ModelServicer:
    """Answers the public RPCs about models and versions, in the tenant of the verified principal."""

    def __init__(
        self, *, library: ModelLibrary, uploads: Uploads, reader: ArtifactReader, upload_timeout_s: float
    ) -> None:
        self._library = library
        self._uploads = uploads
        self._reader = reader
        self._upload_timeout_s = upload_timeout_s

    async def create_model(self, request: pb.CreateModelRequest, call: Call) -> pb.CreateModelResponse:
        """Registers an empty model."""
        model = await self._library.create_model(
            call.principal.tenant_id,
            name=request.name,
            description=request.description,
            metadata=request.metadata,
        )
        return pb.CreateModelResponse(model=model_message(model))

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Shows one model."""
        model = await self._library.model(call.principal.tenant_id, request.name)
        return pb.GetModelResponse(model=model_message(model))

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Shows a page of models."""
        models, token = await self._library.models(
            call.principal.tenant_id, size=request.page_size, token=request.page_token
        )
        return pb.ListModelsResponse(models=[model_message(model) for model in models], next_page_token=token)

    async def upload_version(
        self, requests: AsyncIterator[pb.UploadVersionRequest], call: Call
    ) -> pb.UploadVersionResponse:
        """Stores an artefact as a new version."""
        version = await self._uploads.receive(call.principal.tenant_id, requests)
        return pb.UploadVersionResponse(version=version_message(version))

    async def get_version(self, request: pb.GetVersionRequest, call: Call) -> pb.GetVersionResponse:
        """Shows one version."""
        version = await self._library.version(call.principal.tenant_id, model=request.model, version=request.version)
        return pb.GetVersionResponse(version=version_message(version))

    async def list_versions(self, request: pb.ListVersionsRequest, call: Call) -> pb.ListVersionsResponse:
        """Shows a page of a model's versions."""
        versions, token = await self._library.versions(
            call.principal.tenant_id, model=request.model, size=request.page_size, token=request.page_token
        )
        return pb.ListVersionsResponse(
            versions=[version_message(version) for version in versions], next_page_token=token
        )

    async def download_version(
        self, request: pb.DownloadVersionRequest, call: Call
    ) -> AsyncIterator[pb.DownloadVersionResponse]:
        """Streams a file: first what it is, then its bytes."""
        tenant_id = call.principal.tenant_id
        version = await self._library.version(tenant_id, model=request.model, version=request.version)
        file = self._reader.file_of(version, request.path)
        async with aclosing(self._reader.read(tenant_id, file, offset=request.offset)) as parts:
            announced = False
            async for part in parts:
                if not announced:
                    yield pb.DownloadVersionResponse(file=file_message(file))
                    announced = True
                yield pb.DownloadVersionResponse(chunk=part)
            if not announced:
                yield pb.DownloadVersionResponse(file=file_message(file))

    async def archive_version(self, request: pb.ArchiveVersionRequest, call: Call) -> pb.ArchiveVersionResponse:
        """Takes a version out of service."""
        version = await self._library.archive_version(
            call.principal.tenant_id, model=request.model, version=request.version
        )
        return pb.ArchiveVersionResponse(version=version_message(version))

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The methods by name, for the service's handler."""
        return {
            "CreateModel": unary(self.create_model, pb.CreateModelRequest, pb.CreateModelResponse, role=_WRITE),
            "GetModel": unary(self.get_model, pb.GetModelRequest, pb.GetModelResponse, role=_READ),
            "ListModels": unary(self.list_models, pb.ListModelsRequest, pb.ListModelsResponse, role=_READ),
            "UploadVersion": client_stream(
                self.upload_version,
                pb.UploadVersionRequest,
                pb.UploadVersionResponse,
                role=_WRITE,
                timeout_s=self._upload_timeout_s,
            ),
            "GetVersion": unary(self.get_version, pb.GetVersionRequest, pb.GetVersionResponse, role=_READ),
            "ListVersions": unary(self.list_versions, pb.ListVersionsRequest, pb.ListVersionsResponse, role=_READ),
            "DownloadVersion": server_stream(
                self.download_version, pb.DownloadVersionRequest, pb.DownloadVersionResponse, role=_READ
            ),
            "ArchiveVersion": unary(
                self.archive_version, pb.ArchiveVersionRequest, pb.ArchiveVersionResponse, role=_WRITE
            ),
        }
