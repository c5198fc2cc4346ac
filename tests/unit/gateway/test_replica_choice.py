"""Ways to choose one of some replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_gateway.inference.replica_choice import (
    FULL_SCAN_MAX,
    Choice,
    Replica,
    RoundRobin,
    TwoChoices,
    least_cost,
    least_latency,
)
from headrace_gateway.mesh.runner_session import RunnerSession
from support.fleet import UID, Fleet


def replicas_of(fleet: Fleet, count: int) -> list[Replica]:
    sessions = [fleet.join(str(index), cost_s=0.01) for index in range(count)]
    return [Replica(session, session.calls, session.work, session.work.version(UID)) for session in sessions]


def choices(seed: int) -> Sequence[Choice]:
    random = Random(seed)
    return (
        least_cost,
        least_latency,
        TwoChoices(choice=least_cost, random=random),
        TwoChoices(choice=least_latency, random=random),
        RoundRobin(random=random),
    )


def anyone(_session: RunnerSession) -> bool:
    return True


@settings(max_examples=60, deadline=None)
@given(
    usable=st.lists(st.booleans(), max_size=2 * FULL_SCAN_MAX),
    shares=st.lists(st.floats(0.1, 1.0), min_size=2 * FULL_SCAN_MAX, max_size=2 * FULL_SCAN_MAX),
    seed=st.integers(0, 1000),
)
async def test_each_way_finds_a_usable_replica_wherever_there_is_one(
    usable: list[bool], shares: list[float], seed: int
) -> None:
    replicas = replicas_of(Fleet(), len(usable))
    able = {replica.session.token for replica, yes in zip(replicas, usable, strict=True) if yes}
    for replica, own in zip(replicas, shares, strict=False):
        replica.share = own
    for choice in choices(seed):
        for _ in range(3):
            found = choice(replicas, 10, lambda session: session.token in able)
            assert (found is None) if not able else (found is not None and found.session.token in able)


@settings(max_examples=60, deadline=None)
@given(
    in_flight=st.lists(st.integers(0, 9), min_size=1, max_size=FULL_SCAN_MAX),
    costs_ms=st.lists(st.integers(1, 50), min_size=FULL_SCAN_MAX, max_size=FULL_SCAN_MAX),
)
async def test_least_cost_finds_who_is_done_first_to_the_millisecond(in_flight: list[int], costs_ms: list[int]) -> None:
    fleet = Fleet()
    sessions = [
        fleet.join(str(index), cost_s=cost_ms / 1000, in_flight=count)
        for index, (count, cost_ms) in enumerate(zip(in_flight, costs_ms, strict=False))
    ]
    replicas = [Replica(session, session.calls, session.work, session.work.version(UID)) for session in sessions]
    found = least_cost(replicas, 0, anyone)
    assert found is not None
    assert found.done_s < min(replica.done_s for replica in replicas) + 0.001 + 1e-9


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 20), rounds=st.integers(1, 5), seed=st.integers(0, 1000), out=st.integers(0, 19))
async def test_round_robin_gives_each_the_same(count: int, rounds: int, seed: int, out: int) -> None:
    replicas = replicas_of(Fleet(), count)
    turns = RoundRobin(random=Random(seed))
    left_out = replicas[out].session if out < count and count > 1 else None
    able = count - (left_out is not None)
    found = [turns(replicas, 0, lambda session: session is not left_out) for _ in range(rounds * able)]
    counts = Counter(replica.session.id for replica in found if replica is not None)
    assert sorted(counts.values()) == [rounds] * able


async def test_round_robin_gives_one_that_warms_up_its_share() -> None:
    replicas = replicas_of(Fleet(), 4)
    replicas[0].share = 0.25
    turns = RoundRobin(random=Random(1))
    counts = Counter(found.session.id for found in (turns(replicas, 0, anyone) for _ in range(1300)) if found)
    assert counts[replicas[0].session.id] == pytest.approx(100, rel=0.25)


async def test_two_choices_keep_many_replicas_close_together() -> None:
    fleet = Fleet()
    replicas = replicas_of(fleet, 40)
    choice = TwoChoices(choice=least_cost, random=Random(1))
    for _ in range(4000):
        found = choice(replicas, 0, anyone)
        assert found is not None
        fleet.send(found.session)
    in_flight = [replica.session.calls.in_flight for replica in replicas]
    assert max(in_flight) <= 104, "a hundred each; chance alone would give some 125"
    assert min(in_flight) >= 95
