"""Quantiles, medians and ratios of rounds; which cells a pattern picks."""

from __future__ import annotations

from collections import Counter

import pytest

from headrace_bench.cells import ECHO, FULL, PACKED, UNARY, Cell, grid, rounds, selected
from headrace_bench.load import Load, LoadFailedError, quantile
from headrace_bench.measurement import Sample, measure, warmed_up
from headrace_bench.memory import Growth
from headrace_bench.report import as_json, markdown, medians, ratios


def sample(per_s: float = 1.0, **cpu_us: float) -> Sample:
    named = {name.replace("_", " "): used for name, used in cpu_us.items()}
    rss = {name: used / 10 for name, used in named.items()}
    return Sample(
        per_s=per_s, p50_ms=1.0, p99_ms=2.0, requests=10, calls_per_message=1.0, cpu_us=named, rss_peak_mib=rss
    )


def cell(target: str, concurrency: int = 64) -> Cell:
    return Cell(target=target, model="tiny", concurrency=concurrency)


class Scripted:
    """A generator of a server with a fixed rate; the loads that it was asked for."""

    def __init__(self, per_s: float, failed: dict[str, int] | None = None) -> None:
        self.counts: list[int] = []
        self._per_s = per_s
        self._failed = failed or {}

    def run(self, count: int) -> Load:
        self.counts.append(count)
        wall_s = count / self._per_s
        return Load(done=count, failed=self._failed, wall_s=wall_s, cpu_s=wall_s / 2, p50_ms=1.0, p99_ms=2.0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_quantile_is_the_least_value_that_enough_others_do_not_exceed(share: float, wanted: int) -> None:
    assert quantile(range(1, 101), share) == wanted


def test_median_of_two_is_the_lower_one() -> None:
    assert Load.of(latencies_s=[0.2, 0.1], failed=Counter(), wall_s=1.0, cpu_s=0.0).p50_ms == pytest.approx(100)


def test_medians_are_taken_figure_by_figure_and_memory_is_the_most() -> None:
    middle = medians([sample(1, gateway=900), sample(5, gateway=100), sample(3, gateway=500)])
    assert (middle.per_s, middle.cpu_us["gateway"], middle.rss_peak_mib["gateway"]) == (3, 500, 90)


def test_ratios_pair_the_rounds_and_give_their_median() -> None:
    found = ratios(
        {
            cell(ECHO): [sample(echo_server=100), sample(echo_server=200), sample(echo_server=100)],
            cell(UNARY): [sample(10, gateway=300), sample(20, gateway=300), sample(10, gateway=200)],
            cell(PACKED): [sample(100, gateway=30), sample(100, gateway=30), sample(200, gateway=10)],
        }
    )
    by_name = {ratio.name: (ratio.median, ratio.least, ratio.most) for ratio in found}
    assert by_name["gateway CPU a unary request / echo server CPU a request, tiny:64"] == (2.0, 1.5, 3.0)
    assert by_name["all processes' CPU a unary request / all processes' CPU a packed request, tiny:64"][0] == 10.0
    assert by_name["packed rate / unary rate, tiny:64"] == (10.0, 5.0, 20.0)


def test_a_model_with_batches_is_compared_with_itself_without() -> None:
    cells = {model: Cell(target=PACKED, model=model, concurrency=64) for model in ("mlp", "mlp-single")}
    (found,) = ratios({cells["mlp"]: [sample(30), sample(40)], cells["mlp-single"]: [sample(10), sample(10)]})
    assert (found.name, found.median) == ("packed rate with batches / packed rate without, mlp:64", 3.5)


def test_nothing_is_compared_below_the_highest_concurrency_or_with_one_side_only() -> None:
    assert ratios({cell(ECHO, 1): [sample(echo_server=1)], cell(UNARY, 1): [sample(gateway=1)]}) == []
    assert ratios({cell(UNARY): [sample(gateway=1)]}) == []


def test_report_holds_every_round_and_the_machine() -> None:
    samples = {cell(UNARY): [sample(10, gateway=1), sample(20, gateway=2)]}
    growth = Growth(process="gateway", what="one", payload_mib=50, before_mib=100, peak_mib=250, after_mib=150)
    content = as_json(samples, [growth], {"cores": "2"}, {"runners": 2})
    assert [one["per_s"] for one in content["cells"][0]["rounds"]] == [10, 20]
    assert content["machine"] == {"cores": "2"}
    page = markdown(samples, [growth], {"cores": "2"}, {"runners": 2})
    assert "| mesh-unary:tiny:64 | 2 | 15.0 |" in page
    assert "| gateway: one | 100 | +150.0 | +50.0 | 3.00 | 1.00 |" in page


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("echo:tiny:64", 1),
        ("mesh-unary:tiny:64", 1),
        ("echo:64", 2),
        ("mesh-packed", 9),
        ("conv", 8),
        ("mlp-single", 1),
    ],
)
def test_pattern_picks_the_cells_that_have_all_its_parts(pattern: str, wanted: int) -> None:
    assert len(selected([pattern])) == wanted


def test_pattern_without_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="mesh-unary:tiny:64"):
        selected(["mesh-unary:tiny:65"])


def test_compared_cells_are_measured_in_every_round_side_by_side() -> None:
    all_rounds = rounds(grid(), FULL)
    assert set(all_rounds[0]) == set(grid())
    last = all_rounds[-1]
    assert len(all_rounds) >= 5 and all(one.compared for one in last)
    assert last.index(cell(UNARY)) - last.index(cell(ECHO)) <= 2


@pytest.mark.parametrize("per_s", [20.0, 3_000.0, 1_000_000.0])
def test_measurement_lasts_about_as_long_as_it_should(per_s: float) -> None:
    generator = Scripted(per_s)
    count = warmed_up(generator, concurrency=16, effort=FULL)
    assert count / per_s == pytest.approx(FULL.measure_s, rel=0.1)
    warm_up_s = sum(generator.counts) / per_s
    assert FULL.warm_up_s <= warm_up_s <= 3 * FULL.warm_up_s


def test_failed_requests_end_the_measurement() -> None:
    with pytest.raises(LoadFailedError, match="UNAVAILABLE"):
        warmed_up(Scripted(100, {"UNAVAILABLE": 1}), concurrency=1, effort=FULL)
    with pytest.raises(LoadFailedError, match="UNAVAILABLE"):
        measure(Scripted(100, {"UNAVAILABLE": 1}), {}, 10)


def test_cost_is_told_for_each_request() -> None:
    measured = measure(Scripted(100), {}, 50)
    assert (measured.per_s, measured.requests, measured.cpu_us) == (100, 50, {"client": pytest.approx(5_000)})
