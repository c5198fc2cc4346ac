"""What the metrics tell of spools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from headrace_gateway.accounting.accounting import Accounting


class SpoolMetrics(Collector):
    """Reads the numbers when somebody reads the metrics. `now_s` is the event loop's clock."""

    def __init__(self, *, accounting: Accounting, now_s: Callable[[], float], registry: CollectorRegistry) -> None:
        self._accounting = accounting
        self._now_s = now_s
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """No names ahead: they are all in one place."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What the own spool and the adopted ones hold now. Called in the thread that serves the metrics."""
        own, spool = self._accounting.shipper, self._accounting.spool
        adopted = list(self._accounting.adopted)
        behind_since = own.behind_since
        yield _counter("headrace_spool_records", "Records for quota that were written", spool.events)
        yield _counter("headrace_spool_records_shipped", "Those of them that quota has", own.shipped)
        yield _counter("headrace_spool_refused", "Calls and events that there was no room for", spool.refused)
        yield _gauge("headrace_spool_bytes", "Bytes of records that are kept", spool.held_bytes)
        yield _gauge("headrace_spool_open_calls", "Calls that were admitted and have not ended", spool.open_calls)
        yield _gauge(
            "headrace_spool_lag_seconds",
            "Time since something waits for quota",
            max(0.0, self._now_s() - behind_since) if behind_since is not None else 0.0,
        )
        yield _gauge("headrace_spool_adopted", "Spools of gateways that died, until quota has them", len(adopted))
        yield _gauge(
            "headrace_spool_adopted_bytes", "Bytes of those", sum(shipper.spool.held_bytes for shipper in adopted)
        )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
