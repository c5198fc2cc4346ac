"""How replicas were chosen, for the metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_gateway.inference.routing import Router


class RoutingMetrics(Collector):
    """Reads the router's counts when somebody reads the metrics: in the thread that serves them."""

    def __init__(self, *, router: Router, registry: CollectorRegistry) -> None:
        self._router = router
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter(self._families())

    def collect(self) -> Iterator[Metric]:
        """What the router's counts say now."""
        choices, fallbacks, affinity = families = self._families()
        for policy, count in list(self._router.chosen.items()):
            choices.add_metric((policy.value,), count)
        for device_type, count in list(self._router.fallbacks.items()):
            fallbacks.add_metric((device_type,), count)
        for result, count in list(self._router.affinity.items()):
            affinity.add_metric((result,), count)
        return iter(families)

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, CounterMetricFamily, CounterMetricFamily]:
        return (
            CounterMetricFamily("headrace_routing_choices", "Replicas chosen for calls, by policy", labels=("policy",)),
            CounterMetricFamily(
                "headrace_routing_fallbacks",
                "Calls that went to a less preferred device than a replica of their version has, by its type",
                labels=("device_type",),
            ),
            CounterMetricFamily(
                "headrace_routing_affinity",
                "Calls with prompts or sessions, by whether they went where it was computed before: kept or moved",
                labels=("result",),
            ),
        )
