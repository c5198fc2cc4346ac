"""The mesh itself and the runners behind it, blocking."""

from __future__ import annotations

from collections.abc import Generator

from headrace_client.async_mesh import AsyncRunners, AsyncServer
from headrace_client.contracts.headrace.gateway.v1 import mesh_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.loop_thread import LoopThread


class Server:
    """Whether the mesh answers, and what it is; see `AsyncServer`."""

    def __init__(self, server: AsyncServer, loop: LoopThread) -> None:
        self._server = server
        self._loop = loop

    def live(self) -> bool:
        """True, or an UnreachableError. Needs no key."""
        return self._loop.run(self._server.live())

    def ready(self) -> bool:
        """Whether inferences are taken; not while the gateway starts or drains. Needs no key."""
        return self._loop.run(self._server.ready())

    def metadata(self) -> open_inference_pb2.ServerMetadataResponse:
        """Name and version of the server, and the protocol extensions that it speaks."""
        return self._loop.run(self._server.metadata())


class Runners:
    """The runners that the answering gateway has sessions with; see `AsyncRunners`."""

    def __init__(self, runners: AsyncRunners, loop: LoopThread) -> None:
        self._runners = runners
        self._loop = loop

    def list(self) -> mesh_pb2.ListRunnersResponse:
        """All runners with their models, and the id of the gateway that says so."""
        return self._loop.run(self._runners.list())

    def watch(self, *, timeout_s: float | None = None) -> Generator[mesh_pb2.WatchRunnersResponse, None, None]:
        """Each runner as it is now, then each change, until the loop over it is left."""
        return self._loop.iterate(self._runners.watch(timeout_s=timeout_s))

    def drain(self, runner_id: str) -> mesh_pb2.Runner:
        """Ask a runner to take no new calls, finish what it has and leave."""
        return self._loop.run(self._runners.drain(runner_id))
