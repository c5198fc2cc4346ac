"""A histogram of plain numbers: a metric object would cost a busy method microseconds for each observation."""

from __future__ import annotations

from bisect import bisect_left

from prometheus_client.core import HistogramMetricFamily

from headrace_common.metrics import LATENCY_BUCKETS_S

_BOUNDS = (*map(str, LATENCY_BUCKETS_S), "+Inf")


class LatencyCounts:
    """Counts of seconds by bucket, and their sum. Written by one thread, read by any."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets = [0] * len(_BOUNDS)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one observation."""
        self.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Shows what was counted as one series of a family."""
        total = 0
        cumulative: list[tuple[str, float]] = []
        for bound, count in zip(_BOUNDS, self.buckets, strict=True):
            total += count
            cumulative.append((bound, total))
        family.add_metric(labels, cumulative, self.sum_s)
