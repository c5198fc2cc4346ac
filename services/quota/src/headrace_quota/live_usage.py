"""The port to what is used of rates and concurrency at this moment, which lives where leases are granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_quota.limits import Limit, LimitKey


@dataclass(frozen=True, slots=True)
class LiveUse:
    """How a rate or a concurrency limit stands now.

    Attributes:
        used: Of a rate what was used in the last period, as far as it has left the budget; of concurrency calls
            under way.
        held: By gateways for calls to come.
    """

    used: int
    held: int = 0


class LiveUsage(Protocol):
    """Reads of rates and concurrency."""

    async def read(self, tenant_id: str, limits: Sequence[Limit]) -> Mapping[LimitKey, LiveUse]:
        """How the limits stand; those that can't be read, because the store is out of reach, are left out."""
        ...
