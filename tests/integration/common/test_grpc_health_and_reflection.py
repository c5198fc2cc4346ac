"""Health and reflection as stock clients use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from headrace_common import catalogue
from headrace_common.errors import AuthError, RouteError
from headrace_common.grpc_client import typed
from headrace_common.grpc_server import GrpcServer, Listener, RpcRuntime

HEALTH = "grpc.health.v1.Health"


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0")],
        handlers=[],
        runtime=RpcRuntime(registry=CollectorRegistry()),
        health_services=["test.One", "test.Two"],
        reflection_services=[HEALTH],
    )
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
        yield channel


async def test_check_answers_per_service_and_for_the_whole_server(server: GrpcServer, channel: Any) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    server.health.set_serving(False, service="test.Two")
    statuses = [
        (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)).status
        for name in ("", "test.One", "test.Two")
    ]
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert statuses == [serving, serving, not_serving]
    with pytest.raises(RouteError) as caught:
        await typed(stub.Check(health_pb2.HealthCheckRequest(service="test.None"), timeout=30))
    assert caught.value.entry is catalogue.SERVICE_UNKNOWN


async def test_watchers_learn_of_a_drain_at_once(server: GrpcServer, channel: Any) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="test.One"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    server.drain()
    answer = await asyncio.wait_for(watch.read(), 30)
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def ask(channel: Any, path: str, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    method = channel.stream_stream(
        path,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(timeout=30)

    async def answer() -> Any:
        # A call that was refused already can't be written to any more.
        await call.write(reflection_pb2.ServerReflectionRequest(host="h", **question))
        await call.done_writing()
        return await call.read()

    return await typed(answer())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_only_the_named_services(channel: Any, version: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    listed = await ask(channel, path, list_services="*")
    assert [service.name for service in listed.list_services_response.service] == [HEALTH]
    for question in ({"file_containing_symbol": HEALTH}, {"file_containing_symbol": f"{HEALTH}.Check"}):
        described = await ask(channel, path, **question)
        (raw,) = described.file_descriptor_response.file_descriptor_proto
        assert FileDescriptorProto.FromString(raw).package == "grpc.health.v1"
        assert described.original_request.host == "h"
    for hidden in (
        {"file_containing_symbol": "google.rpc.Status"},
        {"file_by_filename": "google/rpc/status.proto"},
        {"file_containing_symbol": "grpc.reflection.v1alpha.ServerReflection"},
    ):
        refused = await ask(channel, path, **hidden)
        assert refused.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_the_stock_reflection_stub_works(channel: Any) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=30)
    answers = [answer async for answer in call]
    assert len(answers) == 1


async def test_reflection_can_ask_for_a_key() -> None:
    def refuse(method: str, metadata: Any) -> None:
        raise AuthError("the call carries no credential")

    server = GrpcServer(
        listeners=[Listener(address="127.0.0.1:0")],
        handlers=[],
        runtime=RpcRuntime(registry=CollectorRegistry()),
        reflection_services=[HEALTH],
        reflection_authenticate=refuse,
    )
    (address,) = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(AuthError):
                await ask(channel, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", list_services="*")
    finally:
        await server.stop(0)
