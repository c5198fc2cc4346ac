"""The gateway's own metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_common.feed_follower import FeedFollower
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.inference.generation.generation_metrics import generation_families
from headrace_gateway.version_meters import VersionMeters

OK = "OK"
"""The result label of a call that was answered; others carry the reason of the error catalogue."""
_VERSION = ("tenant", "model", "version")


class GatewayMetrics(Collector):
    """Everything that the gateway measures beside what `headrace_common` does for each RPC.

    What is counted per call is counted in `VersionMeters` and read from there when somebody reads the metrics.
    """

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._refusals = Counter(
            "headrace_gateway_refusals", "Calls refused before any work, by reason", ("reason",), registry=registry
        )
        self._feed_age = Gauge(
            "headrace_gateway_feed_age_seconds",
            "Time since the feed last gave a sign of life",
            ("feed",),
            registry=registry,
        )
        self._feed_revision = Gauge(
            "headrace_gateway_feed_revision", "Revision that the feed was applied up to", ("feed",), registry=registry
        )
        self.keys = Gauge("headrace_gateway_keys", "API keys held in memory", registry=registry)
        self.versions = Gauge("headrace_gateway_versions", "Model versions held in memory", registry=registry)
        self._meters: dict[str, VersionMeters] = {}
        registry.register(self)

    def version(self, version: CatalogVersion) -> VersionMeters:
        """The meters of a version, made on first use."""
        meters = self._meters.get(version.uid)
        if meters is None:
            labels = (version.tenant_id, version.model, version.version_text)
            meters = self._meters[version.uid] = VersionMeters(labels)
        return meters

    def peek(self, version: CatalogVersion) -> VersionMeters:
        """The meters of a version, all zero for one that was never called; nothing is made that lasts."""
        labels = (version.tenant_id, version.model, version.version_text)
        return self._meters.get(version.uid) or VersionMeters(labels)

    def forget(self, uid: str) -> None:
        """Drops the meters of a version that left service, so that the number of series stays bounded."""
        self._meters.pop(uid, None)

    def refused(self, reason: str) -> None:
        """Counts a call that was refused on its metadata alone; `reason` is of the error catalogue."""
        self._refusals.labels(reason).inc()

    def follow_feed(self, name: str, feed: FeedFollower[Any]) -> None:
        """Shows a feed's age and revision as they are when the metrics are read."""
        self._feed_age.labels(name).set_function(lambda: feed.age_s)
        self._feed_revision.labels(name).set_function(lambda: feed.revision)

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter((*self._families(), *generation_families([])))

    def collect(self) -> Iterator[Metric]:
        """What the versions' meters say now. Called in the thread that serves the metrics."""
        families = requests, latency, in_flight = self._families()
        for meters in list(self._meters.values()):
            labels = meters.labels
            results = {OK: meters.ok_count, **{reason: count for reason, (count, _) in list(meters.failures.items())}}
            for result, count in results.items():
                if count:
                    requests.add_metric((*labels, result), count)
            meters.latency.add_to(latency, labels)
            in_flight.add_metric(labels, meters.in_flight)
        yield from families
        yield from generation_families(list(self._meters.values()))

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily("headrace_infer_requests", "Inference calls by result", labels=(*_VERSION, "result")),
            HistogramMetricFamily(
                "headrace_infer_latency_seconds", "Arrival to answer of answered inference calls", labels=_VERSION
            ),
            GaugeMetricFamily("headrace_infer_in_flight", "Unanswered inference calls", labels=_VERSION),
        )
