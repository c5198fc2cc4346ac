"""One ModelStreamInfer stream: each request has one answer, and nothing is held without bound."""

from __future__ import annotations

import gc

import pytest

from headrace_common import catalogue
from headrace_common.errors import HeadraceError, TensorError
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_gateway.inference.call import InferenceCall
from headrace_gateway.inference.generation.answer_parts import UNREAD_BYTES_MAX
from headrace_gateway.inference.packed_stream import StreamLimits
from headrace_gateway.inference.triton_stream import TritonStream
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner
from support.generated_texts import GENERATES

LIMITS = StreamLimits(
    message_bytes_max=1 << 20, default_timeout_s=30.0, calls_max=4, bytes_max=1_000, unread_bytes_max=200
)


class Stage:
    """A stream of the tenant acme, whose model `m` is loaded on one runner."""

    def __init__(
        self,
        *,
        ends_on_error: bool = False,
        tells_execution: bool = False,
        gate: int = 100,
        remaining_s: float | None = None,
    ) -> None:
        self.core = GatewayCore()
        self.runner: Runner = self.core.join()
        self.runner.loaded(self.core.register("m"))
        self.gate = AdmissionGate(limit=gate)
        self.woken = 0
        self.stream = TritonStream(
            inference=self.core.handler,
            gate=self.gate,
            limits=LIMITS,
            principal=Principal(tenant_id="acme", roles=frozenset({"user"}), key_id="k", subject="key:k"),
            request_id="stream",
            traceparent="",
            ends_on_error=ends_on_error,
            tells_execution=tells_execution,
            wake=self._wake,
            remaining_s=lambda: remaining_s,
        )

    def _wake(self) -> None:
        self.woken += 1

    def send(self, request_id: str, *, model: str = "m", size: int = 0, timeout_s: float = 0.0) -> None:
        request = oip.ModelInferRequest(model_name=model, model_version="1", id=request_id)
        if timeout_s:
            request.parameters["timeout"].int64_param = int(timeout_s * 1e6)
        if size:
            request.raw_input_contents.append(bytes(size))
        self.stream.on_message(request.SerializeToString())

    def answered(self) -> list[oip.ModelStreamInferResponse]:
        """What would go to the client now."""
        found: list[oip.ModelStreamInferResponse] = []
        while (message := self.stream.next_message()) is not None:
            found.append(oip.ModelStreamInferResponse.FromString(message))
        return found


def response(request_id: str, size: int = 0) -> bytes:
    return oip.ModelInferResponse(
        model_name="m", model_version="1", id=request_id, raw_output_contents=[bytes(size)]
    ).SerializeToString()


async def test_answers_come_as_they_finish_and_each_is_marked_as_the_last() -> None:
    stage = Stage()
    for name in ("a", "b", "c"):
        stage.send(name)
    first, second, third = stage.runner.received()
    assert [call.request_id for call in (first, second, third)] == ["stream/1", "stream/2", "stream/3"]
    stage.runner.answer(second, response("b", 7))
    stage.runner.answer(first, response("a"))
    answers = stage.answered()
    assert [(answer.error_message, answer.infer_response.id) for answer in answers] == [("", "b"), ("", "a")]
    assert answers[0].infer_response.raw_output_contents == [bytes(7)]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    assert (stage.woken, stage.stream.in_flight, stage.gate.taken) == (2, 1, 1)
    stage.runner.answer(third, response("c"))
    assert len(stage.answered()) == 1
    assert (stage.stream.in_flight, stage.gate.taken) == (0, 0)


async def test_who_asks_is_told_where_each_call_ran_and_nobody_else() -> None:
    for asks in (False, True):
        stage = Stage(tells_execution=asks)
        stage.send("a")
        (call,) = stage.runner.received()
        stage.runner.answer(call, response("a"))
        (answer,) = stage.answered()
        parameters = answer.infer_response.parameters
        names = {"headrace_runner", "headrace_backend", "headrace_device_type", "headrace_queue_us"}
        assert parameters.keys() == {"triton_final_response"} | (names | {"headrace_compute_us"} if asks else set())
        assert not asks or parameters["headrace_runner"].string_param == stage.runner.session.hello.runner_name


async def test_a_failure_is_an_answer_that_names_its_request() -> None:
    stage = Stage()
    stage.send("lost", model="absent")
    stage.send("bad")
    (call,) = stage.runner.received()
    stage.runner.answer(call, failure=TensorError("input 'x' is missing", entry=catalogue.TENSOR_MISSING))
    lost, bad = stage.answered()
    assert (lost.error_message, lost.infer_response.id) == ("model 'absent' was not found", "lost")
    assert (lost.infer_response.model_name, lost.infer_response.model_version) == ("absent", "1")
    assert (bad.error_message, bad.infer_response.id) == ("input 'x' is missing", "bad")
    assert bad.infer_response.parameters["headrace_reason"].string_param == "TENSOR_MISSING"
    assert bad.infer_response.parameters["triton_final_response"].bool_param
    assert (stage.stream.calls, stage.stream.failures, stage.gate.taken) == (2, 2, 0)


