"""The one RPC of a feed: a stream for each gateway, ended at once when the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar, cast

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Gauge

from headrace_common.grpc_server import Call, RpcMethod, server_stream
from headrace_common.principal import SERVICE_ROLE
from headrace_common.revision_feed import RevisionFeed, RevisionTail
from headrace_common.stoppable_stream import until_set

M = TypeVar("M", bound=Message)


class WatchRequest(Protocol):
    """What every feed's request says: where the watcher stands."""

    after_revision: int
    epoch: str


class FeedServicer(Generic[M]):
    """Answers whoever follows a feed, and shows how it stands in metrics.

    Args:
        service: Name of the service, for the metrics' names.
        method: Name of the RPC.
        request: Its request type, a `WatchRequest`.
        response: Its response type; `snapshot` marks the pages of a snapshot.
        is_change: Whether a message that is no snapshot page carries a change.
        feed: What is streamed.
        tail: The newest revision behind it.
        registry: Where the metrics go.
    """

    def __init__(
        self,
        *,
        service: str,
        method: str,
        request: type[Message],
        response: type[M],
        is_change: Callable[[M], bool],
        feed: RevisionFeed[M],
        tail: RevisionTail,
        registry: CollectorRegistry,
    ) -> None:
        self._method = method
        self._request = request
        self._response = response
        self._is_change = is_change
        self._feed = feed
        self._stopping = asyncio.Event()
        prefix = f"headrace_{service}_feed"
        self._watchers = Gauge(f"{prefix}_watchers", "Open feeds.", registry=registry)
        messages = Counter(f"{prefix}_messages_total", "Feed messages sent, by kind.", ["kind"], registry=registry)
        self._snapshot_pages = messages.labels("snapshot")
        self._changes = messages.labels("change")
        self._heartbeats = messages.labels("heartbeat")
        revision = Gauge(f"{prefix}_revision", "Newest revision that this process has seen.", registry=registry)
        revision.set_function(lambda: tail.head.revision if tail.head is not None else 0)
        fresh = Gauge(
            f"{prefix}_fresh",
            "1 while the newest revision is known for sure, 0 while the database is out of reach.",
            registry=registry,
        )
        fresh.set_function(lambda: 1 if tail.fresh else 0)

    async def watch(self, request: Message, call: Call) -> AsyncIterator[M]:
        """Streams the snapshot where one is needed, then changes and signs of life.

        Ends without an error when the service stops, or when the watcher fell behind the history that is kept; either
        way the watcher comes back with the revision that it has.

        Raises:
            StorageUnavailable: DATABASE_UNAVAILABLE (UNAVAILABLE) when the database is away as the stream opens.
        """
        place = cast("WatchRequest", request)
        with self._watchers.track_inprogress():
            stream = self._feed.stream(after_revision=place.after_revision, epoch=place.epoch)
            # Both are generators; what they hold is released here, not whenever the collector comes by.
            async with (
                aclosing(cast("AsyncGenerator[M, None]", stream)),
                aclosing(until_set(self._stopping, stream)) as messages,
            ):
                async for message in messages:
                    self._count(message)
                    yield message

    def end_streams(self) -> None:
        """Ends every stream now: an orderly stop doesn't wait for watchers that never leave by themselves."""
        self._stopping.set()

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The method by name, for the service's handler."""
        return {self._method: server_stream(self.watch, self._request, self._response, role=SERVICE_ROLE)}

    def _count(self, message: M) -> None:
        if cast("Any", message).snapshot:
            self._snapshot_pages.inc()
        elif self._is_change(message):
            self._changes.inc()
        else:
            self._heartbeats.inc()
