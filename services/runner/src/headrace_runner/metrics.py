"""Prometheus metrics of the runner. What is counted per call is counted in plain numbers and read from there."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_common.latency_counts import LatencyCounts
from headrace_runner.execution.generation.generation_counts import GenerationCounts, GenerationFamilies
from headrace_runner.execution.sequence_counts import SequenceCounts, SequenceFamilies

_LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MODEL = ("tenant", "model", "version")
_ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_OUTCOMES = ("ok", "invalid", "failed", "refused", "expired", "cancelled")


class RunnerMetrics(Collector):
    """All metrics of one process.

    Args:
        registry: Where they are shown.

    Attributes:
        hits: Calls for a model that is in memory; `misses` for one that is not.
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
        self._evictions = counter(
            "evictions", "Models that left memory and artefacts that left the disk, by reason", ("cache", "reason")
        )
        self.loads_succeeded = self._loads.labels("loaded")
        self.loads_failed = self._loads.labels("failed")
        self.disk_evictions = self._evictions.labels("disk", "space")
        self.hits = 0
        self.misses = 0
        self.load_seconds = histogram(
            "load_seconds", "Time from want to loaded, download included", (), _LOAD_BUCKETS_S
        )
        self._backend_healthy = Gauge(
            "headrace_runner_backend_healthy", "1 while a usable backend works", ("backend",), registry=registry
        )
        self._replicas: dict[tuple[str, str, str], ReplicaMetrics] = {}
        # What models that have left did, by backend.
        self._past: dict[str, BackendCounts] = defaultdict(BackendCounts)
        # A model that is deleted and made again has the same labels for a while as the one that leaves.
        self._bound: Counts[tuple[str, str, str]] = Counts()
        registry.register(self)

    def evicted(self, reason: str) -> None:
        """Counts a model that left memory: for `space`, `idle`, `surplus`, or `released` by somebody's wish."""
        self._evictions.labels("memory", reason).inc()

    def show_load(self, queue_depth: Callable[[], float], executing: Callable[[], float]) -> None:
        """Reads the two gauges of present load when they are scraped."""
        self.queue_depth.set_function(queue_depth)
        self.executing.set_function(executing)

    def show_backends(self, names: Iterable[str], healthy: Callable[[str], bool]) -> None:
        """Reads the health of the usable backends when it is scraped."""
        for name in names:
            self._backend_healthy.labels(name).set_function(partial(healthy, name))

    def of_backend(self, name: str) -> dict[str, float]:
        """What all models of a backend have done since the process began, and how many are loaded."""
        present = [replica for replica in self._replicas.values() if replica.backend == name]
        counts = replace(self._past[name])
        for replica in present:
            counts.add(replica)
        return {
            "models_loaded": float(len(present)),
            "calls": float(counts.calls),
            "failures": float(counts.failures),
            "executions": float(counts.executions),
            "execution_seconds": counts.execution_s,
        }

    def replica(self, *, tenant_id: str, model: str, version: int, backend: str) -> ReplicaMetrics:
        """The counts of one loaded model; `unloaded` must follow."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] += 1
        return self._replicas.setdefault(labels, ReplicaMetrics(backend=backend))

    def unloaded(self, *, tenant_id: str, model: str, version: int) -> None:
        """Drops the counts of a model that has left, so that they don't add up over all models ever loaded."""
        labels = (tenant_id, model, str(version))
        self._bound[labels] -= 1
        if not self._bound[labels]:
            del self._bound[labels]
            replica = self._replicas.pop(labels)
            self._past[replica.backend].add(replica)

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter((*self._families(), *SequenceFamilies(), *GenerationFamilies()))

    def collect(self) -> Iterator[Metric]:
        """What the replicas' counts say now. Called in the thread that serves the metrics."""
        families = calls, queue_wait, compute, batch_rows, execution, repeated, given_up = self._families()
        sequences = SequenceFamilies()
        generation = GenerationFamilies()
        for labels, replica in list(self._replicas.items()):
            replica.batch_rows.add_to(batch_rows, labels)
            replica.execution.add_to(execution, labels)
            repeated.add_metric(labels, replica.executions_repeated)
            given_up.add_metric(labels, replica.executions_given_up)
            for outcome, count in list(replica.calls.items()):
                calls.add_metric((*labels, outcome), count)
            replica.queue_wait.add_to(queue_wait, labels)
            replica.compute.add_to(compute, labels)
            sequences.add(labels, replica.sequences)
            generation.add(labels, replica.generation)
        cache = CounterMetricFamily(
            "headrace_runner_model_cache", "Calls by whether their model was in memory", labels=("result",)
        )
        cache.add_metric(("hit",), self.hits)
        cache.add_metric(("miss",), self.misses)
        return iter((*families, *sequences, *generation, cache))

    @staticmethod
    def _families() -> tuple[
        CounterMetricFamily,
        HistogramMetricFamily,
        HistogramMetricFamily,
        HistogramMetricFamily,
        HistogramMetricFamily,
        CounterMetricFamily,
        CounterMetricFamily,
    ]:
        return (
            CounterMetricFamily("headrace_runner_calls", "Calls by how they ended", labels=(*_MODEL, "outcome")),
            HistogramMetricFamily("headrace_runner_queue_wait_seconds", "Time in the queue", labels=_MODEL),
            HistogramMetricFamily("headrace_runner_compute_seconds", "Time of execution, by call", labels=_MODEL),
            HistogramMetricFamily("headrace_runner_batch_rows", "Rows of an execution", labels=_MODEL),
            HistogramMetricFamily(
                "headrace_runner_execution_seconds", "Time of execution, by execution", labels=_MODEL
            ),
            CounterMetricFamily(
                "headrace_runner_executions_repeated",
                "Executions of single calls whose batch had failed",
                labels=_MODEL,
            ),
            CounterMetricFamily(
                "headrace_runner_executions_given_up", "Executions that took longer than they may", labels=_MODEL
            ),
        )


