"""Calls that are answered in parts: what the client hears, and what becomes of them when a runner is lost."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError, RunnerUnavailable
from headrace_common.lanes import LaneViolation
from headrace_gateway.inference.call import Caller, InferenceCall, Outcome
from headrace_gateway.inference.generation.unread_parts import UnreadParts
from headrace_gateway.inference.outlook import shutting_down
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.mesh.session_calls import Answer
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner
from support.generated_texts import GENERATES, asked, delta, last, progress

SCHEMA = generation.SamplingParameters(json_schema="{}")
PROCESS_LOST = RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST)


class Stage:
    """A model that generates on some runners, and one call of it."""

    def __init__(self, *, runners: int = 2, slots: int = 0, limits: ResilienceLimits = ResilienceLimits()) -> None:  # noqa: B008 - frozen
        self.core = GatewayCore(limits=limits)
        self.slots = slots
        self.uid = self.core.register("m", manifest=GENERATES)
        self.runners = [self.join(f"runner-{number}") for number in range(runners)]
        self.messages: list[generation.GenerateResponse] = []
        self.outcome: Outcome | None = None

    def join(self, name: str) -> Runner:
        runner = self.core.join(name)
        runner.loaded(self.uid, slots=self.slots)
        return runner

    def begin(self, *, model: str = "m", timeout_s: float | None = 30.0, **fields: Any) -> InferenceCall:
        request = generation.GenerateRequest(model_name=model, id="g", text="once", **fields)
        caller = Caller("acme", "r", "", timeout_s)
        return self.core.handler.generate(request.SerializeToString(), caller, self._ended, self._take)

    def _take(self, _call: InferenceCall, message: bytes) -> None:
        self.messages.append(generation.GenerateResponse.FromString(message))

    def _ended(self, _call: InferenceCall, outcome: Outcome) -> None:
        assert self.outcome is None
        self.outcome = outcome
        if isinstance(outcome, Answer):
            self.messages.append(generation.GenerateResponse.FromString(outcome.payload))

    def at(self) -> tuple[Runner, mesh_pb2.Call]:
        """Who has the call now, and the call there."""
        ((runner, call),) = [(runner, call) for runner in self.runners for call in runner.received()]
        return runner, call

    def lose(self, runner: Runner, call: mesh_pb2.Call) -> None:
        runner.forget(call)
        runner.session.close()

    @property
    def text(self) -> str:
        return "".join(delta.text for message in self.messages for delta in message.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token for message in self.messages for delta in message.deltas for token in delta.token_ids]

    @property
    def reason(self) -> str:
        assert isinstance(self.outcome, HeadraceError)
        return self.outcome.reason

    def metric(self, name: str) -> float:
        labels = {"tenant": "acme", "model": "m", "version": "1"}
        value = self.core.registry.get_sample_value(name, labels)
        assert value is not None
        return value


async def test_parts_reach_the_client_as_they_come_and_the_last_one_tells_where_it_ran() -> None:
    stage = Stage(runners=1)
    stage.begin()
    runner, call = stage.at()
    assert asked(call).request.text == "once"
    runner.part(call, progress(50))
    runner.part(call, delta("a", 1))
    assert [len(message.deltas) for message in stage.messages] == [0, 1]
    assert (stage.messages[0].model_name, stage.messages[0].model_version) == ("m", "1")
    runner.part(call, delta("b", 2))
    runner.answer(call, last("c", 3))
    assert (stage.text, stage.token_ids) == ("abc", [1, 2, 3])
    assert all(not message.model_name for message in stage.messages[1:])
    end = stage.messages[-1]
    assert (end.id, end.execution.runner, end.execution.device_type) == ("g", "runner-0", "cpu")
    assert (end.usage.prompt_tokens, end.timings.time_to_first_token.ToMilliseconds()) == (3, 7)
    assert stage.core.payloads.held_bytes == 0


@pytest.mark.parametrize(
    "part", [delta("", 2), delta("b", 2, finish=generation.FINISH_REASON_STOP)], ids=["held back", "ended"]
)
async def test_nobody_goes_on_after_what_is_no_whole_beginning(part: bytes) -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    runner.part(call, part)
    stage.lose(runner, call)
    assert (stage.reason, stage.token_ids) == ("GENERATION_INTERRUPTED", [1, 2])


@pytest.mark.parametrize("fields", [{"continue_elsewhere": False}, {"completions": 2}, {"sampling": SCHEMA}])
async def test_what_cannot_be_continued_is_passed_on_at_once_and_interrupted(fields: dict[str, Any]) -> None:
    stage = Stage()
    stage.begin(**fields)
    runner, call = stage.at()
    runner.part(call, delta("", 1))
    assert stage.token_ids == [1]
    stage.lose(runner, call)
    assert stage.reason == "GENERATION_INTERRUPTED"


async def test_a_runner_lost_before_output_is_as_for_any_call() -> None:
    stage = Stage()
    stage.begin(completions=2)
    runner, call = stage.at()
    runner.part(call, progress(50))
    stage.lose(runner, call)
    runner, again = stage.at()
    assert (again.payload, again.attempt) == (call.payload, 1)
    runner.part(again, progress(70))
    runner.answer(again, last("a", 1))
    assert (stage.text, stage.messages[-1].usage.completion_tokens) == ("a", 1)


@pytest.mark.parametrize("failure", [None, PROCESS_LOST])
async def test_another_runner_goes_on_after_what_the_client_has(failure: HeadraceError | None) -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    runner.part(call, delta("b", 2))
    if failure is None:
        stage.lose(runner, call)
    else:
        runner.answer(call, failure=failure)
    assert stage.outcome is None
    other, again = stage.at()
    assert other is not runner
    assert (asked(again).request.text, list(asked(again).emitted)) == ("once", [1, 2])
    named = generation.GenerateResponse.FromString(delta("c", 3))
    named.model_name = "m"
    other.part(again, progress(10))
    other.part(again, named.SerializeToString())
    other.answer(again, last("d", 4, completion=2))
    assert (stage.text, stage.token_ids) == ("abcd", [1, 2, 3, 4])
    assert [message.model_name for message in stage.messages] == ["m", "", "", ""]
    assert not any(message.HasField("progress") for message in stage.messages)
    end = stage.messages[-1]
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
    assert end.execution.runner == other.session.hello.runner_name


async def test_the_same_runner_goes_on_once_its_model_is_back() -> None:
    stage = Stage(runners=1)
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    runner.answer(call, failure=RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST, retry_after_s=1.0))
    assert not runner.received()
    stage.core.pass_time(1.1)
    runner, again = stage.at()
    assert list(asked(again).emitted) == [1]
    runner.answer(again, last("b", 2))
    assert stage.text == "ab"


async def test_a_third_runner_is_not_given_what_two_were_lost_with() -> None:
    stage = Stage(runners=3)
    stage.begin()
    for number in range(2):
        runner, call = stage.at()
        runner.part(call, delta("a", number))
        stage.lose(runner, call)
    assert stage.reason == "GENERATION_INTERRUPTED"
    assert stage.token_ids == [0, 1]
    assert stage.core.payloads.held_bytes == 0


async def test_a_failure_that_no_other_runner_can_help_with_is_told_as_it_is() -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    runner.answer(call, failure=ModelError("it broke", entry=catalogue.MODEL_EXECUTION_FAILED))
    assert stage.reason == "MODEL_EXECUTION_FAILED"


async def test_the_deadline_ends_a_stream_and_its_call() -> None:
    stage = Stage(runners=1)
    stage.begin(timeout_s=2.0)
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    stage.core.pass_time(2.1)
    assert stage.reason == "INFERENCE_TIMEOUT"
    runner.received()
    assert runner.cancelled == [call.id]
    runner.part(call, delta("b", 2))
    runner.answer(call, last())
    assert stage.text == "a"


async def test_a_text_has_ten_minutes_unless_its_client_states_a_deadline() -> None:
    stage = Stage(runners=1)
    for timeout_s in (None, 5.0, 1e9):
        stage.begin(timeout_s=timeout_s)
    assert [call.timeout_ms for call in stage.runners[0].received()] == [600_000, 5_000, 86_400_000]


@pytest.mark.parametrize(("begun", "reason"), [(False, "SERVER_DRAINING"), (True, "GENERATION_INTERRUPTED")])
async def test_a_server_that_stops_leaves_no_text_without_a_word(begun: bool, reason: str) -> None:
    stage = Stage(runners=1)
    stage.begin()
    runner, call = stage.at()
    if begun:
        runner.part(call, delta("a", 1))
    stage.core.handler.give_up_all(shutting_down())
    assert stage.reason == reason
    runner.received()
    assert (runner.cancelled, stage.core.payloads.held_bytes) == ([call.id], 0)


async def test_a_cancelled_stream_leaves_nothing() -> None:
    stage = Stage(runners=1)
    call = stage.begin()
    runner, sent = stage.at()
    runner.part(sent, delta("a", 1))
    stage.core.handler.cancel(call)
    runner.received()
    assert runner.cancelled == [sent.id]
    assert (stage.outcome, call.meters.in_flight, call.meters.generation.streams) == (None, 0, 0)
    assert runner.session.calls.in_flight == 1, "until the runner says so"
    runner.answer(sent, failure=PROCESS_LOST)
    assert runner.session.calls.in_flight == 0


@pytest.mark.parametrize("kind", ["status", "malformed", "large", "ended", "foreign", "unary"])
async def test_a_part_that_may_not_be_is_a_violation(kind: str) -> None:
    stage = Stage(runners=1)
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    result = mesh_pb2.Result(id=call.id, payload=delta("b", 2))
    match kind:
        case "status":
            result.status = b"x"
        case "malformed":
            result.payload = b"\xff"
        case "large":
            result.payload = delta("x" * (300 << 10))
        case "ended":
            runner.answer(call, last())
        case "foreign":
            result.id += 1
        case _:
            runner.loaded(stage.core.register("other"))
            unary = oip.ModelInferRequest(model_name="other").SerializeToString()
            stage.core.handler.begin(unary, Caller("acme", "r", "", 30.0), lambda _, outcome: None)
            result.id = runner.received()[-1].id
    with pytest.raises(LaneViolation):
        runner.session.on_results(mesh_pb2.ResultFrame(results=[result]))


async def test_a_part_after_an_offered_end_is_a_violation() -> None:
    stage = Stage(runners=1)
    stage.begin()
    runner, call = stage.at()
    offer = mesh_pb2.Result(id=call.id, terminal=True, payload_bytes=1000)
    runner.session.on_results(mesh_pb2.ResultFrame(offers=[offer]))
    with pytest.raises(LaneViolation):
        runner.part(call, delta("a", 1))


async def test_models_and_methods_must_fit() -> None:
    stage = Stage(runners=1)
    stage.core.register("tensors")
    with pytest.raises(ModelError) as refused:
        stage.begin(model="tensors")
    assert (refused.value.reason, refused.value.context["task"]) == ("MODEL_TASK_MISMATCH", "infer")
    request = oip.ModelInferRequest(model_name="m").SerializeToString()
    with pytest.raises(ModelError) as refused:
        stage.core.handler.begin(request, Caller("acme", "r", "", 30.0), lambda _, outcome: None)
    assert (refused.value.reason, refused.value.context["task"]) == ("MODEL_TASK_MISMATCH", "generate")
    with pytest.raises(ModelError) as refused:
        stage.begin(model="absent")
    assert refused.value.reason == "MODEL_NOT_FOUND"


async def test_long_streams_do_not_make_a_replica_look_slow_or_shrink_its_limit() -> None:
    stage = Stage(runners=1)
    (runner,) = stage.runners
    stage.begin()
    _, call = stage.at()
    stage.core.pass_time(0.1)
    runner.part(call, delta("a", 1))
    stage.core.pass_time(20.0)
    runner.answer(call, last())
    work = runner.session.work.version(stage.uid)
    assert work.latency_s == pytest.approx(0.1)
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
    stage.begin()
    _, call = stage.at()
    runner.part(call, delta("a", 1))
    assert state() == gateway_pb2.BREAKER_STATE_HALF_OPEN
    runner.part(call, delta("b", 2))
    assert state() == gateway_pb2.BREAKER_STATE_CLOSED


async def test_what_a_client_leaves_unread_is_bounded_with_what_is_being_written() -> None:
    unread = UnreadParts(bytes_max=1_000)
    assert unread.add(bytes(436)) and unread.add(bytes(436))
    assert await unread.next() == bytes(436)
    assert not unread.add(b""), "the first is being written"
    assert await unread.next() == bytes(436)
    assert unread.add(bytes(400))
    unread.close()
    assert [await unread.next(), await unread.next()] == [bytes(400), None]


async def test_what_is_dropped_is_not_held_but_for_what_is_being_written() -> None:
    unread = UnreadParts(bytes_max=1_000)
    assert unread.add(bytes(300)) and unread.add(bytes(300))
    await unread.next()
    unread.drop()
    assert unread.add(bytes(500))
    unread.close()
    assert [await unread.next(), await unread.next()] == [bytes(500), None]


async def test_many_small_messages_are_bounded_like_few_large_ones() -> None:
    unread = UnreadParts(bytes_max=1 << 20)
    assert sum(unread.add(b"x") for _ in range(100_000)) <= 20_000


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
