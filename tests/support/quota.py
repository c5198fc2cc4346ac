"""A quota service for tests: the real one, over gRPC, in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pydantic import SecretStr

from headrace.quota.internal.v1 import principals_pb2 as feed_pb
from headrace.quota.v1 import tenants_pb2 as pb
from headrace_common.clock import SystemClock
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.principal import PRINCIPAL_KEY, Principal, PrincipalSigner, generate_key_files
from headrace_common.tasks import TaskGuard
from headrace_quota.app import AUDIENCE, QuotaService
from headrace_quota.config import QuotaSettings
from headrace_quota.principal_feed_servicer import PRINCIPAL_FEED_SERVICE

R = TypeVar("R", bound=Message)

OPERATOR = Principal(tenant_id="default", roles=frozenset({"admin"}), key_id="k0", subject="key:k0")


def admin_of(tenant_id: str, *roles: str) -> Principal:
    """A principal of a tenant, with the role admin unless others are named."""
    return Principal(tenant_id=tenant_id, roles=frozenset(roles or ("admin",)), key_id="k1", subject="key:k1")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The files that let gateways sign and upstream services check."""

    private: Path
    published: Path

    @classmethod
    def generate(cls, folder: Path) -> Keys:
        """New key files in a folder."""
        keys = cls(private=folder / "principal.jwk", published=folder / "principal.jwks")
        generate_key_files(keys.private, keys.published)
        return keys

    @property
    def signer(self) -> PrincipalSigner:
        """What a gateway signs with."""
        return PrincipalSigner.from_file(self.private, issuer="gateway-test")


class QuotaClient:
    """Calls a quota service as a gateway does: with principals that it signs."""

    def __init__(self, *, channel: grpc.aio.Channel, signer: PrincipalSigner) -> None:
        self.channel = channel
        self.signer = signer
        self._caller = Caller(channel=channel, timeout_s=20.0)

    def token(self, principal: Principal) -> tuple[tuple[str, str], ...]:
        """The metadata that carries a principal."""
        return ((PRINCIPAL_KEY, self.signer.sign(principal, audience=AUDIENCE)),)

    async def call(self, principal: Principal, request: Message, *, timeout_s: float = 20.0) -> Any:
        """Calls the method that a request message belongs to; failures are `HeadraceError`s."""
        (service,) = request.DESCRIPTOR.file.services_by_name.values()
        method = service.methods_by_name[type(request).__name__.removesuffix("Request")]
        answer: Any = method.output_type
        return await self._caller.unary(
            f"/{service.full_name}/{method.name}",
            request,
            GetMessageClass(answer),
            metadata=self.token(principal),
            timeout_s=timeout_s,
        )

    async def create_tenant(self, tenant_id: str) -> pb.Tenant:
        """A new tenant, made by an operator."""
        response: pb.CreateTenantResponse = await self.call(OPERATOR, pb.CreateTenantRequest(id=tenant_id))
        return response.tenant

    async def create_key(self, tenant_id: str) -> pb.CreateApiKeyResponse:
        """A new key of a tenant, made by an operator."""
        response: pb.CreateApiKeyResponse = await self.call(OPERATOR, pb.CreateApiKeyRequest(tenant_id=tenant_id))
        return response

    def watch(self, *, after_revision: int = 0, epoch: str = "") -> AsyncIterator[feed_pb.WatchPrincipalsResponse]:
        """The principal feed, opened with a service token."""
        return self._caller.stream(
            f"/{PRINCIPAL_FEED_SERVICE}/WatchPrincipals",
            feed_pb.WatchPrincipalsRequest(after_revision=after_revision, epoch=epoch),
            feed_pb.WatchPrincipalsResponse,
            metadata=((PRINCIPAL_KEY, self.signer.sign_service(audience=AUDIENCE)),),
        )


@dataclass(frozen=True, kw_only=True)
class RunningQuota:
    """A service that listens, and a client of it."""

    service: QuotaService
    client: QuotaClient
    address: str


@asynccontextmanager
async def listening_quota(database_url: str, keys: Keys, **settings: Any) -> AsyncGenerator[RunningQuota]:
    """A quota service that listens and isn't prepared yet: it answers UNAVAILABLE until `service.prepare()`."""
    values: dict[str, Any] = {
        "postgres_url": SecretStr(database_url),
        "principal_jwks_file": keys.published,
        "shutdown_grace_s": 2.0,
        **settings,
    }
    async with TaskGuard() as guard:
        service = QuotaService(settings=QuotaSettings(**values), clock=SystemClock(), guard=guard)
        address = await service.start()
        try:
            async with open_channel(address, own_connection=True) as channel:
                client = QuotaClient(channel=channel, signer=keys.signer)
                yield RunningQuota(service=service, client=client, address=address)
        finally:
            await service.close()


@asynccontextmanager
async def running_quota(database_url: str, keys: Keys, **settings: Any) -> AsyncGenerator[RunningQuota]:
    """A quota service that serves."""
    async with listening_quota(database_url, keys, **settings) as quota:
        await quota.service.prepare()
        yield quota
