"""How much of a runner one tenant may have while others use the gateway, too."""

from __future__ import annotations

IDLE_S = 1.0
_KEPT = 5


class TenantShares:
    """Equal shares of a runner's calls for the tenants that are active; all of it for one that is alone. Pure.

    Most of a runner is open to whoever comes, so that nothing lies idle. Only the last fifth is kept for tenants that
    have less than their share there: a tenant that calls now and then finds a place however many calls another has.

    A tenant is active while it has a call open and for a second after, so that one that calls now and then always finds
    its share free.

    Args:
        calls_max: Calls at one runner.

    Attributes:
        open_to_all: Calls at a runner up to which shares don't matter.
        share: Calls that a tenant may have at one runner beyond that, at least 1.
    """

    __slots__ = ("_seen_at", "calls_max", "open_to_all", "share")

    def __init__(self, *, calls_max: int) -> None:
        self.calls_max = calls_max
        self.open_to_all = calls_max - calls_max // _KEPT
        self._seen_at: dict[str, float] = {}
        self.share = calls_max

    def __len__(self) -> int:
        """Tenants that are active."""
        return len(self._seen_at)

    def __contains__(self, tenant_id: str) -> bool:
        return tenant_id in self._seen_at

    def seen(self, tenant_id: str, now: float) -> None:
        """The tenant has a call open."""
        self._seen_at[tenant_id] = now
        self._divide()

    def rest(self, now: float) -> list[str]:
        """Takes out, and returns, the tenants that have had no call open for a second."""
        idle = [tenant_id for tenant_id, seen_at in self._seen_at.items() if now - seen_at > IDLE_S]
        for tenant_id in idle:
            del self._seen_at[tenant_id]
        self._divide()
        return idle

    def _divide(self) -> None:
        self.share = max(1, self.calls_max // max(1, len(self._seen_at)))
