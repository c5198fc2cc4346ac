"""What becomes of calls when runners fail: retries, breakers, ejections, hedges."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.registry.v1 import manifest_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import (
    DeviceUnavailable,
    HeadraceError,
    InternalError,
    ModelError,
    RunnerUnavailable,
    TensorError,
)
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.mesh.session_calls import Answer
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

OUT_OF_MEMORY = DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY)
OVERLOADED = RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED)
DRAINING = RunnerUnavailable("leaving", entry=catalogue.RUNNER_DRAINING)
BROKEN = ModelError("broken", entry=catalogue.MODEL_EXECUTION_FAILED)
NO_BUDGET = ResilienceLimits(retry_ratio=0.0, retry_floor_per_s=0.0)


class Stage:
    """A gateway with runners that all have one model."""

    def __init__(
        self,
        runners: int = 2,
        limits: ResilienceLimits = ResilienceLimits(),  # noqa: B008 - frozen
        *,
        hedge_after_s: float = 0.0,
    ) -> None:
        self.core = GatewayCore(limits=limits)
        manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=True)
        if hedge_after_s:
            manifest.routing.hedge_after.CopyFrom(Duration(nanos=int(hedge_after_s * 1e9)))
        self.runners = [self.core.join(f"runner-{number}") for number in range(runners)]
        self.uid = self.register("m", manifest)

    def register(self, model: str, manifest: manifest_pb2.Manifest | None = None) -> str:
        uid = self.core.register(model, manifest=manifest)
        for runner in self.runners:
            runner.loaded(uid)
        return uid

    def begin(self, model: str = "m", *, timeout_s: float = 30.0, sequence: str = "") -> Outcomes:
        request = oip.ModelInferRequest(model_name=model)
        if sequence:
            request.parameters["sequence_id"].string_param = sequence
        told = Outcomes()
        told.call = self.core.handler.begin(
            request.SerializeToString(),
            Caller("acme", "r", "", timeout_s),
            lambda _call, outcome: told.append(outcome),
        )
        return told

    def holder(self, *, but: Runner | None = None) -> Runner:
        """The runner that has a call."""
        return next(runner for runner in self.runners if runner is not but and runner.received())

    def answer_all(self, failure: HeadraceError | None = None) -> None:
        for runner in self.runners:
            if not runner.session.closed.is_set():
                for call in runner.received():
                    runner.answer(call, failure=failure)


class Outcomes(list[Outcome]):
    """What a caller was told."""

    call: InferenceCall

    @property
    def reason(self) -> str:
        (outcome,) = self
        return outcome.reason if isinstance(outcome, HeadraceError) else "OK"


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


def let_all_answer(stage: Stage, *models: str) -> None:
    """Each runner has answered each model once."""
    for model in models:
        while not all(answered(stage, runner, model) for runner in stage.runners):
            for _ in range(40):
                stage.begin(model)
            stage.answer_all()


def answered(stage: Stage, runner: Runner, model: str) -> bool:
    replica = stage.core.dispatcher.health.traffic.models.get(f"acme/{model}/1")
    found = replica.replicas.get(runner.session.token) if replica is not None else None
    return found is not None and found.ok_at > 0


def fall_silent(stage: Stage, silent: Runner, seconds: float, *models: str, silent_models: tuple[str, ...]) -> None:
    """All but those models of that runner are answered."""
    uids = {f"acme/{model}/1" for model in silent_models}
    for _ in range(int(seconds / 0.25)):
        for model in models:
            for _ in range(3):
                with contextlib.suppress(HeadraceError):
                    stage.begin(model)
        for runner in stage.runners:
            for call in runner.received():
                if runner is not silent or call.version_uid not in uids:
                    runner.answer(call)
        pass_with_heartbeats(stage, 0.25)


async def test_a_runner_that_answers_nothing_while_others_do_is_ejected_within_three_seconds_and_gets_time_after() -> (
    None
):
    stage = Stage()
    stage.register("n")
    let_all_answer(stage, "m", "n")
    silent, other = stage.runners
    fall_silent(stage, silent, 3.0, "m", "n", silent_models=("m", "n"))
    assert not silent.session.takes_calls
    assert other.session.takes_calls
    assert sample(stage, "headrace_runner_ejections_total", cause="silence") == 1
    fall_silent(stage, silent, 5.0, "m", "n", silent_models=("m", "n"))
    assert silent.session.takes_calls, "what it has not answered before is not held against it at once"
    fall_silent(stage, silent, 3.0, "m", "n", silent_models=("m", "n"))
    assert not silent.session.takes_calls


async def test_one_version_that_is_silent_loses_its_replica_and_not_the_runner() -> None:
    stage = Stage()
    stage.register("n")
    let_all_answer(stage, "m", "n")
    silent = stage.runners[0]
    for others in (("m", "n"), ("m",)):
        fall_silent(stage, silent, 3.0, *others, silent_models=("m",))
        assert silent.session.takes_calls
        state = stage.core.dispatcher.breaker_state(silent.session, stage.uid)
        assert state == gateway_pb2.BREAKER_STATE_OPEN


async def test_a_replica_that_has_never_answered_is_given_time() -> None:
    stage = Stage()
    for _ in range(40):
        stage.begin()
    silent = stage.runners[0] if stage.runners[0].received() else stage.runners[1]
    fall_silent(stage, silent, 4.0, "m", silent_models=("m",))
    assert silent.session.takes_calls
    state = stage.core.dispatcher.breaker_state(silent.session, stage.uid)
    assert state == gateway_pb2.BREAKER_STATE_CLOSED


async def test_an_answer_that_takes_its_time_is_raced_by_a_second_replica() -> None:
    stage = Stage(hedge_after_s=0.05)
    told = stage.begin()
    slow = stage.holder()
    stage.core.pass_time(0.04)
    assert sum(len(runner.received()) for runner in stage.runners) == 1
    stage.core.pass_time(0.1)
    fast = stage.holder(but=slow)
    (copy,) = fast.received()
    assert (copy.attempt, copy.tenant_id, copy.version_uid) == (1, "acme", stage.uid)
    assert 29_850 <= copy.timeout_ms <= 29_950
    fast.answer(copy, b"fast")
    (answer,) = told
    assert isinstance(answer, Answer)
    assert (answer.payload, told.call.session) == (b"fast", fast.session)
    slow.received()
    assert slow.cancelled == [slow.received()[0].id]
    slow.answer(slow.received()[0], b"slow")
    assert len(told) == 1
    assert (sample(stage, "headrace_infer_hedges_total"), sample(stage, "headrace_infer_hedges_won_total")) == (1, 1)
    assert_idle(stage)


async def test_the_first_replica_may_still_win_and_a_lost_one_leaves_the_call_to_its_copy() -> None:
    for loses in (False, True):
        stage = Stage(hedge_after_s=0.05)
        told = stage.begin()
        slow = stage.holder()
        stage.core.pass_time(0.15)
        fast = stage.holder(but=slow)
        if loses:
            slow.session.close()
            assert told == []
            stage.answer_all()
        else:
            slow.answer(slow.received()[0])
            fast.received()
            assert len(fast.cancelled) == 1
        assert told.reason == "OK"
        assert len(fast.received()) <= 1
        assert sample(stage, "headrace_infer_hedges_won_total") == loses


async def test_hedges_are_not_sent_without_budget_nor_for_sequences() -> None:
    stage = Stage(limits=NO_BUDGET, hedge_after_s=0.05)
    stage.core.dispatcher.budget.take()
    stage.begin()
    stage.core.pass_time(0.3)
    assert sum(len(runner.received()) for runner in stage.runners) == 1


async def test_a_cancel_reaches_both_copies() -> None:
    stage = Stage(hedge_after_s=0.05)
    told = stage.begin()
    stage.core.pass_time(0.15)
    assert [len(runner.received()) for runner in stage.runners] == [1, 1]
    stage.core.handler.cancel(told.call)
    for runner in stage.runners:
        runner.received()
        assert len(runner.cancelled) == 1
    assert_idle(stage)


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


def heartbeat() -> mesh_pb2.RunnerEvent:
    return mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat())


def pass_with_heartbeats(stage: Stage, seconds: float) -> None:
    while seconds > 0:
        stage.core.pass_time(min(0.25, seconds))
        seconds -= 0.25
        for runner in stage.runners:
            runner.session.on_event(heartbeat())


def sample(stage: Stage, name: str, **labels: str) -> float | None:
    return stage.core.registry.get_sample_value(name, labels)


def assert_idle(stage: Stage) -> None:
    traffic = stage.core.dispatcher.health.traffic
    for model in traffic.models.values():
        assert (model.sent, len(model.line), len(model.room)) == (0, 0, 0)
        assert all(replica.in_flight == 0 for replica in model.replicas.values())
        assert (model.tenant.sent, len(model.tenant.room), len(model.tenant.hall)) == (0, 0, 0)
    assert not stage.core.dispatcher.line.models