@dataclass(slots=True)
class BackendCounts:
    """What models of one backend have done together.

    Attributes:
        calls: Answered or failed.
        failures: Calls that failed, by no fault of their inputs.
        executions: Those that succeeded; `execution_s` is the time that they took together.
    """

    calls: int = 0
    failures: int = 0
    executions: int = 0
    execution_s: float = 0.0

    def add(self, replica: ReplicaMetrics) -> None:
        """Adds what one model has done."""
        self.calls += replica.calls["ok"] + replica.calls["failed"]
        self.failures += replica.calls["failed"]
        self.executions += replica.executions
        self.execution_s += replica.execution.sum_s


class ReplicaMetrics:
    """Counts of one loaded model, written on the event loop.

    Attributes:
        backend: Name of what runs it.
        calls: How many ended in which way: `ok`, `invalid`, `failed`, `refused`, `expired`, `cancelled`.
        queue_wait: Time in the queue of answered calls; likewise `compute`.
        batch_rows: Rows of executions that succeeded; `execution` is the time of each.
        executions_repeated: Executions of single calls whose batch had failed.
        executions_given_up: Executions that took longer than they may.
        sequences: Of the state that is kept.
        generation: Of tokens and slots, where the model generates.
    """

    __slots__ = (
        "backend",
        "batch_rows",
        "calls",
        "compute",
        "execution",
        "executions_given_up",
        "executions_repeated",
        "generation",
        "queue_wait",
        "sequences",
    )

    def __init__(self, *, backend: str) -> None:
        self.backend = backend
        self.calls = dict.fromkeys(_OUTCOMES, 0)
        self.queue_wait = LatencyCounts()
        self.compute = LatencyCounts()
        self.execution = LatencyCounts()
        self.batch_rows = RowCounts()
        self.executions_repeated = 0
        self.executions_given_up = 0
        self.sequences = SequenceCounts()
        self.generation = GenerationCounts()

    @property
    def executions(self) -> int:
        """Executions that succeeded."""
        return sum(self.execution.buckets)


class RowCounts:
    """A histogram of rows of executions, in plain numbers. Written by one thread, read by any."""

    __slots__ = ("buckets", "rows")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_ROW_BOUNDS) + 1)
        self.rows = 0

    def observe(self, rows: int) -> None:
        """Counts one execution."""
        self.buckets[bisect_left(_ROW_BOUNDS, rows)] += 1
        self.rows += rows

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Shows what was counted as one series of a family."""
        cumulative = list(accumulate(self.buckets))
        bounds = (*map(str, _ROW_BOUNDS), "+Inf")
        family.add_metric(labels, list(zip(bounds, cumulative, strict=True)), self.rows)
