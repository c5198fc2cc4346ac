"""Generate and ModelStreamInfer on a gateway whose runners a test speaks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from headrace.gateway.v1 import generation_pb2 as generation
from headrace.gateway.v1 import inference_pb2, inference_pb2_grpc, mesh_pb2_grpc
from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace.registry.internal.v1.catalog_pb2 import CatalogEntry
from headrace.registry.v1 import models_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common import catalogue
from headrace_common.errors import HeadraceError, RunnerUnavailable
from headrace_common.rpc_status import from_rpc_error, from_status_bytes, to_status
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, fresh_name, open_door
from support.generated_texts import GENERATES, asked, delta, last
from support.scripted_runner import ScriptedRunner, result_for, scripted_runner

GENERATE = "/headrace.gateway.v1.InferenceService/Generate"
# What gRPC's windows and buffers at both ends hold beside the gateway's 1 MiB.
WINDOWS_BYTES = 32 << 20

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Front:
    """A gateway with a model that generates, on whatever runner joins."""

    door: FrontDoor
    model: str

    def generate(self, *, metadata: Pairs = COMMUNITY, timeout: float = 60, **fields: Any) -> Any:
        request = generation.GenerateRequest(model_name=self.model, text="once", **fields)
        stub: Any = inference_pb2_grpc.InferenceServiceStub(self.door.channel)
        return stub.Generate(request, metadata=metadata, timeout=timeout)

    def metric(self, name: str, **labels: str) -> float:
        return self.door.metrics.registry.get_sample_value(name, labels) or 0

    def of_model(self, name: str, **labels: str) -> float:
        return self.metric(name, tenant="community", model=self.model, version="1", **labels)

    def open_calls(self) -> float:
        """What is open of RPCs, calls and streams."""
        return (
            self.metric("headrace_rpc_in_flight", method=GENERATE)
            + self.of_model("headrace_infer_in_flight")
            + self.of_model("headrace_generate_streams")
            + self.metric("headrace_mesh_calls_open")
        )

    async def until_joined(self, *names: str) -> None:
        """Returns once exactly these runners have a session."""
        mesh: Any = mesh_pb2_grpc.MeshServiceStub(self.door.channel)
        async with asyncio.timeout(30):
            while True:
                listed = await mesh.ListRunners(gateway_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
                if sorted(runner.name for runner in listed.runners) == sorted(names):
                    return
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(backends: Backends) -> AsyncIterator[Front]:
    async with open_door(backends, HEADRACE_LOG_LEVEL="info") as door:
        yield Front(door, served(door))


def served(door: FrontDoor, tenant_id: str = "community") -> str:
    """The name of a model that generates, known to the gateway alone."""
    model = fresh_name()
    version = models_pb2.Version(
        uid=f"uid-{model}", model=model, version=1, state=models_pb2.VERSION_STATE_READY, manifest=GENERATES
    )
    door.gateway.catalog.apply([CatalogEntry(tenant_id=tenant_id, version=version)])
    return model


@pytest_asyncio.fixture(loop_scope="module")
async def runner(front: Front) -> AsyncIterator[ScriptedRunner]:
    async with scripted_runner(front.door.gateway.mesh_address, name="runner-0") as runner:
        await front.until_joined("runner-0")
        yield runner
    await front.until_joined()


async def read(stream: Any) -> generation.GenerateResponse:
    async with asyncio.timeout(30):
        message = await stream.read()
    assert isinstance(message, generation.GenerateResponse), message
    return message


async def rest(stream: Any) -> tuple[str, generation.GenerateResponse | None]:
    """The text that is still to come, and the last message."""
    text, end = "", None
    async with asyncio.timeout(30):
        while (message := await stream.read()) is not grpc.aio.EOF:
            text += "".join(piece.text for piece in message.deltas)
            end = message
    return text, end


async def failure_of(stream: Any) -> tuple[HeadraceError, grpc.StatusCode]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(stream)
    return from_rpc_error(caught.value), caught.value.code()


async def fail(runner: ScriptedRunner, call: mesh_pb2.Call, failure: HeadraceError) -> None:
    result = result_for(call)
    result.status = to_status(failure).SerializeToString()
    await runner.send(mesh_pb2.ResultFrame(results=[result]))


async def test_messages_come_one_by_one_and_the_last_tells_where_it_ran(front: Front, runner: ScriptedRunner) -> None:
    stream = front.generate(metadata=(*COMMUNITY, ("x-request-id", "mine")), priority=7)
    call = await runner.next_call()
    assert (call.request_id, call.priority, asked(call).request.text) == ("mine", 7, "once")
    await runner.part(call, delta("a", 1))
    first = await read(stream)
    assert (first.model_name, first.model_version, first.deltas[0].text) == (front.model, "1", "a")
    await runner.part(call, delta("b", 2), delta("c", 3))
    result = result_for(call, last("d", 4))
    result.compute_us = 1_500_000
    await runner.send(mesh_pb2.ResultFrame(results=[result]))
    text, end = await rest(stream)
    assert text == "bcd"
    assert end is not None and (end.execution.runner, end.execution.backend) == ("runner-0", "onnxruntime")
    assert (end.execution.compute_time.ToMilliseconds(), end.usage.completion_tokens) == (1500, 1)
    assert dict(await stream.trailing_metadata())["x-request-id"] == "mine"
    handled = {"method": GENERATE, "grpc_code": "OK", "reason": ""}
    await eventually(lambda: front.metric("headrace_rpc_handled_total", **handled) >= 1)
    assert front.of_model("headrace_generate_tokens_total", kind="completion") == 4
    assert front.of_model("headrace_generate_first_token_seconds_count") == 1
    assert front.of_model("headrace_generate_inter_token_seconds_count") == 3
    await eventually(lambda: front.open_calls() == 0)


@pytest.mark.parametrize("parts", [0, 1])
async def test_a_failure_is_the_streams_status_with_its_details(
    front: Front, runner: ScriptedRunner, parts: int
) -> None:
    stream = front.generate()
    call = await runner.next_call()
    for _ in range(parts):
        await runner.part(call, delta("a", 1))
        assert (await read(stream)).deltas
    refused = from_status_bytes(
        to_status(
            HeadraceError(
                "the prompt is too long",
                entry=catalogue.CONTEXT_LENGTH_EXCEEDED,
                context={"model": front.model, "actual": 9, "limit": 8},
            )
        ).SerializeToString()
    )
    await fail(runner, call, refused)
    failure, code = await failure_of(stream)
    assert (failure.reason, failure.context["limit"]) == ("CONTEXT_LENGTH_EXCEEDED", "8")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-id" in dict(await stream.trailing_metadata())


async def test_another_tenant_finds_nothing_and_other_methods_are_refused(front: Front) -> None:
    _, _, key = await front.door.new_tenant(tenants_pb2.ROLE_USER)
    failure, code = await failure_of(front.generate(metadata=(("x-api-key", key),)))
    assert (failure.reason, code) == ("MODEL_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    _, _, key = await front.door.new_tenant(tenants_pb2.ROLE_VIEWER)
    assert (await failure_of(front.generate(metadata=(("x-api-key", key),))))[0].reason == "ROLE_FORBIDDEN"
    open_stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(front.door.channel)
    stub: Any = inference_pb2_grpc.InferenceServiceStub(front.door.channel)
    request = oip.ModelInferRequest(model_name=front.model)
    infer = inference_pb2.InferRequest(request=request)
    for asking in (open_stub.ModelInfer(request, metadata=COMMUNITY), stub.Infer(infer, metadata=COMMUNITY)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking
        assert from_rpc_error(caught.value).reason == "MODEL_TASK_MISMATCH"
    batch = await stub.InferBatch(inference_pb2.InferBatchRequest(requests=[infer]), metadata=COMMUNITY)
    assert from_status_bytes(batch.results[0].error.SerializeToString()).reason == "MODEL_TASK_MISMATCH"
    packed = stub.Stream(metadata=COMMUNITY, timeout=30)
    await packed.write(inference_pb2.StreamRequest(calls=[inference_pb2.StreamCall(id=1, infer=infer)]))
    await packed.done_writing()
    answers = [answer async for message in packed for answer in message.answers]
    assert from_status_bytes(answers[0].error.SerializeToString()).reason == "MODEL_TASK_MISMATCH"


@pytest.mark.parametrize("parts", [0, 1])
async def test_a_client_that_leaves_is_heard_by_the_runner(front: Front, runner: ScriptedRunner, parts: int) -> None:
    stream = front.generate()
    call = await runner.next_call()
    for _ in range(parts):
        await runner.part(call, delta("a", 1))
        await read(stream)
    stream.cancel()
    await runner.cancelled(call)
    await runner.part(call, delta("late", 2))
    assert front.metric("headrace_mesh_calls_open") == 1, "until the runner has let go"
    await runner.answer(call, last())
    await eventually(lambda: front.open_calls() == 0)


async def test_the_deadline_ends_a_stream_and_its_call(front: Front, runner: ScriptedRunner) -> None:
    serving = asyncio.create_task(end_when_cancelled(runner))
    # Where the machine stands still at that moment, the client's own end may be first to see that time is up.
    for timeout_s in (1.0, 3.0, 9.0):
        stream = front.generate(timeout=timeout_s)
        beginning = asyncio.create_task(begin(runner, timeout_s))
        failure, code = await failure_of(stream)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: front.open_calls() == 0)
        if beginning.done() and failure.reason == "INFERENCE_TIMEOUT":
            beginning.result()
            break
        beginning.cancel()
        while not runner.calls.empty():
            runner.calls.get_nowait()
    else:
        raise AssertionError(f"{failure.reason}, grpc's own words")
    serving.cancel()


async def begin(runner: ScriptedRunner, timeout_s: float) -> None:
    """Sends a part of the next answer."""
    call = await runner.next_call()
    assert 0 < call.timeout_ms <= timeout_s * 1_000 + 100, "of the client's time"
    await runner.part(call, delta("a", 1))


async def test_a_client_that_does_not_read_is_cut_and_others_go_on(front: Front, runner: ScriptedRunner) -> None:
    before = front.of_model("headrace_generate_readers_too_slow_total")
    async with grpc.aio.insecure_channel(front.door.gateway.public_address) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        request = generation.GenerateRequest(model_name=front.model, text="slow")
        slow = stub.Generate(request, metadata=COMMUNITY, timeout=60)
        unread = await runner.next_call()
        stream = front.generate()
        other = await runner.next_call()
        cut = asyncio.create_task(runner.cancelled(unread))
        sent_bytes = 0
        while not cut.done():
            part = delta("x" * (100 << 10), 1)
            await runner.part(unread, part)
            sent_bytes += len(part)
            await runner.part(other, delta("o", 1))
            assert (await read(stream)).deltas[0].text == "o"
            assert sent_bytes < WINDOWS_BYTES
        await runner.answer(unread, last())
        await runner.answer(other, last("end", 2))
        assert (await rest(stream))[0] == "end"
        # Nothing is held for it here; what had gone is there to be read all the same, then why there is no more.
        await eventually(lambda: front.open_calls() == 0)
        failure, code = await failure_of(slow)
        assert (failure.reason, code) == ("READER_TOO_SLOW", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert front.of_model("headrace_generate_readers_too_slow_total") == before + 1


async def test_a_lost_runner_is_followed_by_another_without_a_seam(front: Front) -> None:
    address = front.door.gateway.mesh_address
    async with scripted_runner(address, name="second") as second, scripted_runner(address, name="first") as first:
        await front.until_joined("first", "second")
        stream = front.generate()
        runner, call = await whoever(first, second)
        await runner.part(call, delta("a", 1), delta("b", 2))
        assert (await read(stream)).deltas[0].token_ids == [1]
        assert (await read(stream)).deltas[0].token_ids == [2]
        other = second if runner is first else first
        if runner is first:
            await runner.send(b"\xff")
        else:
            await fail(runner, call, RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST))
        again = await other.next_call()
        assert (list(asked(again).emitted), asked(again).request.text, again.attempt) == ([1, 2], "once", 1)
        await other.part(again, delta("c", 3))
        await other.answer(again, last("d", 4, completion=2))
        text, end = await rest(stream)
        assert text == "cd"
        assert end is not None and (end.usage.completion_tokens, end.usage.prompt_tokens) == (4, 3)
    await front.until_joined()
    assert front.of_model("headrace_generate_failovers_total", result="continued") >= 1


async def whoever(*runners: ScriptedRunner) -> tuple[ScriptedRunner, mesh_pb2.Call]:
    """Who gets the next call."""
    waiting = {asyncio.create_task(runner.next_call()): runner for runner in runners}
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    (task,) = done
    return waiting[task], task.result()


async def test_what_may_not_go_on_elsewhere_is_interrupted(front: Front, runner: ScriptedRunner) -> None:
    stream = front.generate(continue_elsewhere=False)
    call = await runner.next_call()
    await runner.part(call, delta("a", 1))
    await read(stream)
    await fail(runner, call, RunnerUnavailable("gone", entry=catalogue.MODEL_PROCESS_LOST))
    failure, code = await failure_of(stream)
    assert (failure.reason, code) == ("GENERATION_INTERRUPTED", grpc.StatusCode.ABORTED)
    assert failure.context["cause"] == "MODEL_PROCESS_LOST"


async def a_part_after_the_end(liar: ScriptedRunner, call: mesh_pb2.Call, front: Front) -> None:
    del front
    await liar.answer(call, last())
    await liar.part(call, delta("more", 1))


async def a_part_of_a_foreign_call(liar: ScriptedRunner, call: mesh_pb2.Call, front: Front) -> None:
    del front
    call.id += 5
    await liar.part(call, delta("a", 1))


async def a_part_that_is_none(liar: ScriptedRunner, call: mesh_pb2.Call, front: Front) -> None:
    del front
    await liar.part(call, b"\xff\xff")


@pytest.mark.parametrize("lie", [a_part_after_the_end, a_part_of_a_foreign_call, a_part_that_is_none])
async def test_a_runner_that_lies_about_parts_loses_its_session(
    front: Front, lie: Callable[[ScriptedRunner, mesh_pb2.Call, Front], Awaitable[None]]
) -> None:
    async with scripted_runner(front.door.gateway.mesh_address, name="liar") as liar:
        await front.until_joined("liar")
        stream = front.generate()
        await lie(liar, await liar.next_call(), front)
        await asyncio.wait_for(liar.over.wait(), 30)
        stream.cancel()
    await front.until_joined()
    await eventually(lambda: front.open_calls() == 0)


async def test_hundreds_of_cancels_leave_nothing(front: Front) -> None:
    async with scripted_runner(front.door.gateway.mesh_address, name="runner") as runner:
        await front.until_joined("runner")
        tasks_before = len(asyncio.all_tasks())
        ended = asyncio.create_task(end_when_cancelled(runner))
        for _ in range(10):
            streams = [front.generate(session=str(number)) for number in range(50)]
            for _ in range(8):
                call = await runner.next_call()
                await runner.part(call, delta("a", 1))
            for stream in streams:
                stream.cancel()
            await eventually(lambda: front.open_calls() == 0)
            while not runner.calls.empty():
                runner.calls.get_nowait()
        ended.cancel()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before + 1)
        stream = front.generate()
        call = await runner.next_call()
        await runner.answer(call, last("fine", 1))
        assert (await rest(stream))[0] == "fine"
    await front.until_joined()


async def end_when_cancelled(runner: ScriptedRunner) -> None:
    """Answers each cancel, as a runner must."""
    while True:
        for call_id in (await runner.told.get()).cancels:
            result = mesh_pb2.Result(id=call_id, terminal=True, payload=last())
            await runner.send(mesh_pb2.ResultFrame(results=[result]))


async def test_triton_streams_get_parts_and_one_final_answer(front: Front, runner: ScriptedRunner) -> None:
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(front.door.channel)
    config = (await stub.ModelConfig(oip.ModelConfigRequest(name=front.model), metadata=COMMUNITY)).config
    assert config.model_transaction_policy.decoupled
    stream = stub.ModelStreamInfer(metadata=COMMUNITY, timeout=60)
    request = oip.ModelInferRequest(model_name=front.model, id="q", raw_input_contents=[b"\4\0\0\0once"])
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.parameters["priority"].int64_param = 1
    await stream.write(request)
    call = await runner.next_call()
    assert (call.kind, call.priority, call.payload) == (mesh_pb2.CALL_KIND_INFER, 9, request.SerializeToString())
    texts = [oip.ModelInferResponse(id="q", raw_output_contents=[text]).SerializeToString() for text in (b"a", b"b")]
    await runner.part(call, texts[0])
    first = await stream.read()
    assert first.infer_response.raw_output_contents == [b"a"]
    assert not first.infer_response.parameters["triton_final_response"].bool_param
    await runner.answer(call, texts[1])
    final = await stream.read()
    assert final.infer_response.parameters["triton_final_response"].bool_param
    await stream.write(request)
    call = await runner.next_call()
    await runner.part(call, texts[0])
    assert (await stream.read()).infer_response.id == "q"
    stream.cancel()
    await runner.cancelled(call)
    await runner.answer(call, texts[1])
    await eventually(lambda: front.open_calls() == 0)


async def test_a_revoked_key_ends_its_texts(front: Front, runner: ScriptedRunner) -> None:
    door = front.door
    tenant_id, key_id, key = await door.new_tenant(tenants_pb2.ROLE_USER)
    stream = Front(door, served(door, tenant_id)).generate(metadata=(("x-api-key", key),))
    call = await runner.next_call()
    await runner.part(call, delta("a", 1))
    await read(stream)
    tenants = tenants_pb2_grpc.TenantServiceStub(door.channel)
    await tenants.RevokeApiKey(tenants_pb2.RevokeApiKeyRequest(id=key_id), metadata=door.admin, timeout=60)
    assert (await failure_of(stream))[0].reason == "KEY_REVOKED"
    await runner.cancelled(call)
    await runner.answer(call, last())
    await eventually(lambda: front.open_calls() == 0)


async def test_a_stopping_gateway_tells_the_texts_that_it_cuts_off_why(backends: Backends) -> None:
    async with open_door(backends, HEADRACE_SHUTDOWN_GRACE_S="3") as door:
        front = Front(door, served(door))
        async with scripted_runner(door.gateway.mesh_address, name="runner") as runner:
            await front.until_joined("runner")
            waiting = front.generate()
            await runner.next_call()
            begun = front.generate()
            await runner.part(await runner.next_call(), delta("a", 1))
            await read(begun)
            triton: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
            stream = triton.ModelStreamInfer(metadata=COMMUNITY, timeout=60)
            await stream.write(oip.ModelInferRequest(model_name=front.model, id="q"))
            await runner.next_call()
            closing = asyncio.create_task(door.gateway.close())
            answer = await stream.read()
            assert answer.infer_response.parameters["headrace_reason"].string_param == "SERVER_DRAINING"
            assert (await failure_of(waiting))[0].reason == "SERVER_DRAINING"
            failure, _ = await failure_of(begun)
            assert (failure.reason, failure.context["cause"]) == ("GENERATION_INTERRUPTED", "SERVER_DRAINING")
            await closing


async def test_a_stopping_gateway_lets_streams_finish(backends: Backends) -> None:
    async with open_door(backends, HEADRACE_SHUTDOWN_GRACE_S="60") as door:
        front = Front(door, served(door))
        async with scripted_runner(door.gateway.mesh_address, name="runner") as runner:
            await front.until_joined("runner")
            stream = front.generate()
            call = await runner.next_call()
            await runner.part(call, delta("a", 1))
            await read(stream)
            closing = asyncio.create_task(door.gateway.close())
            await asyncio.sleep(1.0)
            await runner.part(call, delta("b", 2))
            await runner.answer(call, last("c", 3))
            assert (await rest(stream))[0] == "bc"
            await closing
