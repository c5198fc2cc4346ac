"""`headrace.registry.internal.v1.CatalogFeedService`: all versions of all tenants, for gateways."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.registry.internal.v1 import catalog_pb2 as pb
from headrace_common.feed_servicer import FeedServicer
from headrace_common.revision_feed import RevisionFeed, RevisionTail

Message = pb.WatchCatalogResponse

CATALOG_FEED_SERVICE = "headrace.registry.internal.v1.CatalogFeedService"


def catalog_feed_servicer(
    *, feed: RevisionFeed[Message], tail: RevisionTail, registry: CollectorRegistry
) -> FeedServicer[Message]:
    """Answers gateways that follow the catalogue."""
    return FeedServicer(
        service="registry",
        method="WatchCatalog",
        request=pb.WatchCatalogRequest,
        response=Message,
        is_change=lambda message: bool(message.entries),
        feed=feed,
        tail=tail,
        registry=registry,
    )
