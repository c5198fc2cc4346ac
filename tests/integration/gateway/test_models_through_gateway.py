"""`ModelService` through the gateway, and what the gateway then knows of the models from memory."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from headrace.quota.v1 import tenants_pb2
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1 import models_pb2_grpc
from headrace_common.errors import HeadraceError
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support import onnx_models
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, fresh_name, header, open_door, upload

SERVICE = "/headrace.registry.v1.ModelService"
INFERENCE = "/inference.GRPCInferenceService"


async def failure_of(call: Any) -> HeadraceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def refused_bytes(door: FrontDoor, path: str, request: Message, metadata: Pairs) -> tuple[object, ...]:
    """Everything that a refused client gets except for its request id."""
    method = path.rpartition("/")[2]
    raw = request.SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "DownloadVersion":
            stream = door.channel.unary_stream(path)(raw, metadata=metadata, timeout=60)
            async for _ in stream:
                pass
        else:
            await door.channel.unary_unary(path)(raw, metadata=metadata, timeout=60)
    trailing = [pair for pair in caught.value.trailing_metadata() or () if pair[0] != "x-request-id"]
    return caught.value.code(), caught.value.details(), sorted(trailing)


def metadata_call(door: FrontDoor, model: str, version: str = "", metadata: Pairs = COMMUNITY) -> Any:
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel).ModelMetadata(
        oip.ModelMetadataRequest(name=model, version=version), metadata=metadata, timeout=60
    )


async def until_known(door: FrontDoor, version: pb.Version) -> None:
    await eventually(lambda: door.gateway.catalog.by_uid(version.uid) is not None)


async def test_every_method_answers_through_the_gateway(door: FrontDoor) -> None:
    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    options: dict[str, Any] = {"metadata": COMMUNITY, "timeout": 60}
    name, content = fresh_name(), onnx_models.tiny()
    made = await stub.CreateModel(pb.CreateModelRequest(name=name, description="sums"), **options)
    assert made.model.name == name
    version = await upload(door, name, content)
    assert (version.model, version.version, version.state) == (name, 1, pb.VERSION_STATE_READY)
    assert (await stub.GetModel(pb.GetModelRequest(name=name), **options)).model.latest_version == 1
    listed = await stub.ListModels(pb.ListModelsRequest(page_size=1000), **options)
    assert name in [model.name for model in listed.models]
    assert (await stub.GetVersion(pb.GetVersionRequest(model=name, version=1), **options)).version == version
    versions = await stub.ListVersions(pb.ListVersionsRequest(model=name), **options)
    assert [known.uid for known in versions.versions] == [version.uid]
    parts = [part async for part in stub.DownloadVersion(pb.DownloadVersionRequest(model=name), **options)]
    assert b"".join(part.chunk for part in parts) == content
    assert parts[0].file.sha256 == hashlib.sha256(content).hexdigest()
    archived = await stub.ArchiveVersion(pb.ArchiveVersionRequest(model=name, version=1), **options)
    assert archived.version.state == pb.VERSION_STATE_ARCHIVED


async def test_uploaded_version_is_described_from_memory_and_gone_once_archived(door: FrontDoor) -> None:
    name = fresh_name()
    first = await upload(door, name, onnx_models.tiny(seed=1))
    second = await upload(door, name, onnx_models.tiny(seed=2))
    await until_known(door, first)
    await until_known(door, second)
    described = await metadata_call(door, name)
    assert (list(described.versions), described.platform) == (["1", "2"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in described.inputs] == [("x", "FP32", [-1, 16])]
    assert [(t.name, t.datatype, list(t.shape)) for t in described.outputs] == [("z", "FP32", [-1, 16])]
    ready = await open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel).ModelReady(
        oip.ModelReadyRequest(name=name), metadata=COMMUNITY, timeout=60
    )
    assert not ready.ready, "no runner is connected"
    await models_pb2_grpc.ModelServiceStub(door.channel).ArchiveVersion(
        pb.ArchiveVersionRequest(model=name, version=2), metadata=COMMUNITY, timeout=60
    )
    await eventually(lambda: door.gateway.catalog.by_uid(second.uid) is None)
    assert list((await metadata_call(door, name)).versions) == ["1"]
    assert (await failure_of(metadata_call(door, name, "2"))).reason == "MODEL_VERSION_ARCHIVED"
    assert (await failure_of(metadata_call(door, name, "3"))).reason == "MODEL_VERSION_NOT_FOUND"


async def test_many_uploads_in_a_row_all_become_versions(door: FrontDoor) -> None:
    # Each has its file inspected by a process of its own: one that crashes shows up here as a refused model.
    name = fresh_name()
    for number in range(1, 9):
        assert (await upload(door, name, onnx_models.tiny(seed=number))).version == number


async def test_foreign_model_looks_absent_byte_for_byte(door: FrontDoor) -> None:
    _, _, key = await door.new_tenant(tenants_pb2.ROLE_MODEL_ADMIN)
    mine: Pairs = (("x-api-key", key),)
    name = fresh_name()
    calls: list[tuple[str, Message]] = [
        (f"{SERVICE}/GetModel", pb.GetModelRequest(name=name)),
        (f"{SERVICE}/GetVersion", pb.GetVersionRequest(model=name, version=1)),
        (f"{SERVICE}/ListVersions", pb.ListVersionsRequest(model=name)),
        (f"{SERVICE}/DownloadVersion", pb.DownloadVersionRequest(model=name)),
        (f"{SERVICE}/ArchiveVersion", pb.ArchiveVersionRequest(model=name, version=1)),
        (f"{INFERENCE}/ModelMetadata", oip.ModelMetadataRequest(name=name)),
        (f"{INFERENCE}/ModelMetadata", oip.ModelMetadataRequest(name=name, version="1")),
        (f"{INFERENCE}/ModelReady", oip.ModelReadyRequest(name=name)),
        (f"{INFERENCE}/ModelInfer", oip.ModelInferRequest(model_name=name)),
    ]
    before = [await refused_bytes(door, path, request, mine) for path, request in calls]
    await until_known(door, await upload(door, name, onnx_models.tiny()))
    after = [await refused_bytes(door, path, request, mine) for path, request in calls]
    assert after == before
    assert {answer[0] for answer in before} == {grpc.StatusCode.NOT_FOUND}
    own = await upload(door, name, onnx_models.tiny(seed=9), mine)
    assert own.version == 1, "the same name in another tenant is another model"


async def test_writing_needs_the_role_before_any_byte_is_read(door: FrontDoor) -> None:
    _, _, key = await door.new_tenant(tenants_pb2.ROLE_USER)
    call = door.channel.stream_unary(f"{SERVICE}/UploadVersion")(metadata=(("x-api-key", key),), timeout=60)
    failure = await failure_of(call)
    assert (failure.reason, failure.context["required"]) == ("ROLE_FORBIDDEN", "model_admin")


async def test_refusal_of_the_registry_arrives_while_the_client_still_waits_to_send(door: FrontDoor) -> None:
    never = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadVersionRequest]:
        yield header("not a name!", b"x")
        await never.wait()

    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    failure = await failure_of(stub.UploadVersion(parts(), metadata=COMMUNITY, timeout=60))
    assert failure.entry.grpc == "INVALID_ARGUMENT"
    never.set()


async def test_uploads_that_are_refused_while_they_are_sent_all_say_why(door: FrontDoor) -> None:
    content = bytes(4096)

    def refused() -> set[str]:
        """Reasons of many uploads; grpc's blocking client never loses a status to a write that came too late."""
        reasons: set[str] = set()
        with grpc.insecure_channel(door.gateway.public_address) as channel:
            stub = models_pb2_grpc.ModelServiceStub(channel)
            for _ in range(200):
                messages = [header("../model", content), pb.UploadVersionRequest(chunk=content)]
                with pytest.raises(grpc.RpcError) as caught:
                    stub.UploadVersion(iter(messages), metadata=COMMUNITY, timeout=60)
                reasons.add(from_rpc_error(caught.value).reason)
        return reasons

    assert set().union(*await asyncio.gather(*[asyncio.to_thread(refused) for _ in range(3)])) == {"MODEL_NAME_INVALID"}


