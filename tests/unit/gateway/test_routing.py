"""Which replica gets a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_gateway.inference.replica_choice import FULL_SCAN_MAX
from headrace_gateway.inference.routing_metrics import RoutingMetrics
from headrace_gateway.inference.routing_rules import Policy, RoutingRules
from headrace_gateway.mesh.runner_session import RunnerSession
from support.fleet import UID, Fleet, answer


async def test_least_work_per_execution_slot_wins() -> None:
    fleet = Fleet()
    fleet.join("busy", in_flight=3, slots=1)
    idle = fleet.join("idle", in_flight=4, slots=4)
    assert fleet.choose() is idle


async def test_long_calls_of_another_model_count_for_what_they_take() -> None:
    fleet = Fleet()
    few, many = fleet.join("few", cost_s=0.001), fleet.join("many", cost_s=0.001)
    heavy = mesh_pb2.ModelEvent(version_uid="heavy", state=gateway_pb2.MODEL_STATE_LOADED, execution_slots=1)
    few.on_event(mesh_pb2.RunnerEvent(model=heavy))
    few.observe("heavy", 0.2, answer(0.2))
    few.work.began("heavy")
    for _ in range(20):
        fleet.send(many)
    assert fleet.choose() is many


async def test_calls_that_share_an_execution_share_its_cost() -> None:
    fleet = Fleet()
    batching, single = fleet.join("batching"), fleet.join("single")
    batching.observe(UID, 0.04, answer(0.032, calls=32))
    single.observe(UID, 0.04, answer(0.008))
    fleet.send(single)
    for _ in range(10):
        fleet.send(batching)
    assert fleet.choose() is batching


async def test_lower_latency_wins_between_equally_loaded_replicas() -> None:
    fleet = Fleet()
    fleet.join("slow", cost_s=0.0001, latency_s=0.5)
    fast = fleet.join("fast", cost_s=0.0001, latency_s=0.1)
    assert fleet.choose() is fast


async def test_no_replica_is_no_choice() -> None:
    assert Fleet().choose() is None


async def test_of_many_replicas_the_busiest_is_never_chosen_and_load_spreads() -> None:
    fleet = Fleet(seed=1)
    sessions = [fleet.join(str(index), in_flight=index) for index in range(FULL_SCAN_MAX + 4)]
    chosen = {session.id for session in (fleet.choose() for _ in range(300)) if session is not None}
    assert sessions[-1].id not in chosen
    assert len(chosen) > 4


async def test_replicas_without_credit_or_that_failed_the_call_are_left_out() -> None:
    fleet = Fleet()
    fleet.join("full", credit=100, in_flight=100)
    tried, free = fleet.join("tried"), fleet.join("free")
    assert fleet.choose(usable=lambda session: session is not tried) is free
    assert fleet.choose(fleet.call(payload=bytes(1001))) is None


async def test_short_calls_gather_at_one_replica_and_spread_when_a_millisecond_of_work_lies_there() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.join(name, cost_s=0.0001, latency_s=0.001)
    counts: Counter[str] = Counter()
    for _ in range(16):
        chosen = fleet.choose()
        assert chosen is not None
        counts[chosen.id] += 1
        fleet.send(chosen)
    assert sorted(counts.values()) == [7, 9]


async def test_long_calls_are_spread_one_by_one() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        fleet.join(name, cost_s=0.02)
    chosen = fleet.choose()
    assert chosen is not None
    fleet.send(chosen)
    assert fleet.choose() not in (chosen, None)


async def test_manifest_comes_before_tenant_and_tenant_before_gateway() -> None:
    rules = RoutingRules(policy=Policy.LATENCY, tenant_policies={"acme": Policy.ROUND_ROBIN})
    for fleet, policy in (
        (Fleet(rules, routing=manifest_pb2.RoutingPolicy(choice=manifest_pb2.REPLICA_CHOICE_CHEAPEST)), "cheapest"),
        (Fleet(rules), "round_robin"),
        (Fleet(RoutingRules(policy=Policy.LATENCY, tenant_policies={"b": Policy.CHEAPEST})), "latency"),
        (Fleet(rules, routing=manifest_pb2.RoutingPolicy(choice=99)), "round_robin"),  # pyright: ignore
    ):
        fleet.join("a")
        fleet.choose()
        assert {name for name, count in fleet.router.chosen.items() if count} == {policy}


async def test_latency_policy_prefers_the_fast_until_work_piles_up_there_and_tries_the_slow_again_later() -> None:
    fleet = Fleet(RoutingRules(policy=Policy.LATENCY, slow_start_s=0.0))
    fast, slow = fleet.join("fast", cost_s=0.01), fleet.join("slow", cost_s=0.01, latency_s=0.05)
    assert fleet.choose() is fast
    for _ in range(5):
        fleet.send(fast)
    assert fleet.choose() is slow
    fleet = Fleet(RoutingRules(policy=Policy.LATENCY, slow_start_s=0.0))
    fast, slow = fleet.join("fast", cost_s=0.01), fleet.join("slow", cost_s=0.01, latency_s=0.05)
    for _ in range(60):
        fleet.clock.advance(0.5)
        fast.observe(UID, 0.01, answer(0.01))
        for session in (fast, slow):
            fleet.heartbeat(session)
        if fleet.choose() is slow:
            break
    assert 20.0 < fleet.clock.monotonic() - slow.work.version(UID).ready_at < 30.0, "after two to three half-lives"
    slow.observe(UID, 0.05, answer(0.01))
    assert fleet.choose() is fast, "one answer says that it is still slow"


async def test_cuda_comes_before_cpu_and_cpu_serves_while_cuda_cannot() -> None:
    fleet = Fleet()
    cpu = fleet.join("cpu", cost_s=0.0001)
    cuda = fleet.join("cuda", device="cuda", cost_s=0.0002)
    assert fleet.choose() is cuda
    assert fleet.router.fallbacks == {}
    assert fleet.choose(usable=lambda session: session is not cuda) is cpu
    cuda.eject()
    assert fleet.choose() is cpu
    assert fleet.router.fallbacks == {"cpu": 1}, "an ejected replica is none to fall back from"


async def test_busy_preferred_device_gives_way_once_waiting_takes_four_times_as_long_as_the_other() -> None:
    fleet = Fleet()
    cpu = fleet.join("cpu", cost_s=0.02)
    cuda = fleet.join("cuda", device="cuda", cost_s=0.002)
    for _ in range(40):
        assert fleet.choose() is cuda
        fleet.send(cuda)
    fleet.send(cuda)
    assert fleet.choose() is cpu
    fleet.send(cpu)
    assert fleet.choose() is cuda


@pytest.mark.parametrize("policy", [Policy.LEAST_COST, Policy.LATENCY, Policy.ROUND_ROBIN])
async def test_strict_chain_leaves_the_preferred_device_only_without_credit(policy: Policy) -> None:
    fleet = Fleet(RoutingRules(policy=policy, device_wait_ratio=0.0))
    cpu = fleet.join("cpu", cost_s=0.001)
    cuda = fleet.join("cuda", device="cuda", cost_s=0.1, credit=50)
    for _ in range(50):
        assert fleet.choose() is cuda
        fleet.send(cuda)
    assert fleet.choose() is cpu


async def test_manifest_orders_devices_for_its_version_and_all_types_can_be_used() -> None:
    fleet = Fleet(device_types=["npu", "cpu"])
    npu = fleet.join("npu", device="npu")
    cpu = fleet.join("cpu")
    cuda = fleet.join("cuda", device="cuda")
    tpu = fleet.join("tpu", device="tpu")
    left = [npu, cpu, cuda, tpu]
    for expected in (npu, cpu):
        assert fleet.choose(usable=lambda session: session in left) is expected
        left.remove(expected)
    assert fleet.choose(usable=lambda session: session in left) in (cuda, tpu)


async def test_cheap_replicas_get_what_can_wait_and_urgent_calls_the_preferred_device() -> None:
    fleet = Fleet(RoutingRules(policy=Policy.CHEAPEST))
    cuda = fleet.join("cuda", device="cuda", cost_s=0.001)
    cpu = fleet.join("cpu", cost_s=0.02)
    spot = fleet.join("spot", cost_s=0.02, labels={"spot": "true"})
    assert fleet.choose() is spot
    assert fleet.choose(usable=lambda session: session is not spot) is cpu
    assert fleet.choose(fleet.call(priority=6)) is spot
    assert fleet.choose(fleet.call(priority=7)) is cuda
    assert fleet.choose(fleet.call(latency_critical=True)) is cuda
    assert fleet.router.fallbacks == {}


async def test_stated_prices_decide_where_all_replicas_state_one() -> None:
    fleet = Fleet(RoutingRules(policy=Policy.CHEAPEST))
    cuda = fleet.join("cuda", device="cuda", labels={"cost_per_hour": "0.4", "spot": "true"})
    cpu = fleet.join("cpu", labels={"cost_per_hour": "1.2"})
    assert fleet.choose() is cuda
    fleet.join("unpriced", device="cuda", labels={"cost_per_hour": "cheap"})
    assert fleet.choose() is cpu, "one that states none is compared by its device"


async def test_cheap_replica_with_a_long_queue_gives_way_to_the_dearer_one() -> None:
    fleet = Fleet(RoutingRules(policy=Policy.CHEAPEST))
    cuda = fleet.join("cuda", device="cuda", cost_s=0.001)
    cpu = fleet.join("cpu", cost_s=0.1, in_flight=10)
    assert fleet.choose(fleet.call(timeout_s=4.5)) is cpu
    assert fleet.choose(fleet.call(timeout_s=4.3)) is cuda


async def test_choices_and_fallbacks_are_told_in_the_metrics() -> None:
    fleet = Fleet()
    registry = CollectorRegistry()
    RoutingMetrics(router=fleet.router, registry=registry)
    fleet.join("cpu")
    cuda = fleet.join("cuda", device="cuda")
    fleet.choose()
    fleet.choose(usable=lambda session: session is not cuda)
    assert fleet.choose(usable=lambda session: False) is None
    assert registry.get_sample_value("headrace_routing_choices_total", {"policy": "least_cost"}) == 2
    assert registry.get_sample_value("headrace_routing_choices_total", {"policy": "latency"}) == 0
    assert registry.get_sample_value("headrace_routing_fallbacks_total", {"device_type": "cpu"}) == 1


async def test_calls_of_other_gateways_count() -> None:
    fleet = Fleet()
    crowded, free = fleet.join("crowded", cost_s=0.01), fleet.join("free", cost_s=0.01)
    fleet.send(free)
    fleet.heartbeat(crowded, in_flight=3, models=[mesh_pb2.ModelLoad(version_uid=UID, in_flight=3)])
    assert fleet.choose() is free
    fleet.heartbeat(crowded, models=[mesh_pb2.ModelLoad(version_uid=UID)])
    assert fleet.choose() is crowded


async def test_new_replica_gets_a_rising_share_and_its_whole_share_after_the_ramp() -> None:
    fleet = Fleet(RoutingRules(slow_start_s=10.0))
    for name in ("a", "b"):
        fleet.join(name, cost_s=0.01)
    fleet.clock.advance(20.0)
    fresh = fleet.join("new", cost_s=0.01)
    shares: list[int] = []
    for _ in range(6):
        shares.append(sum(session is fresh for session in _sent(fleet, 60)))
        fleet.clock.advance(2.0)
    assert shares == sorted(shares)
    assert 2 <= shares[0] <= 4, "a tenth of a third"
    assert shares[-1] == 20


async def test_recovered_replica_ramps_up_and_serves_alone_at_once() -> None:
    fleet = Fleet()
    first, second = fleet.join("a", cost_s=0.01), fleet.join("b", cost_s=0.01)
    fleet.clock.advance(20.0)
    first.eject()
    assert {session.id for session in _sent(fleet, 4)} == {second.id}
    first.restore()
    assert sum(session is first for session in _sent(fleet, 22)) == 2
    second.eject()
    assert fleet.choose() is first


async def test_replicas_that_all_warm_up_share_evenly() -> None:
    fleet = Fleet(RoutingRules(policy=Policy.ROUND_ROBIN))
    for name in ("a", "b", "c"):
        fleet.join(name)
    counts = Counter(session.id for session in _sent(fleet, 30))
    assert set(counts.values()) == {10}


def _sent(fleet: Fleet, count: int) -> list[RunnerSession]:
    """Sends calls and ends them all; who got each."""
    sent = [(session, fleet.send(session)) for session in _chosen(fleet, count)]
    for session, call in sent:
        fleet.finish(session, call)
    return [session for session, _ in sent]


def _chosen(fleet: Fleet, count: int) -> Iterator[RunnerSession]:
    for _ in range(count):
        session = fleet.choose()
        assert session is not None
        yield session


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(list(Policy)),
    replicas=st.lists(
        st.tuples(
            st.sampled_from(["cpu", "cuda", "tpu", "npu", "quantum"]),
            st.integers(0, 6),
            st.sampled_from([None, 0.0001, 0.003, 0.2]),
            st.sampled_from(["usable", "usable", "refused", "ejected", "full"]),
            st.sampled_from([{}, {"spot": "true"}, {"cost_per_hour": "1.5"}]),
        ),
        max_size=12,
    ),
    priority=st.integers(0, 9),
    ages_s=st.lists(st.floats(0.0, 12.0), max_size=4),
    ratio=st.sampled_from([0.0, 1.0, 4.0]),
)
async def test_some_usable_replica_is_always_chosen_and_no_other(
    policy: Policy,
    replicas: list[tuple[str, int, float | None, str, dict[str, str]]],
    priority: int,
    ages_s: list[float],
    ratio: float,
) -> None:
    fleet = Fleet(RoutingRules(policy=policy, device_wait_ratio=ratio))
    usable: set[str] = set()
    refused: set[str] = set()
    for index, (device, in_flight, cost_s, state, labels) in enumerate(replicas):
        credit = in_flight if state == "full" else 10_000
        if index < len(ages_s):
            fleet.clock.advance(ages_s[index])
        session = fleet.join(
            str(index), device=device, credit=credit, in_flight=in_flight, cost_s=cost_s, labels=labels
        )
        if state == "ejected":
            session.eject()
        elif state == "refused":
            refused.add(session.id)
        elif state == "usable":
            usable.add(session.id)
    for _ in range(12):
        chosen = fleet.choose(fleet.call(priority=priority), lambda session: session.id not in refused)
        if not usable:
            assert chosen is None
            return
        assert chosen is not None
        assert chosen.id in usable
        fleet.send(chosen)
        fleet.clock.advance(0.3)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 8), calls=st.integers(1, 60), policy=st.sampled_from([Policy.LEAST_COST, Policy.LATENCY]))
async def test_equal_replicas_differ_by_one_long_call_at_most(count: int, calls: int, policy: Policy) -> None:
    fleet = Fleet(RoutingRules(policy=policy))
    sessions = [fleet.join(str(index), cost_s=0.01) for index in range(count)]
    for _ in range(calls):
        chosen = fleet.choose()
        assert chosen is not None
        fleet.send(chosen)
    in_flight = [session.calls.in_flight for session in sessions]
    assert max(in_flight) - min(in_flight) <= 1
