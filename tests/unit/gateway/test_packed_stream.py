"""One packed stream: every call has one answer, whatever else its message holds, and nothing is held without bound."""

from __future__ import annotations

import asyncio
import gc
from random import Random

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.v1 import inference_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import TensorError
from headrace_common.principal import ModelPolicy
from headrace_common.rpc_status import from_status
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.packed_stream import StreamLimits
from support.packed_stage import LIMITS, NAME, Stage, broken_by, call, reason_of, response

TEN_THOUSAND_YEARS_S = 315_576_000_000


async def test_the_first_message_tells_the_limits_and_answers_come_as_they_finish() -> None:
    stage = Stage()
    assert stage.answered() == {}
    assert stage.limits is not None
    assert (stage.limits.calls_max, stage.limits.bytes_max, stage.limits.calls_per_message_max) == (4, 1_000, 8)
    assert (stage.limits.message_bytes_max, stage.limits.default_timeout.ToSeconds()) == (20_000, 30)
    stage.send(call(1), call(2, request_id="mine"), call(2**64 - 1))
    first, second, third = stage.runner.received()
    assert [sent.request_id for sent in (first, second, third)] == ["stream/1", "mine", f"stream/{2**64 - 1}"]
    stage.runner.answer(third, response("c"))
    stage.runner.answer(first, response("a"))
    answers = stage.answered()
    assert list(answers) == [2**64 - 1, 1]
    execution = answers[1].infer.execution
    assert (answers[1].infer.response.id, execution.runner, execution.device_type) == ("a", "runner-0", "cpu")
    assert (execution.queue_time.ToMicroseconds(), execution.compute_time.ToMicroseconds()) == (10, 100)
    assert (stage.stream.in_flight, stage.gate.taken) == (1, 1)
    stage.runner.answer(second, response("b"))
    assert stage.answered()[2].infer.response.id == "b"
    stage.check_idle()


async def test_bad_calls_in_a_message_fail_alone() -> None:
    stage = Stage()
    stage.core.register("theirs", tenant_id="other")
    no_request = pb.StreamRequest(
        calls=[
            call(1),
            call(2, model="absent"),
            call(3, model="theirs"),
            pb.StreamCall(id=4),
            call(5, priority=10),
            call(6, timeout=Duration(seconds=-1)),
            call(7, timeout=Duration()),
        ]
    ).SerializeToString()
    # The eighth call's request is a byte that is no ModelInferRequest.
    list(stage.stream.on_message(no_request + b"\x0a\x07\x08\x08\x12\x03\x0a\x01\xff"))
    (good,) = stage.runner.received()
    assert stage.refusals() == {
        2: "MODEL_NOT_FOUND",
        3: "MODEL_NOT_FOUND",
        4: "FIELD_REQUIRED",
        5: "FIELD_INVALID",
        6: "DEADLINE_ALREADY_OVER",
        7: "DEADLINE_ALREADY_OVER",
        8: "REQUEST_MALFORMED",
    }
    assert (stage.stream.in_flight, stage.gate.taken) == (1, 1)
    stage.runner.answer(good, response())
    assert list(stage.answered()) == [1]
    assert (stage.stream.calls, stage.stream.failures) == (8, 7)
    stage.check_idle()


async def test_what_is_wrong_with_a_call_is_said_with_its_place_in_the_message() -> None:
    stage = Stage()
    stage.send(call(9, model="absent"), pb.StreamCall(id=4), call(5, priority=10))
    answers = stage.answered()
    for call_id, field in ((4, "calls[1].infer"), (5, "calls[2].infer.priority")):
        failure = from_status(answers[call_id].error)
        assert (failure.field, failure.context["field"]) == (field, field)


async def test_a_model_of_another_tenant_is_answered_byte_for_byte_as_one_that_never_existed() -> None:
    stage = Stage()
    stage.core.register("theirs", tenant_id="other")
    stage.send(call(1, model="theirs"), call(2, model="absent"))
    foreign, missing = stage.answered().values()
    assert foreign.error.SerializeToString().replace(b"theirs", b"absent") == missing.error.SerializeToString()


@pytest.mark.parametrize("answered", [False, True])
async def test_an_identifier_in_flight_ends_the_stream_also_when_its_answer_has_not_left(answered: bool) -> None:
    stage = Stage()
    stage.send(call(1))
    if answered:
        stage.runner.answer(stage.runner.received()[0], response())
    failure = broken_by(stage, pb.StreamRequest(calls=[call(2), call(1)]).SerializeToString())
    assert (failure.entry, failure.field) == (catalogue.CALL_ID_IN_USE, "calls[1].id")


