"""Whether a stream that was admitted still may go on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from headrace_common.principal import Principal
from headrace_gateway.features import Features
from headrace_gateway.identity import Identity, Metadata
from headrace_gateway.policy import Access, require

CHECK_S = 0.5

T = TypeVar("T")


class StreamAccess:
    """Decides again, while a stream lives, what was decided when it opened.

    Keys and tenants are in memory, so a look every half second costs microseconds; it finds revoked and expired keys,
    changed roles, suspended tenants and features switched off alike.

    Args:
        demand: What the stream's method demands.
        feature: What it belongs to; None where it is always on.
    """

    def __init__(self, *, identity: Identity, features: Features, demand: Access, feature: str | None = None) -> None:
        self._identity = identity
        self._features = features
        self._demand = demand
        self._feature = feature

    async def during(self, serving: Coroutine[Any, Any, T], metadata: Metadata, principal: Principal) -> T:
        """What it returns or raises, unless the credential ends it before.

        Raises:
            AuthError, TenantError: As `watch`.
        """
        served = asyncio.ensure_future(serving)
        watching = asyncio.ensure_future(self.watch(metadata, principal))
        try:
            done, _ = await asyncio.wait((served, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            served.cancel()
            watching.cancel()
            await asyncio.gather(served, watching, return_exceptions=True)
        return served.result() if served in done else watching.result()

    async def watch(self, metadata: Metadata, principal: Principal) -> NoReturn:
        """Returns never.

        Raises:
            AuthError, TenantError: The credential is not what it was (UNAUTHENTICATED, PERMISSION_DENIED).
        """
        while True:
            await asyncio.sleep(CHECK_S)
            now = self._identity.authenticate(metadata)
            if now != principal:
                require(self._demand, now)
            if self._feature is not None:
                self._features.require(self._feature, now.tenant_id)
