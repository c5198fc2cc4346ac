"""How many RPCs of which method ended how, after how long, in plain numbers that are read when metrics are."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_common.latency_counts import LatencyCounts


class MethodCounts:
    """Counts of one method, written on the event loop.

    Attributes:
        in_flight: RPCs being handled.
        duration: Time from the first line of our code to the end.
        handled: RPCs that ended, by gRPC code and reason of the error catalogue (empty for OK).
    """

    __slots__ = ("duration", "handled", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.duration = LatencyCounts()
        self.handled: dict[tuple[str, str], int] = {}

    def ended(self, code: str, reason: str) -> None:
        """Counts an RPC that ended, or was refused before it began."""
        self.handled[code, reason] = self.handled.get((code, reason), 0) + 1


class RpcCounts(Collector):
    """Counts of every method of a process."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._methods: dict[str, MethodCounts] = {}
        registry.register(self)

    def method(self, path: str) -> MethodCounts:
        """The counts of `/package.Service/Method`; only for methods that exist, so that their number is bounded."""
        return self._methods.setdefault(path, MethodCounts())

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter(self._families())

    def collect(self) -> Iterator[Metric]:
        """What the counts say now. Called in the thread that serves the metrics."""
        families = handled, duration, in_flight = self._families()
        for path, counts in list(self._methods.items()):
            for (code, reason), count in list(counts.handled.items()):
                handled.add_metric((path, code, reason), count)
            counts.duration.add_to(duration, (path,))
            in_flight.add_metric((path,), counts.in_flight)
        return iter(families)

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily]:
        method = ("method",)
        return (
            CounterMetricFamily("headrace_rpc_handled", "RPCs that ended.", labels=(*method, "grpc_code", "reason")),
            HistogramMetricFamily(
                "headrace_rpc_duration_seconds",
                "Time from the first line of our code to the end of an RPC.",
                labels=method,
            ),
            GaugeMetricFamily("headrace_rpc_in_flight", "RPCs being handled.", labels=method),
        )
