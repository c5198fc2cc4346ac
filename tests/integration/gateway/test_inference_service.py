"""InferenceService on a gateway with a real runner: batches and packed streams, good and bad."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from headrace.gateway.v1 import inference_pb2 as pb
from headrace.gateway.v1 import inference_pb2_grpc
from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace_client.async_client import AsyncClient
from headrace_common.rpc_status import from_rpc_error, from_status
from headrace_gateway.stream_access import CHECK_S
from inference import open_inference_pb2 as oip
from support import faulty_backend, onnx_models
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, fresh_name, open_door, upload
from support.mesh_processes import running_runner

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAM = "/headrace.gateway.v1.InferenceService/Stream"
HOUR = Duration(seconds=3_600)


def request_for(model: str, nonce: float = 1.0, rows: int = 1) -> pb.InferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(rows, 16))
    raw = np.full((rows, 16), nonce, np.float32).tobytes()
    return pb.InferRequest(request=oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw]))


def numbered(model: str, number: int) -> pb.InferRequest:
    """A request for `held`, from 100 on."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1])
    raw = np.array([number], np.int64).tobytes()
    return pb.InferRequest(request=oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw]))


def number_of(answer: pb.StreamAnswer) -> int:
    assert answer.HasField("infer"), reason_of(answer.error)
    return int(np.frombuffer(answer.infer.response.raw_output_contents[0], np.int64)[0])


def reason_of(status: Status) -> str:
    return from_status(status).reason


@dataclass
class Front:
    """A gateway with one runner and two models: `model` is fast, `held` says its number when `gate` is not there."""

    door: FrontDoor
    stub: Any
    model: str
    held: str
    gate: Path
    runner: subprocess.Popen[bytes]
    next_runner: Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]

    streams: list[Stream] = field(default_factory=list["Stream"])

    def check(self, answer: pb.InferResponse, nonce: float, rows: int = 1) -> None:
        got = np.frombuffer(answer.response.raw_output_contents[0], np.float32).reshape(rows, 16)
        expected = np.full((1, 16), nonce, np.float32) @ onnx_models.tiny_weights(seed=3)
        np.testing.assert_allclose(got, np.repeat(expected, rows, axis=0), rtol=1e-4, atol=1e-4)

    def in_flight(self) -> float:
        """Calls of both models that the gateway has not answered, and streams that are open."""
        value = self.door.metrics.registry.get_sample_value
        calls = sum(
            value("headrace_infer_in_flight", {"tenant": "community", "model": model, "version": "1"}) or 0
            for model in (self.model, self.held)
        )
        return calls + (value("headrace_rpc_in_flight", {"method": STREAM}) or 0)

    def stream(self, metadata: Pairs = COMMUNITY) -> Stream:
        self.streams.append(Stream(self.stub.Stream(metadata=metadata, timeout=100)))
        return self.streams[-1]

    async def check_idle(self) -> None:
        """Ends what the test has opened, after which nothing may be counted as under way."""
        for stream in self.streams:
            stream.call.cancel()
        await eventually(lambda: self.in_flight() == 0)


class Stream:
    """A raw client of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.limits = pb.StreamLimits()
        self.draining = False

    async def send(self, *calls: pb.StreamCall, cancels: tuple[int, ...] = ()) -> None:
        await self.call.write(pb.StreamRequest(calls=calls, cancels=cancels))

    async def read(self) -> pb.StreamResponse:
        """The next message."""
        message = await self.call.read()
        assert message is not grpc.aio.EOF, "the stream ended"
        if message.HasField("limits"):
            self.limits = message.limits
        self.draining |= message.draining
        return message

    async def answers(self, count: int) -> dict[int, pb.StreamAnswer]:
        """The next so many answers by id; each id comes once."""
        found: dict[int, pb.StreamAnswer] = {}
        while len(found) < count:
            for answer in (await self.read()).answers:
                assert answer.id not in found
                found[answer.id] = answer
        return found

    async def failure(self) -> str:
        """The reason with which the stream ends; answers before that are skipped."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(30):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
                raise AssertionError("the stream ended well")
        return from_rpc_error(caught.value).reason


