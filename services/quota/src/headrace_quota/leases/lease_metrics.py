"""What the quota service measures of leases."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.quota.v1 import quotas_pb2 as pb
from headrace_common.metrics import LATENCY_BUCKETS_S


class LeaseMetrics:
    """Counters by resource and window, the time that reports take, and the stores' state."""

    def __init__(self, *, registry: CollectorRegistry, store_lost: Callable[[], bool]) -> None:
        labels = ("resource", "window")
        self._granted = Counter(
            "headrace_quota_lease_permits_granted", "Permits granted to gateways.", labels, registry=registry
        )
        self._short = Counter(
            "headrace_quota_lease_short", "Answers with fewer permits than calls waited for.", labels, registry=registry
        )
        self.exchange = Histogram(
            "headrace_quota_lease_exchange_seconds",
            "Time from a report to its answer.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.streams = Gauge("headrace_quota_lease_streams", "Gateways connected for leases.", registry=registry)
        self.carved = Gauge(
            "headrace_quota_lease_carved_ratio", "Part of all limits left to gateways out of reach.", registry=registry
        )
        lost = Gauge(
            "headrace_quota_lease_store_lost", "1 while rates and concurrency can't be granted.", registry=registry
        )
        lost.set_function(lambda: 1 if store_lost() else 0)

    def granted(self, resource: int, window: int, permits: int, *, short: bool) -> None:
        """Counts one answer."""
        labels = (pb.Resource.Name(resource), pb.Window.Name(window))  # pyright: ignore[reportArgumentType]
        if permits > 0:
            self._granted.labels(*labels).inc(permits)
        if short:
            self._short.labels(*labels).inc()
