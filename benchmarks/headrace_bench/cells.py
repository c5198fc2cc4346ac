"""What is measured: a target, a model and a number of requests in flight, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace_bench.models import MODELS

ECHO, IN_PROCESS, UNARY, PACKED = TARGETS = ("echo", "in-process", "mesh-unary", "mesh-packed")
HTTP_INFER, HTTP_OPEN = HTTP = ("http-infer", "http-open")
"""Beside mesh-unary, where most requests are in flight, for models that name them."""


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One entry of the table. Its name is `target:model:concurrency`."""

    target: str
    model: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.target}:{self.model}:{self.concurrency}"

    @property
    def compared(self) -> bool:
        """Whether a ratio is made of it, for which every round counts."""
        return self.concurrency == max(MODELS[self.model].concurrencies)

    def matches(self, pattern: str) -> bool:
        """Whether the cell has every part of a pattern: `echo:64` is the echo of any model with 64 in flight."""
        return set(pattern.split(":")) <= {self.target, self.model, str(self.concurrency)}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long and how often to measure.

    Attributes:
        rounds: Rounds of the compared cells; the others are measured in the first `rounds_others` of them.
        warm_up_s: Load before each measurement that doesn't count.
        measure_s: Length of each measurement, roughly.
    """

    rounds: int
    rounds_others: int
    warm_up_s: float
    measure_s: float


FULL = Effort(rounds=5, rounds_others=2, warm_up_s=1.0, measure_s=2.5)
QUICK = Effort(rounds=3, rounds_others=1, warm_up_s=0.4, measure_s=0.8)


def grid() -> list[Cell]:
    """Every cell, those that are compared with each other side by side."""
    return [
        Cell(target=target, model=model.name, concurrency=concurrency)
        for model in MODELS.values()
        for concurrency in model.concurrencies
        for target in model.targets or TARGETS
        if target not in HTTP or concurrency == max(model.concurrencies)
    ]


def selected(patterns: Iterable[str]) -> list[Cell]:
    """The cells that match any of the patterns; all where there is none.

    Raises:
        ValueError: a pattern matches none.
    """
    patterns, cells = list(patterns), grid()
    for pattern in patterns:
        if not any(cell.matches(pattern) for cell in cells):
            raise ValueError(f"no cell matches {pattern!r}; there are {', '.join(map(str, cells))}")
    return [cell for cell in cells if not patterns or any(cell.matches(pattern) for pattern in patterns)]


def rounds(cells: Sequence[Cell], effort: Effort) -> list[list[Cell]]:
    """Which cells each round measures, one after the other: A, B, A, B, so that a slow minute hits all alike."""
    return [
        [cell for cell in cells if cell.compared or number < effort.rounds_others] for number in range(effort.rounds)
    ]
