"""Pure decisions of placement: which runners, how many, which rule of a schedule, when a newer version serves."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.registry.v1.manifest_pb2 import (
    ExecutionPolicy,
    Manifest,
    PlacementPolicy,
    PlacementRule,
)
from headrace.registry.v1.models_pb2 import Version
from headrace_gateway.catalog import CatalogVersion
from headrace_gateway.mesh.placement.cutover import SETTLE_S, Cutover, Readiness
from headrace_gateway.mesh.placement.ranking import choose_runners, rank
from headrace_gateway.mesh.placement.replica_bounds import ReplicaBounds, replica_bounds
from headrace_gateway.mesh.placement.replica_count import ReplicaCount
from headrace_gateway.mesh.placement.reports import ReportedLoad
from headrace_gateway.mesh.placement.schedule import Schedule
from support.placement import SCALING


class Candidate(NamedTuple):
    """A runner, as far as a choice needs it."""

    id: str
    name: str
    preference: int = 0
    loaded: bool = False
    failed: bool = False


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        name=st.sampled_from([f"runner-{number}" for number in range(12)]),
        preference=st.integers(0, 2),
        loaded=st.booleans(),
        failed=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.id,
    max_size=12,
)


def choose(candidates: list[Candidate], count: int) -> list[Candidate]:
    ranked = sorted(candidates, key=lambda one: rank("uid", preference=one.preference, name=one.name, id=one.id))
    return choose_runners(ranked, count, loaded=lambda one: one.loaded, failed=lambda one: one.failed)


@given(CANDIDATES, st.integers(0, 8), st.randoms(use_true_random=False))
def test_every_gateway_chooses_the_same_runners_in_whatever_order_they_came(
    candidates: list[Candidate], count: int, order: random.Random
) -> None:
    chosen = choose(candidates, count)
    order.shuffle(candidates)
    assert choose(candidates, count) == chosen


@given(CANDIDATES, st.integers(0, 8))
def test_as_many_runners_are_chosen_as_are_wanted_and_none_leaves_before_another_is_ready(
    candidates: list[Candidate], count: int
) -> None:
    chosen = choose(candidates, count)
    assert len(set(chosen)) == len(chosen)
    assert min(count, len(candidates)) <= len(chosen) <= 2 * count
    loaded = sum(candidate.loaded for candidate in candidates)
    assert sum(candidate.loaded for candidate in chosen) >= min(count, loaded)
    best = chosen[:count]
    assert all(candidate.loaded for candidate in chosen[count:])
    assert not any(one.failed and not other.failed for one in best for other in set(candidates) - set(best))


@given(CANDIDATES, st.integers(1, 6), st.data())
def test_a_runner_that_leaves_moves_only_what_it_had(
    candidates: list[Candidate], count: int, data: st.DataObject
) -> None:
    unloaded = [candidate._replace(loaded=False) for candidate in candidates]
    chosen = choose(unloaded, count)
    if not unloaded:
        return
    gone = data.draw(st.sampled_from(unloaded))
    after = choose([candidate for candidate in unloaded if candidate is not gone], count)
    assert set(chosen) - {gone} <= set(after)
    assert gone in chosen or after == chosen


def test_preferred_devices_come_first_and_failures_last() -> None:
    cuda, cpu, broken = (
        Candidate("a", "a", preference=0),
        Candidate("b", "b", preference=1),
        Candidate("c", "c", preference=0, failed=True),
    )
    assert choose([broken, cpu, cuda], 3) == [cuda, cpu, broken]


LIMITS = st.tuples(st.integers(0, 64), st.integers(0, 64)).filter(lambda pair: not pair[1] or pair[0] <= pair[1])


@given(LIMITS, st.one_of(st.none(), LIMITS), st.integers(0, 20), st.integers(0, 40))
def test_bounds_are_ordered_and_within_what_the_manifest_and_its_rule_say(
    limits: tuple[int, int], ruled: tuple[int, int] | None, replicas: int, eligible: int
) -> None:
    manifest = Manifest(
        execution=ExecutionPolicy(replicas=replicas),
        placement=PlacementPolicy(min_replicas=limits[0], max_replicas=limits[1]),
    )
    rule = PlacementRule(min_replicas=ruled[0], max_replicas=ruled[1]) if ruled is not None else None
    least, most = ruled if ruled is not None else limits
    bounds = replica_bounds(manifest, rule, eligible)
    assert bounds.idle == least
    assert 0 <= bounds.idle <= bounds.used <= bounds.most
    assert bounds.used >= 1
    assert not most or bounds.most <= most
    if not most:
        assert bounds.used >= (replicas or 2)
        assert bounds.most >= eligible


def constant_load(replicas: int, concurrency: int, slots: int, service_s: float) -> ReportedLoad:
    """What replicas report whose callers keep `concurrency` calls open between them."""
    waiting = max(0, concurrency - replicas * slots)
    return ReportedLoad(
        replicas=replicas,
        slots=replicas * slots,
        queue_depth=waiting,
        in_flight=concurrency,
        queue_wait_s=waiting / (replicas * slots) * service_s,
    )


@given(
    st.integers(0, 300),
    st.integers(1, 8),
    st.floats(0.0001, 10.0),
    st.integers(1, 12),
    st.tuples(st.integers(1, 10), st.integers(0, 10)).map(lambda pair: ReplicaBounds(0, pair[0], sum(pair))),
)
def test_a_constant_load_leads_to_a_constant_number_within_its_bounds(
    concurrency: int, slots: int, service_s: float, before: int, bounds: ReplicaBounds
) -> None:
    count = ReplicaCount(rule=SCALING, loaded=before)
    loaded, seen = before, list[int]()
    for second in range(5_000):
        wanted = count.decide(second, constant_load(loaded, concurrency, slots, service_s), bounds)
        assert bounds.used <= wanted <= bounds.most
        loaded = wanted
        seen.append(wanted)
    steps = [after - before for before, after in pairwise(seen) if after != before]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps), "never up and then down"
    assert len(set(seen[-1_000:])) == 1, "it has come to rest"


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12)), min_size=1, max_size=200), st.integers(1, 6))
def test_the_number_stays_in_its_bounds_whatever_is_reported(reports: list[tuple[int, int]], least: int) -> None:
    bounds = ReplicaBounds(0, least, least + 3)
    count = ReplicaCount(rule=SCALING, loaded=0)
    before = None
    for tick, (concurrency, replicas) in enumerate(reports):
        load = constant_load(replicas, concurrency, 2, 1.0) if replicas else ReportedLoad()
        wanted = count.decide(10.0 * tick, load, bounds)
        assert least <= wanted <= least + 3
        assert before is None or abs(wanted - before) <= 1
        before = wanted


def test_a_replica_is_added_once_calls_wait_for_a_time_and_taken_away_after_a_longer_one() -> None:
    bounds = ReplicaBounds(0, 1, 3)
    count = ReplicaCount(rule=SCALING, loaded=1)
    busy = constant_load(1, 40, 2, 0.1)
    assert [count.decide(at, busy, bounds) for at in (0.0, 4.9, 5.0)] == [1, 1, 2]
    assert count.decide(60.0, busy, bounds) == 2, "the second one is still on its way"
    idle = constant_load(2, 0, 2, 0.1)
    assert [count.decide(at, idle, bounds) for at in (100.0, 399.0, 400.0)] == [2, 2, 1]


def test_a_moment_without_a_queue_begins_the_wait_anew() -> None:
    bounds = ReplicaBounds(0, 1, 3)
    count = ReplicaCount(rule=SCALING, loaded=1)
    busy, calm = constant_load(1, 40, 2, 0.1), constant_load(1, 2, 2, 0.1)
    assert [count.decide(at, load, bounds) for at, load in ((0.0, busy), (4.0, calm), (5.0, busy), (9.9, busy))] == [
        1
    ] * 4
    assert count.decide(10.0, busy, bounds) == 2


def test_time_that_calls_wait_for_company_is_no_queue() -> None:
    count = ReplicaCount(rule=SCALING, loaded=1, delay_s=1.0)
    gathering = ReportedLoad(replicas=1, slots=1, queue_depth=8, in_flight=8, queue_wait_s=0.9)
    assert [count.decide(at, gathering, ReplicaBounds(0, 1, 9)) for at in (0.0, 10.0, 100.0)] == [1, 1, 1]


def test_a_gateway_that_has_just_started_goes_on_with_the_replicas_there_are() -> None:
    load = constant_load(4, 10, 2, 0.1)
    assert ReplicaCount(rule=SCALING, loaded=4).decide(0.0, load, ReplicaBounds(0, 2, 6)) == 4


OFF_PEAK = [
    PlacementRule(cron="0 20 * * *", max_replicas=1),
    PlacementRule(cron="0 6 * * 1-5", min_replicas=3),
]


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        (datetime(2026, 3, 4, 5, 59, 59, tzinfo=UTC), 0),
        (datetime(2026, 3, 4, 6, 0, 0, tzinfo=UTC), 1),
        (datetime(2026, 3, 4, 19, 59, 59, 999_999, tzinfo=UTC), 1),
        (datetime(2026, 3, 4, 20, 0, 0, tzinfo=UTC), 0),
        # Saturday: the weekday's rule does not begin, so the evening's goes on.
        (datetime(2026, 3, 7, 12, 0, 0, tzinfo=UTC), 0),
    ],
)
def test_the_rule_whose_time_came_last_holds(now: datetime, holds: int) -> None:
    assert Schedule(OFF_PEAK).holding(now) is OFF_PEAK[holds]


def test_rules_that_cannot_be_read_never_hold() -> None:
    rules = [PlacementRule(cron=cron) for cron in ("", "x * * * *", "0 0 * * * *", "0 0 30 2 *")]
    assert Schedule(rules).holding(datetime(2026, 1, 1, tzinfo=UTC)) is None
    assert Schedule([]).holding(datetime(2026, 1, 1, tzinfo=UTC)) is None


MINUTES = st.integers(0, 2 * 365 * 24 * 60)
TIMES = st.tuples(st.integers(0, 59), st.integers(0, 23), st.sampled_from(["*", "1-5", "0", "6"]))


@given(st.lists(TIMES, min_size=1, max_size=5), st.lists(MINUTES, min_size=1, max_size=10))
def test_a_schedule_asked_again_and_again_says_what_a_minute_by_minute_look_back_says(
    times: list[tuple[int, int, str]], asked: list[int]
) -> None:
    rules = [PlacementRule(cron=f"{minute} {hour} * * {days}") for minute, hour, days in times]
    schedule = Schedule(rules)
    for offset in asked:
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=offset, seconds=30)
        assert schedule.holding(now) is rules[_last(times, now)]


def _last(times: list[tuple[int, int, str]], now: datetime) -> int:
    days = {"*": range(7), "1-5": range(5), "0": (6,), "6": (5,)}
    began = [
        max(
            moment
            for back in range(8)
            if (moment := (now - timedelta(days=back)).replace(hour=hour, minute=minute, second=0)) <= now
            and moment.weekday() in days[on]
        )
        for minute, hour, on in times
    ]
    return max(range(len(began)), key=lambda index: (began[index], index))


def version(number: int) -> CatalogVersion:
    proto = Version(uid=f"uid-{number}", model="m", version=number, manifest=Manifest())
    return CatalogVersion(
        tenant_id="t", uid=proto.uid, model="m", version=number, version_text=str(number), proto=proto
    )


def cutover(wait_max_s: float = 120.0) -> Cutover:
    return Cutover(serving=version(1), target=version(2), since=100.0, wait_max_s=wait_max_s)


def test_requests_go_on_when_the_target_is_loaded_on_as_many_runners() -> None:
    verdicts = [cutover().decide(101.0, Readiness(3, 5), Readiness(loaded, 5)) for loaded in range(4)]
    assert [verdict.done for verdict in verdicts] == [False, False, False, True]
    assert {verdict.replicas for verdict in verdicts} == {3}


def test_a_target_that_can_have_fewer_replicas_needs_no_more() -> None:
    assert cutover().decide(101.0, Readiness(3, 5), Readiness(1, 1)).done


def test_what_has_left_memory_for_good_is_no_reason_to_wait() -> None:
    for absent_s, gone in ((SETTLE_S - 1, False), (SETTLE_S, True)):
        assert cutover().decide(101.0, Readiness(0, 5, "", absent_s), Readiness(0, 5)).done is gone


def test_how_the_target_failed_is_remembered_until_it_is_loaded() -> None:
    decided = cutover()
    gone = Readiness(0, 2, "", 10 * SETTLE_S)
    verdicts = [decided.decide(101.0, gone, Readiness(0, 2, failure)) for failure in ("not a model", "")]
    assert [(verdict.done, verdict.failure) for verdict in verdicts] == [(False, "not a model")] * 2
    assert decided.decide(101.0, gone, Readiness(1, 2)) == (True, 1, "")


def test_a_target_that_takes_too_long_gets_requests_once_it_has_one_replica() -> None:
    late = [cutover().decide(220.0, Readiness(3, 5), Readiness(loaded, 5)) for loaded in (0, 1)]
    assert [verdict.done for verdict in late] == [False, True]


def test_a_target_that_fails_gets_none_and_says_why() -> None:
    verdict = cutover().decide(10_000.0, Readiness(1, 2), Readiness(0, 2, "not a model"))
    assert (verdict.done, verdict.failure) == (False, "not a model")


COUNTS = st.integers(0, 6)
READINESS = st.builds(Readiness, COUNTS, COUNTS, st.sampled_from(["", "broken"]), st.floats(0, 60))


@given(READINESS, READINESS, st.floats(0, 1_000))
def test_requests_never_leave_a_loaded_version_for_one_that_is_not(
    serving: Readiness, target: Readiness, after_s: float
) -> None:
    verdict = cutover().decide(100.0 + after_s, serving, target)
    assert not verdict.done or target.loaded or (serving.absent_s >= SETTLE_S and not serving.loaded)
    assert verdict.replicas >= 1
    assert not (verdict.done and verdict.failure)
