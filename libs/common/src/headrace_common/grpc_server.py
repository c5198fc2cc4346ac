"""A gRPC server with our options, health, reflection, TLS and an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from headrace_common import catalogue
from headrace_common.addresses import format_address, parse_address
from headrace_common.call import Call as Call
from headrace_common.errors import InitializationError
from headrace_common.health import Health
from headrace_common.last_calls import LastCalls
from headrace_common.reflection import Reflection
from headrace_common.rpc_method import RpcMethod as RpcMethod
from headrace_common.rpc_method import bidi_stream as bidi_stream
from headrace_common.rpc_method import client_stream as client_stream
from headrace_common.rpc_method import server_stream as server_stream
from headrace_common.rpc_method import unary as unary
from headrace_common.rpc_runtime import RpcRuntime as RpcRuntime
from headrace_common.rpc_service import Authenticator as Authenticator
from headrace_common.rpc_service import ServiceHandler
from headrace_common.rpc_service import refuse_call as refuse_call
from headrace_common.rpc_service import service_handler as service_handler
from headrace_common.shared_listeners import SharedListeners
from headrace_common.tls import Tls

_SLACK_BYTES = 64 << 10
# grpc refuses larger messages itself, with a text of its own; up to this much more we refuse them, with a code.
_LAST_CALLS_MAX_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address (`host:port`, port 0 means any) and how it is protected; None is plaintext."""

    address: str
    tls: Tls | None = None


class GrpcServer:
    """One set of services on one or more addresses.

    Args:
        listeners: Where to listen.
        handlers: `service_handler(…)`s and generic handlers of your own, asked in this order.
        runtime: The process's shared limits, metrics and log.
        health_services: Names that health checks may ask for; those of `handlers` that have one are added.
        reflection_services: Names that reflection shows; None switches it off.
        reflection_authenticate: Who may use reflection; None opens it to everybody.
        concurrent_rpcs_max: Hard bound of RPCs in any state, body still arriving included.
        options: Further channel arguments; they win over ours.
    """

    def __init__(
        self,
        *,
        listeners: Sequence[Listener],
        handlers: Sequence[grpc.GenericRpcHandler],
        runtime: RpcRuntime,
        health_services: Iterable[str] = (),
        reflection_services: Iterable[str] | None = None,
        reflection_authenticate: Authenticator | None = None,
        concurrent_rpcs_max: int | None = 4_096,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        own_names = [handler.service_name for handler in handlers if isinstance(handler, ServiceHandler)]
        self.health = Health(services=[*own_names, *health_services])
        all_handlers: list[grpc.GenericRpcHandler] = [self.health.handler(runtime), *handlers]
        if reflection_services is not None:
            reflection = Reflection(services=reflection_services)
            all_handlers += reflection.handlers(runtime, reflection_authenticate)
        self._listeners = listeners
        self._shared = SharedListeners()
        self._log = structlog.stdlib.get_logger("grpc_server")
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=concurrent_rpcs_max,
            # Merged by name: where an argument is given twice, grpc takes the first.
            options=list(dict([*server_options(runtime.message_bytes_max), *options]).items()),
        )
        self._last_calls = LastCalls(handlers=all_handlers, running=lambda: runtime.calls.taken)
        self._server.add_generic_rpc_handlers([self._last_calls, *all_handlers])
        self._services = [handler for handler in all_handlers if isinstance(handler, ServiceHandler)]
        self.addresses: list[str] = []

    async def start(self) -> list[str]:
        """Binds, starts and reports SERVING.

        Returns:
            The bound addresses, in the order of the listeners.

        Raises:
            InitializationError: LISTEN_FAILED: an address is taken or not ours.
        """
        for listener in self._listeners:
            host, wanted = parse_address(listener.address)
            try:
                with self._shared.opening():
                    port = self._bind(listener)
            except RuntimeError:
                port = 0
            if port == 0:
                raise InitializationError(
                    f"can't listen on {format_address(host, wanted)}: it is taken, or not an address of this machine",
                    entry=catalogue.LISTEN_FAILED,
                    context={"address": listener.address},
                )
            self.addresses.append(format_address(host, port))
        await self._server.start()
        self.health.set_serving(True)
        self._log.info("serving", addresses=self.addresses)
        return self.addresses

    def drain(self) -> None:
        """Says NOT_SERVING to health checks, so that balancers look elsewhere; calls go on."""
        self.health.set_serving(False)

    async def leave_shared_ports(self) -> None:
        """Other processes that listen on a port of ours get all new connections from now on; ours go on."""
        await self._shared.leave()

    async def stop(self, grace_s: float) -> None:
        """Ends endless streams, tells clients to leave, gives calls `grace_s` in all, then cancels what is left.

        Shared ports are left before. Calls that come before clients know wait for that, half a second or half of the
        grace at most, and are served.
        Safe to call twice.
        """
        self.drain()
        for service in self._services:
            service.end_streams()
        end_at = asyncio.get_running_loop().time() + grace_s
        if grace_s > 0:
            silence = self._last_calls.silence(min(_LAST_CALLS_MAX_S, grace_s / 2))
            await asyncio.gather(silence, self.leave_shared_ports())
        stopping = asyncio.create_task(self._server.stop(max(0.0, end_at - asyncio.get_running_loop().time())))
        # The task's first step has clients told to leave: answers come after that on each connection.
        await asyncio.sleep(0)
        self._last_calls.release()
        await stopping

    def _bind(self, listener: Listener) -> int:
        if listener.tls is None:
            return self._server.add_insecure_port(listener.address)
        return self._server.add_secure_port(listener.address, listener.tls.server_credentials())


def server_options(message_bytes_max: int) -> list[tuple[str, Any]]:
    """Our channel arguments for servers: no port sharing, keepalive that tolerates 10 s pings, bounded messages."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes_max + _SLACK_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
