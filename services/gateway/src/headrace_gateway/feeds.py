"""The two feeds that a gateway lives on: keys and tenants from quota, model versions from the registry."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence

from headrace.quota.internal.v1.principals_pb2 import WatchPrincipalsRequest, WatchPrincipalsResponse
from headrace.registry.internal.v1.catalog_pb2 import WatchCatalogRequest, WatchCatalogResponse
from headrace_common.clock import Clock
from headrace_common.feed_follower import FeedEvent, FeedEventKind, FeedFollower
from headrace_common.grpc_client import Caller
from headrace_gateway.catalog import Catalog
from headrace_gateway.principal_table import PrincipalTable

PRINCIPALS = "principals"
CATALOG = "catalog"
_WATCH_PRINCIPALS = "/headrace.quota.internal.v1.PrincipalFeedService/WatchPrincipals"
_WATCH_CATALOG = "/headrace.registry.internal.v1.CatalogFeedService/WatchCatalog"


def principal_feed(
    *, caller: Caller, table: PrincipalTable, clock: Clock, snapshot: Callable[[str], None]
) -> FeedFollower[WatchPrincipalsResponse]:
    """Keeps `table` current; `snapshot` is called with the feed's name after each complete snapshot."""

    def open_stream(revision: int, epoch: str) -> AsyncIterable[WatchPrincipalsResponse]:
        request = WatchPrincipalsRequest(after_revision=revision, epoch=epoch)
        return caller.stream(_WATCH_PRINCIPALS, request, WatchPrincipalsResponse)

    def apply_snapshot(pages: Sequence[WatchPrincipalsResponse]) -> None:
        table.replace(
            [tenant for page in pages for tenant in page.tenants], [key for page in pages for key in page.keys]
        )
        snapshot(PRINCIPALS)

    return FeedFollower(
        name=PRINCIPALS,
        open_stream=open_stream,
        read=lambda message: _event(message, rows=len(message.tenants) + len(message.keys)),
        apply_snapshot=apply_snapshot,
        apply_change=lambda message: table.apply(message.tenants, message.keys),
        clock=clock,
    )


def catalog_feed(
    *, caller: Caller, catalog: Catalog, clock: Clock, snapshot: Callable[[str], None]
) -> FeedFollower[WatchCatalogResponse]:
    """Keeps `catalog` current; `snapshot` is called with the feed's name after each complete snapshot."""

    def open_stream(revision: int, epoch: str) -> AsyncIterable[WatchCatalogResponse]:
        request = WatchCatalogRequest(after_revision=revision, epoch=epoch)
        return caller.stream(_WATCH_CATALOG, request, WatchCatalogResponse)

    def apply_snapshot(pages: Sequence[WatchCatalogResponse]) -> None:
        catalog.replace(entry for page in pages for entry in page.entries)
        snapshot(CATALOG)

    return FeedFollower(
        name=CATALOG,
        open_stream=open_stream,
        read=lambda message: _event(message, rows=len(message.entries)),
        apply_snapshot=apply_snapshot,
        apply_change=lambda message: catalog.apply(message.entries),
        clock=clock,
    )


def _event(message: WatchPrincipalsResponse | WatchCatalogResponse, *, rows: int) -> FeedEvent:
    if message.snapshot:
        kind = FeedEventKind.SNAPSHOT_COMPLETE if message.snapshot_complete else FeedEventKind.SNAPSHOT_PAGE
    else:
        kind = FeedEventKind.CHANGE if rows else FeedEventKind.HEARTBEAT
    return FeedEvent(kind=kind, revision=message.revision, epoch=message.epoch)
