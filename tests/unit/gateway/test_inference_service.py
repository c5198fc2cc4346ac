"""Unary inferences and batches: one outcome each, whoever goes first, and how a request asks for urgency and time."""

from __future__ import annotations

import asyncio

import pytest

from headrace.gateway.internal.v1 import raw_inference_pb2 as raw
from headrace.gateway.v1 import inference_pb2 as pb
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, InferenceTimeout, ValidationError
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import from_status
from headrace_gateway.inference.call import Caller
from headrace_gateway.inference.inference_service import InferenceService
from headrace_gateway.inference.payload_gate import PayloadGate
from inference import open_inference_pb2 as oip
from support.gateway_core import GatewayCore, Runner

CALLER = Caller("acme", "request", "", 30.0)


class Stage:
    """The tenant acme, whose model `m` is loaded on one runner."""

    def __init__(self) -> None:
        self.core = GatewayCore()
        self.runner: Runner = self.core.join()
        self.uid = self.core.register("m")
        self.runner.loaded(self.uid)
        self.payloads = PayloadGate(bytes_max=1 << 20)
        self.calls = AdmissionGate(limit=2_000)
        self.service = InferenceService(
            inference=self.core.handler,
            payloads=self.payloads,
            calls=self.calls,
            clock=self.core.clock,
            message_bytes_max=100_000,
            call_timeout_s=30.0,
        )

    def infer(self, request: oip.ModelInferRequest | None = None) -> asyncio.Task[bytes]:
        sent = (request or oip.ModelInferRequest(model_name="m")).SerializeToString()
        return asyncio.create_task(self.core.handler.model_infer(sent, CALLER))

    def batch(self, *requests: pb.InferRequest, max_concurrency: int = 0) -> asyncio.Task[list[pb.InferBatchResult]]:
        sent = pb.InferBatchRequest(requests=requests, max_concurrency=max_concurrency)

        async def run() -> list[pb.InferBatchResult]:
            answer = await self.service.infer_batch(sent.SerializeToString(), CALLER)
            return list(pb.InferBatchResponse.FromString(answer).results)

        return asyncio.create_task(run())

    async def received(self) -> list[mesh_pb2.Call]:
        """What the runner has, once what is ready has run."""
        for _ in range(3):
            await asyncio.sleep(0)
        return self.runner.received()

    def check_idle(self) -> None:
        """Nothing is counted any more that was counted for a call."""
        meters = self.core.metrics.peek(self.core.catalog.resolve("acme", "m", ""))
        assert (meters.in_flight, self.core.payloads.held_bytes) == (0, 0)


def request_for(number: int, *, model: str = "m", priority: int | None = None) -> pb.InferRequest:
    return pb.InferRequest(request=oip.ModelInferRequest(model_name=model, id=str(number)), priority=priority)


def integer(field: str, value: int) -> oip.InferParameter:
    parameter = oip.InferParameter()
    setattr(parameter, field, value)
    return parameter


def echo(sent: mesh_pb2.Call) -> bytes:
    """An answer that says which request it is for."""
    return oip.ModelInferResponse(id=oip.ModelInferRequest.FromString(sent.payload).id).SerializeToString()


def outcome_of(result: pb.InferBatchResult) -> str:
    return result.response.response.id if result.HasField("response") else from_status(result.error).reason


async def test_an_answer_that_comes_between_the_cancel_and_the_task_s_end_harms_no_one() -> None:
    stage = Stage()
    leaving, staying = stage.infer(), stage.infer()
    first, second = await stage.received()
    leaving.cancel()
    stage.runner.answer(first, b"late")
    stage.runner.answer(second, b"answer")
    assert await staying == b"answer"
    with pytest.raises(asyncio.CancelledError):
        await leaving
    stage.check_idle()


async def test_a_deadline_that_passes_between_the_cancel_and_the_task_s_end_harms_no_one() -> None:
    stage = Stage()
    leaving, staying = stage.infer(), stage.infer()
    await stage.received()
    leaving.cancel()
    stage.core.clock.advance(31)
    stage.core.handler.end_overdue()
    with pytest.raises(InferenceTimeout):
        await staying
    with pytest.raises(asyncio.CancelledError):
        await leaving
    stage.check_idle()


