"""An HTTP front in the test's own process, in front of whatever answers gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from headrace_common.metrics import Metrics
from headrace_common.tls import Tls
from headrace_gateway.http.app import application, make_front
from headrace_gateway.http.config import HttpSettings
from headrace_gateway.http.front import Front
from headrace_gateway.http.server import HttpServer
from headrace_gateway.http.server_protocol import ConnectionLimits


@dataclass(frozen=True, kw_only=True)
class HttpFront:
    """A front that serves.

    Attributes:
        url: Where, without a slash at its end.
        front: What its routes share.
        gateway_tls: With what it calls the gateway; None in plaintext.
    """

    url: str
    front: Front
    gateway_tls: Tls | None


@asynccontextmanager
async def http_front(gateway_address: str, **settings: Any) -> AsyncGenerator[HttpFront]:
    """A front with further settings; what is under way at its end is cut off."""
    chosen = HttpSettings(gateway_address=gateway_address, **settings)
    metrics = Metrics()
    gateway_tls = Tls.from_settings(chosen)
    front = make_front(chosen, metrics, gateway_tls)
    server = HttpServer(
        app=application(front),
        limits=ConnectionLimits(
            head_bytes_max=chosen.head_bytes_max,
            headers_max=chosen.headers_max,
            head_timeout_s=chosen.head_timeout_s,
            write_timeout_s=chosen.write_timeout_s,
            connections_max=chosen.connections_max,
        ),
        idle_timeout_s=chosen.idle_timeout_s,
        tls=None,
        refused=front.metrics.refuse,
    )
    url = await server.start("127.0.0.1:0")
    idle = asyncio.ensure_future(front.sessions.run())
    try:
        yield HttpFront(url=url, front=front, gateway_tls=gateway_tls)
    finally:
        idle.cancel()
        await server.stop(0)
        await front.sessions.close()
        await metrics.close()
