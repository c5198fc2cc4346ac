"""The endpoints of the public listener, service by service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.v1 import tenants_pb2
from headrace.registry.v1 import models_pb2
from headrace_common.grpc_server import RpcMethod, RpcRuntime, bidi_stream, server_stream, unary
from headrace_common.health import HEALTH_SERVICE
from headrace_common.reflection import REFLECTION_SERVICES, Reflection
from headrace_common.rpc_method import MethodRunner
from headrace_gateway.mesh_service import MeshService
from headrace_gateway.open_inference import OpenInference
from headrace_gateway.policy import INFERENCE, MESH, MODELS, TENANTS
from headrace_gateway.public_handler import Endpoint
from inference import open_inference_pb2 as oip

PUBLIC_SERVICES = (INFERENCE, MESH, MODELS, TENANTS)
"""What the public listener serves beside health and reflection."""
REGISTRY_SERVICES: tuple[ServiceDescriptor, ...] = (models_pb2.DESCRIPTOR.services_by_name["ModelService"],)
QUOTA_SERVICES: tuple[ServiceDescriptor, ...] = (tenants_pb2.DESCRIPTOR.services_by_name["TenantService"],)

Methods = Mapping[str, RpcMethod[Any, Any]]


def open_inference_endpoints(service: OpenInference, runtime: RpcRuntime) -> dict[str, Endpoint]:
    """The Open Inference RPCs that are answered from memory."""
    return _endpoints(
        INFERENCE,
        {
            "ServerLive": unary(service.ServerLive, oip.ServerLiveRequest, oip.ServerLiveResponse),
            "ServerReady": unary(service.ServerReady, oip.ServerReadyRequest, oip.ServerReadyResponse),
            "ServerMetadata": unary(service.ServerMetadata, oip.ServerMetadataRequest, oip.ServerMetadataResponse),
            "ModelReady": unary(service.ModelReady, oip.ModelReadyRequest, oip.ModelReadyResponse),
            "ModelMetadata": unary(service.ModelMetadata, oip.ModelMetadataRequest, oip.ModelMetadataResponse),
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
