"""What becomes of calls when runners fail: retries, breakers, ejections, hedges."""

from __future__ import annotations

import asyncio

import pytest

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import (
    DeviceUnavailable,
    HeadraceError,
    InternalError,
    ModelError,
    RunnerUnavailable,
    TensorError,
)
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from support.failing_runners import Stage, assert_idle, heartbeat, pass_with_heartbeats, sample

OUT_OF_MEMORY = DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY)
OVERLOADED = RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED)
DRAINING = RunnerUnavailable("leaving", entry=catalogue.RUNNER_DRAINING)
BROKEN = ModelError("broken", entry=catalogue.MODEL_EXECUTION_FAILED)
NO_BUDGET = ResilienceLimits(retry_ratio=0.0, retry_floor_per_s=0.0)


async def test_calls_of_a_lost_runner_move_at_once_whatever_is_left_of_the_budget() -> None:
    stage = Stage(limits=NO_BUDGET)
    told = [stage.begin() for _ in range(60)]
    lost, other = stage.runners
    had = len(lost.received())
    lost.session.close()
    attempts = 0
    while calls := other.received():
        attempts += sum(call.attempt for call in calls)
        stage.answer_all()
    assert attempts == had
    assert [outcomes.reason for outcomes in told] == ["OK"] * 60
    assert (sample(stage, "headrace_infer_retries_total", reason="RUNNER_LOST") or 0) == had


async def test_a_call_that_two_runners_died_of_is_not_given_a_third() -> None:
    stage = Stage(runners=3)
    told = stage.begin()
    first = stage.holder()
    first.session.close()
    second = stage.holder(but=first)
    second.session.close()
    assert told.reason == "RUNNER_LOST"
    (third,) = (runner for runner in stage.runners if runner not in (first, second))
    assert not third.received()


async def test_where_every_replica_refuses_the_call_pauses_and_gives_up_after_two_retries() -> None:
    stage = Stage()
    told = stage.begin()
    first = stage.holder()
    first.answer(first.received()[0], failure=OUT_OF_MEMORY)
    second = stage.holder()
    assert second is not first, "another one at once"
    second.answer(second.received()[0], failure=OUT_OF_MEMORY)
    assert not any(runner.received() for runner in stage.runners)
    stage.core.pass_time(0.14)
    assert not any(runner.received() for runner in stage.runners), "the second pause is 200 ms, less a quarter"
    stage.core.pass_time(0.2)
    third = stage.holder()
    (call,) = third.received()
    assert call.attempt == 2
    assert call.timeout_ms < 30_000 - 140, "an attempt gets what is left of the deadline"
    third.answer(call, failure=OUT_OF_MEMORY)
    assert told.reason == "DEVICE_OUT_OF_MEMORY"


async def test_no_pause_is_longer_than_the_deadline_and_hints_are_heeded() -> None:
    stage = Stage(runners=1)
    for timeout_s, hint_s, waits in ((0.05, None, False), (2.0, 5.0, False), (10.0, 5.0, True)):
        told = stage.begin(timeout_s=timeout_s)
        hinted = DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY, retry_after_s=hint_s)
        (runner,) = stage.runners
        runner.answer(runner.received()[0], failure=hinted)
        assert bool(told) is not waits
        if waits:
            stage.core.pass_time(4.9)
            assert not runner.received()
            stage.core.pass_time(0.2)
            stage.answer_all()
            assert told.reason == "OK"


async def test_a_refusal_for_load_is_tried_at_each_other_replica_and_told_at_once() -> None:
    stage = Stage()
    told = stage.begin()
    stage.answer_all(OVERLOADED)
    stage.answer_all(OVERLOADED)
    assert told.reason == "RUNNER_OVERLOADED"


async def test_a_refusal_for_load_costs_a_token_only_where_another_replica_takes_the_call() -> None:
    alone, two = Stage(runners=1), Stage(runners=2)
    for stage, counted in ((alone, 0), (two, 1)):
        left = stage.core.dispatcher.budget.left
        stage.begin()
        stage.answer_all(OVERLOADED)
        stage.answer_all()
        assert (sample(stage, "headrace_infer_retries_total", reason="RUNNER_OVERLOADED") or 0) == counted
        assert stage.core.dispatcher.budget.left == pytest.approx(left - 0.9 * counted, abs=0.11)


