"""The limits of all tenants in memory, followed from the same feed as gateways follow: leases need no look-up."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.quota.internal.v1.principals_pb2 import TenantRecord, WatchPrincipalsResponse
from headrace.quota.v1.quotas_pb2 import Limit
from headrace_common.clock import Clock
from headrace_common.feed_follower import FeedEvent, FeedEventKind, FeedFollower
from headrace_common.revision_feed import RevisionFeed

LimitName = tuple[str, int, int]
"""Model, resource and window: of each a tenant has one limit."""


class LimitTable:
    """Limits by tenant. What was known last stays while the database is out of reach."""

    def __init__(self) -> None:
        self._limits: dict[str, dict[LimitName, Limit]] = {}

    def find(self, tenant_id: str, name: LimitName) -> Limit | None:
        """The limit that holds, if there is one."""
        return self._limits.get(tenant_id, {}).get(name)

    def replace(self, tenants: Sequence[TenantRecord]) -> None:
        """Takes a snapshot in place of everything."""
        self._limits = {}
        self.apply(tenants)

    def apply(self, tenants: Sequence[TenantRecord]) -> None:
        """Takes what changed."""
        for tenant in tenants:
            self._limits[tenant.tenant_id] = {
                (limit.model, limit.resource, limit.window): limit for limit in tenant.limits
            }


def limit_follower(
    *, feed: RevisionFeed[WatchPrincipalsResponse], table: LimitTable, clock: Clock
) -> FeedFollower[WatchPrincipalsResponse]:
    """Keeps `table` current while it runs."""
    return FeedFollower(
        name="limits",
        open_stream=lambda revision, epoch: feed.stream(after_revision=revision, epoch=epoch),
        read=_event,
        apply_snapshot=lambda pages: table.replace([tenant for page in pages for tenant in page.tenants]),
        apply_change=lambda message: table.apply(message.tenants),
        clock=clock,
    )


def _event(message: WatchPrincipalsResponse) -> FeedEvent:
    if message.snapshot:
        kind = FeedEventKind.SNAPSHOT_COMPLETE if message.snapshot_complete else FeedEventKind.SNAPSHOT_PAGE
    else:
        kind = FeedEventKind.CHANGE if message.tenants or message.keys else FeedEventKind.HEARTBEAT
    return FeedEvent(kind=kind, revision=message.revision, epoch=message.epoch)
