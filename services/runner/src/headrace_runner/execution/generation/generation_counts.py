"""What is counted of one replica that generates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from headrace_common.latency_counts import LatencyCounts
from headrace_runner.backends.generation import Finish, Generated

_MODEL = ("tenant", "model", "version")
_FINISHES = ("stop", "length")


@dataclass(slots=True)
class GenerationCounts:
    """Plain numbers, written on the event loop and read when they are scraped.

    Attributes:
        slots: Completions at the same time; 0 for a model that doesn't generate.
        slots_used: Slots that are taken now.
        prompt_tokens: Tokens that are left of the prompts that are being computed.
        waiting_tokens: Tokens of prompts and of output at most, over the calls that wait for slots.
        computed_prompt_tokens: Tokens of prompts, without `cached_prompt_tokens`, known from an earlier call.
        completion_tokens: Tokens generated.
        stop: Completions that the model or a stop text ended; `length` those that had all the tokens they may.
        first_token: Time from a call's arrival to its first token.
        between_tokens: Time between tokens of a completion.
    """

    slots: int = 0
    slots_used: int = 0
    prompt_tokens: int = 0
    waiting_tokens: int = 0
    computed_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    stop: int = 0
    length: int = 0
    first_token: LatencyCounts = field(default_factory=LatencyCounts)
    between_tokens: LatencyCounts = field(default_factory=LatencyCounts)

    def took(self, generated: Generated, gap_s: float | None) -> None:
        """Something new of a completion came, `gap_s` for each of its tokens after those before."""
        self.completion_tokens += len(generated.token_ids) + generated.untold_tokens
        if gap_s is not None:
            for _ in generated.token_ids:
                self.between_tokens.observe(gap_s)
        if generated.finish is Finish.STOP:
            self.stop += 1
        elif generated.finish is Finish.LENGTH:
            self.length += 1


class GenerationFamilies:
    """The counts of all replicas as metrics."""

    def __init__(self) -> None:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"headrace_runner_{name}", text, labels=_MODEL)

        self._slots = gauge("generation_slots", "Completions that can be computed at the same time")
        self._used = gauge("generation_slots_used", "Completions that are computed now")
        self._prompts = gauge("generation_prompt_tokens", "Tokens left of the prompts that are being computed")
        self._waiting = gauge("generation_queue_tokens", "Tokens, of prompts and output at most, that wait for slots")
        self._tokens = CounterMetricFamily("headrace_runner_tokens", "Tokens by kind", labels=(*_MODEL, "kind"))
        self._completions = CounterMetricFamily(
            "headrace_runner_completions", "Completions by what ended them", labels=(*_MODEL, "finish")
        )
        self._first = HistogramMetricFamily(
            "headrace_runner_time_to_first_token_seconds", "Time from arrival to the first token", labels=_MODEL
        )
        self._between = HistogramMetricFamily(
            "headrace_runner_inter_token_seconds", "Time between tokens of a completion", labels=_MODEL
        )

    def __iter__(self) -> Iterator[Metric]:
        return iter(
            (
                self._slots,
                self._used,
                self._prompts,
                self._waiting,
                self._tokens,
                self._completions,
                self._first,
                self._between,
            )
        )

    def add(self, labels: Sequence[str], counts: GenerationCounts) -> None:
        """Shows one replica; one that doesn't generate is left out."""
        if not counts.slots:
            return
        own = tuple(labels)
        self._slots.add_metric(own, counts.slots)
        self._used.add_metric(own, counts.slots_used)
        self._prompts.add_metric(own, counts.prompt_tokens)
        self._waiting.add_metric(own, counts.waiting_tokens)
        self._tokens.add_metric((*own, "prompt"), counts.computed_prompt_tokens)
        self._tokens.add_metric((*own, "cached_prompt"), counts.cached_prompt_tokens)
        self._tokens.add_metric((*own, "completion"), counts.completion_tokens)
        for finish in _FINISHES:
            self._completions.add_metric((*own, finish), getattr(counts, finish))
        counts.first_token.add_to(self._first, own)
        counts.between_tokens.add_to(self._between, own)
