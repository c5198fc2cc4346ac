"""What resilience does and how much it has left, for whoever reads the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_gateway.inference.dispatcher import Dispatcher
from headrace_gateway.inference.resilience.traffic import ReplicaTraffic
from headrace_gateway.mesh.runner_session import RunnerSession

_REPLICA = ("runner", "tenant", "model", "version")


class ResilienceMetrics(Collector):
    """Reads the dispatcher's plain numbers when somebody reads the metrics; calls pay nothing for it."""

    def __init__(self, *, dispatcher: Dispatcher, registry: CollectorRegistry) -> None:
        self._dispatcher = dispatcher
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The families' names, for the registry's check against duplicates."""
        return iter((*_counters(), *_gauges(), _wait()))

    def collect(self) -> Iterator[Metric]:
        """What the numbers say now. Called in the thread that serves the metrics."""
        yield from self._counted()
        yield from self._present()
        wait = _wait()
        self._dispatcher.line.waited.add_to(wait, ())
        yield wait

    def _counted(self) -> Iterator[Metric]:
        families = retries, denied, transitions, ejections, shed, sent, won = _counters()
        dispatcher = self._dispatcher
        for reason, count in list(dispatcher.retries.counts.items()):
            retries.add_metric((reason,), count)
        denied.add_metric((), dispatcher.retries.denied)
        for state, count in list(dispatcher.health.transitions.items()):
            transitions.add_metric((state.name.lower(),), count)
        for cause, count in list(dispatcher.health.ejections.items()):
            ejections.add_metric((cause,), count)
        for priority, count in list(dispatcher.line.shed.items()):
            shed.add_metric((str(priority),), count)
        sent.add_metric((), dispatcher.hedges.sent)
        won.add_metric((), dispatcher.hedges.won)
        yield from families

    def _present(self) -> Iterator[Metric]:
        families = budget, breakers, limits, in_use, waiting = _gauges()
        dispatcher = self._dispatcher
        budget.add_metric((), dispatcher.budget.left)
        at_replica: dict[tuple[str, ...], ReplicaTraffic] = {}
        sessions: dict[str, RunnerSession] = {}
        for model in list(dispatcher.health.traffic.models.values()):
            version = model.version
            labels = version.tenant_id, version.model, version.version_text
            in_use.add_metric(("model", "/".join(labels)), model.sent)
            waiting.add_metric(("model", "/".join(labels)), len(model.line))
            for replica in list(model.replicas.values()):
                sessions[replica.token] = replica.session
                # A runner that has just started again has two sessions; the later one counts.
                at_replica[replica.session.hello.runner_name, *labels] = replica
        for tenant in list(dispatcher.health.traffic.tenants.values()):
            in_use.add_metric(("tenant", tenant.id), tenant.sent)
            waiting.add_metric(("tenant", tenant.id), len(tenant.room) + len(tenant.hall))
        at_runner: Counter[str] = Counter()
        for session in sessions.values():
            at_runner[session.hello.runner_name] += session.calls.in_flight
        for runner, calls in at_runner.items():
            in_use.add_metric(("runner", runner), calls)
        for names, replica in at_replica.items():
            breakers.add_metric(names, replica.breaker.state)
            limits.add_metric(names, replica.window.limit)
        yield from families


def _counters() -> tuple[CounterMetricFamily, ...]:
    return (
        CounterMetricFamily(
            "headrace_infer_retries", "Calls sent once more, by how the attempt before failed", labels=("reason",)
        ),
        CounterMetricFamily("headrace_infer_retries_denied", "Failed calls that no retry budget was left for"),
        CounterMetricFamily(
            "headrace_breaker_transitions", "Changes of circuit breakers, by the new state", labels=("state",)
        ),
        CounterMetricFamily("headrace_runner_ejections", "Runners ejected as outliers, by cause", labels=("cause",)),
        CounterMetricFamily(
            "headrace_infer_shed",
            "Waiting calls that made room for more urgent ones, by priority",
            labels=("priority",),
        ),
        CounterMetricFamily("headrace_infer_hedges", "Second copies of calls that were sent"),
        CounterMetricFamily("headrace_infer_hedges_won", "Second copies that answered first"),
    )


def _gauges() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily("headrace_retry_budget", "Retries and hedges that the budget allows now"),
        GaugeMetricFamily(
            "headrace_breaker_state", "Circuit breaker of a replica: 0 closed, 1 half-open, 2 open", labels=_REPLICA
        ),
        GaugeMetricFamily("headrace_adaptive_limit", "Calls that a replica may have at once", labels=_REPLICA),
        GaugeMetricFamily(
            "headrace_bulkhead_in_use", "Calls at runners, by runner, model and tenant", labels=("scope", "name")
        ),
        GaugeMetricFamily(
            "headrace_bulkhead_waiting", "Calls that wait for a replica, by model and tenant", labels=("scope", "name")
        ),
    )


def _wait() -> HistogramMetricFamily:
    return HistogramMetricFamily("headrace_infer_wait_seconds", "Wait for a replica of the calls that had to wait")
