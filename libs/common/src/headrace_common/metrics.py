"""One metrics registry per process and the endpoint that shows it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from headrace_common import catalogue
from headrace_common.addresses import format_address, parse_address
from headrace_common.errors import InitializationError

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """A registry of its own, with the process's memory, CPU and garbage collector already in it.

    Pass `registry` to the metrics that you create; bind label children once, not per call.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._tasks = Gauge(
            "headrace_asyncio_tasks", "Tasks of the event loop that have not ended.", registry=self.registry
        )
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self, address: str) -> str:
        """Serves `/metrics` from a thread; call it from the event loop whose tasks shall be counted.

        Args:
            address: `host:port`; port 0 means any.

        Returns:
            The URL, with the bound port.

        Raises:
            InitializationError: LISTEN_FAILED: the address is taken or not ours.
        """
        host, port = parse_address(address)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError:
            raise InitializationError(
                f"metrics can't listen on {address}", entry=catalogue.LISTEN_FAILED, context={"address": address}
            ) from None
        loop = asyncio.get_running_loop()
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        return f"http://{format_address(host, self._server.server_port)}/metrics"

    async def close(self) -> None:
        """Stops the endpoint without blocking the event loop. Safe to call twice."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None:
            return
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        if thread is not None:
            await asyncio.to_thread(thread.join)
