"""Which uploads may run: so many at once, and of one tenant only its share. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from headrace_common import catalogue
from headrace_common.errors import QuotaExceeded
from headrace_common.rpc_runtime import AdmissionGate

_TENANT_SHARE = 4


class UploadPlaces:
    """Counts uploads and refuses above the limits; never queues.

    Args:
        limit: Uploads at once. A tenant gets a quarter of them, at least one: uploaders that are slow on purpose can't
            keep the others out.
    """

    def __init__(self, *, limit: int) -> None:
        self._all = AdmissionGate(limit=limit)
        self._tenant_max = max(1, limit // _TENANT_SHARE)
        self._taken = Counter[str]()

    @contextmanager
    def taken_by(self, tenant_id: str) -> Generator[None]:
        """Holds a place.

        Raises:
            QuotaExceeded: CONCURRENCY_LIMIT_EXCEEDED (RESOURCE_EXHAUSTED): the tenant has its share in use.
            RouteUnavailable: SERVER_OVERLOADED (RESOURCE_EXHAUSTED): all places are taken.
        """
        if self._taken[tenant_id] >= self._tenant_max:
            raise QuotaExceeded(
                f"the tenant has {self._tenant_max} uploads in progress, as many as it may have at once",
                entry=catalogue.CONCURRENCY_LIMIT_EXCEEDED,
                context={"limit": self._tenant_max},
            )
        self._all.enter()
        self._taken[tenant_id] += 1
        try:
            yield
        finally:
            self._all.leave()
            self._taken[tenant_id] -= 1
            if not self._taken[tenant_id]:
                del self._taken[tenant_id]
