"""Streams that have ended here and whose clients have yet to read that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from headrace_common import catalogue
from headrace_common.errors import RouteUnavailable

STATUS_S = 1.0
"""So long the end of a stream waits in its own task for a client that has not read what came before."""
UNREAD_MAX = 250


class UnreadEnds:
    """Sends the status of streams that fail, and bounds how many of a tenant's have yet to leave. One event loop.

    grpc can't reset a stream. It keeps one until its client reads the status or leaves, and all of them count for what
    a server may have open (4,096 RPCs of any kind), though here they have no place, request or answer any more.

    Args:
        limit: How many a tenant may have.
    """

    def __init__(self, *, limit: int = UNREAD_MAX) -> None:
        self._limit = limit
        self._unread: Counter[str] = Counter()

    def check(self, tenant_id: str) -> None:
        """Refuses a new stream of a tenant that leaves too many unread.

        Raises:
            RouteUnavailable: CONCURRENCY_EXCEEDED (RESOURCE_EXHAUSTED).
        """
        if self._unread[tenant_id] >= self._limit:
            raise RouteUnavailable(
                f"the tenant has {self._limit} streams that have ended and whose end it has not read",
                entry=catalogue.CONCURRENCY_EXCEEDED,
                context={"scope": "tenant", "limit": self._limit},
            )

    async def send(self, tenant_id: str, aborting: Coroutine[Any, Any, None]) -> None:
        """Raises what `aborting` does, unless that takes too long: then it goes on by itself."""
        status = asyncio.ensure_future(aborting)
        self._unread[tenant_id] += 1

        def left(sent: asyncio.Future[None]) -> None:
            self._unread[tenant_id] -= 1
            if not self._unread[tenant_id]:
                del self._unread[tenant_id]
            if not sent.cancelled():
                # Whatever it was: nobody else may ask.
                sent.exception()

        status.add_done_callback(left)
        done, _ = await asyncio.wait((status,), timeout=STATUS_S)
        if done:
            status.result()
