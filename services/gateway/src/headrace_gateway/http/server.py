"""The HTTP listener: binds, serves, and ends in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from email.utils import formatdate

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from headrace_common import catalogue
from headrace_common.addresses import format_address, parse_address
from headrace_common.errors import InitializationError
from headrace_common.tls import Tls
from headrace_gateway.http.server_protocol import ConnectionLimits, ServerProtocol
from headrace_gateway.http.tls_context import tls_context

_BACKLOG = 2_048


class HttpServer:
    """One application on one address. Event loop only.

    Args:
        app: What answers.
        limits: Of its connections.
        idle_timeout_s: How long a connection without a request stays.
        tls: Certificate and key; None serves without TLS.
        refused: Told the reason of each refusal that no route saw.
    """

    def __init__(
        self,
        *,
        app: ASGIApp,
        limits: ConnectionLimits,
        idle_timeout_s: float,
        tls: Tls | None,
        refused: Callable[[str], None],
    ) -> None:
        # uvicorn's own lines repeat what metrics and answers tell, once for each bad request.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._config = Config(
            app,  # pyright: ignore[reportArgumentType] - the same protocol under two names
            http=ServerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=max(1, round(idle_timeout_s)),
        )
        self._config.load()
        self._limits = limits
        self._tls = tls
        self._refused = refused
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._clock: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._state.connections)

    async def start(self, address: str, *, share_port: bool = False) -> str:
        """Listens.

        Args:
            address: `host:port`; port 0 means any.
            share_port: Whether other processes may listen there too.

        Returns:
            The URL, with the bound port.

        Raises:
            InitializationError: LISTEN_FAILED: the address is taken or not ours.
        """
        host, port = parse_address(address)
        loop = asyncio.get_running_loop()
        self._tell_date()
        self._clock = loop.create_task(self._keep_date(), name="date header")
        tls = tls_context(self._tls) if self._tls is not None else None
        try:
            self._server = await loop.create_server(
                self._connection, host, port, ssl=tls, backlog=_BACKLOG, reuse_address=True, reuse_port=share_port
            )
        except OSError:
            raise InitializationError(
                f"can't listen on {format_address(host, port)}: it is taken, or not an address of this machine",
                entry=catalogue.LISTEN_FAILED,
                context={"address": address},
            ) from None
        bound = self._server.sockets[0].getsockname()[1]
        return f"http{'s' if tls else ''}://{format_address(host, bound)}"

    def stop_listening(self) -> None:
        """Takes no new connections; those that wait for a request end, the others with their answer."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()

    async def drain(self, grace_s: float) -> None:
        """Takes no new connections, and gives running requests `grace_s`."""
        self.stop_listening()
        tasks = set(self._state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, grace_s))

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, gives running requests `grace_s`, then cuts off what is left."""
        await self.drain(grace_s)
        for connection in list(self._state.connections):
            if self._state.tasks:
                connection.transport.abort()
            else:
                connection.transport.close()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=1.0)
        if self._clock is not None:
            self._clock.cancel()

    def _connection(self) -> ServerProtocol:
        return ServerProtocol(config=self._config, server_state=self._state, limits=self._limits, refused=self._refused)

    async def _keep_date(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._tell_date()

    def _tell_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
