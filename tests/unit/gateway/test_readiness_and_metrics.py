"""When a gateway asks for traffic, and what it counts."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1.models_pb2 import VERSION_STATE_READY, Version
from headrace_gateway.catalog import Catalog, CatalogVersion
from headrace_gateway.mesh.session_calls import Answer
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.readiness import Readiness
from headrace_gateway.version_meters import BatchMeters, VersionMeters


async def test_serving_begins_with_the_last_feed_and_ends_with_draining_for_good() -> None:
    told: list[bool] = []
    readiness = Readiness(feeds=frozenset({"a", "b"}), changed=told.append)
    reached = asyncio.ensure_future(readiness.reached())
    readiness.feed_ready("a")
    readiness.feed_ready("a")
    await asyncio.sleep(0)
    assert not readiness.serving
    assert not reached.done()
    readiness.feed_ready("b")
    readiness.feed_ready("b")
    await reached
    assert readiness.serving
    readiness.drain()
    readiness.drain()
    readiness.feed_ready("a")
    assert readiness.draining
    assert told == [True, False]
    assert not readiness.serving


async def test_draining_before_the_feeds_are_there_never_serves() -> None:
    told: list[bool] = []
    readiness = Readiness(feeds=frozenset({"a"}), changed=told.append)
    readiness.drain()
    readiness.feed_ready("a")
    assert told == []


def series(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name in ("headrace_infer_requests_total", "headrace_infer_in_flight")
    }


def test_version_counts_under_its_own_labels_until_it_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry=registry)
    catalog = Catalog()
    catalog.add_listener(metrics.forget)
    entry = CatalogEntry(
        tenant_id="acme", version=Version(model="magika", version=3, uid="u", state=VERSION_STATE_READY)
    )
    catalog.replace([entry])
    meters = metrics.version(catalog.resolve("acme", "magika", ""))
    assert metrics.version(catalog.resolve("acme", "magika", "3")) is meters
    meters.answered(Answer(b"", 3, 20, 5, 4, 2, True), arrived_at=10.0, now=10.002)
    meters.in_flight += 1
    meters.failed("RUNNER_LOST", 0.5)
    meters.failed("RUNNER_LOST", 0.5)
    assert series(registry) == {
        ("headrace_infer_requests_total", "3", "OK", "acme", "magika"): 1,
        ("headrace_infer_requests_total", "3", "RUNNER_LOST", "acme", "magika"): 2,
        ("headrace_infer_in_flight", "3", "acme", "magika"): 1,
    }
    catalog.replace([])
    catalog.replace([])
    assert series(registry) == {}


def test_latency_is_shown_as_a_histogram_of_answered_calls() -> None:
    registry = CollectorRegistry()
    meters = GatewayMetrics(registry=registry).version(
        CatalogVersion(tenant_id="t", uid="u", model="m", version=1, version_text="1", proto=Version())
    )
    for took_s in (0.0004, 0.002, 0.002, 99.0):
        meters.answered(Answer(b"", 0, 0, 0, 0, 1, True), arrived_at=1.0, now=1.0 + took_s)
    labels = {"tenant": "t", "model": "m", "version": "1"}

    def bucket(bound: str) -> float | None:
        return registry.get_sample_value("headrace_infer_latency_seconds_bucket", {**labels, "le": bound})

    assert (bucket("0.0005"), bucket("0.001"), bucket("0.0025"), bucket("30.0"), bucket("+Inf")) == (1, 1, 3, 3, 4)
    assert registry.get_sample_value("headrace_infer_latency_seconds_count", labels) == 4


def test_only_the_answer_that_leads_a_batch_counts_its_execution() -> None:
    meters = VersionMeters(("t", "m", "1"))
    meters.answered(Answer(b"", 1, 30, 10, 5, 8, True), 0.0, 1.0)
    meters.answered(Answer(b"", 1, 30, 10, 5, 8, False), 0.0, 1.0)
    assert (meters.ok_count, meters.rows, meters.infer_us) == (2, 8, 30)
    assert meters.batches == {8: BatchMeters(1, 10, 15, 5)}
