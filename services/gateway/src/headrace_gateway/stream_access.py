"""Whether a stream that was admitted still may go on."""

from __future__ import annotations

import asyncio

from headrace_common.principal import Principal
from headrace_gateway.identity import Identity, Metadata
from headrace_gateway.policy import Access, require

CHECK_S = 0.5


class StreamAccess:
    """Decides again, while a stream lives, what was decided when it opened.

    Keys and tenants are in memory, so a look every half second costs microseconds; it finds revoked and expired keys,
    changed roles and suspended tenants alike.

    Args:
        demand: What the stream's method demands.
    """

    def __init__(self, *, identity: Identity, demand: Access) -> None:
        self._identity = identity
        self._demand = demand

    async def watch(self, metadata: Metadata, principal: Principal) -> None:
        """Returns never.

        Raises:
            AuthError, TenantError: The credential is not what it was (UNAUTHENTICATED, PERMISSION_DENIED).
        """
        while True:
            await asyncio.sleep(CHECK_S)
            now = self._identity.authenticate(metadata)
            if now != principal:
                require(self._demand, now)