async def test_an_identifier_is_free_again_once_its_answer_has_left() -> None:
    stage = Stage()
    for _ in range(3):
        stage.send(call(1))
        stage.runner.answer(stage.runner.received()[0], response())
        assert list(stage.answered()) == [1]
    stage.check_idle()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0a\xff\xff", "REQUEST_MALFORMED"),
        (b"\x0a\x04\x2a\x02\xff\xfe", "REQUEST_MALFORMED"),
        (bytes(LIMITS.message_bytes_max + 1), "MESSAGE_TOO_LARGE"),
        (pb.StreamRequest(calls=[pb.StreamCall(id=n) for n in range(9)]).SerializeToString(), "FIELD_TOO_LONG"),
        (pb.StreamRequest(calls=[call(1), call(1)]).SerializeToString(), "CALL_ID_IN_USE"),
    ],
)
async def test_a_message_that_breaks_the_contract_ends_the_stream_and_cancels_what_is_in_flight(
    message: bytes, reason: str
) -> None:
    stage = Stage()
    stage.send(call(50))
    (running,) = stage.runner.received()
    assert broken_by(stage, message).reason == reason
    stage.runner.received()
    assert stage.runner.cancelled == [running.id]
    assert stage.stream.next_message() is None or stage.answered() == {}


async def test_a_hundred_thousand_tiny_calls_are_refused_before_any_begins() -> None:
    limits = StreamLimits(message_bytes_max=64 << 20, default_timeout_s=30.0)
    stage = Stage(limits=limits)
    other = stage.open(limits)
    message = pb.StreamRequest(calls=[pb.StreamCall(id=n, infer=call(n).infer) for n in range(100_000)])
    failure = broken_by(stage, message.SerializeToString())
    assert (failure.reason, failure.context["limit"]) == ("FIELD_TOO_LONG", 1_024)
    assert "calls" in failure.message
    assert stage.stream.calls == 0
    list(other.on_message(pb.StreamRequest(calls=[call(1)]).SerializeToString()))
    assert len(stage.runner.received()) == 1, "other streams go on"


@pytest.mark.parametrize("size", [2_000, 200_000])
async def test_more_cancels_than_calls_may_be_in_a_message_end_the_stream(size: int) -> None:
    stage = Stage(limits=StreamLimits(message_bytes_max=64 << 20, default_timeout_s=30.0))
    failure = broken_by(stage, pb.StreamRequest(cancels=range(size)).SerializeToString())
    assert (failure.reason, failure.field) == ("FIELD_TOO_LONG", "cancels")


async def test_a_waiting_call_is_cancelled_before_its_task_has_begun_and_after() -> None:
    stage = Stage(loaded=False)
    stage.send(call(1), call(2))
    stage.send(cancels=(1,))
    assert stage.refusals() == {1: "CALL_CANCELLED"}
    await asyncio.sleep(0)
    stage.send(cancels=(2, 2))
    assert stage.refusals() == {2: "CALL_CANCELLED"}
    stage.check_idle()
    await asyncio.sleep(0)
    stage.runner.loaded(stage.uid)
    await asyncio.sleep(0)
    assert stage.runner.received() == []


async def test_a_cancelled_call_is_taken_back_or_cancelled_at_the_runner_and_answered_once() -> None:
    stage = Stage()
    stage.send(call(1))
    (sent,) = stage.runner.received()
    stage.send(call(2), cancels=(1, 2, 77))
    assert stage.refusals() == {1: "CALL_CANCELLED", 2: "CALL_CANCELLED"}
    assert stage.runner.received() == [sent], "the second was never sent"
    assert stage.runner.cancelled == [sent.id]
    stage.runner.answer(sent, response())
    stage.send(cancels=(1, 2))
    assert stage.answered() == {}
    stage.check_idle()


async def test_a_cancel_after_the_answer_changes_nothing() -> None:
    stage = Stage()
    stage.send(call(1))
    stage.runner.answer(stage.runner.received()[0], response("done"))
    stage.send(cancels=(1,))
    assert stage.answered()[1].infer.response.id == "done"
    stage.check_idle()


async def test_a_call_of_another_stream_is_not_cancelled() -> None:
    stage = Stage()
    stage.send(call(1))
    other = stage.open()
    list(other.on_message(pb.StreamRequest(calls=[call(2)], cancels=[1]).SerializeToString()))
    assert len(stage.runner.received()) == 2
    assert (stage.runner.cancelled, stage.stream.in_flight) == ([], 1)


