"""Calls that no replica takes now: who waits, who is refused, who goes next, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.registry.v1 import manifest_pb2
from headrace_common import catalogue
from headrace_common.errors import DeviceUnavailable, HeadraceError, InternalError, ModelError, RunnerUnavailable
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

FAILURES: tuple[HeadraceError | None, ...] = (
    None,
    None,
    DeviceUnavailable("full", entry=catalogue.DEVICE_OUT_OF_MEMORY),
    RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED),
    ModelError("broken", entry=catalogue.MODEL_EXECUTION_FAILED),
    InternalError("no idea"),
)


class Stage:
    """A gateway, with one call at a time for everybody unless a test says otherwise."""

    def __init__(self, *, room: int = 50, calls: int = 1, runner_calls: int = 100, streams: int = 100) -> None:
        limits = ResilienceLimits(
            model_calls_max=calls,
            tenant_calls_max=calls,
            runner_calls_max=runner_calls,
            waiting_room=room,
            stream_calls_max=streams,
        )
        self.core = GatewayCore(limits=limits)
        self.runner = self.core.join()
        self.ended: list[tuple[str, str]] = []

    def register(self, model: str = "m", tenant_id: str = "acme") -> str:
        uid = self.core.register(model, tenant_id=tenant_id)
        self.runner.loaded(uid)
        return uid

    def begin(
        self,
        name: str,
        *,
        model: str = "m",
        tenant_id: str = "acme",
        priority: int = 5,
        timeout_s: float = 30.0,
        windowed: bool = False,
        sequence: str = "",
    ) -> InferenceCall:
        """Begins a call whose request id is `name`."""

        def ended(_call: InferenceCall, outcome: Outcome) -> None:
            self.ended.append((name, outcome.reason if isinstance(outcome, HeadraceError) else "OK"))

        request = oip.ModelInferRequest(model_name=model)
        if sequence:
            request.parameters["sequence_id"].string_param = sequence
        caller = Caller(tenant_id, name, "", timeout_s, priority)
        return self.core.handler.begin(request.SerializeToString(), caller, ended, windowed=windowed)

    def serve(self) -> list[str]:
        """Answers calls one by one until none is left, and returns them in the order in which the runner got them."""
        order: list[str] = []
        while calls := self.runner.received():
            order.append(calls[0].request_id)
            self.runner.answer(calls[0])
        return order


async def test_the_most_urgent_goes_first_and_equals_in_the_order_in_which_they_came() -> None:
    stage = Stage()
    stage.register()
    for name, priority in (("now", 0), ("a5", 5), ("b9", 9), ("c5", 5), ("d9", 9), ("e0", 0)):
        stage.begin(name, priority=priority)
    assert stage.serve() == ["now", "b9", "d9", "a5", "c5", "e0"]


async def test_no_call_waits_for_ever_however_many_more_urgent_ones_come() -> None:
    stage = Stage()
    stage.register()
    stage.begin("now", priority=9)
    stage.begin("low", priority=0)
    seen: list[str] = []
    for number in range(100):
        stage.begin(f"h{number}", priority=9)
        stage.core.pass_time(0.1)
        (call,) = stage.runner.received()
        seen.append(call.request_id)
        stage.runner.answer(call)
    assert 85 <= seen.index("low") <= 95


async def test_a_call_that_is_sent_again_goes_before_its_equals() -> None:
    stage = Stage(calls=2)
    other = stage.core.join("other")
    uid = stage.register()
    other.loaded(uid)
    for number in range(5):
        stage.begin(f"c{number}")
    holder = stage.runner if stage.runner.received() else other
    (first, *_) = holder.received()
    stage.core.dispatcher.health.traffic.models[uid].sent += 1
    holder.answer(first, failure=RunnerUnavailable("lost", entry=catalogue.RUNNER_LOST))
    assert next(iter(stage.core.dispatcher.health.traffic.models[uid].line)).request_id == first.request_id


async def test_a_model_that_is_stuck_does_not_hold_up_the_others_of_its_tenant() -> None:
    stage = Stage()
    stage.core = GatewayCore(limits=ResilienceLimits(model_calls_max=2, tenant_calls_max=10))
    stage.runner = stage.core.join()
    for model in ("m", "n"):
        stage.register(model)
        for number in range(4):
            stage.begin(f"{model}{number}", model=model)
    traffic = stage.core.dispatcher.health.traffic.models
    traffic["acme/n/1"].sent -= 2
    stage.core.dispatcher.line.tick(stage.core.clock.monotonic())
    traffic["acme/n/1"].sent += 2
    assert len(traffic["acme/n/1"].line) == 0, "all that may go do so in one round"
    assert len(traffic["acme/m/1"].line) == 2


async def test_a_call_of_a_sequence_does_not_wait_behind_calls_that_wait_for_another_replica() -> None:
    stage = Stage(calls=100, runner_calls=4)
    other = stage.core.join("other")
    manifest = manifest_pb2.Manifest(backend="onnxruntime")
    manifest.sequence.SetInParent()
    uid = stage.core.register("m", manifest=manifest)
    for runner in (stage.runner, other):
        runner.loaded(uid)
    stage.begin("s0", sequence="s0")
    model = stage.core.dispatcher.health.traffic.models[uid]
    number = 0
    while not model.line:
        number += 1
        stage.begin(f"s{number}", sequence=f"s{number}")
    had = [len(runner.received()) for runner in (stage.runner, other)]
    assert max(had) == 4 > min(had)
    for number in range(100, 110):
        stage.begin(f"s{number}", sequence=f"s{number}")
    assert [len(runner.received()) for runner in (stage.runner, other)] == [4, 4]


async def test_a_call_whose_time_does_not_suffice_any_more_is_told_so_before_its_deadline() -> None:
    stage = Stage()
    stage.register()
    stage.begin("now")
    stage.begin("patient")
    stage.begin("short", timeout_s=2.0, priority=4)
    stage.core.pass_time(1.5)
    stage.runner.answer(stage.runner.received()[0])
    stage.core.pass_time(0.1)
    assert stage.ended == [("now", "OK"), ("short", "DEADLINE_UNREACHABLE")]


async def test_calls_that_wait_for_a_load_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    core = GatewayCore()
    core.join()
    core.register("m")
    asked: list[object] = []
    eligible = core.directory.eligible
    monkeypatch.setattr(core.directory, "eligible", lambda version: asked.append(version) or eligible(version))
    request = oip.ModelInferRequest(model_name="m").SerializeToString()
    core.handler.begin(request, Caller("acme", "r", "", 30.0), lambda _call, _outcome: None)
    first = len(asked)
    for _ in range(20):
        core.handler.begin(request, Caller("acme", "r", "", 30.0), lambda _call, _outcome: None)
    assert len(asked) == first > 0


async def test_a_full_room_gives_up_its_least_urgent_for_a_more_urgent_call_and_refuses_others() -> None:
    stage = Stage(room=2)
    stage.register()
    for name, priority in (("now", 5), ("a", 3), ("b", 3)):
        stage.begin(name, priority=priority)
    stage.begin("urgent", priority=4)
    assert stage.ended == [("b", "LOAD_SHED")]
    for priority in (3, 2):
        with pytest.raises(HeadraceError) as caught:
            stage.begin("late", priority=priority)
        assert (caught.value.reason, caught.value.context) == ("CONCURRENCY_EXCEEDED", {"scope": "model", "limit": 3})
        assert caught.value.retryable
    assert stage.serve() == ["now", "urgent", "a"]


async def test_one_models_room_being_full_does_not_fill_another_models() -> None:
    limits = ResilienceLimits(model_calls_max=1, tenant_calls_max=10, waiting_room=1)
    stage = Stage()
    stage.core = GatewayCore(limits=limits)
    stage.runner = stage.core.join()
    stage.register("m")
    stage.register("n")
    stage.begin("m1")
    stage.begin("m2")
    with pytest.raises(HeadraceError) as caught:
        stage.begin("m3")
    assert caught.value.context["scope"] == "model"
    stage.begin("n1", model="n")
    assert sorted(stage.serve()) == ["m1", "m2", "n1"]


async def test_a_streams_calls_never_fill_the_room_of_unary_calls() -> None:
    stage = Stage(room=2, streams=100)
    stage.register()
    for number in range(50):
        stage.begin(f"s{number}", windowed=True)
    stage.begin("u1")
    stage.begin("u2")
    with pytest.raises(HeadraceError, match="CONCURRENCY_EXCEEDED"):
        stage.begin("u3")
    assert len(stage.serve()) == 52


async def test_tenants_take_turns_at_a_runner_however_many_calls_one_of_them_has() -> None:
    stage = Stage(calls=100, runner_calls=1)
    stage.register("m")
    stage.register("n")
    stage.register("m", tenant_id="other")
    for number in range(20):
        stage.begin(f"a{number}", model="mn"[number % 2])
    for number in range(3):
        stage.begin(f"b{number}", tenant_id="other")
    turns = [index for index, name in enumerate(stage.serve()) if name[0] == "b"]
    assert turns in ([1, 3, 5], [2, 4, 6])


async def test_a_place_that_one_model_has_no_use_for_goes_to_the_next_at_once() -> None:
    stage = Stage()
    stage.core = GatewayCore(limits=ResilienceLimits(model_calls_max=1, tenant_calls_max=2))
    stage.runner = stage.core.join()
    for model in ("m", "n"):
        stage.register(model)
        for number in range(3):
            stage.begin(f"{model}{number}", model=model)
    while calls := stage.runner.received():
        assert len(calls) == len({call.version_uid for call in calls})
        left = {name[0] for name in ("m0", "m1", "m2", "n0", "n1", "n2") if name not in dict(stage.ended)}
        assert {call.version_uid[5] for call in calls} == left, "both models are always served"
        stage.runner.answer(calls[0])
    assert len(stage.ended) == 6


async def test_another_tenant_finds_a_place_at_a_runner_that_one_has_all_to_itself() -> None:
    stage = Stage(calls=100, runner_calls=10)
    stage.register("m")
    stage.register("m", tenant_id="other")
    stage.begin("b", tenant_id="other")
    for number in range(30):
        stage.begin(f"a{number}")
    assert len(stage.runner.received()) == 8, "the last two places are not for the one that has more than its share"
    stage.begin("b2", tenant_id="other")
    assert "b2" in [call.request_id for call in stage.runner.received()]


async def test_a_call_that_would_miss_its_deadline_behind_the_others_is_refused_at_once() -> None:
    stage = Stage()
    stage.register()
    for number in range(40):
        stage.begin(f"w{number}")
    for _ in range(10):
        stage.core.pass_time(0.1)
        stage.runner.answer(stage.runner.received()[0])
    with pytest.raises(HeadraceError) as caught:
        stage.begin("late", timeout_s=2.0)
    assert caught.value.reason == "DEADLINE_UNREACHABLE"
    assert 6.0 <= float(caught.value.context["needed_s"]) <= 7.0, "twice what it is by the pace of now"
    stage.begin("patient", timeout_s=8.0)
    stage.begin("urgent", timeout_s=2.0, priority=9)


async def test_calls_that_wait_end_at_their_deadline_and_when_they_are_cancelled() -> None:
    stage = Stage()
    stage.register()
    stage.begin("now")
    stage.begin("short", timeout_s=1.0)
    gone = stage.begin("gone", windowed=True)
    stage.core.handler.cancel(gone)
    stage.core.pass_time(1.1)
    assert stage.ended == [("short", "INFERENCE_TIMEOUT")]
    assert stage.serve() == ["now"]
    assert not stage.core.dispatcher.line.models


async def test_a_cancelled_call_at_the_runner_makes_room_for_the_next() -> None:
    stage = Stage()
    stage.register()
    first = stage.begin("first")
    stage.begin("second")
    assert [call.request_id for call in stage.runner.received()] == ["first"]
    stage.core.handler.cancel(first)
    assert [call.request_id for call in stage.runner.received()] == ["first", "second"]


class Gateway(RuleBasedStateMachine):
    """Anything that can happen, in any order: each call ends once, and what was taken is given back."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        limits = ResilienceLimits(
            model_calls_max=4, tenant_calls_max=6, runner_calls_max=5, waiting_room=3, stream_calls_max=12
        )
        self.core = GatewayCore(limits=limits)
        self.runners: list[Runner] = []
        self.joined = 0
        self.open: dict[int, InferenceCall] = {}
        self.begun = 0
        self.ends: dict[int, int] = {}
        self.versions = [
            self.core.register("m"),
            self.core.register("hedged", manifest=_hedged()),
            self.core.register("m", tenant_id="other"),
        ]
        self._join()

    def _part(self) -> None:
        for runner in [runner for runner in self.runners if runner.session.closed.is_set()]:
            self.runners.remove(runner)
            self.run(partial(self.core.directory.remove, runner.session))

    def _join(self) -> None:
        runner = self.core.join(f"runner-{self.joined}")
        self.joined += 1
        for uid in self.versions:
            runner.loaded(uid)
        self.runners.append(runner)

    def run(self, action: Callable[[], object]) -> None:
        """Does something as the event loop would, and then what that has put off."""

        async def act() -> None:
            action()

        self.loop.run_until_complete(act())
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule(
        tenant=st.sampled_from(("acme", "other")),
        model=st.sampled_from(("m", "hedged")),
        priority=st.integers(0, 9),
        windowed=st.booleans(),
        timeout_s=st.sampled_from((0.05, 1.0, 30.0)),
    )
    def begin(self, tenant: str, model: str, priority: int, windowed: bool, timeout_s: float) -> None:
        self.begun += 1
        number = self.begun

        def ended(_call: InferenceCall, _outcome: Outcome) -> None:
            self.ends[number] = self.ends.get(number, 0) + 1
            self.open.pop(number, None)

        request = oip.ModelInferRequest(model_name="m" if tenant == "other" else model).SerializeToString()

        def begin() -> None:
            caller = Caller(tenant, "r", "", timeout_s, priority)
            try:
                self.open[number] = self.core.handler.begin(request, caller, ended, windowed=windowed)
            except HeadraceError:
                self.ends[number] = 1

        self.run(begin)

    @precondition(lambda self: any(runner.received() for runner in self.runners))
    @rule(pick=st.integers(0, 99), failure=st.sampled_from(FAILURES))
    def answer(self, pick: int, failure: HeadraceError | None) -> None:
        calls = [(runner, call) for runner in self.runners for call in runner.received()]
        runner, call = calls[pick % len(calls)]
        self.run(lambda: runner.answer(call, failure=failure))
        self._part()

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        number = sorted(self.open)[pick % len(self.open)]
        call = self.open.pop(number)
        self.run(lambda: self.core.handler.cancel(call))
        self._part()
        self.ends[number] = self.ends.get(number, 0) + 1

    @rule(seconds=st.sampled_from((0.03, 0.2, 1.5)))
    def pass_time(self, seconds: float) -> None:
        self.run(lambda: self.core.pass_time(seconds))
        self._part()

    @precondition(lambda self: len(self.runners) < 3)
    @rule()
    def runner_comes(self) -> None:
        self.run(self._join)

    @precondition(lambda self: self.runners)
    @rule(drains=st.booleans())
    def runner_leaves(self, drains: bool) -> None:
        session = self.runners[0].session
        self.run(session.release if drains else session.close)
        self._part()

    @invariant()
    def books_are_right(self) -> None:
        if not hasattr(self, "core"):
            return
        assert all(count == 1 for count in self.ends.values())
        assert len(self.ends) + len(self.open) == self.begun
        traffic = self.core.dispatcher.health.traffic
        for model in traffic.models.values():
            own = [call for call in self.open.values() if call.version is model.version]
            copies = sum(call.hedge is not None for call in own)
            assert model.sent == sum(call.replica is not None for call in own) + copies
            assert model.sent == sum(replica.in_flight for replica in model.replicas.values())
            assert set(model.line) == {call for call in own if call.waits_since}
            assert set(model.room) == {call for call in own if call.waits_since and not call.windowed}
            assert model.sent <= 4
            assert all((call.replica is not None) + bool(call.waits_since) + bool(call.retry_at) <= 1 for call in own)
        for tenant in traffic.tenants.values():
            models = [model for model in traffic.models.values() if model.tenant is tenant]
            assert (
                tenant.sent == sum(model.sent for model in models) == sum(held.count for held in tenant.held.values())
            )
            assert len(tenant.room) + len(tenant.hall) == sum(len(model.line) for model in models)
        for runner in self.runners:
            assert runner.session.calls.in_flight <= 5

    def teardown(self) -> None:
        if hasattr(self, "core"):
            for call in list(self.open.values()):
                self.run(partial(self.core.handler.cancel, call))
            traffic = self.core.dispatcher.health.traffic
            assert all(model.idle for model in traffic.models.values())
            assert self.core.payloads.held_bytes == 0
            assert not self.core.dispatcher.line.models
            self.loop.close()


def _hedged() -> manifest_pb2.Manifest:
    manifest = manifest_pb2.Manifest(backend="onnxruntime", batched=True)
    manifest.routing.hedge_after.FromMilliseconds(50)
    return manifest


TestGateway = Gateway.TestCase
TestGateway.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
