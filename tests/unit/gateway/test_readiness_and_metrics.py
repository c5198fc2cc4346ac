"""When a gateway asks for traffic, and what it counts."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1.models_pb2 import VERSION_STATE_READY, Version
from headrace_gateway.catalog import Catalog
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.readiness import Readiness


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
    meters.ok.inc()
    meters.in_flight.inc()
    meters.failed("RUNNER_LOST").inc(2)
    assert series(registry) == {
        ("headrace_infer_requests_total", "3", "OK", "acme", "magika"): 1,
        ("headrace_infer_requests_total", "3", "RUNNER_LOST", "acme", "magika"): 2,
        ("headrace_infer_in_flight", "3", "acme", "magika"): 1,
    }
    catalog.replace([])
    catalog.replace([])
    assert series(registry) == {}
