"""A registry service for tests: the real one, over gRPC, in the test's own event loop."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message
from pydantic import SecretStr

from headrace.registry.internal.v1 import catalog_pb2 as internal_pb
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.manifest_pb2 import Manifest
from headrace_common.clock import SystemClock
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.principal import PRINCIPAL_KEY, TICKET_KEY, Principal, PrincipalSigner
from headrace_common.tasks import TaskGuard
from headrace_registry.app import ARTIFACT_AUDIENCE, AUDIENCE, RegistryService
from headrace_registry.artifact_servicer import ARTIFACT_SERVICE
from headrace_registry.catalog_feed_servicer import CATALOG_FEED_SERVICE
from headrace_registry.config import RegistrySettings
from headrace_registry.model_servicer import MODEL_SERVICE
from support.quota import Keys

R = TypeVar("R", bound=Message)


def member_of(tenant_id: str, role: str = "model_admin") -> Principal:
    """A principal of a tenant."""
    return Principal(tenant_id=tenant_id, roles=frozenset({role}), key_id="k1", subject="key:k1")


ACME = member_of("acme")
GLOBEX = member_of("globex")


def header(content: bytes, model: str = "m", **fields: Any) -> pb.UploadVersionRequest:
    """The header that announces a content; `fields` replace what it would say."""
    values: dict[str, Any] = {
        "model": model,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **fields,
    }
    return pb.UploadVersionRequest(header=pb.UploadHeader(**values))


def chunks(content: bytes, chunk_bytes: int = 1 << 20) -> Iterator[pb.UploadVersionRequest]:
    """A content as messages."""
    for start in range(0, len(content), chunk_bytes):
        yield pb.UploadVersionRequest(chunk=content[start : start + chunk_bytes])


class RegistryClient:
    """Calls a registry as gateways and runners do: with principals, service tokens and tickets."""

    def __init__(self, *, channel: grpc.aio.Channel, signer: PrincipalSigner) -> None:
        self.channel = channel
        self.signer = signer
        self._caller = Caller(channel=channel, timeout_s=30.0)

    async def call(self, principal: Principal, request: Message) -> Any:
        """Calls the ModelService method that a request message belongs to; failures are `HeadraceError`s."""
        method = type(request).__name__.removesuffix("Request")
        response: type[Message] = getattr(pb, f"{method}Response")
        return await self._caller.unary(
            f"/{MODEL_SERVICE}/{method}", request, response, metadata=self._token(principal)
        )

    async def send(
        self, principal: Principal, messages: Iterable[Message] | AsyncIterable[Message], *, timeout_s: float = 60.0
    ) -> pb.Version:
        """Uploads exactly these messages."""
        response = await self._caller.upload(
            f"/{MODEL_SERVICE}/UploadVersion",
            messages if isinstance(messages, AsyncIterable) else _each(messages),
            pb.UploadVersionResponse,
            metadata=self._token(principal),
            timeout_s=timeout_s,
        )
        return response.version

    async def upload(
        self,
        content: bytes,
        *,
        principal: Principal = ACME,
        model: str = "m",
        version: int = 0,
        manifest: Manifest | None = None,
    ) -> pb.Version:
        """Uploads a content as a well-behaved client does."""
        first = header(content, model, version=version, manifest=manifest)
        return await self.send(principal, [first, *chunks(content)])

    async def download(self, principal: Principal, request: pb.DownloadVersionRequest) -> tuple[pb.ArtifactFile, bytes]:
        """What a download says about the file, and its bytes."""
        file = pb.ArtifactFile()
        received = bytearray()
        async for message in self._caller.stream(
            f"/{MODEL_SERVICE}/DownloadVersion",
            request,
            pb.DownloadVersionResponse,
            metadata=self._token(principal),
            timeout_s=60.0,
        ):
            assert len(message.chunk) <= 1 << 20
            if message.HasField("file"):
                assert not received
                file = message.file
            received += message.chunk
        return file, bytes(received)

    async def read(self, ticket: str, path: str, *, offset: int = 0) -> bytes:
        """What a runner gets with a ticket."""
        parts = [
            message.chunk
            async for message in self._caller.stream(
                f"/{ARTIFACT_SERVICE}/ReadArtifact",
                internal_pb.ReadArtifactRequest(path=path, offset=offset),
                internal_pb.ReadArtifactResponse,
                metadata=((TICKET_KEY, ticket),),
                timeout_s=60.0,
            )
        ]
        assert all(len(part) <= 1 << 20 for part in parts)
        return b"".join(parts)

    def ticket(self, version: pb.Version, *, tenant_id: str = "acme", **changes: Any) -> str:
        """A ticket for a version as a gateway signs it; `changes` replace what it would say."""
        values: dict[str, Any] = {
            "tenant_id": tenant_id,
            "version_id": version.uid,
            "digests": [file.sha256 for file in version.files],
            "audience": ARTIFACT_AUDIENCE,
            **changes,
        }
        return self.signer.sign_ticket(**values)

    def watch(
        self, *, after_revision: int = 0, epoch: str = ""
    ) -> AsyncGenerator[internal_pb.WatchCatalogResponse, None]:
        """The catalogue feed, opened with a service token."""
        return self._caller.stream(  # pyright: ignore[reportReturnType]
            f"/{CATALOG_FEED_SERVICE}/WatchCatalog",
            internal_pb.WatchCatalogRequest(after_revision=after_revision, epoch=epoch),
            internal_pb.WatchCatalogResponse,
            metadata=((PRINCIPAL_KEY, self.signer.sign_service(audience=AUDIENCE)),),
        )

    def _token(self, principal: Principal) -> tuple[tuple[str, str], ...]:
        return ((PRINCIPAL_KEY, self.signer.sign(principal, audience=AUDIENCE)),)


async def _each(messages: Iterable[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


@dataclass(frozen=True, kw_only=True)
class RunningRegistry:
    """A service that listens, a client of it, and where its bytes lie."""

    service: RegistryService
    client: RegistryClient
    address: str
    storage: Path
    uploads: Path

    def stored_objects(self) -> list[Path]:
        """Every object in the store."""
        return [path for path in self.storage.rglob("*") if path.is_file()]

    def spooled_files(self) -> list[Path]:
        """Files of uploads that are being received."""
        return [path for path in self.uploads.rglob("*") if path.is_file() and path.suffix != ".lock"]


@asynccontextmanager
async def listening_registry(
    database_url: str, keys: Keys, folder: Path, **settings: Any
) -> AsyncGenerator[RunningRegistry]:
    """A registry that listens and isn't prepared yet: it answers UNAVAILABLE until `service.prepare()`."""
    storage, uploads = folder / "artefacts", folder / "uploads"
    values: dict[str, Any] = {
        "postgres_url": SecretStr(database_url),
        "principal_jwks_file": keys.published,
        "storage_url": str(storage),
        "upload_dir": uploads,
        "shutdown_grace_s": 2.0,
        **settings,
    }
    async with TaskGuard() as guard:
        service = RegistryService(settings=RegistrySettings(**values), clock=SystemClock(), guard=guard)
        address = await service.start()
        try:
            async with open_channel(address, own_connection=True) as channel:
                client = RegistryClient(channel=channel, signer=keys.signer)
                yield RunningRegistry(service=service, client=client, address=address, storage=storage, uploads=uploads)
        finally:
            await service.close()


@asynccontextmanager
async def running_registry(
    database_url: str, keys: Keys, folder: Path, **settings: Any
) -> AsyncGenerator[RunningRegistry]:
    """A registry that serves."""
    async with listening_registry(database_url, keys, folder, **settings) as registry:
        await registry.service.prepare()
        yield registry
