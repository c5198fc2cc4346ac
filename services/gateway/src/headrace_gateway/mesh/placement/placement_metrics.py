"""What placement shows of itself."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_gateway.mesh.placement.wants import Wants

_VERSION = ("tenant", "model", "version")


class PlacementMetrics(Collector):
    """Reads a gateway's wants and cutovers when the metrics are read, in the thread that serves them."""

    def __init__(self, *, wants: Wants, registry: CollectorRegistry) -> None:
        self._wants = wants
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        cutovers = self._wants.cutovers
        yield CounterMetricFamily(
            "headrace_placement_wants_sent", "Wants sent to runners, renewals included", value=self._wants.sent
        )
        wanted = GaugeMetricFamily("headrace_placement_replicas_wanted", "Replicas that are wanted", labels=_VERSION)
        ready = GaugeMetricFamily("headrace_placement_replicas_ready", "Replicas that take calls", labels=_VERSION)
        for version, want, have in self._wants.replicas():
            labels = (version.tenant_id, version.model, version.version_text)
            wanted.add_metric(labels, want)
            ready.add_metric(labels, have)
        yield wanted
        yield ready
        ended = CounterMetricFamily(
            "headrace_placement_cutovers", "Newer versions that were waited for, by how it ended", labels=("outcome",)
        )
        ended.add_metric(("done",), cutovers.done)
        ended.add_metric(("given_up",), cutovers.given_up)
        yield ended
        pending = GaugeMetricFamily(
            "headrace_placement_cutovers_pending", "Newer versions that are waited for, by state", labels=("state",)
        )
        failing = cutovers.failing
        pending.add_metric(("loading",), max(0, len(cutovers) - failing))
        pending.add_metric(("failing",), failing)
        yield pending
