"""Prometheus metrics of the runner. Children are bound when a model loads, never per call."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace_common.metrics import LATENCY_BUCKETS_S

_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MODEL = ("tenant", "model", "version")
_OUTCOMES = ("ok", "invalid", "failed", "refused", "expired", "cancelled")


class RunnerMetrics:
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
        self._calls = counter("calls", "Calls by how they ended", (*_MODEL, "outcome"))
        self._queue_wait = histogram("queue_wait_seconds", "Time in the queue", _MODEL, LATENCY_BUCKETS_S)
        self._compute = histogram("compute_seconds", "Time of execution", _MODEL, LATENCY_BUCKETS_S)
        # A model that is deleted and made again has the same labels for a while as the one that leaves.
        self._bound: Counts[tuple[str, ...]] = Counts()

    def show_load(self, queue_depth: Callable[[], float], executing: Callable[[], float]) -> None:
        """Reads the two gauges of present load when they are scraped."""
        self.queue_depth.set_function(queue_depth)
        self.executing.set_function(executing)

    def replica(self, *, tenant_id: str, model: str, version: int) -> ReplicaMetrics:
        """Binds the children of one loaded model; `unloaded` must follow."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] += 1
        return ReplicaMetrics(
            succeeded=self._calls.labels(*labels, "ok"),
            invalid=self._calls.labels(*labels, "invalid"),
            failed=self._calls.labels(*labels, "failed"),
            refused=self._calls.labels(*labels, "refused"),
            expired=self._calls.labels(*labels, "expired"),
            cancelled=self._calls.labels(*labels, "cancelled"),
            queue_wait=self._queue_wait.labels(*labels),
            compute=self._compute.labels(*labels),
        )

    def unloaded(self, *, tenant_id: str, model: str, version: int) -> None:
        """Removes the children of a model that has left, so that they don't add up over all models ever loaded."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] -= 1
        if self._bound[labels]:
            return
        del self._bound[labels]
        for outcome in _OUTCOMES:
            self._calls.remove(*labels, outcome)
        self._queue_wait.remove(*labels)
        self._compute.remove(*labels)


class ReplicaMetrics:
    """Bound children of one loaded model."""

    __slots__ = ("cancelled", "compute", "expired", "failed", "invalid", "queue_wait", "refused", "succeeded")

    def __init__(
        self,
        *,
        succeeded: Counter,
        invalid: Counter,
        failed: Counter,
        refused: Counter,
        expired: Counter,
        cancelled: Counter,
        queue_wait: Histogram,
        compute: Histogram,
    ) -> None:
        self.succeeded = succeeded
        self.invalid = invalid
        self.failed = failed
        self.refused = refused
        self.expired = expired
        self.cancelled = cancelled
        self.queue_wait = queue_wait
        self.compute = compute
