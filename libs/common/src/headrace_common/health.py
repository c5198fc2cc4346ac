"""grpc.health.v1 per service name, over our own handlers so that bad bytes are answered like everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1 import health_pb2

from headrace_common import catalogue
from headrace_common.call import Call
from headrace_common.errors import RouteError
from headrace_common.rpc_method import server_stream, unary
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.rpc_service import ServiceHandler, service_handler

HEALTH_SERVICE = "grpc.health.v1.Health"


class Health:
    """What health checks are answered with. The empty name stands for the whole server. Event loop only."""

    def __init__(self, *, services: Iterable[str]) -> None:
        self._serving = dict.fromkeys(["", *services], False)
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool, *, service: str | None = None) -> None:
        """Changes one service's state, or everyone's; watchers learn it at once."""
        for name in self._serving if service is None else [service]:
            self._serving[name] = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """The state of a service; NOT_FOUND for a name that isn't served here."""
        if request.service not in self._serving:
            raise RouteError("no such service is served here", entry=catalogue.SERVICE_UNKNOWN)
        return self._response(request.service)

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now and after each change; an unknown name is SERVICE_UNKNOWN until it appears."""
        last: int | None = None
        while True:
            changed = self._changed
            response = self._response(request.service)
            if response.status != last:
                last = response.status
                yield response
            await changed.wait()

    def handler(self, runtime: RpcRuntime) -> ServiceHandler:
        """The generic handler to register; open to everybody, since probes carry no credential."""
        message, answer = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        methods = {
            "Check": unary(self.check, message, answer),
            "Watch": server_stream(self.watch, message, answer, endless=True),
        }
        return service_handler(HEALTH_SERVICE, methods, runtime=runtime)

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        serving = self._serving.get(service)
        if serving is None:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        return health_pb2.HealthCheckResponse(
            status=health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
