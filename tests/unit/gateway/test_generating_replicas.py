"""Calls that are answered in parts: which replica gets them, and what they tell about it."""

from __future__ import annotations

import pytest

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace_common import catalogue
from headrace_common.errors import InferenceTimeout, ModelError, RunnerUnavailable
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.mesh.session_calls import Answer
from support.generated_texts import delta, last, progress
from support.generation_stage import GenerationStage as Stage

SCHEMA = generation.SamplingParameters(json_schema="{}")
PROCESS_LOST = RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST)


async def test_long_streams_do_not_make_a_replica_look_slow_or_shrink_its_limit() -> None:
    stage = Stage(runners=1)
    (runner,) = stage.runners
    stage.begin()
    _, call = stage.at()
    stage.core.pass_time(0.1)
    runner.part(call, delta("a", 1))
    stage.core.pass_time(20.0)
    runner.answer(call, last(), compute_us=20_000_000)
    work = runner.session.work.version(stage.uid)
    assert (work.latency_s, work.cost_s) == (pytest.approx(0.1), pytest.approx(0.1))
    meters = stage.core.metrics.peek(stage.core.catalog.resolve("acme", "m", ""))
    assert (meters.ok_count, meters.latency.sum_s, meters.rows) == (1, pytest.approx(0.1), 1)
    assert meters.parts_s == pytest.approx(20.0)


async def test_a_long_prompt_is_no_silence() -> None:
    stage = Stage()
    for _ in range(2):
        stage.begin()
    calls = [(runner, call) for runner in stage.runners for call in runner.received()]
    assert len(calls) == 2
    for runner, call in calls:
        runner.part(call, delta("a", 1))
    (_, waits), (busy, goes_on) = calls
    for _ in range(10):
        stage.core.pass_time(1.0)
        busy.part(goes_on, delta("b", 2))
    states = [stage.core.dispatcher.breaker_state(runner.session, stage.uid) for runner in stage.runners]
    assert states == [gateway_pb2.BREAKER_STATE_CLOSED] * 2
    assert waits


async def test_a_deadline_that_a_long_prompt_misses_opens_no_breaker() -> None:
    stage = Stage(runners=1, limits=ResilienceLimits(breaker_volume=1))
    (runner,) = stage.runners
    stage.begin(timeout_s=2.0)
    stage.core.pass_time(2.1)
    assert stage.reason == "INFERENCE_TIMEOUT"
    stage.outcome = None
    stage.begin(timeout_s=5.0)
    call = runner.received()[-1]
    stage.core.pass_time(4.0)
    runner.answer(call, failure=InferenceTimeout("too late"))
    assert stage.reason == "INFERENCE_TIMEOUT"
    assert stage.core.dispatcher.breaker_state(runner.session, stage.uid) == gateway_pb2.BREAKER_STATE_CLOSED


async def test_a_replica_that_warms_up_is_not_home_to_all_at_once() -> None:
    stage = Stage(runners=1, slots=8)
    stage.core.pass_time(20.0)
    newcomer = stage.join("runner-1")
    begun = [stage.begin(session=str(number)) for number in range(8)]
    assert sum(call.session is newcomer.session for call in begun) == 1
    for call in begun:
        stage.core.handler.cancel(call)
    for runner in (*stage.runners, newcomer):
        for sent in runner.received():
            runner.answer(sent, last())
    stage.core.pass_time(20.0)
    assert sum(stage.begin(session=str(number)).session is newcomer.session for number in range(8)) > 1


async def test_prompts_that_begin_alike_meet_at_one_replica_until_it_is_much_busier() -> None:
    stage = Stage(slots=8)
    calls = [stage.begin(session="s") for _ in range(8)]
    at = [call.session for call in calls]
    assert at[:5] == [at[0]] * 5, "four of eight slots more than the other one"
    assert [at.count(runner.session) for runner in stage.runners] in ([6, 2], [2, 6])
    for call in calls[1:]:
        stage.core.handler.cancel(call)
    for runner in stage.runners:
        for sent in runner.received():
            if sent.id in runner.cancelled:
                runner.answer(sent, last())
    assert stage.begin(session="s").session is at[0]
    spread = {stage.begin(session=str(number)).session for number in range(8)}
    assert len(spread) == 2


async def test_a_replica_gets_twice_its_slots_and_the_others_wait_here() -> None:
    stage = Stage(runners=1, slots=4)
    (runner,) = stage.runners
    begun = [stage.begin() for _ in range(10)]
    assert len(runner.received()) == 8
    # Whole streams take long; that is no reason to think that another one would come too late.
    stage.core.pass_time(20.0)
    begun.append(stage.begin(timeout_s=5.0))
    for call in begun:
        stage.core.handler.cancel(call)
    assert not any(call.waits_since for call in begun if call.replica)


async def test_each_completion_takes_a_place() -> None:
    stage = Stage(slots=4)
    several = stage.begin(session="s", completions=4)
    others = [stage.begin(session="s") for _ in range(4)]
    assert all(call.session is not several.session for call in others), "its slots are taken"
    more = [stage.begin(completions=4) for _ in range(3)]
    assert sum(len(runner.received()) for runner in stage.runners) == 7, "twice the slots of each"
    assert more[-1].waits_since
    for call in (several, *others, *more):
        stage.core.handler.cancel(call)
    for runner in stage.runners:
        for sent in runner.received():
            runner.answer(sent, last())
        assert runner.session.work.version(stage.uid).places == 0
    assert len({stage.begin(completions=1 << 31).session, stage.begin(completions=1 << 31).session}) == 2


async def test_tokens_close_a_breaker_that_tries_whether_the_replica_works() -> None:
    stage = Stage(runners=1, limits=ResilienceLimits(breaker_volume=1))
    stage.begin()
    runner, call = stage.at()
    runner.answer(call, failure=ModelError("it broke", entry=catalogue.MODEL_EXECUTION_FAILED))
    assert stage.reason == "MODEL_EXECUTION_FAILED"

    def state() -> gateway_pb2.BreakerState.ValueType:
        return stage.core.dispatcher.breaker_state(runner.session, stage.uid)

    assert state() == gateway_pb2.BREAKER_STATE_OPEN
    stage.core.pass_time(5.1)
    stage.outcome = None
    stage.begin()
    _, call = stage.at()
    runner.part(call, progress(50))
    runner.part(call, delta("a", 1))
    runner.part(call, delta("b", 2))
    runner.answer(call, last("c", 3))
    assert state() == gateway_pb2.BREAKER_STATE_HALF_OPEN, "one call is one success"
    stage.outcome = None
    stage.begin()
    _, call = stage.at()
    runner.part(call, delta("a", 1))
    assert state() == gateway_pb2.BREAKER_STATE_CLOSED


async def test_a_process_that_is_started_again_gets_calls_as_soon_as_it_is_there() -> None:
    stage = Stage(runners=1, slots=8, limits=ResilienceLimits(breaker_volume=2))
    for _ in range(3):
        stage.begin()
        runner, call = stage.at()
        runner.answer(call, failure=RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST, retry_after_s=0.1))
        stage.core.pass_time(0.5)
        runner, call = stage.at()
        runner.answer(call, last("a", 1))
        assert isinstance(stage.outcome, Answer)
        stage.outcome = None
