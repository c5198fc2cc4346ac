"""`headrace.quota.internal.v1.PrincipalFeedService`: one stream a gateway, ended at once when the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge

from headrace.quota.internal.v1 import principals_pb2 as pb
from headrace_common.grpc_server import Call, RpcMethod, server_stream
from headrace_common.principal import SERVICE_ROLE
from headrace_common.revision_feed import RevisionFeed
from headrace_common.stoppable_stream import until_set

Message = pb.WatchPrincipalsResponse

PRINCIPAL_FEED_SERVICE = "headrace.quota.internal.v1.PrincipalFeedService"


class PrincipalFeedServicer:
    """Answers gateways that follow tenants and keys."""

    def __init__(self, *, feed: RevisionFeed[Message], registry: CollectorRegistry) -> None:
        self._feed = feed
        self._stopping = asyncio.Event()
        self._watchers = Gauge("headrace_quota_feed_watchers", "Open principal feeds.", registry=registry)
        messages = Counter(
            "headrace_quota_feed_messages_total",
            "Messages sent on principal feeds, by kind.",
            ["kind"],
            registry=registry,
        )
        self._snapshot_pages = messages.labels("snapshot")
        self._changes = messages.labels("change")
        self._heartbeats = messages.labels("heartbeat")

    async def watch_principals(self, request: pb.WatchPrincipalsRequest, call: Call) -> AsyncIterator[Message]:
        """Streams the snapshot where one is needed, then changes and signs of life.

        Ends without an error when the service stops, or when the watcher fell behind the history that is kept; either
        way the watcher comes back with the revision that it has.

        Raises:
            StorageUnavailable: DATABASE_UNAVAILABLE (UNAVAILABLE) when the database is away as the stream opens.
        """
        with self._watchers.track_inprogress():
            stream = self._feed.stream(after_revision=request.after_revision, epoch=request.epoch)
            # Both are generators; what they hold is released here, not whenever the collector comes by.
            async with (
                aclosing(cast("AsyncGenerator[Message, None]", stream)),
                aclosing(until_set(self._stopping, stream)) as messages,
            ):
                async for message in messages:
                    self._count(message)
                    yield message

    def end_streams(self) -> None:
        """Ends every stream now: an orderly stop doesn't wait for watchers that never leave by themselves."""
        self._stopping.set()

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The methods by name, for the service's handler."""
        return {
            "WatchPrincipals": server_stream(
                self.watch_principals,
                pb.WatchPrincipalsRequest,
                Message,
                role=SERVICE_ROLE,
            )
        }

    def _count(self, message: Message) -> None:
        if message.snapshot:
            self._snapshot_pages.inc()
        elif message.tenants or message.keys:
            self._changes.inc()
        else:
            self._heartbeats.inc()
