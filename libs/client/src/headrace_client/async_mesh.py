"""The mesh itself and the runners behind it, with asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.transport import Transport


class AsyncServer:
    """Whether the mesh answers, and what it is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def live(self) -> bool:
        """True. Needs no key.

        Raises:
            UnreachableError: nobody answers.
        """
        return (await self._transport.unary(rpcs.SERVER_LIVE, open_inference_pb2.ServerLiveRequest())).live

    async def ready(self) -> bool:
        """Whether inferences are taken; not while the gateway starts or drains. Needs no key."""
        return (await self._transport.unary(rpcs.SERVER_READY, open_inference_pb2.ServerReadyRequest())).ready

    async def metadata(self) -> open_inference_pb2.ServerMetadataResponse:
        """Name and version of the server, and the protocol extensions that it speaks."""
        return await self._transport.unary(rpcs.SERVER_METADATA, open_inference_pb2.ServerMetadataRequest())


class AsyncRunners:
    """The runners that the answering gateway has sessions with. Draining needs an operator."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> mesh_pb2.ListRunnersResponse:
        """All runners with their models, and the id of the gateway that says so."""
        return await self._transport.unary(rpcs.LIST_RUNNERS, mesh_pb2.ListRunnersRequest())

    def watch(self, *, timeout_s: float | None = None) -> AsyncGenerator[mesh_pb2.WatchRunnersResponse, None]:
        """Each runner as it is now, then each change, until the loop over it is left.

        Args:
            timeout_s: Time for all of it, in seconds; None means no limit.

        Raises:
            DeadlineError: the time is over.
            UnreachableError: the connection broke; start again, which begins with the state as it is then.
        """
        return self._transport.responses(rpcs.WATCH_RUNNERS, mesh_pb2.WatchRunnersRequest(), timeout_s=timeout_s)

    async def drain(self, runner_id: str) -> mesh_pb2.Runner:
        """Ask a runner to take no new calls, finish what it has and leave."""
        return (await self._transport.unary(rpcs.DRAIN_RUNNER, mesh_pb2.DrainRunnerRequest(id=runner_id))).runner
