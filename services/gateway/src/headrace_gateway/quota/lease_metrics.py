"""What the gateway measures of leases."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace_common.metrics import LATENCY_BUCKETS_S


class LeaseMetrics:
    """How exchanges with quota go, and whether this gateway is on its own."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self.exchange = Histogram(
            "headrace_gateway_lease_exchange_seconds",
            "Time from a report to its grant.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.connected = Gauge("headrace_gateway_lease_connected", "1 while quota answers.", registry=registry)
        self._refusals = Counter(
            "headrace_gateway_limit_refusals",
            "Calls refused because of a limit, by reason and what the limit counts.",
            ("reason", "resource"),
            registry=registry,
        )
        self._on_share = Gauge(
            "headrace_gateway_lease_on_share", "1 while rates go by this gateway's own share.", registry=registry
        )
        self._store_lost = Gauge(
            "headrace_gateway_lease_store_lost", "1 while quota can't grant rates and concurrency.", registry=registry
        )
        self._waiting = Gauge("headrace_gateway_lease_waiting", "Calls that wait for permits.", registry=registry)

    def show(self, *, on_share: Callable[[], bool], store_lost: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Reads the gauges' values whenever the metrics are read."""
        self._on_share.set_function(lambda: int(on_share()))
        self._store_lost.set_function(lambda: int(store_lost()))
        self._waiting.set_function(waiting)

    def refused(self, reason: str, resource: str) -> None:
        """Counts a refusal; the reason is of the error catalogue."""
        self._refusals.labels(reason, resource).inc()
