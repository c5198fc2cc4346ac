"""What is counted of the sequences of one replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_MODEL = ("tenant", "model", "version")
_EVENTS = ("started", "ended", "expired", "lost", "refused")


@dataclass(slots=True)
class SequenceCounts:
    """Plain numbers, written on the event loop and read when they are scraped.

    Attributes:
        live: Sequences that have state now.
        state_bytes: Memory that it takes.
        started: Sequences that began, or began anew.
        ended: Those that ended with a request.
        expired: Those that had no request for too long.
        lost: Those that were forgotten because the process had stood still.
        refused: Requests that met a bound.
    """

    live: int = 0
    state_bytes: int = 0
    started: int = 0
    ended: int = 0
    expired: int = 0
    lost: int = 0
    refused: int = 0


class SequenceFamilies:
    """The counts of all replicas as metrics."""

    def __init__(self) -> None:
        self._live = GaugeMetricFamily("headrace_runner_sequences_live", "Sequences that have state", labels=_MODEL)
        self._bytes = GaugeMetricFamily(
            "headrace_runner_sequence_state_bytes", "Memory that the state of sequences takes", labels=_MODEL
        )
        self._events = CounterMetricFamily(
            "headrace_runner_sequence_events", "What happened to sequences", labels=(*_MODEL, "event")
        )

    def __iter__(self) -> Iterator[Metric]:
        return iter((self._live, self._bytes, self._events))

    def add(self, labels: Sequence[str], counts: SequenceCounts) -> None:
        """Shows one replica; one that never had a sequence is left out."""
        if counts != SequenceCounts():
            self._live.add_metric(labels, counts.live)
            self._bytes.add_metric(labels, counts.state_bytes)
            for event in _EVENTS:
                self._events.add_metric((*labels, event), getattr(counts, event))
