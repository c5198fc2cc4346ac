"""The endpoints of the public listener, service by service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.v1 import audit_pb2, quotas_pb2, tenants_pb2, usage_pb2
from headrace.registry.v1 import models_pb2
from headrace_common.access_log import AccessLog
from headrace_common.clock import Clock
from headrace_common.grpc_server import RpcMethod, RpcRuntime, bidi_stream, server_stream, unary
from headrace_common.health import HEALTH_SERVICE
from headrace_common.loop_load import LoopLoad
from headrace_common.reflection import REFLECTION_SERVICES, Reflection
from headrace_common.request_id import TRACEPARENT_KEY
from headrace_common.rpc_method import MethodRunner
from headrace_common.rpc_runtime import AdmissionGate
from headrace_gateway.features import FEATURE_OF, Features
from headrace_gateway.identity import Identity
from headrace_gateway.inference.call import accept_traceparent
from headrace_gateway.inference.endpoint import OneRequestEndpoint, unary_endpoint
from headrace_gateway.inference.generation.generate_service import GenerateService
from headrace_gateway.inference.handler import InferenceHandler
from headrace_gateway.inference.inference_service import InferenceService
from headrace_gateway.inference.packed_stream import PackedStream, StreamLimits
from headrace_gateway.inference.payload_gate import PayloadGate
from headrace_gateway.inference.stream_endpoint import Opening, StreamEndpoint
from headrace_gateway.inference.tenant_streams import TenantStreams
from headrace_gateway.inference.triton_stream import ERROR_AS_STATUS_KEY, EXECUTION_KEY, TritonStream
from headrace_gateway.mesh_service import MeshService
from headrace_gateway.model_repository import LOAD_TIMEOUT_S, ModelRepository
from headrace_gateway.open_inference import OpenInference
from headrace_gateway.policy import AUDIT, INFERENCE, MESH, MODELS, PACKED, QUOTAS, TENANTS, USAGE, Access
from headrace_gateway.public_handler import Endpoint
from headrace_gateway.stream_access import StreamAccess
from inference import model_repository_pb2 as models
from inference import model_statistics_pb2 as statistics
from inference import open_inference_pb2 as oip

PUBLIC_SERVICES = (INFERENCE, PACKED, MESH, MODELS, TENANTS, QUOTAS, USAGE, AUDIT)
"""What the public listener serves beside health and reflection."""
REGISTRY_SERVICES: tuple[ServiceDescriptor, ...] = (models_pb2.DESCRIPTOR.services_by_name["ModelService"],)
QUOTA_SERVICES: tuple[ServiceDescriptor, ...] = (
    tenants_pb2.DESCRIPTOR.services_by_name["TenantService"],
    quotas_pb2.DESCRIPTOR.services_by_name["QuotaService"],
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
    audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
)

Methods = Mapping[str, RpcMethod[Any, Any]]


def inference_endpoints(
    inference: InferenceHandler,
    *,
    identity: Identity,
    features: Features,
    payloads: PayloadGate,
    clock: Clock,
    limits: StreamLimits,
    stream_calls_max: int,
    tenant_streams_max: int,
    log: AccessLog | None,
    load: LoopLoad,
    runtime: RpcRuntime,
) -> dict[str, Endpoint]:
    """The RPCs that runners answer: bytes in and bytes out."""
    gate = AdmissionGate(limit=stream_calls_max)
    service = InferenceService(
        inference=inference,
        payloads=payloads,
        calls=gate,
        clock=clock,
        message_bytes_max=limits.message_bytes_max,
        call_timeout_s=limits.default_timeout_s,
    )
    endpoints = _unary_endpoints(inference, service, log, runtime)
    streams = TenantStreams(gate=runtime.streams, limit=tenant_streams_max)

    def access(path: str) -> StreamAccess:
        return StreamAccess(identity=identity, features=features, demand=Access.USER, feature=FEATURE_OF.get(path))

    generation = GenerateService(inference=inference, payloads=payloads)
    path = f"/{PACKED}/Generate"
    endpoints[path] = OneRequestEndpoint(
        path=path, serve=generation.generate, access=access(path), streams=streams, log=log, runtime=runtime
    )

    def packed(opening: Opening) -> PackedStream:
        return PackedStream(
            inference=inference,
            gate=gate,
            limits=limits,
            principal=opening.principal,
            request_id=opening.request_id,
            wake=opening.wake,
        )

    def triton(opening: Opening) -> TritonStream:
        return TritonStream(
            inference=inference,
            gate=gate,
            limits=limits,
            principal=opening.principal,
            request_id=opening.request_id,
            traceparent=accept_traceparent(opening.metadata.get(TRACEPARENT_KEY)),
            ends_on_error=opening.metadata.get(ERROR_AS_STATUS_KEY) == "true",
            tells_execution=opening.metadata.get(EXECUTION_KEY) == "true",
            wake=opening.wake,
            remaining_s=opening.remaining_s,
        )

    for path, open_calls in ((f"/{PACKED}/Stream", packed), (f"/{INFERENCE}/ModelStreamInfer", triton)):
        endpoints[path] = StreamEndpoint(
            path=path, open_calls=open_calls, access=access(path), streams=streams, load=load, runtime=runtime
        )
    return endpoints


def _unary_endpoints(
    inference: InferenceHandler, service: InferenceService, log: AccessLog | None, runtime: RpcRuntime
) -> dict[str, Endpoint]:
    answers = {
        f"/{INFERENCE}/ModelInfer": inference.model_infer,
        f"/{PACKED}/Infer": service.infer,
        f"/{PACKED}/InferBatch": service.infer_batch,
    }
    return {
        path: unary_endpoint(path=path, answer=answer, log=log, runtime=runtime) for path, answer in answers.items()
    }


def open_inference_endpoints(
    service: OpenInference, repository: ModelRepository, runtime: RpcRuntime
) -> dict[str, Endpoint]:
    """The Open Inference RPCs that are answered from memory."""
    return _endpoints(
        INFERENCE,
        {
            "ServerLive": unary(service.ServerLive, oip.ServerLiveRequest, oip.ServerLiveResponse),
            "ServerReady": unary(service.ServerReady, oip.ServerReadyRequest, oip.ServerReadyResponse),
            "ServerMetadata": unary(service.ServerMetadata, oip.ServerMetadataRequest, oip.ServerMetadataResponse),
            "ModelReady": unary(service.ModelReady, oip.ModelReadyRequest, oip.ModelReadyResponse),
            "ModelMetadata": unary(service.ModelMetadata, oip.ModelMetadataRequest, oip.ModelMetadataResponse),
            "ModelConfig": unary(service.ModelConfig, oip.ModelConfigRequest, oip.ModelConfigResponse),
            "ModelStatistics": unary(
                service.ModelStatistics, statistics.ModelStatisticsRequest, statistics.ModelStatisticsResponse
            ),
            "RepositoryIndex": unary(
                repository.RepositoryIndex, models.RepositoryIndexRequest, models.RepositoryIndexResponse
            ),
            "RepositoryModelLoad": unary(
                repository.RepositoryModelLoad,
                models.RepositoryModelLoadRequest,
                models.RepositoryModelLoadResponse,
                timeout_s=LOAD_TIMEOUT_S,
            ),
            "RepositoryModelUnload": unary(
                repository.RepositoryModelUnload,
                models.RepositoryModelUnloadRequest,
                models.RepositoryModelUnloadResponse,
                timeout_s=LOAD_TIMEOUT_S,
            ),
        },
        runtime,
    )


def mesh_endpoints(service: MeshService, runtime: RpcRuntime) -> dict[str, Endpoint]:
    """The runners, for operators and tenants."""
    return _endpoints(
        MESH,
        {
            "ListRunners": unary(service.ListRunners, mesh_pb2.ListRunnersRequest, mesh_pb2.ListRunnersResponse),
            "WatchRunners": server_stream(
                service.WatchRunners, mesh_pb2.WatchRunnersRequest, mesh_pb2.WatchRunnersResponse, endless=True
            ),
            "DrainRunner": unary(service.DrainRunner, mesh_pb2.DrainRunnerRequest, mesh_pb2.DrainRunnerResponse),
        },
        runtime,
    )


def reflection_endpoints(runtime: RpcRuntime) -> dict[str, Endpoint]:
    """Reflection, both versions of its protocol, over the public services and health alone."""
    assert health_pb2.DESCRIPTOR.services_by_name, "puts health into the descriptor pool"
    reflection = Reflection(services=(*PUBLIC_SERVICES, HEALTH_SERVICE))
    method = bidi_stream(
        reflection.info,
        reflection_pb2.ServerReflectionRequest,
        reflection_pb2.ServerReflectionResponse,
        endless=True,
    )
    endpoints: dict[str, Endpoint] = {}
    for name in REFLECTION_SERVICES:
        endpoints.update(_endpoints(name, {"ServerReflectionInfo": method}, runtime))
    return endpoints


def _endpoints(service: str, methods: Methods, runtime: RpcRuntime) -> dict[str, Endpoint]:
    return {
        (path := f"/{service}/{name}"): MethodRunner(path=path, method=method, runtime=runtime)
        for name, method in methods.items()
    }
