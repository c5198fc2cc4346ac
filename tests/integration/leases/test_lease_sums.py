"""No interleaving of gateways, losses and clocks lets more through than a limit: books and Valkey's function."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.quota.v1 import quotas_pb2 as pb
from support.lease_world import World, WorldGateway
from support.valkey import running_valkey

GATEWAYS = 3
RATE_PER_S = 20
Steps = list[tuple[str, int, int, float]]
STEP = st.tuples(
    st.sampled_from(
        [
            *("call", "exchange", "end", "lost report", "lost answer", "slow", "late"),
            *("broken", "die", "beat", "beat", "flood", "flood"),
        ]
    ),
    st.integers(0, GATEWAYS - 1),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.3, 1.0, 1.9, 3.5, 7.0]),
)
STEPS = st.lists(STEP, min_size=20, max_size=150)
SKEWS = st.lists(st.sampled_from([-2.0, 0.0, 0.7, 2.0]), min_size=GATEWAYS, max_size=GATEWAYS)
hard = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A server that worlds may empty."""
    with (
        running_valkey() as url,
        redis.Redis.from_url(url, decode_responses=True) as client,  # pyright: ignore[reportUnknownMemberType]
    ):
        yield client


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for futures."""
    with closing(asyncio.new_event_loop()) as loop:
        yield loop


def requests(**fields: Any) -> pb.Limit:
    """A rate of calls."""
    return pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=RATE_PER_S, **fields)


def play(world: World, steps: Steps, skews: list[float]) -> None:
    """Lets the world go through the steps."""
    for skew_s in skews:
        world.join(skew_s)
    for act, number, calls, pause_s in steps:
        step(world, act, number, calls, pause_s, skews)


def step(world: World, act: str, number: int, calls: int, pause_s: float, skews: list[float]) -> None:
    """One thing happens, and then a while nothing."""
    gateway = world.gateways[number]
    if act == "call":
        for _ in range(calls):
            world.call(gateway)
    elif act == "end":
        for _ in range(calls):
            world.end(gateway)
    elif act in ("beat", "flood"):
        everywhere(world, act)
    elif act == "broken":
        world.store_up = not world.store_up
    elif act == "die":
        # Another process takes over, which may know from the spool that this one has ended.
        heir = world.succeed(gateway, skews[number])
        if calls % 2:
            heir.exchange.replace(gateway.name)
    else:
        exchange(world, gateway, act, calls)
    world.advance(pause_s)


def everywhere(world: World, act: str) -> None:
    """What goes on all the time while nothing goes wrong, or as many calls as get in."""
    for _ in range(2):
        world.advance(1.0 if act == "beat" else 0.0)
        for gateway in world.gateways:
            while act == "flood" and world.call(gateway):
                pass
            world.exchange(gateway, waiting=60 if act == "flood" else 0)


def exchange(world: World, gateway: WorldGateway, act: str, waiting: int) -> None:
    """A report and its answer, or what becomes of them on a bad network."""
    world.send(gateway, waiting)
    transit_s = {"slow": 0.4, "late": 1.2}.get(act, 0.0)
    world.advance(transit_s)
    answer = world.process(gateway) if act != "lost report" else None
    world.call(gateway)
    world.advance(transit_s)
    world.receive(gateway, answer if act != "lost answer" else None)


@given(STEPS, SKEWS, st.sampled_from([1, 3, 16, 20, 60]))
@hard
def test_a_rate_lets_no_more_through_than_its_burst_and_what_it_brings(
    client: Any,
    loop: asyncio.AbstractEventLoop,
    steps: Steps,
    skews: list[float],
    burst: int,
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=burst),))
    play(world, steps, skews)
    assert world.worst_burst(RATE_PER_S) <= burst + 1e-6


@given(STEPS, SKEWS, st.sampled_from([1, 5, 20]))
@hard
def test_no_window_has_more_than_a_sliding_limit(
    client: Any, loop: asyncio.AbstractEventLoop, steps: Steps, skews: list[float], amount: int
) -> None:
    limit = requests(algorithm=pb.RATE_ALGORITHM_SLIDING_WINDOW)
    limit.amount = amount
    world = World(client=client, loop=loop, limits=(limit,))
    play(world, steps, skews)
    assert world.most_within(1.0) <= amount


@given(STEPS, SKEWS, st.sampled_from([1, 5, 40]))
@hard
def test_no_more_calls_are_under_way_than_the_limit(
    client: Any, loop: asyncio.AbstractEventLoop, steps: Steps, skews: list[float], amount: int
) -> None:
    limit = pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=amount)
    # Longer than the longest call: what is under way at a gateway that was given up isn't known to anybody.
    world = World(client=client, loop=loop, limits=(limit,), expire_s=3_600.0)
    play(world, steps, skews)
    assert world.most_at_once <= amount


@given(STEPS, SKEWS)
@hard
def test_a_call_is_let_in_only_where_all_its_limits_allow_it(
    client: Any, loop: asyncio.AbstractEventLoop, steps: Steps, skews: list[float]
) -> None:
    limits = (
        requests(burst=30),
        pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=4, model="m", burst=4),
        pb.Limit(resource=pb.RESOURCE_CONCURRENCY, window=pb.WINDOW_MOMENT, amount=3),
    )
    world = World(client=client, loop=loop, limits=limits, expire_s=3_600.0)
    play(world, steps, skews)
    assert world.worst_burst(4) <= 4 + 1e-6
    assert world.most_at_once <= 3


@given(STEPS, STEPS, SKEWS, st.sampled_from([1, 20, 60]))
@hard
def test_a_store_that_forgets_costs_at_most_a_burst(
    client: Any, loop: asyncio.AbstractEventLoop, before: Steps, after: Steps, skews: list[float], burst: int
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=burst),))
    play(world, before, skews)
    client.flushall()
    for act, number, calls, pause_s in after:
        step(world, act, number, calls, pause_s, skews)
    assert world.worst_burst(RATE_PER_S) <= 2 * burst + 1e-6


def test_one_call_a_minute_is_one_call_a_minute_for_all_gateways(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    limit = pb.Limit(resource=pb.RESOURCE_REQUESTS, window=pb.WINDOW_RATE, amount=1, burst=1)
    limit.period.seconds = 60
    world = World(client=client, loop=loop, limits=(limit,))
    for _ in range(5):
        world.join(0.0)
    for _ in range(600):
        world.advance(0.5)
        for gateway in world.gateways:
            world.exchange(gateway, waiting=1)
    assert world.worst_burst(1 / 60) <= 1 + 1e-6
    assert len(world.admitted_s) == 5, "the first at once, then one a minute"


def test_all_gateways_together_use_a_rate_up(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=20),))
    for _ in range(8):
        world.join(0.0)
    for _ in range(1_200):
        world.advance(0.025)
        for gateway in world.gateways:
            if not world.call(gateway) and not world.refused(gateway):
                world.exchange(gateway, waiting=4)
    assert len(world.admitted_s) >= 0.95 * (30 * RATE_PER_S + 20)
    assert world.worst_burst(RATE_PER_S) <= 20 + 1e-6


def test_gateways_on_their_own_go_by_their_shares(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=60),))
    for _ in range(4):
        world.join(0.0)
    for _ in range(5):
        world.advance(1.0)
        for gateway in world.gateways:
            world.exchange(gateway)
    assert [gateway.book.share.part for gateway in world.gateways] == [0.25] * 4
    world.store_up = False
    world.admitted_s.clear()
    for _ in range(200):
        world.advance(0.1)
        for gateway in world.gateways:
            world.exchange(gateway)
            for _ in range(10):
                world.call(gateway)
    begin_s = world.admitted_s[0]
    assert world.now_s - begin_s == pytest.approx(14.0, abs=1.5), "none before the last grant has surely ended"
    assert len(world.admitted_s) == pytest.approx(14 * RATE_PER_S, rel=0.1)


def test_a_gateway_that_comes_back_finds_no_burst_beside_its_share(
    client: Any, loop: asyncio.AbstractEventLoop
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=60),))
    gateway = world.join(0.0)
    for _ in range(5):
        world.advance(1.0)
        world.exchange(gateway)
    world.advance(30.0)
    while world.call(gateway):
        pass
    assert len(world.admitted_s) == 60, "the whole share is this gateway's, and full"
    world.exchange(gateway, waiting=60)
    assert len(world.admitted_s) == 60
    world.advance(1.0)
    world.exchange(gateway, waiting=60)
    world.advance(1.0)
    world.exchange(gateway, waiting=60)
    assert 60 < len(world.admitted_s) <= 60 + 2 * RATE_PER_S


def test_a_share_that_was_used_by_a_gateway_that_died_is_not_there_for_others(
    client: Any, loop: asyncio.AbstractEventLoop
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=60),))
    lost, other = world.join(0.0), world.join(0.0)
    world.exchange(other, waiting=1)
    for _ in range(6):
        world.advance(1.0)
        world.exchange(lost, waiting=1)
        world.exchange(other)
    world.admitted_s.clear()
    for _ in range(20):
        world.advance(1.0)
        world.exchange(other)
    while world.call(lost):
        pass
    assert len(world.admitted_s) == 30, "its half of the burst"
    heir = world.succeed(lost, 0.0)
    heir.exchange.replace(lost.name)
    world.exchange(heir)
    for _ in range(10):
        world.exchange(other, waiting=60)
        while world.call(other):
            pass
    assert world.worst_burst(RATE_PER_S) <= 60 + 1e-6


@pytest.mark.parametrize("algorithm", [pb.RATE_ALGORITHM_GCRA, pb.RATE_ALGORITHM_SLIDING_WINDOW])
def test_a_gateway_that_begins_while_the_store_is_lost_waits_for_what_others_were_granted(
    client: Any, loop: asyncio.AbstractEventLoop, algorithm: pb.RateAlgorithm
) -> None:
    world = World(client=client, loop=loop, limits=(requests(algorithm=algorithm),))
    gateway = world.join(0.0)
    for _ in range(3):
        world.exchange(gateway, waiting=60)
    assert len(world.admitted_s) == RATE_PER_S
    world.store_up = False
    heir = world.succeed(gateway, 0.0)
    heir.exchange.replace(gateway.name)
    world.exchange(heir, waiting=60)
    assert not world.call(heir)
    assert len(world.admitted_s) == RATE_PER_S


def test_a_gateway_that_is_heard_but_hears_nothing_counts_as_out_of_reach(
    client: Any, loop: asyncio.AbstractEventLoop
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=60),))
    deaf, other = world.join(0.0), world.join(0.0)
    for _ in range(6):
        world.advance(1.0)
        world.exchange(deaf)
        world.exchange(other, waiting=1)
    for _ in range(60):
        world.advance(0.5)
        world.send(deaf, waiting=0)
        world.process(deaf)
        world.receive(deaf, None)
        world.exchange(other, waiting=60)
        for gateway in world.gateways:
            while world.call(gateway):
                pass
    assert world.worst_burst(RATE_PER_S) <= 60 + 1e-6
    assert len(deaf.calls) > 0.4 * 22 * RATE_PER_S
    assert len(other.calls) > 0.4 * 30 * RATE_PER_S


def test_what_one_gateway_holds_makes_no_room_for_others_until_it_ends(
    client: Any, loop: asyncio.AbstractEventLoop
) -> None:
    world = World(client=client, loop=loop, limits=(requests(burst=40),))
    holder, other = world.join(0.0), world.join(0.0)
    world.exchange(holder, waiting=30)
    while holder.calls:
        # Never forwarded: the permits are there again, and used only at the end of their time.
        holder.calls.pop().release()
    world.admitted_s.clear()
    world.advance(1.9)
    for _ in range(10):
        world.exchange(other, waiting=40)
    assert len(other.calls) == 10, "the bucket is full with what is held"
    while world.call(holder):
        pass
    assert len(holder.calls) == 30
    assert world.worst_burst(RATE_PER_S) <= 40 + 1e-6
