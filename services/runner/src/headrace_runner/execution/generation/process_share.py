"""Models with a process of their own share the processors by tenant."""

from __future__ import annotations

from collections.abc import Callable

from headrace_runner.execution.tenant_use import TenantUse
from headrace_runner.other_process import computed_by, set_priority
from headrace_runner.thread_priority import compete, give_way

_LOOK_S = 0.1


class ProcessShare:
    """Counts for a tenant what a model's process computes, and lets it give way while the tenant is above its part.

    Models belong to tenants, so a model's own queue sees one of them only; among models it is the system that shares
    the processors out, between processes and not tenants. A process that gives way does so wholly, which costs its
    tenant part and soon ends that: the longer it waits, the less it has computed of late.

    Args:
        process_id: The process, which may become another one; 0 while there is none.
        threads: Threads that the process computes with: so many count as one execution does.
        may_compete_again: Whether the system lets it. Otherwise it never gives way.
    """

    def __init__(
        self, *, tenant_id: str, use: TenantUse, process_id: Callable[[], int], threads: int, may_compete_again: bool
    ) -> None:
        self._tenant_id = tenant_id
        self._use = use
        self._process_id = process_id
        self._threads = threads
        self._may_compete_again = may_compete_again
        self._looked_at = float("-inf")
        self._counted = (0, 0.0)
        self._giving_way = 0

    def look(self, now: float) -> None:
        """To be called often while the process computes. Takes some 0.1 ms every 0.1 s."""
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        process = self._process_id()
        counted, before_s = self._counted
        computed_s = computed_by(process)
        self._counted = (process, computed_s)
        if process == counted and computed_s > before_s:
            self._use.used(self._tenant_id, (computed_s - before_s) / self._threads, now)
        above = process if self._may_compete_again and self._use.is_above(self._tenant_id, now) else 0
        if above != self._giving_way:
            self.rest()
            if above:
                set_priority(above, give_way)
            self._giving_way = above

    def rest(self) -> None:
        """Nothing is computed any more; what comes next competes until it is above its part again."""
        if self._giving_way and self._giving_way == self._process_id():
            set_priority(self._giving_way, compete)
        self._giving_way = 0