async def test_what_a_version_had_is_forgotten_when_it_has_left_service_but_not_while_a_call_pauses() -> None:
    stage = Stage(runners=1)
    traffic = stage.core.dispatcher.health.traffic
    other = stage.register("n")
    for model in ("m", "n"):
        stage.begin(model)
        stage.answer_all()
    paused = stage.begin()
    stage.answer_all(DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY, retry_after_s=3.0))
    stage.core.dispatcher.version_left(stage.uid)
    stage.core.pass_time(2.0)
    assert stage.uid in traffic.models, "a call is still to be sent again"
    stage.core.pass_time(1.5)
    stage.answer_all()
    assert paused.reason == "OK"
    stage.core.pass_time(2.5)
    assert set(traffic.models) == {other}
    (tenant,) = traffic.tenants.values()
    assert len(tenant.held) == 1, "the other model's calls are still counted there"
    stage.core.dispatcher.version_left(other)
    stage.core.pass_time(1.5)
    assert (traffic.models, traffic.tenants) == ({}, {})


async def test_the_calls_of_a_runners_sessions_are_shown_as_one_sum() -> None:
    stage = Stage(runners=2, limits=ResilienceLimits(runner_calls_max=30))
    stage.runners[1].session.hello.runner_name = "runner-0"
    for _ in range(40):
        stage.begin()
    assert sum(len(runner.received()) for runner in stage.runners) == 40
    assert all(runner.received() for runner in stage.runners)
    assert sample(stage, "headrace_bulkhead_in_use", scope="runner", name="runner-0") == 40
    labels = {"runner": "runner-0", "tenant": "acme", "model": "m", "version": "1"}
    shown = [
        sample
        for family in stage.core.registry.collect()
        for sample in family.samples
        if sample.name == "headrace_breaker_state" and sample.labels == labels
    ]
    assert len(shown) == 1


async def test_without_budget_no_refusal_is_retried() -> None:
    stage = Stage(limits=NO_BUDGET)
    stage.core.dispatcher.budget.take()
    told = stage.begin()
    stage.answer_all(OVERLOADED)
    assert told.reason == "RUNNER_OVERLOADED"
    assert not any(runner.received() for runner in stage.runners)
    assert sample(stage, "headrace_infer_retries_denied_total") == 1


async def test_calls_of_a_draining_runner_are_not_lost() -> None:
    stage = Stage(limits=NO_BUDGET)
    told = [stage.begin() for _ in range(40)]
    leaving, staying = stage.runners
    calls = leaving.received() or staying.received()
    if not leaving.received():
        leaving, staying = staying, leaving
    for call in calls:
        leaving.answer(call, failure=DRAINING)
    leaving.session.release()
    stage.core.pass_time(0.5)
    assert leaving.session.closed.is_set()
    while staying.received():
        stage.answer_all()
    assert [outcomes.reason for outcomes in told] == ["OK"] * 40


async def test_a_failure_that_is_the_requests_own_is_not_retried() -> None:
    stage = Stage()
    for failure in (BROKEN, TensorError("shape")):
        told = stage.begin()
        stage.answer_all(failure)
        assert told.reason == failure.reason


async def test_a_replica_that_fails_gets_no_calls_until_a_probe_succeeds_twice() -> None:
    stage = Stage(runners=1)
    other = stage.register("other")
    (runner,) = stage.runners
    for _ in range(20):
        stage.begin()
        stage.answer_all(BROKEN)
    with pytest.raises(HeadraceError) as caught:
        stage.begin()
    assert (caught.value.reason, caught.value.retry_after_s) == ("CIRCUIT_OPEN", 5.0)
    assert stage.core.dispatcher.breaker_state(runner.session, stage.uid) == gateway_pb2.BREAKER_STATE_OPEN
    assert stage.core.dispatcher.breaker_state(runner.session, other) == gateway_pb2.BREAKER_STATE_CLOSED
    assert stage.begin("other") == [], "another model of the runner is served"
    stage.answer_all()
    stage.core.pass_time(5.1)
    for _ in range(2):
        told = stage.begin()
        assert stage.core.dispatcher.breaker_state(runner.session, stage.uid) == gateway_pb2.BREAKER_STATE_HALF_OPEN
        with pytest.raises(HeadraceError, match="CIRCUIT_OPEN"):
            stage.begin()
        stage.answer_all()
        assert told.reason == "OK"
    assert stage.core.dispatcher.breaker_state(runner.session, stage.uid) == gateway_pb2.BREAKER_STATE_CLOSED


