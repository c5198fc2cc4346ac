"""Service processes that a gateway needs, and a gateway inside the test's own process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace_common.clock import SystemClock
from headrace_common.metrics import Metrics
from headrace_common.rpc_status import from_rpc_error
from headrace_common.settings import load_settings
from headrace_common.tasks import TaskGuard
from headrace_gateway.app import Gateway
from headrace_gateway.config import GatewaySettings
from inference import open_inference_pb2, open_inference_pb2_grpc
from support.processes import HeldPort, Unprivileged, command_as, stop

_START_TIMEOUT_S = 60.0
_CHUNK_BYTES = 256 << 10
COMMUNITY = (("x-api-key", "community"),)
"""Metadata of the well-known key."""
Pairs = tuple[tuple[str, str], ...]


@dataclass
class ServiceProcess:
    """One service as a process of its own, on an address that outlives a restart."""

    name: str
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    port: HeldPort = field(default_factory=HeldPort)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.port.address

    def start(self) -> None:
        """Starts it and waits until it says that it serves."""
        ready_file = self.folder / f"{self.name}.ready.json"
        ready_file.unlink(missing_ok=True)
        log = self.folder / f"{self.name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        environment = {
            **kept,
            **self.environment,
            f"HEADRACE_{self.name.upper()}_GRPC_ADDRESS": self.address,
            "HEADRACE_READY_FILE": str(ready_file),
        }
        argv = [sys.executable, "-m", f"headrace_{self.name}"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command_as(Unprivileged(0, 0), argv), env=environment, stdout=output, stderr=output
            )
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < give_up_at:
            if ready_file.exists():
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start:\n" + log.read_text(errors="replace")[-4000:])

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; SIGKILL when that does not help. It isn't started again."""
        if self.process is not None:
            stop(self.process, signal.SIGTERM)
        self.port.close()


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The services that a gateway needs, and the keys that they share."""

    folder: Path
    quota: ServiceProcess
    registry: ServiceProcess
    admin_key: str

    def environment(self) -> dict[str, str]:
        """Variables of a gateway in front of these services."""
        return {
            "HEADRACE_GATEWAY_GRPC_ADDRESS": "127.0.0.1:0",
            "HEADRACE_GATEWAY_QUOTA_ADDRESS": self.quota.address,
            "HEADRACE_GATEWAY_REGISTRY_ADDRESS": self.registry.address,
            "HEADRACE_GATEWAY_COMMUNITY": "true",
            "HEADRACE_GATEWAY_REFLECTION": "open",
            "HEADRACE_PRINCIPAL_KEY_FILE": str(self.folder / "gateway.jwk"),
            # Most tests are over when they close it; a grace costs each of them half a second.
            "HEADRACE_SHUTDOWN_GRACE_S": "0",
            "HEADRACE_GATEWAY_SPOOL_DRAIN_S": "0",
            "HEADRACE_STATE_DIR": str(self.folder / "state"),
        }

    def settings(self, **variables: str) -> GatewaySettings:
        """Settings of a gateway in front of these services."""
        return load_settings(GatewaySettings, environ={**self.environment(), **variables})


@dataclass(frozen=True, kw_only=True)
class FrontDoor:
    """A gateway and a channel to its public listener."""

    gateway: Gateway
    metrics: Metrics
    channel: grpc.aio.Channel
    admin_key: str

    @property
    def admin(self) -> tuple[tuple[str, str], ...]:
        """Credential of an operator."""
        return (("x-api-key", self.admin_key),)

    async def new_tenant(self, *roles: tenants_pb2.Role.ValueType) -> tuple[str, str, str]:
        """A fresh tenant; returns its id, the id of a key with these roles, and the key, known to the gateway."""
        tenant_id = f"t-{secrets.token_hex(6)}"
        stub = tenants_pb2_grpc.TenantServiceStub(self.channel)
        await stub.CreateTenant(tenants_pb2.CreateTenantRequest(id=tenant_id), metadata=self.admin, timeout=30)
        key_id, key = await self.new_key(tenant_id, *roles)
        return tenant_id, key_id, key

    async def new_key(self, tenant_id: str, *roles: tenants_pb2.Role.ValueType) -> tuple[str, str]:
        """A key of a tenant, known to the gateway: its id and the key itself."""
        stub = tenants_pb2_grpc.TenantServiceStub(self.channel)
        made = await stub.CreateApiKey(
            tenants_pb2.CreateApiKeyRequest(tenant_id=tenant_id, roles=roles), metadata=self.admin, timeout=30
        )
        async with asyncio.timeout(30):
            await self.until_known(made.key)
        return made.api_key.id, made.key

    async def until_ready(self, *, models: bool) -> None:
        """Returns once the gateway has the keys, and with `models` the models too."""
        async with asyncio.timeout(60):
            await self.until_known(self.admin_key)
            if models:
                await self.gateway.serving()

    async def until_joined(self, runners: int) -> None:
        """Returns once so many runners have joined: to start one may take longer than a call waits for it."""
        stub = mesh_pb2_grpc.MeshServiceStub(self.channel)
        async with asyncio.timeout(60):
            while True:
                listed = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
                if len(listed.runners) >= runners:
                    return
                await asyncio.sleep(0.02)

    async def until_known(self, key: str) -> None:
        """Returns once the gateway accepts a key."""
        while await self.refusal_of(key) is not None:
            await asyncio.sleep(0.01)

    async def refusal_of(self, key: str) -> str | None:
        """The reason why the gateway itself refuses a key, or None when it accepts it."""
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        try:
            await stub.ServerMetadata(
                open_inference_pb2.ServerMetadataRequest(), metadata=(("x-api-key", key),), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return None


@asynccontextmanager
async def open_door(backends: Backends, *, wait: bool = True, **variables: str) -> AsyncGenerator[FrontDoor]:
    """A gateway with further settings, once it knows the keys; and the models, where the registry is up."""
    metrics = Metrics()
    settings = backends.settings(**variables)
    async with TaskGuard() as tasks:
        gateway = Gateway(settings=settings, metrics=metrics, tasks=tasks, clock=SystemClock())
        try:
            await gateway.start()
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            # One that shares its port doesn't listen yet.
            address = gateway.public_address or settings.grpc_address
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                door = FrontDoor(gateway=gateway, metrics=metrics, channel=channel, admin_key=backends.admin_key)
                if wait:
                    await door.until_ready(models=backends.registry.process is not None)
                yield door
        finally:
            await gateway.close()


def fresh_name() -> str:
    """A model name that no other test uses."""
    return f"model-{secrets.token_hex(6)}"


def header(model: str, content: bytes) -> models_pb2.UploadVersionRequest:
    """The first message of an upload."""
    sha256 = hashlib.sha256(content).hexdigest()
    return models_pb2.UploadVersionRequest(
        header=models_pb2.UploadHeader(model=model, size_bytes=len(content), sha256=sha256)
    )


async def upload(door: FrontDoor, model: str, content: bytes, metadata: Pairs = COMMUNITY) -> models_pb2.Version:
    async def parts() -> AsyncIterator[models_pb2.UploadVersionRequest]:
        yield header(model, content)
        for start in range(0, len(content), _CHUNK_BYTES):
            yield models_pb2.UploadVersionRequest(chunk=content[start : start + _CHUNK_BYTES])

    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    return (await stub.UploadVersion(parts(), metadata=metadata, timeout=60)).version