async def test_a_lost_runner_between_the_cancel_and_the_task_s_end_harms_no_one() -> None:
    stage = Stage()
    leaving, staying = stage.infer(), stage.infer()
    await stage.received()
    leaving.cancel()
    stage.runner.session.close()
    runner = stage.core.join("runner-1")
    runner.loaded(stage.uid)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    stage.runner = runner
    (retried,) = await stage.received()
    runner.answer(retried, b"answer")
    assert await staying == b"answer"
    stage.check_idle()


async def test_a_cancelled_task_cancels_its_call_at_the_runner() -> None:
    stage = Stage()
    leaving = stage.infer()
    (sent,) = await stage.received()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert (await stage.received(), stage.runner.cancelled) == ([sent], [sent.id])
    stage.check_idle()


async def test_a_batch_answers_in_the_order_of_its_requests_whatever_finishes_first() -> None:
    stage = Stage()
    running = stage.batch(
        *(request_for(n, model="m" if n % 3 else "absent") for n in range(9)), request_for(9, priority=10)
    )
    for sent in reversed(await stage.received()):
        stage.runner.answer(sent, echo(sent))
    outcomes = [outcome_of(result) for result in await running]
    assert outcomes == ["MODEL_NOT_FOUND" if n % 3 == 0 else str(n) for n in range(9)] + ["FIELD_INVALID"]
    assert from_status((await running)[9].error).field == "requests[9].priority"
    stage.check_idle()


async def test_a_batch_has_no_more_in_flight_than_it_says() -> None:
    stage = Stage()
    running = stage.batch(*(request_for(n) for n in range(7)), max_concurrency=3)
    seen: list[int] = []
    while not running.done():
        received = await stage.received()
        if received:
            seen.append(len(received))
            stage.runner.answer(received[0], echo(received[0]))
    assert [outcome_of(result) for result in await running] == [str(n) for n in range(7)]
    assert seen == [3, 3, 3, 3, 3, 2, 1]


async def test_a_batch_of_nothing_but_failures_is_answered_at_once() -> None:
    stage = Stage()
    results = await stage.batch(*(request_for(n, model="absent") for n in range(1_024)), max_concurrency=1)
    assert [outcome_of(result) for result in results] == ["MODEL_NOT_FOUND"] * 1_024


@pytest.mark.parametrize(("count", "entry"), [(0, catalogue.FIELD_REQUIRED), (1_025, catalogue.FIELD_TOO_LONG)])
async def test_a_batch_has_1_to_1024_requests(count: int, entry: catalogue.CatalogueEntry) -> None:
    stage = Stage()
    with pytest.raises(ValidationError) as caught:
        await stage.batch(*(request_for(n) for n in range(count)))
    assert (caught.value.entry, caught.value.field) == (entry, "requests")
    assert await stage.received() == []


async def test_a_cancelled_batch_cancels_what_is_in_flight_and_begins_no_more() -> None:
    stage = Stage()
    running = stage.batch(*(request_for(n) for n in range(5)), max_concurrency=2)
    first, second = await stage.received()
    running.cancel()
    stage.runner.answer(first, echo(first))
    await asyncio.gather(running, return_exceptions=True)
    assert await stage.received() == [second]
    assert stage.runner.cancelled == [second.id]
    stage.check_idle()


async def test_a_batch_s_answers_are_bounded_together() -> None:
    stage = Stage()
    running = stage.batch(*(request_for(n) for n in range(4)))
    received = await stage.received()
    for sent, size in zip(received, (60_000, 60_000, 30_000, 20_000), strict=True):
        stage.runner.answer(sent, oip.ModelInferResponse(id="x" * size).SerializeToString())
    results = await running
    assert [len(result.response.response.id) for result in results] == [60_000, 0, 30_000, 0]
    failure = from_status(results[1].error)
    assert (failure.reason, failure.context["limit"]) == ("MESSAGE_TOO_LARGE", "100000")
    stage.check_idle()


async def test_all_requests_of_a_batch_share_its_deadline() -> None:
    stage = Stage()
    running = stage.batch(request_for(1), request_for(2), request_for(3), max_concurrency=1)
    (first,) = await stage.received()
    assert 29_000 < first.timeout_ms < 30_000, "the batch answers before its own deadline"
    stage.core.clock.advance(20)
    stage.runner.answer(first, echo(first))
    (second,) = await stage.received()
    assert 9_000 < second.timeout_ms < 10_000
    stage.core.clock.advance(20)
    stage.runner.answer(second, echo(second))
    results = await running
    assert [result.WhichOneof("outcome") for result in results] == ["response", "response", "error"]
    assert from_status(results[2].error).reason == "DEADLINE_ALREADY_OVER"
    stage.check_idle()


