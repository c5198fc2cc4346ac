"""Prometheus metrics of the runner. What is counted per call is counted in plain numbers and read from there."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_common.latency_counts import LatencyCounts

_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MODEL = ("tenant", "model", "version")
_OUTCOMES = ("ok", "invalid", "failed", "refused", "expired", "cancelled")


class RunnerMetrics(Collector):
    """All metrics of one process.

    Args:
        registry: Where they are shown.
    """

    def __init__(self, *, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"headrace_runner_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"headrace_runner_{name}", text, registry=registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"headrace_runner_{name}", text, labels, buckets=buckets, registry=registry)

        self.queue_depth = gauge("queue_depth", "Calls that wait for an execution slot")
        self.executing = gauge("executing", "Executions that run now")
        self.models_loaded = gauge("models_loaded", "Models in memory")
        self.model_memory_bytes = gauge("model_memory_bytes", "Memory that loaded models take, as measured")
        self.disk_cache_bytes = gauge("disk_cache_bytes", "Size of the artefact cache after its last change")
        self.downloaded_bytes = counter("downloaded_bytes", "Artefact bytes fetched from the registry")
        self._loads = counter("loads", "Model loads", ("outcome",))
        self._evictions = counter("evictions", "Models and artefacts removed to make room, or idle", ("cache",))
        self.loads_succeeded = self._loads.labels("loaded")
        self.loads_failed = self._loads.labels("failed")
        self.memory_evictions = self._evictions.labels("memory")
        self.disk_evictions = self._evictions.labels("disk")
        self.load_seconds = histogram(
            "load_seconds", "Time from want to loaded, download included", (), _LOAD_BUCKETS_S
        )
        self._replicas: dict[tuple[str, str, str], ReplicaMetrics] = {}
        # A model that is deleted and made again has the same labels for a while as the one that leaves.
        self._bound: Counts[tuple[str, str, str]] = Counts()
        registry.register(self)

    def show_load(self, queue_depth: Callable[[], float], executing: Callable[[], float]) -> None:
        """Reads the two gauges of present load when they are scraped."""
        self.queue_depth.set_function(queue_depth)
        self.executing.set_function(executing)

    def replica(self, *, tenant_id: str, model: str, version: int) -> ReplicaMetrics:
        """The counts of one loaded model; `unloaded` must follow."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] += 1
        return self._replicas.setdefault(labels, ReplicaMetrics())

    def unloaded(self, *, tenant_id: str, model: str, version: int) -> None:
        """Drops the counts of a model that has left, so that they don't add up over all models ever loaded."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] -= 1
        if not self._bound[labels]:
            del self._bound[labels], self._replicas[labels]

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter(self._families())

    def collect(self) -> Iterator[Metric]:
        """What the replicas' counts say now. Called in the thread that serves the metrics."""
        families = calls, queue_wait, compute = self._families()
        for labels, replica in list(self._replicas.items()):
            for outcome, count in list(replica.calls.items()):
                calls.add_metric((*labels, outcome), count)
            replica.queue_wait.add_to(queue_wait, labels)
            replica.compute.add_to(compute, labels)
        return iter(families)

    @staticmethod
    def _families() -> tuple[CounterMetricFamily, HistogramMetricFamily, HistogramMetricFamily]:
        return (
            CounterMetricFamily("headrace_runner_calls", "Calls by how they ended", labels=(*_MODEL, "outcome")),
            HistogramMetricFamily("headrace_runner_queue_wait_seconds", "Time in the queue", labels=_MODEL),
            HistogramMetricFamily("headrace_runner_compute_seconds", "Time of execution", labels=_MODEL),
        )


class ReplicaMetrics:
    """Counts of one loaded model, written on the event loop.

    Attributes:
        calls: How many ended in which way: `ok`, `invalid`, `failed`, `refused`, `expired`, `cancelled`.
        queue_wait: Time in the queue of answered calls; likewise `compute`.
    """

    __slots__ = ("calls", "compute", "queue_wait")

    def __init__(self) -> None:
        self.calls = dict.fromkeys(_OUTCOMES, 0)
        self.queue_wait = LatencyCounts()
        self.compute = LatencyCounts()
