"""An ArtifactService over real gRPC that serves bytes of memory and can be told to misbehave."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from headrace.registry.internal.v1.catalog_pb2 import ReadArtifactRequest, ReadArtifactResponse
from headrace.registry.v1.manifest_pb2 import ArtifactFormat, ExecutionPolicy, Manifest
from headrace.registry.v1.models_pb2 import ArtifactFile, Version
from headrace_common import catalogue
from headrace_common.call import Call
from headrace_common.errors import AuthError, StorageUnavailable
from headrace_common.grpc_client import Caller, open_channel
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime, server_stream, service_handler
from headrace_common.principal import TICKET_KEY

CHUNK_BYTES = 1 << 16
TICKET = "ticket"


@dataclass
class Artifacts:
    """What the service holds, how it behaves, and what it was asked.

    Attributes:
        files: Bytes by path.
        read: Path and offset of each request.
        break_after: A stream breaks off after so many chunks, as often as `breaks` says.
        breaks: How many streams still break off.
        tamper: Changes each chunk on its way.
        hold_after: A stream says nothing more after so many chunks, and sets `held`.
        address: Where the service listens.
    """

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    read: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    break_after: int = 0
    breaks: int = 0
    tamper: Callable[[bytes], bytes] | None = None
    hold_after: int = 0
    held: asyncio.Event | None = None
    address: str = ""

    async def read_artifact(self, request: ReadArtifactRequest, call: Call) -> AsyncIterator[ReadArtifactResponse]:
        if call.metadata.get(TICKET_KEY) != TICKET:
            raise AuthError("the ticket is wrong", entry=catalogue.TICKET_INVALID)
        self.read.append((request.path, request.offset))
        content = self.files[request.path]
        for index, start in enumerate(range(request.offset, len(content), CHUNK_BYTES)):
            if self.breaks and index == self.break_after:
                self.breaks -= 1
                raise StorageUnavailable("the store is away")
            if self.hold_after and index == self.hold_after and self.held is not None:
                self.held.set()
                await asyncio.Event().wait()
            chunk = content[start : start + CHUNK_BYTES]
            yield ReadArtifactResponse(chunk=self.tamper(chunk) if self.tamper else chunk)


@asynccontextmanager
async def artifact_service() -> AsyncGenerator[tuple[Artifacts, Caller]]:
    """Serves on a port of its own; gives what it holds and a caller of it."""
    artifacts = Artifacts()
    runtime = RpcRuntime(registry=CollectorRegistry())
    method = server_stream(artifacts.read_artifact, ReadArtifactRequest, ReadArtifactResponse)
    handler = service_handler(
        "headrace.registry.internal.v1.ArtifactService", {"ReadArtifact": method}, runtime=runtime
    )
    server = GrpcServer(listeners=[Listener(address="127.0.0.1:0")], handlers=[handler], runtime=runtime)
    (address,) = await server.start()
    artifacts.address = address
    channel = open_channel(address)
    try:
        yield artifacts, Caller(channel=channel)
    finally:
        await channel.close()
        await server.stop(0)


def version_of(
    model: str, files: Mapping[str, bytes], *, manifest: Manifest | None = None, instances: int = 0, threads: int = 0
) -> Version:
    """A registered version of an ONNX model that consists of `files`; its uid is `<model>-uid`."""
    described = manifest or Manifest(format=ArtifactFormat.ARTIFACT_FORMAT_ONNX, backend="onnxruntime")
    if instances or threads:
        described.execution.CopyFrom(ExecutionPolicy(instances=instances, threads=threads))
    return Version(
        model=model,
        version=1,
        uid=f"{model}-uid",
        manifest=described,
        files=[
            ArtifactFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in files.items()
        ],
        size_bytes=sum(map(len, files.values())),
    )