async def test_cancelled_upload_leaves_nothing_behind(door: FrontDoor) -> None:
    name, content = fresh_name(), onnx_models.weighty(4 << 20)
    sent = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadVersionRequest]:
        yield header(name, content)
        yield pb.UploadVersionRequest(chunk=content[: 1 << 20])
        sent.set()
        await asyncio.Event().wait()

    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    call = stub.UploadVersion(parts(), metadata=COMMUNITY, timeout=60)
    waiting = asyncio.ensure_future(_result(call))
    await sent.wait()
    call.cancel()
    assert await waiting == "cancelled"
    await eventually(lambda: door.gateway.transfers_in_flight == 0)
    failure = await failure_of(stub.GetVersion(pb.GetVersionRequest(model=name), metadata=COMMUNITY, timeout=60))
    assert failure.entry.grpc == "NOT_FOUND"


async def _result(call: Any) -> str:
    try:
        await call
    except asyncio.CancelledError:
        return "cancelled"
    return "answered"


async def test_slow_reader_slows_the_download_and_costs_no_memory(door: FrontDoor) -> None:
    name, content = fresh_name(), onnx_models.weighty(96 << 20)
    await upload(door, name, content)
    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    # What the gateway holds; what the whole process has would tell of everything else in it, too.
    tracemalloc.start()
    try:
        call = stub.DownloadVersion(pb.DownloadVersionRequest(model=name), metadata=COMMUNITY, timeout=60)
        first = await call.read()
        assert isinstance(first, pb.DownloadVersionResponse)
        await asyncio.sleep(1.5)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 48 << 20
    digest = hashlib.sha256(first.chunk)
    while (part := await call.read()) is not grpc.aio.EOF:
        assert isinstance(part, pb.DownloadVersionResponse)
        digest.update(part.chunk)
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()


async def test_left_download_is_cancelled_upstream(door: FrontDoor) -> None:
    name = fresh_name()
    await upload(door, name, onnx_models.weighty(32 << 20))
    stub = models_pb2_grpc.ModelServiceStub(door.channel)
    call = stub.DownloadVersion(pb.DownloadVersionRequest(model=name), metadata=COMMUNITY, timeout=60)
    await call.read()
    assert door.gateway.transfers_in_flight == 1
    call.cancel()
    await eventually(lambda: door.gateway.transfers_in_flight == 0)


@pytest.mark.fault
async def test_killed_registry_is_unavailable_for_its_own_methods_alone_and_comes_back(backends: Backends) -> None:
    async with open_door(backends) as door:
        name = fresh_name()
        version = await upload(door, name, onnx_models.tiny())
        await until_known(door, version)
        stub = models_pb2_grpc.ModelServiceStub(door.channel)
        backends.registry.kill()
        try:
            failure = await failure_of(stub.GetModel(pb.GetModelRequest(name=name), metadata=COMMUNITY, timeout=60))
            assert (failure.reason, failure.entry.grpc) == ("REGISTRY_UNAVAILABLE", "UNAVAILABLE")
            assert failure.retry_after_s is not None
            assert (await metadata_call(door, name)).name == name
        finally:
            backends.registry.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    second = await upload(door, name, onnx_models.tiny(seed=3))
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
        await until_known(door, second)
        assert list((await metadata_call(door, name)).versions) == ["1", "2"]
