"""A connection to each of several gateways that share one port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from headrace.gateway.v1.mesh_pb2 import ListRunnersRequest
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from support.mesh import Mesh


@asynccontextmanager
async def gateway_doors(mesh: Mesh, *, within_s: float = 60.0) -> AsyncGenerator[dict[str, grpc.aio.Channel]]:
    """A channel to each gateway, by its name: the kernel deals new connections out, so some are tried."""
    wanted = {process.name for process in mesh.named("gateway")}
    found: dict[str, grpc.aio.Channel] = {}
    give_up_at = time.monotonic() + within_s
    try:
        while found.keys() != wanted:
            assert time.monotonic() < give_up_at, f"only {found.keys()} of {wanted} answer"
            channel = grpc.aio.insecure_channel(mesh.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
            listing = MeshServiceStub(channel).ListRunners(ListRunnersRequest(), metadata=mesh.metadata, timeout=30)
            try:
                name = (await listing).gateway_id.partition(".")[0]
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
                name = ""
            if name and name not in found:
                found[name] = channel
            else:
                await channel.close()
                # One that was killed a moment ago listens again soon.
                await asyncio.sleep(0.02)
        yield found
    finally:
        for channel in found.values():
            await channel.close()
