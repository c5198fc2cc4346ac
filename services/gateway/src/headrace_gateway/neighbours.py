"""The quota and registry services as this gateway meets them: channels, proofs of identity, feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio

from headrace_common.clock import Clock
from headrace_common.feed_follower import FeedFollower
from headrace_common.grpc_client import Caller, MetadataPairs, open_channel
from headrace_common.principal import PRINCIPAL_KEY, PrincipalSigner
from headrace_common.tls import Tls
from headrace_gateway.catalog import Catalog
from headrace_gateway.config import GatewaySettings
from headrace_gateway.feeds import CATALOG, PRINCIPALS, catalog_feed, principal_feed
from headrace_gateway.principal_table import PrincipalTable
from headrace_gateway.principal_tokens import PrincipalTokens
from headrace_gateway.upstream import Upstream

QUOTA_AUDIENCE = "headrace-quota"
REGISTRY_AUDIENCE = "headrace-registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbour:
    """A service behind two connections, so that a big transfer doesn't delay the feed and with it a revocation."""

    upstream: Upstream
    feed_channel: grpc.aio.Channel
    feed_caller: Caller


class Neighbours:
    """Both services. Build it inside a running event loop; `close` it there.

    Attributes:
        usage_channel: Where usage records go.
    """

    def __init__(self, *, settings: GatewaySettings, signer: PrincipalSigner, tls: Tls | None, clock: Clock) -> None:
        self._settings = settings
        self._signer = signer
        self._tls = tls
        self._clock = clock
        self._quota = self._neighbour("quota", settings.quota_address, QUOTA_AUDIENCE)
        # Usage comes in batches, which shall delay neither a revocation nor a permit.
        self.usage_channel = open_channel(settings.quota_address, tls=tls, own_connection=True)
        self._registry = self._neighbour("registry", settings.registry_address, REGISTRY_AUDIENCE)

    @property
    def quota(self) -> Upstream:
        return self._quota.upstream

    @property
    def registry(self) -> Upstream:
        return self._registry.upstream

    @property
    def permit_channel(self) -> grpc.aio.Channel:
        """Where permits come from: beside the feed, and before everything large."""
        return self._quota.feed_channel

    def quota_metadata(self) -> MetadataPairs:
        """What proves to quota that a gateway calls on its own behalf."""
        return ((PRINCIPAL_KEY, self._quota.upstream.tokens.service_token()),)

    def feeds(
        self, *, table: PrincipalTable, catalog: Catalog, snapshot: Callable[[str], None]
    ) -> dict[str, FeedFollower[Any]]:
        """The followers that keep both copies current while they run, by the feed's name.

        Args:
            table: Gets keys and tenants.
            catalog: Gets model versions.
            snapshot: Called with the feed's name after each complete snapshot.
        """
        quota, registry = self._quota.feed_caller, self._registry.feed_caller
        return {
            PRINCIPALS: principal_feed(caller=quota, table=table, clock=self._clock, snapshot=snapshot),
            CATALOG: catalog_feed(caller=registry, catalog=catalog, clock=self._clock, snapshot=snapshot),
        }

    async def close(self) -> None:
        """Ends what is still under way and closes the connections."""
        for neighbour in (self._quota, self._registry):
            await neighbour.upstream.channel.close()
            await neighbour.feed_channel.close()
        await self.usage_channel.close()

    def _neighbour(self, name: str, address: str, audience: str) -> _Neighbour:
        tokens = PrincipalTokens(
            signer=self._signer, audience=audience, ttl_s=self._settings.principal_ttl_s, clock=self._clock
        )
        feed_channel = open_channel(address, tls=self._tls, own_connection=True)
        return _Neighbour(
            upstream=Upstream(
                name=name,
                channel=open_channel(
                    address, tls=self._tls, own_connection=True, message_bytes_max=self._settings.message_bytes_max
                ),
                tokens=tokens,
            ),
            feed_channel=feed_channel,
            feed_caller=Caller(channel=feed_channel, metadata=lambda: ((PRINCIPAL_KEY, tokens.service_token()),)),
        )
