"""Which tenants have computed more than their equal part of late."""

from __future__ import annotations

_HALF_LIFE_S = 1.0
_ABOVE = 1.25
# A tenant that has computed less of late does not count as one that shares the runner.
_ACTIVE_S = 0.05


class TenantUse:
    """Execution time by tenant over the last seconds, of all models of a runner. Pure: the caller tells the time.

    Models belong to tenants, so no queue sees two of them, and processors are shared out by the system, which knows
    threads and not tenants. Who is above its equal part computes with lower priority, as long as others compute too.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._at = 0.0

    def used(self, tenant_id: str, seconds: float, now: float) -> None:
        """An execution of the tenant took so long."""
        self._fade(now)
        self._used[tenant_id] = self._used.get(tenant_id, 0.0) + seconds

    def is_above(self, tenant_id: str, now: float) -> bool:
        """Whether the tenant has had more than its equal part, and somebody else any."""
        if len(self._used) < 2:
            return False
        self._fade(now)
        used = self._used
        return used.get(tenant_id, 0.0) * len(used) > _ABOVE * sum(used.values())

    def _fade(self, now: float) -> None:
        factor = 0.5 ** ((now - self._at) / _HALF_LIFE_S)
        self._at = now
        faded = ((tenant, seconds * factor) for tenant, seconds in self._used.items())
        self._used = {tenant: seconds for tenant, seconds in faded if seconds > _ACTIVE_S}
