"""The places of streams: of all together, and of one tenant's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any

from headrace_common import catalogue
from headrace_common.errors import RouteUnavailable
from headrace_common.rpc_runtime import AdmissionGate

UNREAD_S = 60.0
"""A message, or what is left of a text that has ended, may wait for its client for so long."""
STATUS_S = 1.0
"""So long the end of a stream waits in its own task for a client that has not read what came before."""


class TenantStreams:
    """Bounds what a tenant has open, from the start of a stream until its status has left. One event loop.

    grpc can't reset a stream. It keeps one until its client reads the status or leaves, and all of them count for what
    a server may have open (4,096 RPCs of any kind), though here they have no request or answer any more. So a stream
    that failed gives its place among all streams back at once, but its tenant's only then.

    Args:
        gate: Bounds all streams.
        limit: How many a tenant may have.
    """

    def __init__(self, *, gate: AdmissionGate, limit: int) -> None:
        self.gate = gate
        self._limit = limit
        self._open: Counter[str] = Counter()

    def check(self, tenant_id: str) -> None:
        """Refuses where the tenant has no place left, without taking one.

        Raises:
            RouteUnavailable: CONCURRENCY_EXCEEDED (RESOURCE_EXHAUSTED).
        """
        if self._open[tenant_id] >= self._limit:
            raise RouteUnavailable(
                f"the tenant has {self._limit} streams open, those included whose end it has not read",
                entry=catalogue.CONCURRENCY_EXCEEDED,
                context={"scope": "tenant", "limit": self._limit},
            )

    @contextmanager
    def place(self, tenant_id: str) -> Generator[None, None, None]:
        """Both places of a stream, while it is served.

        Raises:
            RouteUnavailable: As `check`; SERVER_OVERLOADED (RESOURCE_EXHAUSTED).
        """
        self.check(tenant_id)
        self.gate.enter()
        self._open[tenant_id] += 1
        try:
            yield
        finally:
            self._leave(tenant_id)
            self.gate.leave()

    async def end(self, tenant_id: str, aborting: Coroutine[Any, Any, None]) -> None:
        """Sends the status of a stream that has left its place, and takes the tenant's again until it has gone.

        Raises what `aborting` does, unless that takes too long: then it goes on by itself.
        """
        self._open[tenant_id] += 1
        status = asyncio.ensure_future(aborting)

        def sent(status: asyncio.Future[None]) -> None:
            self._leave(tenant_id)
            if not status.cancelled():
                # Whatever it was: nobody else may ask.
                status.exception()

        status.add_done_callback(sent)
        done, _ = await asyncio.wait((status,), timeout=STATUS_S)
        if done:
            status.result()

    def _leave(self, tenant_id: str) -> None:
        self._open[tenant_id] -= 1
        if not self._open[tenant_id]:
            del self._open[tenant_id]
