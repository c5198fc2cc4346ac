"""A real runner behind the gateway: from an upload to an answer, and what callers see on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace.quota.v1 import tenants_pb2
from headrace_common.rpc_status import from_rpc_error
from inference import open_inference_pb2 as oip
from inference import open_inference_pb2_grpc
from support import onnx_models
from support.gateway import COMMUNITY, Backends, FrontDoor, Pairs, fresh_name, open_door, upload
from support.mesh_processes import running_runner

ROWS = np.arange(32, dtype=np.float32).reshape(2, 16)


def request_for(model: str, **fields: Any) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=ROWS.shape)
    return oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[ROWS.tobytes()], **fields)


async def until_ready(stub: Any, ready: bool = True) -> None:
    async with asyncio.timeout(60):
        while (await stub.ServerReady(oip.ServerReadyRequest(), timeout=60)).ready is not ready:
            await asyncio.sleep(0.02)


async def test_model_is_loaded_on_first_use_and_answers_like_the_matrix_inside(
    backends: Backends, tmp_path: Path
) -> None:
    async with open_door(backends) as door:
        stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        name = fresh_name()
        await upload(door, name, onnx_models.tiny(seed=5))
        with running_runner(backends, door, tmp_path):
            await until_ready(stub)
            ready = await stub.ModelReady(oip.ModelReadyRequest(name=name), metadata=COMMUNITY, timeout=60)
            assert ready.ready, "a runner could load it"
            answer = await stub.ModelInfer(request_for(name, id="mine"), metadata=COMMUNITY, timeout=60)
            assert (answer.model_name, answer.model_version, answer.id) == (name, "1", "mine")
            got = np.frombuffer(answer.raw_output_contents[0], dtype=np.float32).reshape(2, 16)
            np.testing.assert_allclose(got, ROWS @ onnx_models.tiny_weights(seed=5), rtol=1e-5, atol=1e-5)
            await _sees_its_own_models_alone(door, name)
            await _drains(door, stub)


async def _sees_its_own_models_alone(door: FrontDoor, name: str) -> None:
    _, _, key = await door.new_tenant(tenants_pb2.ROLE_USER)
    foreign: Pairs = (("x-api-key", key),)
    mesh = mesh_pb2_grpc.MeshServiceStub(door.channel)
    for metadata, expected in ((COMMUNITY, [name]), (foreign, []), (door.admin, [name])):
        (runner,) = (await mesh.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=metadata, timeout=60)).runners
        assert (runner.name, [model.model for model in runner.models]) == ("runner-0", expected)
    inference: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference.ModelInfer(request_for(name), metadata=foreign, timeout=60)
    assert from_rpc_error(caught.value).reason == "MODEL_NOT_FOUND"


async def _drains(door: FrontDoor, stub: Any) -> None:
    mesh = mesh_pb2_grpc.MeshServiceStub(door.channel)
    (runner,) = (await mesh.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=door.admin, timeout=60)).runners
    await mesh.DrainRunner(mesh_pb2.DrainRunnerRequest(id=runner.id), metadata=door.admin, timeout=60)
    await until_ready(stub, ready=False)


async def test_closing_gateway_answers_the_calls_that_it_took(backends: Backends, tmp_path: Path) -> None:
    async with open_door(backends, HEADRACE_SHUTDOWN_GRACE_S="60") as door:
        stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        name = fresh_name()
        await upload(door, name, onnx_models.tiny(seed=6))
        with running_runner(backends, door, tmp_path):
            await until_ready(stub)
            await stub.ModelInfer(request_for(name), metadata=COMMUNITY, timeout=60)
            calls = [
                asyncio.ensure_future(_outcome(stub.ModelInfer(request_for(name), metadata=COMMUNITY, timeout=60)))
                for _ in range(64)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            await door.gateway.close()
            outcomes = set(await asyncio.gather(*calls))
            # Taken and answered, or refused before any work in a way that a client repeats elsewhere.
            assert outcomes <= {"OK", "SERVER_DRAINING"}
            assert "OK" in outcomes


async def _outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason
    return "OK"
