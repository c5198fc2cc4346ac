"""What an HTTP front counts: plain numbers on the event loop, read when metrics are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_common.latency_counts import LatencyCounts

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics(Collector):
    """Counts of all requests, by route and method.

    Attributes:
        in_flight: Requests that are being answered.
        refused: Connections and requests that were refused before a route was found, by reason.
    """

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self.in_flight = 0
        self.refused: dict[str, int] = {}
        self._registry = registry
        self._ended: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], LatencyCounts] = {}
        registry.register(self)

    def ended(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request that ended; `route` is the path's pattern, so that there are few."""
        if method not in _METHODS:
            method = "other"
        key = (route, method, status)
        self._ended[key] = self._ended.get(key, 0) + 1
        durations = self._durations.get((route, method))
        if durations is None:
            durations = self._durations[route, method] = LatencyCounts()
        durations.observe(seconds)

    def refuse(self, reason: str) -> None:
        """Counts a refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Shows a number that somebody else keeps."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter(self._families())

    def collect(self) -> Iterator[Metric]:
        """What the counts say now. Called in the thread that serves the metrics."""
        families = requests, duration, in_flight, refused = self._families()
        for (route, method, status), count in list(self._ended.items()):
            requests.add_metric((route, method, str(status)), count)
        for labels, counts in list(self._durations.items()):
            counts.add_to(duration, labels)
        in_flight.add_metric((), self.in_flight)
        for reason, count in list(self.refused.items()):
            refused.add_metric((reason,), count)
        return iter(families)

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily("headrace_http_requests", "Requests that ended.", labels=("route", "method", "status")),
            HistogramMetricFamily(
                "headrace_http_request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                labels=("route", "method"),
            ),
            GaugeMetricFamily("headrace_http_requests_in_flight", "Requests that are being answered.", labels=()),
            CounterMetricFamily(
                "headrace_http_refused",
                "Connections and requests that were refused before they reached a route.",
                labels=("reason",),
            ),
        )
