"""ModelStreamInfer on a gateway: how a stream ends when its key goes, its gateway stops, or its client leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from headrace.quota.v1 import tenants_pb2, tenants_pb2_grpc
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support.eventually import eventually
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, open_door


def open_stream(door: FrontDoor, metadata: Pairs = COMMUNITY) -> Any:
    stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
    return stub.ModelStreamInfer(metadata=metadata, timeout=100)


async def asked(stream: Any, request_id: str) -> oip.ModelStreamInferResponse:
    """Sends a request for a model that is not there and reads its answer."""
    await stream.write(oip.ModelInferRequest(model_name="absent", id=request_id))
    answer = await stream.read()
    assert isinstance(answer, oip.ModelStreamInferResponse)
    assert answer.infer_response.id == request_id
    return answer


async def reason_of_the_end(stream: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(30):
            while await stream.read() is not grpc.aio.EOF:
                pass
    return from_rpc_error(caught.value).reason


async def test_stream_outlives_failed_requests_and_ends_well_when_its_client_has_no_more(quota_door: FrontDoor) -> None:
    stream = open_stream(quota_door)
    for number in range(3):
        assert (await asked(stream, str(number))).error_message
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_stream_ends_when_its_key_is_revoked(quota_door: FrontDoor) -> None:
    _, key_id, key = await quota_door.new_tenant(tenants_pb2.ROLE_USER)
    stream = open_stream(quota_door, (("x-api-key", key),))
    await asked(stream, "before")
    tenants = tenants_pb2_grpc.TenantServiceStub(quota_door.channel)
    await tenants.RevokeApiKey(tenants_pb2.RevokeApiKeyRequest(id=key_id), metadata=quota_door.admin, timeout=60)
    assert await reason_of_the_end(stream) == "KEY_REVOKED"


async def test_stopping_gateway_ends_its_streams_so_that_clients_come_back(quota_alone: Backends) -> None:
    async with open_door(quota_alone, HEADRACE_SHUTDOWN_GRACE_S="60") as door:
        stream = open_stream(door)
        await asked(stream, "before")
        closing = asyncio.create_task(door.gateway.close())
        assert await reason_of_the_end(stream) == "SERVER_DRAINING"
        await closing


async def test_stream_that_its_client_leaves_leaves_nothing_behind(quota_door: FrontDoor) -> None:
    stream = open_stream(quota_door)
    await asked(stream, "before")
    in_flight = {"method": "/inference.GRPCInferenceService/ModelStreamInfer"}

    def under_way() -> float | None:
        return quota_door.metrics.registry.get_sample_value("headrace_rpc_in_flight", in_flight)

    assert under_way() == 1
    stream.cancel()
    await eventually(lambda: under_way() == 0)