@asynccontextmanager
async def open_front(backends: Backends, folder: Path) -> AsyncIterator[Front]:
    gate = folder / "gate"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", faulty_backend.install(folder / "package"), prepend=os.pathsep)
        patch.setenv(faulty_backend.GATE, str(gate))
        async with open_door(backends, HEADRACE_SHUTDOWN_GRACE_S="60") as door:
            stub: Any = inference_pb2_grpc.InferenceServiceStub(door.channel)
            model, held = fresh_name(), fresh_name()
            await upload(door, model, onnx_models.tiny(seed=3))
            async with AsyncClient(door.gateway.public_address, api_key="community") as client:
                await client.models.push(onnx_models.identity("INT64", (1,)), name=held, manifest={"backend": "faulty"})
            catalog = door.gateway.catalog
            await eventually(lambda: all(catalog.versions_of("community", name) for name in (model, held)))
            with running_runner(backends, door, folder) as runner:
                await door.until_joined(1)
                await stub.Infer(request_for(model), metadata=COMMUNITY, timeout=60)
                await stub.Infer(numbered(held, 100), metadata=COMMUNITY, timeout=60)
                yield Front(door, stub, model, held, gate, runner, partial(running_runner, backends, door, folder))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with open_front(backends, tmp_path_factory.mktemp("front")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def front(shared: Front) -> AsyncIterator[Front]:
    """Each test finds it idle, and must leave it so."""
    shared.streams.clear()
    yield shared
    shared.gate.unlink(missing_ok=True)
    await shared.check_idle()


@pytest_asyncio.fixture(loop_scope="module")
async def own_front(backends: Backends, tmp_path: Path) -> AsyncIterator[Front]:
    """One that its test may break."""
    async with open_front(backends, tmp_path) as opened:
        yield opened


def call(call_id: int, request: pb.InferRequest, **fields: Any) -> pb.StreamCall:
    return pb.StreamCall(id=call_id, infer=request, **fields)


async def test_infer_batch_and_stream_answer_alike_and_say_where_it_ran(front: Front) -> None:
    answer = await front.stub.Infer(request_for(front.model, 2.0), metadata=COMMUNITY, timeout=60)
    front.check(answer, 2.0)
    assert (answer.execution.runner, answer.execution.backend) == ("runner-0", "onnxruntime")
    assert answer.execution.device_type == "cpu"
    assert answer.execution.compute_time.ToMicroseconds() > 0

    mixed = pb.InferBatchRequest(
        requests=[request_for(front.model, float(n)) if n % 3 else request_for("absent") for n in range(9)],
        max_concurrency=2,
    )
    results = (await front.stub.InferBatch(mixed, metadata=COMMUNITY, timeout=60)).results
    assert len(results) == 9
    for nonce, result in enumerate(results):
        if nonce % 3:
            front.check(result.response, float(nonce))
        else:
            assert reason_of(result.error) == "MODEL_NOT_FOUND"

    stream = front.stream()
    await stream.send(*(call(n, request_for(front.model, float(n))) for n in range(300)))
    await stream.send(call(1000, request_for(front.model, 7.0)))
    answers = await stream.answers(301)
    for nonce in range(300):
        front.check(answers[nonce].infer, float(nonce))
    assert (stream.limits.calls_max, stream.limits.calls_per_message_max) == (1024, 1024)
    assert stream.limits.default_timeout.ToSeconds() == 30
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() == grpc.StatusCode.OK


async def test_a_stream_that_breaks_the_contract_at_once_ends_with_its_status_each_time(front: Front) -> None:
    """The status must not get lost when it overtakes the stream's first message, so once would prove little."""
    request = request_for(front.model)
    for _ in range(150):
        stream = front.stream()
        await stream.send(call(1, request), call(2, request), call(1, request))
        assert await stream.failure() == "CALL_ID_IN_USE"


async def test_a_message_of_100_000_calls_ends_its_stream_and_no_other(front: Front) -> None:
    other, flood = front.stream(), front.stream()
    await other.send(call(1, request_for(front.model)))
    await other.answers(1)
    await flood.send(*(pb.StreamCall(id=number) for number in range(100_000)))
    assert await flood.failure() == "FIELD_TOO_LONG"
    await other.send(call(1, request_for(front.model, 3.0)))
    front.check((await other.answers(1))[1].infer, 3.0)


async def test_times_that_calls_are_given_from_a_nanosecond_to_ten_thousand_years(front: Front) -> None:
    stream = front.stream()
    front.gate.touch()
    await stream.send(
        call(1, request_for(front.model), timeout=Duration(nanos=1)),
        call(2, request_for(front.model), timeout=Duration(seconds=315_576_000_000)),
        call(3, request_for(front.model), timeout=Duration(seconds=-315_576_000_000)),
        call(4, numbered(front.held, 104), timeout=Duration(nanos=100_000_000)),
    )
    answers = await stream.answers(4)
    # Whoever looks first, the gateway or the runner.
    assert reason_of(answers[1].error) in {"DEADLINE_ALREADY_OVER", "INFERENCE_TIMEOUT"}
    front.check(answers[2].infer, 1.0)
    assert reason_of(answers[3].error) == "DEADLINE_ALREADY_OVER"
    assert reason_of(answers[4].error) in {"DEADLINE_ALREADY_OVER", "INFERENCE_TIMEOUT"}


async def test_cancelled_calls_are_answered_once_and_the_model_goes_on(front: Front) -> None:
    stream, neighbour = front.stream(), front.stream()
    front.gate.touch()
    await neighbour.send(call(1, numbered(front.held, 100)))
    await stream.send(*(call(number, numbered(front.held, 100)) for number in range(1, 6)))
    await stream.send(call(9, request_for(front.model)), cancels=(77,))
    assert list(await stream.answers(1)) == [9]
    await stream.send(cancels=(1, 2, 3, 4, 5, 5, 6))
    answers = await stream.answers(5)
    assert {reason_of(answer.error) for answer in answers.values()} == {"CALL_CANCELLED"}
    await neighbour.send(cancels=(1,))
    assert reason_of((await neighbour.answers(1))[1].error) == "CALL_CANCELLED"
    front.gate.unlink()
    await stream.send(call(1, numbered(front.held, 105)))
    assert number_of((await stream.answers(1))[1]) == 105


async def test_a_client_that_sends_without_reading_is_stopped_and_loses_nothing(front: Front) -> None:
    stream, count, together, rows = front.stream(), 8_192, 128, 128
    sent = 0

    async def send() -> None:
        nonlocal sent
        for first in range(0, count, together):
            many = range(first, first + together)
            await stream.send(*(call(n, request_for(front.model, float(n), rows), timeout=HOUR) for n in many))
            sent += together

    sending = asyncio.create_task(send())
    await _stalled(sending, lambda: sent)
    await eventually(lambda: front.in_flight() == 1)
    answers = await stream.answers(count)
    assert answers.keys() == set(range(count))
    answered = [number for number, answer in answers.items() if answer.HasField("infer")]
    for number in answered[::37]:
        front.check(answers[number].infer, float(number), rows)
    # With the last message before it is stopped a client may have sent more than the only runner takes at once, or,
    # after a moment in which the machine stood still, seems to manage in time.
    refused = {reason_of(answer.error) for answer in answers.values() if answer.HasField("error")}
    assert refused <= {"RUNNER_OVERLOADED", "DEADLINE_UNREACHABLE"}
    assert len(answered) > count * 0.5
    await sending
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF


async def _stalled(sending: asyncio.Task[None], sent: Callable[[], int]) -> None:
    """Returns once nothing more of what a client sends is taken."""
    before, quiet = -1, 0
    async with asyncio.timeout(60):
        # Counted in turns of the loop, which stand still with the process.
        while quiet < 35:
            await asyncio.sleep(0.02)
            now = sent()
            before, quiet = now, quiet + 1 if now == before else 0
    assert not sending.done(), "it is not read from for ever"


async def test_a_stream_whose_client_does_not_read_ends_with_its_key_all_the_same(front: Front) -> None:
    _, key_id, key = await front.door.new_tenant(tenants_pb2.ROLE_USER)
    stream = front.stream((("x-api-key", key),))
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await stream.send(*(call(sent + n, request_for("absent" * 20)) for n in range(500)))
            sent += 500

    def ended() -> float:
        labels = {"method": STREAM, "grpc_code": "UNAUTHENTICATED", "reason": "KEY_REVOKED"}
        return front.door.metrics.registry.get_sample_value("headrace_rpc_handled_total", labels) or 0

    before = ended()
    sending = asyncio.create_task(send())
    await _stalled(sending, lambda: sent)
    quota: Any = tenants_pb2_grpc.TenantServiceStub(front.door.channel)
    await quota.RevokeApiKey(tenants_pb2.RevokeApiKeyRequest(id=key_id), metadata=front.door.admin, timeout=60)
    while await front.door.refusal_of(key) is None:
        await asyncio.sleep(0.02)
    # In many turns of the loop, as after a stall the stream needs some to end.
    for _ in range(100):
        await asyncio.sleep(2 * CHECK_S / 100)
    # Until then its status waits behind what it doesn't read.
    stream.call.cancel()
    await eventually(lambda: ended() == before + 1 and front.in_flight() == 0)
    await asyncio.gather(sending, return_exceptions=True)


async def test_calls_in_flight_finish_after_the_client_has_closed_its_side(front: Front) -> None:
    stream = front.stream()
    front.gate.touch()
    await stream.send(call(1, numbered(front.held, 101)), call(2, request_for(front.model)))
    await stream.call.done_writing()
    assert list(await stream.answers(1)) == [2]
    front.gate.unlink()
    assert number_of((await stream.answers(1))[1]) == 101
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_client_that_leaves_leaves_nothing_in_flight(front: Front) -> None:
    stream = front.stream()
    front.gate.touch()
    await stream.send(*(call(number, numbered(front.held, 100)) for number in range(20)))
    batch = front.stub.InferBatch(
        pb.InferBatchRequest(requests=[numbered(front.held, 100)] * 5), metadata=COMMUNITY, timeout=60
    )
    single = front.stub.Infer(numbered(front.held, 100), metadata=COMMUNITY, timeout=60)
    waiting = [asyncio.ensure_future(_code(rpc)) for rpc in (batch, single)]
    await eventually(lambda: front.in_flight() == 27)
    for rpc in (stream.call, batch, single):
        rpc.cancel()
    await eventually(lambda: front.in_flight() == 0)
    assert await asyncio.gather(*waiting) == [grpc.StatusCode.CANCELLED] * 2
    front.gate.unlink()
    answer = await front.stub.Infer(numbered(front.held, 103), metadata=COMMUNITY, timeout=60)
    assert number_of(pb.StreamAnswer(infer=answer)) == 103


async def _code(rpc: Any) -> grpc.StatusCode:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await rpc
    return await rpc.code()


async def test_a_stream_ends_soon_after_its_key_does(front: Front) -> None:
    door = front.door
    quota: Any = tenants_pb2_grpc.TenantServiceStub(door.channel)

    async def revoke(_tenant_id: str, key_id: str) -> None:
        request = tenants_pb2.RevokeApiKeyRequest(id=key_id)
        await quota.RevokeApiKey(request, metadata=door.admin, timeout=60)

    async def suspend(tenant_id: str, _key_id: str) -> None:
        await quota.SuspendTenant(tenants_pb2.SuspendTenantRequest(id=tenant_id), metadata=door.admin, timeout=60)

    async def ended_by(end: Callable[[str, str], Any]) -> tuple[str, float]:
        tenant_id, key_id, key = await door.new_tenant(tenants_pb2.ROLE_USER)
        stream = await opened(key)
        await end(tenant_id, key_id)
        started = time.monotonic()
        return await stream.failure(), time.monotonic() - started

    async def expiring() -> tuple[str, float]:
        tenant_id, _, _ = await door.new_tenant(tenants_pb2.ROLE_USER)
        # Known to the gateway and used before it ends, on a busy machine, too.
        expires = datetime.now(UTC) + timedelta(seconds=6)
        request = tenants_pb2.CreateApiKeyRequest(tenant_id=tenant_id, roles=[tenants_pb2.ROLE_USER])
        request.expire_time.FromDatetime(expires)
        key = (await quota.CreateApiKey(request, metadata=door.admin, timeout=60)).key
        await door.until_known(key)
        stream = await opened(key)
        return await stream.failure(), (datetime.now(UTC) - expires).total_seconds()

    async def opened(key: str) -> Stream:
        stream = front.stream((("x-api-key", key),))
        await stream.send(call(1, request_for(front.model)))
        assert reason_of((await stream.answers(1))[1].error) == "MODEL_NOT_FOUND", "it is another tenant's"
        return stream

    ends = await asyncio.gather(ended_by(revoke), ended_by(suspend), expiring())
    assert [reason for reason, _ in ends] == ["KEY_REVOKED", "TENANT_SUSPENDED", "KEY_EXPIRED"]
    assert max(took for _, took in ends) < 10, "half a second, and some for a busy machine"


@pytest.mark.fault
async def test_calls_of_a_runner_that_dies_are_answered_by_the_next_one(own_front: Front) -> None:
    stream = own_front.stream()
    own_front.gate.touch()
    await stream.send(*(call(number, numbered(own_front.held, 100 + number)) for number in range(2)))
    await eventually(lambda: own_front.in_flight() == 3)
    with own_front.next_runner("runner-1"):
        await own_front.door.until_joined(2)
        own_front.runner.kill()
        own_front.gate.unlink()
        answers = await stream.answers(2)
        assert [number_of(answers[number]) for number in range(2)] == [100, 101]
        assert {answer.infer.execution.runner for answer in answers.values()} == {"runner-1"}


async def test_a_stopping_gateway_says_so_answers_what_it_has_and_ends_the_stream(front: Front) -> None:
    """The last one: nothing can be asked of the gateway that all share any more."""
    stream = front.stream()
    front.gate.touch()
    await stream.send(call(1, numbered(front.held, 101)))
    await eventually(lambda: front.in_flight() == 2)
    closing = asyncio.create_task(front.door.gateway.close())
    while not stream.draining:
        await stream.read()
    front.gate.unlink()
    assert number_of((await stream.answers(1))[1]) == 101
    assert await stream.failure() == "SERVER_DRAINING"
    await closing