async def test_a_cancelled_probe_leaves_its_place_to_the_next() -> None:
    stage = Stage(runners=1)
    for _ in range(20):
        stage.begin()
        stage.answer_all(BROKEN)
    stage.core.pass_time(5.1)
    stage.core.handler.cancel(stage.begin().call)
    assert stage.begin() == []


async def test_while_one_breaker_is_open_the_other_replica_takes_all_and_a_probe_goes_to_the_first_that_comes() -> None:
    stage = Stage()
    bad = stage.runners[0]
    for _ in range(200):
        stage.begin()
        for runner in stage.runners:
            for call in runner.received():
                runner.answer(call, failure=BROKEN if runner is bad else None)
        if stage.core.dispatcher.breaker_state(bad.session, stage.uid) == gateway_pb2.BREAKER_STATE_OPEN:
            break
    assert stage.core.dispatcher.breaker_state(bad.session, stage.uid) == gateway_pb2.BREAKER_STATE_OPEN
    for _ in range(10):
        told = stage.begin()
        stage.answer_all()
        assert told.reason == "OK"
        assert told.call.session is not bad.session
    stage.core.pass_time(5.1)
    assert stage.begin().call.session is bad.session


async def test_a_runner_that_fails_for_no_reason_is_ejected_and_comes_back_and_one_always_stays() -> None:
    stage = Stage()
    bad, good = stage.runners
    bad.session.work.version(stage.uid).cost_s = 0.0
    failed = 0
    while bad.session.takes_calls:
        stage.begin()
        for runner in stage.runners:
            for call in runner.received():
                failed += runner is bad
                runner.answer(call, failure=InternalError("no idea") if runner is bad else None)
    assert failed == 5
    for _ in range(5):
        stage.begin()
        stage.answer_all(InternalError("no idea"))
    assert good.session.takes_calls, "never more than half are away"
    bad.session.on_event(heartbeat())
    assert not bad.session.takes_calls, "a heartbeat doesn't bring it back"
    pass_with_heartbeats(stage, 5.3)
    assert bad.session.takes_calls
    assert sample(stage, "headrace_runner_ejections_total", cause="errors") == 1


async def test_a_call_that_waits_for_any_runner_gives_up_after_three_seconds() -> None:
    stage = Stage(runners=0)
    told = stage.begin()
    stage.core.pass_time(2.9)
    assert told == []
    stage.core.pass_time(0.7)
    assert told.reason == "RUNNER_NOT_AVAILABLE"
    assert_idle(stage)


async def test_a_runner_that_comes_takes_all_calls_that_wait() -> None:
    stage = Stage(runners=0)
    told = [stage.begin() for _ in range(50)]
    runner = stage.core.join()
    runner.loaded(stage.uid)
    await asyncio.sleep(0)
    assert len(runner.received()) == 50
    while calls := runner.received():
        runner.answer(calls[0])
    assert {outcomes.reason for outcomes in told} == {"OK"}
    assert_idle(stage)


async def test_a_replica_that_computes_batches_may_have_two_of_them_at_once_within_its_bulkhead() -> None:
    for batched, size, limit in ((True, 0, 90), (True, 40, 80), (False, 40, 32)):
        stage = Stage(runners=1, limits=ResilienceLimits(runner_calls_max=90))
        manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=batched)
        manifest.execution.batching.max_batch_size = size
        uid = stage.register("b", manifest)
        stage.begin("b")
        (replica,) = stage.core.dispatcher.health.traffic.models[uid].replicas.values()
        assert replica.window.limit == limit


async def test_a_replica_that_waits_for_batches_on_purpose_keeps_its_calls() -> None:
    stage = Stage(runners=1, limits=ResilienceLimits(runner_calls_max=90))
    for delay_ms, limit in ((1_000, 32), (0, 4)):
        manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=True)
        manifest.execution.batching.max_batch_size = 2
        manifest.execution.batching.max_queue_delay.FromMilliseconds(delay_ms)
        uid = stage.register(f"delay-{delay_ms}", manifest)
        stage.begin(f"delay-{delay_ms}")
        (replica,) = stage.core.dispatcher.health.traffic.models[uid].replicas.values()
        for step in range(200):
            replica.window.observe(1_000_000, 10_000, step * 0.1)
        assert replica.window.limit == limit
