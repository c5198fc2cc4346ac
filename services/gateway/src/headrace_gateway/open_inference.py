"""The Open Inference RPCs that are answered from memory."""

from __future__ import annotations

from collections import defaultdict

from headrace.registry.v1 import manifest_pb2
from headrace_common.catalogue import FIELD_REQUIRED
from headrace_common.clock import Clock
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import Call
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.directory import RunnerDirectory
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.model_config import config_of, platform_of
from headrace_gateway.model_statistics import statistics_of
from headrace_gateway.readiness import Readiness
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip

SERVER_NAME = "headrace"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Triton's names of what works here beyond the bare protocol."""


class OpenInference:
    """Answers for the server and for the caller's models. Nothing here waits or loads.

    Args:
        server_version: `major.minor.patch` of this software.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        directory: RunnerDirectory,
        metrics: GatewayMetrics,
        readiness: Readiness,
        clock: Clock,
        server_version: str,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
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
        return oip.ServerMetadataResponse(name=SERVER_NAME, version=self._server_version, extensions=EXTENSIONS)

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
            platform=platform_of(manifest),
            inputs=[_tensor(spec) for spec in manifest.inputs],
            outputs=[_tensor(spec) for spec in manifest.outputs],
        )

    async def ModelConfig(self, request: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:  # noqa: N802
        return oip.ModelConfigResponse(config=config_of(self._resolve(request.name, request.version, call)))

    async def ModelStatistics(  # noqa: N802
        self, request: statistics.ModelStatisticsRequest, call: Call
    ) -> statistics.ModelStatisticsResponse:
        """What this process counted; other gateways have counts of their own."""
        if not request.name:
            principal = call.principal
            versions = self._catalog.of_tenant(principal.tenant_id, policies=principal.policies)
        else:
            version = self._resolve(request.name, request.version, call)
            versions = [version] if request.version else self._catalog.versions_of(version.tenant_id, version.model)
        return statistics.ModelStatisticsResponse(model_stats=map(self._statistics, versions))

    def _statistics(self, version: CatalogVersion) -> statistics.ModelStatistics:
        meters = self._metrics.peek(version)
        answered_at_s = 0.0
        if meters.answered_at is not None:
            answered_at_s = self._clock.now().timestamp() - (self._clock.monotonic() - meters.answered_at)
        memory_bytes: dict[str, int] = defaultdict(int)
        for session in self._directory.replicas(version.uid):
            memory_bytes[session.hello.device.type] += session.models[version.uid].memory_bytes
        return statistics_of(version, meters, answered_at_s=answered_at_s, memory_bytes=memory_bytes)

    def _resolve(self, name: str, version: str, call: Call) -> CatalogVersion:
        if not name:
            raise ValidationError("name is required", entry=FIELD_REQUIRED, field="name", context={"field": "name"})
        who = call.principal
        return self._catalog.resolve(who.tenant_id, name, version, version_field="version", policies=who.policies)


def _tensor(spec: manifest_pb2.TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