async def test_the_time_of_a_call_passes_and_a_huge_one_is_accepted() -> None:
    stage = Stage()
    stage.send(
        call(1, timeout=Duration(nanos=1)),
        call(2, timeout=Duration(seconds=TEN_THOUSAND_YEARS_S)),
        call(3),
        call(4, timeout=Duration(seconds=2)),
    )
    timeouts_ms = {sent.request_id: sent.timeout_ms for sent in stage.runner.received()}
    assert timeouts_ms == {"stream/1": 0, "stream/2": 86_400_000, "stream/3": 30_000, "stream/4": 2_000}
    for waited_s, expected in ((0.1, {1}), (1.95, {4}), (28, {3}), (3_600, set[int]())):
        stage.core.clock.advance(waited_s)
        stage.core.handler.end_overdue()
        assert stage.refusals() == dict.fromkeys(expected, "INFERENCE_TIMEOUT")
    assert stage.stream.in_flight == 1
    stage.stream.close()
    stage.check_idle()


async def test_a_call_that_waits_for_a_model_times_out_and_leaves_nothing() -> None:
    stage = Stage(loaded=False)
    stage.send(call(1, timeout=Duration(seconds=1)))
    await asyncio.sleep(0)
    stage.core.clock.advance(1.1)
    stage.core.handler.end_overdue()
    assert stage.refusals() == {1: "INFERENCE_TIMEOUT"}
    await asyncio.sleep(0)
    stage.check_idle()


async def test_a_lost_runner_s_calls_go_to_another_one_and_then_fail() -> None:
    stage = Stage()
    stage.send(call(1), call(2))
    second = stage.core.join("runner-1")
    second.loaded(stage.uid)
    stage.runner.session.close()
    assert [sent.attempt for sent in second.received()] == [1, 1]
    second.answer(second.received()[0], response("survivor"))
    second.session.close()
    answers = stage.answered()
    assert answers[1].infer.response.id == "survivor"
    assert reason_of(answers[2].error) == "RUNNER_LOST"
    stage.check_idle()


async def test_the_runner_s_failure_is_the_call_s_answer() -> None:
    stage = Stage()
    stage.send(call(1))
    failure = TensorError("input 'x' is missing", entry=catalogue.TENSOR_MISSING, field="inputs")
    stage.runner.answer(stage.runner.received()[0], failure=failure)
    told = from_status(stage.answered()[1].error)
    assert (told.reason, told.message, told.field) == ("TENSOR_MISSING", "input 'x' is missing", "inputs")
    stage.check_idle()


async def test_closing_cancels_what_waits_and_what_executes() -> None:
    stage = Stage()
    waiting = stage.core.register("unloaded")
    stage.send(call(1), call(2, model="unloaded"), call(3, model="absent"))
    (sent,) = stage.runner.received()
    stage.stream.close()
    stage.stream.close()
    stage.check_idle()
    stage.runner.loaded(waiting)
    await asyncio.sleep(0)
    assert stage.runner.received() == [sent]
    assert stage.runner.cancelled == [sent.id]
    stage.runner.answer(sent, response())
    assert stage.stream.in_flight == 0


async def test_reading_stops_at_so_many_calls_or_bytes_and_goes_on_once_answers_have_left() -> None:
    stage = Stage()
    stage.send(call(1), call(2), call(3), call(4))
    assert not stage.stream.full, "at the limit cancels still pass"
    stage.send(call(5))
    assert stage.stream.full
    first, second, *_ = stage.runner.received()
    stage.runner.answer(first, response())
    stage.runner.answer(second, response())
    assert stage.stream.full, "their answers have not left"
    stage.answered()
    assert not stage.stream.full
    stage.send(call(6, size=2_000), cancels=(3, 4, 5))
    stage.answered()
    assert not stage.stream.full, "a single large one is taken, and can be cancelled"
    stage.send(call(7))
    assert stage.stream.full
    stage.send(cancels=(6,))
    assert not stage.stream.full


async def test_a_client_that_does_not_read_gets_failures_in_place_of_large_answers() -> None:
    stage = Stage()
    stage.send(call(1), call(2), call(3, model="absent"))
    for sent in stage.runner.received():
        stage.runner.answer(sent, response(size=150))
    answers = stage.answered()
    assert len(answers[1].infer.response.raw_output_contents) == 1
    assert reason_of(answers[2].error) == "READER_TOO_SLOW"
    stage.send(call(4))
    stage.runner.answer(stage.runner.received()[0], response(size=150))
    assert answers[1].infer == stage.answered()[4].infer, "there is room again once it has read"


async def test_requests_are_not_held_for_answers_that_wait_to_be_read() -> None:
    stage = Stage()
    stage.send(*(call(number, size=900) for number in range(4)))
    held = [
        found
        for found in gc.get_objects()
        if isinstance(found, InferenceCall) and getattr(found.ended, "__self__", None) is stage.stream
    ]
    assert [len(found.payload) > 900 for found in held] == [True] * 4
    for sent in stage.runner.received():
        stage.runner.answer(sent, response())
    assert not [found for found in held if found.payload]
    assert stage.core.payloads.held_bytes == 0


