"""Plain numbers in place of metric objects: they must read as prometheus' own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric

from headrace_common.latency_counts import LatencyCounts
from headrace_common.metrics import LATENCY_BUCKETS_S
from headrace_common.rpc_counts import RpcCounts

seconds = st.one_of(st.sampled_from(LATENCY_BUCKETS_S), st.floats(0, 1_000), st.just(float("inf")))


def samples(metric: Metric) -> dict[tuple[str, str], float]:
    """By name and bucket, without the times of creation."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(seconds, max_size=50))
def test_latencies_fall_into_the_buckets_of_prometheus_own_histogram(observed: list[float]) -> None:
    histogram = Histogram("took", "Time.", registry=CollectorRegistry(), buckets=LATENCY_BUCKETS_S)
    counts = LatencyCounts()
    for value in observed:
        histogram.observe(value)
        counts.observe(value)
    family = HistogramMetricFamily("took", "Time.", labels=())
    counts.add_to(family, ())
    (expected,) = histogram.collect()
    assert samples(family) == samples(expected)


def test_rpcs_are_counted_by_method_code_and_reason_under_the_names_that_dashboards_know() -> None:
    registry = CollectorRegistry()
    counts = RpcCounts(registry=registry)
    method = counts.method("/package.Service/Method")
    assert counts.method("/package.Service/Method") is method
    method.in_flight += 2
    for code, reason in (("OK", ""), ("OK", ""), ("NOT_FOUND", "MODEL_NOT_FOUND")):
        method.ended(code, reason)
        method.duration.observe(0.5)
    counts.method("/package.Service/Other")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"method": "/package.Service/Method", **labels})

    assert value("headrace_rpc_handled_total", grpc_code="OK", reason="") == 2
    assert value("headrace_rpc_handled_total", grpc_code="NOT_FOUND", reason="MODEL_NOT_FOUND") == 1
    assert value("headrace_rpc_in_flight") == 2
    assert (value("headrace_rpc_duration_seconds_count"), value("headrace_rpc_duration_seconds_sum")) == (3, 1.5)
    assert value("headrace_rpc_duration_seconds_bucket", le="+Inf") == 3
    assert b'headrace_rpc_in_flight{method="/package.Service/Other"} 0.0' in generate_latest(registry)
