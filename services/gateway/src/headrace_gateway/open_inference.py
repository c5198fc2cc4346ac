"""The Open Inference RPCs that are answered from memory."""

from __future__ import annotations

from headrace.registry.v1 import manifest_pb2
from headrace_common.catalogue import FIELD_REQUIRED
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import Call
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.readiness import Readiness
from inference import open_inference_pb2 as oip

SERVER_NAME = "headrace"
# The backend that serves a format when the manifest names none, and the format's own name: together the platform.
_PLATFORMS = {manifest_pb2.ARTIFACT_FORMAT_ONNX: ("onnxruntime", "onnx")}


class OpenInference:
    """Answers for the server and for the caller's models. Nothing here waits or loads.

    Args:
        server_version: `major.minor.patch` of this software.
    """

    def __init__(
        self, *, catalog: Catalog, directory: RunnerDirectory, readiness: Readiness, server_version: str
    ) -> None:
        self._catalog = catalog
        self._directory = directory
        self._readiness = readiness
        self._server_version = server_version

    async def ServerLive(self, request: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:  # noqa: N802
        del request, call
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:  # noqa: N802
        """Ready = identity and routes are in memory, not draining, and some runner takes calls."""
        del request, call
        return oip.ServerReadyResponse(ready=self._readiness.serving and self._directory.takes_calls)

    async def ServerMetadata(  # noqa: N802
        self, request: oip.ServerMetadataRequest, call: Call
    ) -> oip.ServerMetadataResponse:
        del request, call
        return oip.ServerMetadataResponse(name=SERVER_NAME, version=self._server_version)

    async def ModelReady(self, request: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:  # noqa: N802
        version = self._resolve(request.name, request.version, call)
        return oip.ModelReadyResponse(ready=self._readiness.serving and self._directory.could_serve(version))

    async def ModelMetadata(  # noqa: N802
        self, request: oip.ModelMetadataRequest, call: Call
    ) -> oip.ModelMetadataResponse:
        version = self._resolve(request.name, request.version, call)
        manifest = version.proto.manifest
        return oip.ModelMetadataResponse(
            name=version.model,
            versions=[entry.version_text for entry in self._catalog.versions_of(version.tenant_id, version.model)],
            platform=_platform(manifest),
            inputs=[_tensor(spec) for spec in manifest.inputs],
            outputs=[_tensor(spec) for spec in manifest.outputs],
        )

    def _resolve(self, name: str, version: str, call: Call) -> CatalogVersion:
        if not name:
            raise ValidationError("name is required", entry=FIELD_REQUIRED, field="name", context={"field": "name"})
        return self._catalog.resolve(call.principal.tenant_id, name, version, version_field="version")


def _platform(manifest: manifest_pb2.Manifest) -> str:
    known = _PLATFORMS.get(manifest.format)
    if known is None:
        return manifest.backend
    backend, file_format = known
    return f"{manifest.backend or backend}_{file_format}"


def _tensor(spec: manifest_pb2.TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
