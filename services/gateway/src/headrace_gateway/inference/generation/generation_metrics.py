"""What was counted of answers in parts, for whoever reads the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from headrace_gateway.version_meters import VersionMeters

_VERSION = ("tenant", "model", "version")


def generation_families(versions: Iterable[VersionMeters]) -> Iterator[Metric]:
    """What the meters of these versions say now; those that never streamed have no series."""
    first = HistogramMetricFamily(
        "headrace_generate_first_token_seconds", "Arrival of a call to its first token", labels=_VERSION
    )
    inter = HistogramMetricFamily("headrace_generate_inter_token_seconds", "Time between two tokens", labels=_VERSION)
    streams = GaugeMetricFamily("headrace_generate_streams", "Calls that are answered in parts now", labels=_VERSION)
    tokens = CounterMetricFamily(
        "headrace_generate_tokens",
        "Tokens of Generate: completion as they come, prompt and cached_prompt with the last message",
        labels=(*_VERSION, "kind"),
    )
    failovers = CounterMetricFamily(
        "headrace_generate_failovers",
        "Answers whose runner was lost in the middle: continued elsewhere, or interrupted",
        labels=(*_VERSION, "result"),
    )
    slow = CounterMetricFamily(
        "headrace_generate_readers_too_slow", "Calls cancelled because their client did not read", labels=_VERSION
    )
    for meters in versions:
        labels, counted = meters.labels, meters.generation
        if not counted.used:
            continue
        counted.first_token.add_to(first, labels)
        counted.inter_token.add_to(inter, labels)
        streams.add_metric(labels, counted.streams)
        slow.add_metric(labels, counted.readers_too_slow)
        for kind, count in counted.tokens.items():
            tokens.add_metric((*labels, kind), count)
        for result, count in counted.failovers.items():
            failovers.add_metric((*labels, result), count)
    return iter((first, inter, streams, tokens, failovers, slow))
