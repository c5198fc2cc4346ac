"""The gateway's own metrics. Label children are bound once per model version, so a call only adds numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace_common.feed_follower import FeedFollower
from headrace_common.metrics import LATENCY_BUCKETS_S
from headrace_gateway.catalog import CatalogVersion

OK = "OK"
"""The result label of a call that was answered; others carry the reason of the error catalogue."""


@dataclass(slots=True)
class VersionMeters:
    """The children of one model version.

    Attributes:
        ok: Counts answered calls.
        latency_s: Observes the seconds from the arrival of an answered call to its answer.
        in_flight: Calls that the gateway has accepted and not yet answered.
        requests: The metric that `failed` binds children of, with `labels` and a reason; `failures` are those bound.
    """

    ok: Counter
    latency_s: Histogram
    in_flight: Gauge
    requests: Counter
    labels: tuple[str, str, str]
    failures: dict[str, Counter]

    def failed(self, reason: str) -> Counter:
        """The counter of calls that ended with this reason of the error catalogue."""
        child = self.failures.get(reason)
        if child is None:
            child = self.failures[reason] = self.requests.labels(*self.labels, reason)
        return child


class GatewayMetrics:
    """Everything that the gateway measures beside what `headrace_common` does for each RPC."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        version = ("tenant", "model", "version")
        self._requests = Counter(
            "headrace_infer_requests", "Inference calls by result", (*version, "result"), registry=registry
        )
        self._latency = Histogram(
            "headrace_infer_latency_seconds",
            "Arrival to answer of answered inference calls",
            version,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._in_flight = Gauge("headrace_infer_in_flight", "Unanswered inference calls", version, registry=registry)
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

    def version(self, version: CatalogVersion) -> VersionMeters:
        """The meters of a version, bound on first use."""
        meters = self._meters.get(version.uid)
        if meters is None:
            labels = (version.tenant_id, version.model, version.version_text)
            meters = self._meters[version.uid] = VersionMeters(
                ok=self._requests.labels(*labels, OK),
                latency_s=self._latency.labels(*labels),
                in_flight=self._in_flight.labels(*labels),
                requests=self._requests,
                labels=labels,
                failures={},
            )
        return meters

    def forget(self, uid: str) -> None:
        """Drops the meters of a version that left service, so that the number of series stays bounded."""
        meters = self._meters.pop(uid, None)
        if meters is None:
            return
        for result in (OK, *meters.failures):
            self._requests.remove(*meters.labels, result)
        self._latency.remove(*meters.labels)
        self._in_flight.remove(*meters.labels)

    def refused(self, reason: str) -> None:
        """Counts a call that was refused on its metadata alone; `reason` is of the error catalogue."""
        self._refusals.labels(reason).inc()

    def follow_feed(self, name: str, feed: FeedFollower[Any]) -> None:
        """Shows a feed's age and revision as they are when the metrics are read."""
        self._feed_age.labels(name).set_function(lambda: feed.age_s)
        self._feed_revision.labels(name).set_function(lambda: feed.revision)
