"""All of leases that the rest of a gateway meets: the book, and the client that keeps it supplied."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import grpc.aio
from prometheus_client import CollectorRegistry

from headrace.quota.v1.quotas_pb2 import Limit
from headrace_common.clock import Clock
from headrace_common.grpc_client import MetadataPairs
from headrace_common.tasks import TaskGuard
from headrace_gateway.quota.lease_book import LeaseBook
from headrace_gateway.quota.lease_client import LeaseClient
from headrace_gateway.quota.lease_exchange import LeaseExchange
from headrace_gateway.quota.lease_metrics import LeaseMetrics


class QuotaLeases:
    """One gateway's leases. Build it inside a running event loop.

    Args:
        gateway_id: Names this process to quota; another one at each start.
        limits_of: A tenant's limits that hold, the same object until they change.
        channel: To quota's internal listener; stays yours.
        metadata: Gives the gateway's proof of identity for a new stream.

    Attributes:
        book: Reserves for calls.
    """

    def __init__(
        self,
        *,
        gateway_id: str,
        limits_of: Callable[[str], Sequence[Limit]],
        channel: grpc.aio.Channel,
        metadata: Callable[[], MetadataPairs],
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        metrics = LeaseMetrics(registry=registry)
        self.book = LeaseBook(limits_of=limits_of, clock=clock, wake=self.wake, refused=metrics.refused)
        self._exchange = LeaseExchange(book=self.book, gateway_id=gateway_id, jitter=random.random)
        self._client = LeaseClient(
            book=self.book,
            exchange=self._exchange,
            channel=channel,
            metadata=metadata,
            metrics=metrics,
            clock=clock,
        )
        metrics.show(
            on_share=lambda: self.book.share.from_s <= clock.monotonic() < self.book.share.until_s,
            store_lost=lambda: self._exchange.store_lost,
            waiting=lambda: self.book.waiting,
        )

    def start(self, tasks: TaskGuard) -> None:
        """Begins to exchange reports with quota."""
        tasks.spawn(self._client.run(), name="leases")

    def replace(self, gateway_id: str) -> None:
        """A former gateway is known to have ended, for its spool was found without an owner: its share is free."""
        self._exchange.replace(gateway_id)
        self.wake()

    def wake(self) -> None:
        """The next report goes out without delay."""
        self._client.wake()

    async def close(self) -> None:
        """Gives everything back; call it when no calls are under way, before the tasks are cancelled."""
        await self._client.leave()