async def test_bytes_that_are_no_request_are_answered_like_any_failure() -> None:
    stage = Stage()
    stage.stream.on_message(b"\x0a\xff\xff")
    stage.send("next")
    (answer,) = stage.answered()
    assert answer.infer_response.parameters["headrace_reason"].string_param == "REQUEST_MALFORMED"
    assert len(stage.runner.received()) == 1


async def test_an_overlong_identifier_is_not_sent_back_with_a_failure() -> None:
    stage = Stage()
    stage.send("x" * 10_000, model="absent")
    (answer,) = stage.answered()
    assert (answer.infer_response.id, answer.infer_response.model_name) == ("", "absent")


async def test_a_failure_ends_a_stream_that_wants_it_so() -> None:
    stage = Stage(ends_on_error=True)
    stage.send("running")
    stage.send("lost", model="absent")
    with pytest.raises(HeadraceError) as caught:
        stage.stream.next_message()
    assert caught.value.entry is catalogue.MODEL_NOT_FOUND
    stage.stream.close()
    assert stage.gate.taken == 0
    stage.runner.received()
    assert (stage.runner.cancelled, stage.stream.next_message()) == ([], None), "it was never sent"


async def test_closing_cancels_what_runners_have() -> None:
    stage = Stage()
    stage.send("a")
    stage.send("b")
    first, second = stage.runner.received()
    stage.runner.answer(first, response("a"))
    stage.stream.close()
    stage.runner.received()
    assert stage.runner.cancelled == [second.id]
    assert (stage.gate.taken, stage.stream.in_flight) == (0, 0)
    stage.runner.answer(second, response("b"))
    assert stage.stream.next_message() is None


async def test_reading_stops_at_so_many_calls_and_goes_on_once_answers_have_left() -> None:
    stage = Stage()
    for number in range(4):
        assert not stage.stream.full
        stage.send(str(number))
    assert stage.stream.full
    stage.runner.answer(stage.runner.received()[0], response("0"))
    assert stage.stream.full, "its answer has not left"
    stage.answered()
    assert not stage.stream.full


async def test_reading_stops_at_so_many_bytes() -> None:
    stage = Stage()
    stage.send("a", size=1_200)
    assert stage.stream.full
    stage.runner.answer(stage.runner.received()[0], response("a"))
    assert not stage.stream.full


async def test_a_client_that_does_not_read_gets_failures_in_place_of_large_answers() -> None:
    stage = Stage()
    stage.send("a")
    stage.send("b")
    for call in stage.runner.received():
        stage.runner.answer(call, response("x", 150))
    whole, cut = stage.answered()
    assert (whole.error_message, len(whole.infer_response.raw_output_contents)) == ("", 1)
    assert cut.infer_response.id == "b"
    assert cut.infer_response.parameters["headrace_reason"].string_param == "READER_TOO_SLOW"


@pytest.mark.parametrize("generates", [False, True])
async def test_requests_are_not_held_for_answers_that_wait_to_be_read(generates: bool) -> None:
    stage = Generating() if generates else Stage()
    stage.send("a", size=900)
    held = [
        found
        for found in gc.get_objects()
        if isinstance(found, InferenceCall) and getattr(found.ended, "__self__", None) is stage.stream
    ]
    assert [len(found.payload) > 900 for found in held] == [True]
    stage.runner.answer(stage.runner.received()[0], response("a"))
    assert stage.stream.in_flight == 1
    assert not held[0].payload
    assert held[0].parts is None or not held[0].parts.request


async def test_calls_of_all_streams_are_bounded_together() -> None:
    stage = Stage(gate=1)
    stage.send("a")
    stage.send("b")
    (refused,) = stage.answered()
    assert refused.infer_response.parameters["headrace_reason"].string_param == "SERVER_OVERLOADED"
    assert stage.gate.taken == 1


async def test_a_draining_stream_answers_what_it_has_and_refuses_the_rest() -> None:
    stage = Stage()
    stage.send("a")
    stage.stream.drain()
    stage.send("b")
    stage.stream.refuse_calls()
    stage.send("c")
    (refused,) = stage.answered()
    assert refused.infer_response.id == "c"
    assert refused.infer_response.parameters["headrace_reason"].string_param == "SERVER_DRAINING"
    for call in stage.runner.received():
        stage.runner.answer(call, response("x"))
    assert len(stage.answered()) == 2
    assert not stage.stream.in_flight


