"""A heartbeat's reports: the models called last, however many are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.load_report import REPORTED_MAX, most_recent


@dataclass
class Busy:
    """What is read of a replica."""

    waiting: int = 2
    in_flight: int = 3
    queue_wait_s: float = 0.25
    calls: int = 7


def test_a_report_says_how_busy_a_model_is() -> None:
    (report,) = most_recent([(1.5, "uid", cast("Any", Busy()))])
    assert (report.version_uid, report.queue_depth, report.in_flight, report.calls) == ("uid", 2, 3, 7)
    assert (report.queue_wait_us, report.idle_ms) == (250_000, 1_500)


@given(st.lists(st.floats(0, 1e6), max_size=3 * REPORTED_MAX))
def test_of_many_models_those_called_last_are_reported(idle_s: list[float]) -> None:
    busy = cast("Any", Busy())
    reports = most_recent((idle, f"uid-{index}", busy) for index, idle in enumerate(idle_s))
    assert len(reports) == min(len(idle_s), REPORTED_MAX)
    told = sorted(report.idle_ms for report in reports)
    assert told == sorted(int(idle * 1e3) for idle in idle_s)[: len(told)]