async def test_a_batch_counts_against_the_bounds_of_bytes_and_calls() -> None:
    stage = Stage()
    running = stage.batch(request_for(1), request_for(2))
    received = await stage.received()
    assert (stage.calls.taken, stage.payloads.held_bytes > 0) == (2, True)
    for sent in received:
        stage.runner.answer(sent, echo(sent))
    await running
    assert (stage.calls.taken, stage.payloads.held_bytes) == (0, 0)


@pytest.mark.parametrize("method", ["infer", "infer_batch"])
async def test_a_message_over_the_limit_is_refused_before_it_is_parsed(method: str) -> None:
    stage = Stage()
    with pytest.raises(HeadraceError) as caught:
        await getattr(stage.service, method)(b"\x0a" * 100_001, CALLER)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_a_large_batch_of_nothing_is_refused_at_the_cost_of_its_limit() -> None:
    stage = Stage()
    with pytest.raises(HeadraceError) as caught:
        await stage.service.infer_batch(b"\x0a\x00" * 40_000, CALLER)
    assert (caught.value.reason, caught.value.field) == ("FIELD_TOO_LONG", "requests")


@pytest.mark.parametrize("field", ["int64_param", "uint64_param"])
@pytest.mark.parametrize(
    ("triton", "ours"), [(0, 5), (1, 9), (2, 8), (9, 1), (10, 0), (11, 0), (2**32, 0), (2**63 - 1, 0)]
)
async def test_triton_s_priority_is_read_as_either_integer_and_mapped(field: str, triton: int, ours: int) -> None:
    stage = Stage()
    request = oip.ModelInferRequest(model_name="m", parameters={"priority": integer(field, triton)})
    stage.infer(request)
    assert [sent.priority for sent in await stage.received()] == [ours]


async def test_our_own_priority_wins_over_the_parameter() -> None:
    stage = Stage()
    request = request_for(1, priority=0)
    request.request.parameters["priority"].int64_param = 1
    task = asyncio.create_task(stage.service.infer(request.SerializeToString(), CALLER))
    (sent,) = await stage.received()
    assert sent.priority == 0
    stage.runner.answer(sent, echo(sent))
    assert pb.InferResponse.FromString(await task).response.id == "1"


@pytest.mark.parametrize("field", ["int64_param", "uint64_param"])
@pytest.mark.parametrize(
    ("timeout_us", "timeout_ms"), [(0, 30_000), (1, 0), (2_500_000, 2_500), (60_000_000, 30_000), (2**62, 30_000)]
)
async def test_triton_s_timeout_is_in_microseconds_and_only_shortens(
    field: str, timeout_us: int, timeout_ms: int
) -> None:
    stage = Stage()
    request = oip.ModelInferRequest(model_name="m", parameters={"timeout": integer(field, timeout_us)})
    stage.infer(request)
    assert [sent.timeout_ms for sent in await stage.received()] == [timeout_ms]


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize(
    "value",
    [
        oip.InferParameter(string_param="1"),
        oip.InferParameter(bool_param=True),
        oip.InferParameter(double_param=1.0),
        oip.InferParameter(int64_param=-1),
        oip.InferParameter(),
    ],
)
async def test_a_parameter_that_is_no_whole_number_is_refused_by_its_path(name: str, value: oip.InferParameter) -> None:
    stage = Stage()
    with pytest.raises(HeadraceError) as caught:
        await stage.infer(oip.ModelInferRequest(model_name="m", parameters={name: value}))
    assert (caught.value.reason, caught.value.field) == ("PARAMETER_INVALID", f"parameters.{name}")
    assert f"parameters.{name}" in caught.value.message
    stage.check_idle()


async def test_malformed_bytes_are_told_from_a_malformed_request_inside() -> None:
    stage = Stage()
    for sent in (b"\x0a\xff", raw.RawInferRequest(request=b"\x0a\xff").SerializeToString()):
        with pytest.raises(ValidationError) as caught:
            await stage.service.infer(sent, CALLER)
        assert caught.value.reason == "REQUEST_MALFORMED"
    inside = raw.RawInferBatchRequest(requests=[raw.RawInferRequest(request=b"\x0a\xff")])
    answer = pb.InferBatchResponse.FromString(await stage.service.infer_batch(inside.SerializeToString(), CALLER))
    assert [outcome_of(result) for result in answer.results] == ["REQUEST_MALFORMED"]
