"""`headrace.quota.internal.v1.PrincipalFeedService`: one stream a gateway, ended at once when the service stops."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.quota.internal.v1 import principals_pb2 as pb
from headrace_common.feed_servicer import FeedServicer
from headrace_common.revision_feed import RevisionFeed, RevisionTail

Message = pb.WatchPrincipalsResponse

PRINCIPAL_FEED_SERVICE = "headrace.quota.internal.v1.PrincipalFeedService"


def principal_feed_servicer(
    *, feed: RevisionFeed[Message], tail: RevisionTail, registry: CollectorRegistry
) -> FeedServicer[Message]:
    """Answers gateways that follow tenants and keys."""
    return FeedServicer(
        service="quota",
        method="WatchPrincipals",
        request=pb.WatchPrincipalsRequest,
        response=Message,
        is_change=lambda message: bool(message.tenants or message.keys),
        feed=feed,
        tail=tail,
        registry=registry,
    )
