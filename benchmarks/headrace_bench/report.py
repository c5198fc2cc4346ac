"""The figures of a run: medians of each cell's rounds, ratios between cells, a table and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from headrace_bench.cells import ECHO, HTTP, IN_PROCESS, PACKED, UNARY, Cell
from headrace_bench.measurement import Sample
from headrace_bench.memory import Growth
from headrace_bench.models import MLP, MLP_SINGLE, MODELS

Samples = Mapping[Cell, Sequence[Sample]]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One comparison: the median of the rounds' quotients, with the smallest and the largest."""

    name: str
    rounds: int
    median: float
    least: float
    most: float


def medians(samples: Sequence[Sample]) -> Sample:
    """Each figure's median over the rounds; of memory the most."""

    def of_names(field: str, choose: Any) -> dict[str, float]:
        return {name: choose([getattr(one, field)[name] for one in samples]) for name in getattr(samples[0], field)}

    return Sample(
        per_s=median(one.per_s for one in samples),
        p50_ms=median(one.p50_ms for one in samples),
        p99_ms=median(one.p99_ms for one in samples),
        requests=sum(one.requests for one in samples),
        calls_per_message=median(one.calls_per_message for one in samples),
        cpu_us=of_names("cpu_us", median),
        rss_peak_mib=of_names("rss_peak_mib", max),
    )


def ratios(samples: Samples) -> list[Ratio]:
    """What is compared, where both sides were measured; the rounds are paired, as they ran side by side."""
    found: list[Ratio] = []
    for cell in samples:
        if not cell.compared or cell.target != UNARY:
            continue
        at = f"{cell.model}:{cell.concurrency}"
        unary = samples[cell]
        echo, packed, alone = (
            samples.get(Cell(target=target, model=cell.model, concurrency=cell.concurrency), ())
            for target in (ECHO, PACKED, IN_PROCESS)
        )
        found += _paired(
            f"gateway CPU a unary request / echo server CPU a request, {at}",
            [one.cpu_us["gateway"] for one in unary],
            [one.cpu_us["echo server"] for one in echo],
        )
        found += _paired(
            f"gateway CPU a unary request / gateway CPU a packed request, {at}",
            [one.cpu_us["gateway"] for one in unary],
            [one.cpu_us["gateway"] for one in packed],
        )
        found += _paired(
            f"all processes' CPU a unary request / all processes' CPU a packed request, {at}",
            [sum(one.cpu_us.values()) for one in unary],
            [sum(one.cpu_us.values()) for one in packed],
        )
        rates = [one.per_s for one in unary]
        found += _paired(f"packed rate / unary rate, {at}", [one.per_s for one in packed], rates)
        for target in HTTP:
            over_http = samples.get(Cell(target=target, model=cell.model, concurrency=cell.concurrency), ())
            found += _paired(f"{target} rate / unary rate, {at}", [one.per_s for one in over_http], rates)
        # Batches made beforehand are another task; where batches don't help, the comparison says what a mesh costs.
        if MODELS[cell.model].batch_rows_max == 1:
            alone_rates = [one.per_s for one in alone]
            found += _paired(f"unary rate / in-process rate, {at}", rates, alone_rates)
            found += _paired(f"packed rate / in-process rate, {at}", [one.per_s for one in packed], alone_rates)
    batched, single = (
        [one.per_s for one in samples.get(Cell(target=PACKED, model=model, concurrency=64), ())]
        for model in (MLP, MLP_SINGLE)
    )
    return found + _paired("packed rate with batches / packed rate without, mlp:64", batched, single)


def _paired(name: str, over: Sequence[float], under: Sequence[float]) -> list[Ratio]:
    quotients = [a / b if b else math.inf for a, b in zip(over, under, strict=False)]
    if not quotients:
        return []
    return [
        Ratio(name=name, rounds=len(quotients), median=median(quotients), least=min(quotients), most=max(quotients))
    ]


def as_json(
    samples: Samples, memory: Sequence[Growth], machine: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that was measured, each round included."""
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "ratios": [asdict(ratio) for ratio in ratios(samples)],
        "memory": [asdict(growth) for growth in memory],
        "cells": [
            {**asdict(cell), "median": asdict(medians(rounds)), "rounds": [asdict(one) for one in rounds]}
            for cell, rounds in samples.items()
        ],
    }


_PROCESSES = ("front", "gateway", "runners", "echo server", "client")
_CPU_COLUMNS = tuple(f"{name} CPU µs" for name in _PROCESSES)
_COLUMNS = ("cell", "rounds", "requests/s", "p50 ms", "p99 ms", *_CPU_COLUMNS, "peak RSS MiB")


def _row(cell: Cell, rounds: Sequence[Sample]) -> tuple[str, ...]:
    middle = medians(rounds)
    return (
        str(cell),
        str(len(rounds)),
        _number(middle.per_s),
        _number(middle.p50_ms),
        _number(middle.p99_ms),
        *(_number(middle.cpu_us[name]) if name in middle.cpu_us else "" for name in _PROCESSES),
        ", ".join(f"{name} {used:,.0f}" for name, used in middle.rss_peak_mib.items()),
    )


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def _ratio_row(ratio: Ratio) -> tuple[str, ...]:
    return (ratio.name, str(ratio.rounds), _number(ratio.median), f"{_number(ratio.least)} to {_number(ratio.most)}")


_RATIO_COLUMNS = ("ratio", "rounds", "median", "range")


def _growth_row(growth: Growth) -> tuple[str, ...]:
    grown = [after - growth.before_mib for after in (growth.peak_mib, growth.after_mib)]
    return (
        f"{growth.process}: {growth.what}",
        f"{growth.before_mib:,.0f}",
        *(f"{more:+,.1f}" for more in grown),
        *(f"{more / growth.payload_mib:.2f}" if growth.payload_mib else "" for more in grown),
    )


_GROWTH_COLUMNS = ("resident memory", "MiB before", "at the peak", "after", "peak ÷ tensor", "after ÷ tensor")


def tables(samples: Samples, memory: Sequence[Growth]) -> list[Table]:
    """For the terminal."""
    cells, compared, grown = Table(), Table(*_RATIO_COLUMNS), Table(*_GROWTH_COLUMNS)
    for column in _COLUMNS:
        cells.add_column(column, justify="left" if column in {"cell", _COLUMNS[-1]} else "right", no_wrap=True)
    for cell, rounds in samples.items():
        cells.add_row(*_row(cell, rounds))
    for ratio in ratios(samples):
        compared.add_row(*_ratio_row(ratio))
    for growth in memory:
        grown.add_row(*_growth_row(growth))
    return [table for table in (cells, compared, grown) if table.rows]


def markdown(
    samples: Samples, memory: Sequence[Growth], machine: Mapping[str, str], settings: Mapping[str, Any]
) -> str:
    """The same as a page."""
    told = [f"- {name}: {value}" for name, value in {**machine, **settings}.items()]
    cells = [_row(cell, rounds) for cell, rounds in samples.items()]
    parts = ["# Figures", "\n".join(told), _page_table(_COLUMNS, cells)]
    if compared := ratios(samples):
        parts.append(_page_table(_RATIO_COLUMNS, [_ratio_row(ratio) for ratio in compared]))
    if memory:
        parts.append(_page_table(_GROWTH_COLUMNS, [_growth_row(growth) for growth in memory]))
    return "\n\n".join(parts) + "\n"


def _page_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
