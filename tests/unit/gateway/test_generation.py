"""Calls that are answered in parts: what the client hears, and what becomes of them when a runner is lost."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, ModelError, RunnerUnavailable
from headrace_common.lanes import LaneViolation
from headrace_gateway.inference.call import Caller
from headrace_gateway.inference.generation.unread_parts import UnreadParts
from headrace_gateway.inference.outlook import shutting_down
from inference import open_inference_pb2 as oip
from support.generated_texts import asked, delta, last, progress
from support.generation_stage import GenerationStage as Stage

SCHEMA = generation.SamplingParameters(json_schema="{}")
PROCESS_LOST = RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST)


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
    "parts",
    [
        [delta("", 2)],
        [delta("b", 2, finish=generation.FINISH_REASON_STOP)],
        [delta("b"), delta("c", 2)],
        [delta("b", 2, untold=1), delta("c", 3)],
    ],
    ids=["held back", "ended", "without tokens", "with fewer tokens"],
)
async def test_nobody_goes_on_after_what_is_no_whole_beginning(parts: list[bytes]) -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    for part in (delta("a", 1), *parts):
        runner.part(call, part)
    stage.lose(runner, call)
    assert (stage.reason, stage.token_ids[:2]) == ("GENERATION_INTERRUPTED", [1, 2])


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
    meters = stage.begin().meters.generation
    runner, call = stage.at()
    stage.core.pass_time(3.0)
    runner.part(call, delta("a", 1))
    runner.part(call, delta("b", 2))
    if failure is None:
        stage.lose(runner, call)
    else:
        runner.answer(call, failure=failure)
    assert stage.outcome is None
    other, again = stage.at()
    assert other is not runner
    assert meters.failovers == {"continued": 0, "interrupted": 0}, "nothing came of it yet"
    assert (asked(again).request.text, list(asked(again).emitted)) == ("once", [1, 2])
    named = generation.GenerateResponse.FromString(delta("c", 3))
    named.model_name = "m"
    stage.core.pass_time(0.2)
    other.part(again, progress(10))
    other.part(again, named.SerializeToString())
    other.answer(again, last("d", 4, completion=2))
    assert (stage.text, stage.token_ids) == ("abcd", [1, 2, 3, 4])
    assert [message.model_name for message in stage.messages] == ["m", "", "", ""]
    assert not any(message.HasField("progress") for message in stage.messages)
    assert meters.failovers == {"continued": 1, "interrupted": 0}
    assert other.session.work.version(stage.uid).latency_s == pytest.approx(0.2), "its own, not that of the lost one"
    end = stage.messages[-1]
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
    assert end.timings.time_to_first_token.ToMilliseconds() == pytest.approx(3_000, abs=1)
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


async def test_the_rest_of_a_text_waits_where_a_runner_is_full() -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    stage.lose(runner, call)
    full = RunnerUnavailable("full", entry=catalogue.RUNNER_OVERLOADED)
    for _ in range(4):
        other, again = stage.at()
        assert list(asked(again).emitted) == [1]
        other.answer(again, failure=full)
        assert stage.outcome is None
        stage.core.pass_time(3.0)
    other, again = stage.at()
    other.answer(again, last("b", 2))
    assert stage.text == "ab"
    stage.outcome = None
    stage.begin()
    other, call = stage.at()
    other.answer(call, failure=full)
    assert stage.reason == "RUNNER_OVERLOADED", "one that has not begun is told so at once"


@pytest.mark.parametrize("end", [b"\xff", last("b", 2, completion=(1 << 32) - 1)], ids=["bytes", "usage"])
async def test_an_end_that_cannot_be_is_told_as_a_failure(end: bytes) -> None:
    stage = Stage()
    stage.begin()
    runner, call = stage.at()
    runner.part(call, delta("a", 1))
    stage.lose(runner, call)
    other, again = stage.at()
    other.answer(again, end)
    assert (stage.reason, stage.core.payloads.held_bytes) == ("INTERNAL_ERROR", 0)


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