async def test_calls_of_all_streams_are_bounded_together() -> None:
    stage = Stage(gate=1)
    stage.send(call(1), call(2))
    assert stage.refusals() == {2: "SERVER_OVERLOADED"}
    stage.send(call(3), cancels=(1,))
    assert stage.refusals() == {3: "SERVER_OVERLOADED", 1: "CALL_CANCELLED"}
    stage.check_idle()


async def test_a_draining_stream_says_so_once_answers_what_it_has_and_refuses_the_rest() -> None:
    stage = Stage()
    stage.send(call(1))
    assert (stage.answered(), stage.draining) == ({}, 0)
    stage.stream.drain()
    assert (stage.answered(), stage.draining) == ({}, 1)
    stage.send(call(2))
    stage.stream.refuse_calls()
    stage.send(call(3), cancels=(2,))
    assert stage.refusals() == {3: "SERVER_DRAINING", 2: "CALL_CANCELLED"}
    stage.runner.answer(stage.runner.received()[0], response())
    assert list(stage.answered()) == [1]
    assert (stage.draining, stage.stream.in_flight) == (1, 0)


async def test_a_message_has_so_many_answers_as_fit_and_the_rest_follows() -> None:
    stage = Stage(limits=StreamLimits(message_bytes_max=20_000, default_timeout_s=30.0))
    stage.send(*(call(number) for number in range(40)))
    while received := stage.runner.received():
        stage.runner.answer(received[0], response(size=60_000))
    messages: list[pb.StreamResponse] = []
    while (sent_bytes := stage.stream.next_message()) is not None:
        messages.append(pb.StreamResponse.FromString(sent_bytes))
    assert [len(message.answers) for message in messages] == [17, 17, 6]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_call_has_one_answer_and_nothing_is_left_whatever_happens_in_which_order(seed: int) -> None:
    asyncio.run(_happen(Random(seed)))


async def _happen(random: Random) -> None:
    stage = Stage(limits=StreamLimits(message_bytes_max=20_000, default_timeout_s=30.0, calls_max=64))
    runners = [stage.runner]
    begun = 0
    answered: dict[int, pb.StreamAnswer] = {}
    for _ in range(60):
        match random.randrange(8):
            case 0 | 1 | 2:
                many = range(begun, begun + random.randrange(5))
                begun += len(many)
                models = random.choices([NAME, "absent"], [5, 1], k=len(many))
                timeouts = [Duration(seconds=random.choice([0, 1, 5])) for _ in many]
                stage.send(*(call(n, model=m, timeout=t) for n, m, t in zip(many, models, timeouts, strict=True)))
            case 3 | 4:
                for sent in random.choice(runners).received()[: random.randrange(4)]:
                    holder = next(runner for runner in runners if sent in runner.received())
                    holder.answer(sent, response(sent.request_id))
            case 5:
                stage.send(cancels=tuple(random.choices(range(begun + 1), k=2)))
            case 6:
                stage.core.clock.advance(random.choice([0.1, 1.0]))
                stage.core.handler.end_overdue()
            case _:
                runners.pop(random.randrange(len(runners))).session.close()
                runners.append(stage.core.join(f"runner-{len(stage.core.directory)}-{random.random()}"))
                runners[-1].loaded(stage.uid)
        await asyncio.sleep(0)
        if random.random() < 0.5:
            answered |= stage.answered()
    stage.core.clock.advance(3_600)
    stage.core.handler.end_overdue()
    await asyncio.sleep(0)
    last = stage.answered()
    assert not answered.keys() & last.keys()
    answered |= last
    assert sorted(answered) == list(range(begun))
    for call_id, answer in answered.items():
        assert answer.WhichOneof("outcome") == "error" or answer.infer.response.id == f"stream/{call_id}"
    stage.check_idle()


async def test_stream_of_a_bound_key_calls_the_models_of_its_policies_only() -> None:
    stage = Stage()
    infer = frozenset({"infer"})
    stage.stream = stage.open(policies=(ModelPolicy(actions=infer, models=frozenset({"other"})),))
    stage.send(call(1))
    assert stage.refusals() == {1: "MODEL_NOT_FOUND"}
    stage.stream, stage.limits = stage.open(policies=(ModelPolicy(actions=infer, prefixes=(NAME,)),)), None
    stage.send(call(2))
    assert stage.stream.in_flight == 1
    stage.stream.close()