class Generating(Stage):
    """The same with a model that generates."""

    def __init__(self, *, remaining_s: float | None = None) -> None:
        super().__init__(remaining_s=remaining_s)
        self.runner.loaded(self.core.register("m", manifest=GENERATES))


def piece(text: bytes) -> bytes:
    """As runners write a part."""
    more = {"triton_final_response": oip.InferParameter(bool_param=False)}
    return oip.ModelInferResponse(id="a", raw_output_contents=[text], parameters=more).SerializeToString()


async def test_a_model_that_generates_answers_in_parts_and_marks_the_last() -> None:
    stage = Generating()
    stage.send("a")
    (call,) = stage.runner.received()
    for text in (b"x", b"y"):
        stage.runner.part(call, piece(text))
    answers = stage.answered()
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [b"x", b"y"]
    assert not any(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    assert (stage.stream.in_flight, stage.gate.taken) == (1, 1)
    stage.runner.answer(call, piece(b"z"))
    (final,) = stage.answered()
    assert final.infer_response.raw_output_contents == [b"z"]
    assert final.infer_response.parameters["triton_final_response"].bool_param
    assert (stage.stream.in_flight, stage.gate.taken) == (0, 0)


async def test_an_answer_that_breaks_off_ends_with_a_failure_that_names_its_request() -> None:
    stage = Generating()
    stage.send("a")
    (call,) = stage.runner.received()
    stage.runner.part(call, piece(b"x"))
    stage.runner.forget(call)
    stage.runner.session.close()
    part, failed = stage.answered()
    assert part.infer_response.raw_output_contents == [b"x"]
    assert failed.infer_response.parameters["headrace_reason"].string_param == "GENERATION_INTERRUPTED"
    assert failed.infer_response.parameters["triton_final_response"].bool_param
    assert (failed.infer_response.id, stage.stream.in_flight) == ("a", 0)


async def test_parts_that_nobody_reads_end_their_call_and_no_other() -> None:
    stage = Generating()
    stage.send("a")
    stage.send("b")
    first, second = stage.runner.received()
    stage.runner.part(second, piece(b"x"))
    while first.id not in stage.runner.cancelled:
        stage.runner.part(first, piece(bytes(100 << 10)))
        stage.runner.received()
    assert stage.gate.taken == 1
    stage.runner.part(second, piece(b"y"))
    kept, failed, more = stage.answered()
    assert (kept.infer_response.raw_output_contents, more.infer_response.raw_output_contents) == ([b"x"], [b"y"])
    assert failed.infer_response.parameters["headrace_reason"].string_param == "READER_TOO_SLOW"
    assert failed.infer_response.id == "a"


async def test_the_calls_of_one_stream_share_what_a_client_may_leave_unread() -> None:
    stage = Generating()
    for name in ("a", "b", "c"):
        stage.send(name)
    calls = stage.runner.received()
    held = 0
    for call in calls * 3:
        stage.runner.received()
        if call.id not in stage.runner.cancelled:
            stage.runner.part(call, piece(bytes(120 << 10)))
    held = sum(
        len(answer.infer_response.raw_output_contents[0]) for answer in stage.answered() if not answer.error_message
    )
    assert len(stage.runner.cancelled) == 1
    assert 0.5 * (1 << 20) < held <= UNREAD_BYTES_MAX


@pytest.mark.parametrize(
    ("remaining_s", "stated_s", "given_s"),
    [(None, 0.0, 600.0), (None, 2_000.0, 2_000.0), (None, 5.0, 5.0), (60.0, 0.0, 60.0), (60.0, 2_000.0, 60.0)],
)
async def test_a_text_has_the_time_that_its_request_states_within_that_of_the_stream(
    remaining_s: float | None, stated_s: float, given_s: float
) -> None:
    stage = Generating(remaining_s=remaining_s)
    stage.send("a", timeout_s=stated_s)
    (call,) = stage.runner.received()
    assert call.timeout_ms == pytest.approx(given_s * 1_000)


async def test_a_call_that_generates_nothing_has_the_time_of_all_calls() -> None:
    stage = Stage(remaining_s=1_000.0)
    stage.send("a")
    stage.send("b", timeout_s=45.0)
    assert [call.timeout_ms for call in stage.runner.received()] == [30_000, 45_000]


async def test_a_stream_that_ends_takes_its_parts_with_it() -> None:
    stage = Generating()
    stage.send("a")
    (call,) = stage.runner.received()
    stage.runner.part(call, piece(b"x"))
    stage.stream.close()
    stage.runner.received()
    assert (stage.runner.cancelled, stage.gate.taken) == ([call.id], 0)
    stage.runner.part(call, piece(b"y"))
    assert stage.answered() == []
