"""Callers of a running mesh by raw generated stubs: tenants of a test's own, with their keys."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from headrace.quota.v1 import tenants_pb2 as quota
from headrace.quota.v1.audit_pb2_grpc import AuditServiceStub
from headrace.quota.v1.quotas_pb2_grpc import QuotaServiceStub
from headrace.quota.v1.tenants_pb2_grpc import TenantServiceStub
from headrace.quota.v1.usage_pb2_grpc import UsageServiceStub
from headrace.registry.v1 import models_pb2 as registry
from headrace.registry.v1.models_pb2_grpc import ModelServiceStub
from inference import open_inference_pb2 as oip
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from support.mesh import Mesh

Pairs = tuple[tuple[str, str], ...]
TIMEOUT_S = 60.0
_CHUNK_BYTES = 256 << 10


class Party:
    """Somebody who calls with the same metadata each time."""

    def __init__(self, channel: grpc.Channel, metadata: Pairs) -> None:
        self.channel = channel
        self.metadata = metadata
        self._options: dict[str, Any] = {"metadata": metadata, "timeout": TIMEOUT_S}

    def __call__(self, method: Any, request: Any) -> Any:
        """Calls a stub's method."""
        return method(request, **self._options)

    def raw(self, path: str, body: bytes) -> Any:
        """Calls a unary method with any bytes as its request."""
        return self(self.channel.unary_unary(path), body)

    def raw_stream(self, path: str, *bodies: bytes) -> Any:
        """Calls a client-streaming method with any bytes as its requests."""
        return self(self.channel.stream_unary(path), iter(bodies))

    @property
    def inference(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    @property
    def packed(self) -> InferenceServiceStub:
        return InferenceServiceStub(self.channel)

    @property
    def models(self) -> ModelServiceStub:
        return ModelServiceStub(self.channel)

    @property
    def tenants(self) -> TenantServiceStub:
        return TenantServiceStub(self.channel)

    @property
    def quotas(self) -> QuotaServiceStub:
        return QuotaServiceStub(self.channel)

    @property
    def usage(self) -> UsageServiceStub:
        return UsageServiceStub(self.channel)

    @property
    def audit(self) -> AuditServiceStub:
        return AuditServiceStub(self.channel)

    @property
    def mesh(self) -> MeshServiceStub:
        return MeshServiceStub(self.channel)

    def welcome(self) -> bool:
        """Whether the gateway knows the key."""
        return not _fails(lambda: self(self.inference.ServerMetadata, oip.ServerMetadataRequest()))

    def infer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        return self(self.inference.ModelInfer, request)

    def upload(self, messages: Iterable[registry.UploadVersionRequest]) -> registry.Version:
        return self(self.models.UploadVersion, iter(messages)).version

    def push(self, model: str, content: bytes, /, **fields: Any) -> registry.Version:
        """Uploads a file, and waits until the gateway knows the version; `fields` are the header's."""
        version = self.upload([header(model, content, **fields), *chunks(content)])
        request = oip.ModelReadyRequest(name=model, version=str(version.version))
        until(lambda: not _fails(lambda: self(self.inference.ModelReady, request)))
        return version


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A tenant that a test made."""

    id: str
    admin: Party
    key_id: str


class Operator(Party):
    """The admin of the operators' tenant."""

    def tenant(self) -> Tenant:
        """A new tenant with an admin's key that the gateway knows."""
        tenant_id = f"tenant-{secrets.token_hex(6)}"
        self(self.tenants.CreateTenant, quota.CreateTenantRequest(id=tenant_id))
        admin, key_id = self.key(tenant_id, quota.ROLE_ADMIN)
        return Tenant(id=tenant_id, admin=admin, key_id=key_id)

    def key(self, tenant_id: str, role: quota.Role.ValueType) -> tuple[Party, str]:
        """A new key of a tenant, and its id."""
        made = self(self.tenants.CreateApiKey, quota.CreateApiKeyRequest(tenant_id=tenant_id, roles=[role]))
        party = Party(self.channel, (("x-api-key", made.key),))
        until(party.welcome)
        return party, made.api_key.id


def operator(mesh: Mesh, channel: grpc.Channel) -> Operator:
    """Whoever started the mesh."""
    key = (mesh.state_dir / "secrets" / "admin.key").read_text().strip()
    return Operator(channel, (("x-api-key", key),))


def header(model: str, content: bytes, /, **fields: Any) -> registry.UploadVersionRequest:
    """The header that announces a content; `fields` replace what it would say."""
    values: dict[str, Any] = {
        "model": model,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **fields,
    }
    return registry.UploadVersionRequest(header=registry.UploadHeader(**values))


def chunks(content: bytes) -> Iterator[registry.UploadVersionRequest]:
    """The messages that carry a content."""
    for start in range(0, len(content), _CHUNK_BYTES):
        yield registry.UploadVersionRequest(chunk=content[start : start + _CHUNK_BYTES])


def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Returns once the condition holds.

    Raises:
        TimeoutError: It did not in time.
    """
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(0.02)


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return True
    return False
