"""Where models are, seen through two gateways: warm pools, the prewarm list, and newer versions that take over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from headrace.gateway.v1.mesh_pb2 import MODEL_STATE_LOADED, ListRunnersRequest
from headrace.gateway.v1.mesh_pb2_grpc import MeshServiceStub
from headrace_client import AsyncClient
from headrace_client.errors import DeadlineError
from support import onnx_models
from support.mesh import Mesh
from support.soak import scrape

pytestmark = pytest.mark.timeout(240)

ROW = {"x": np.ones((1, 16), np.float32)}
CUTOVERS = "headrace_placement_cutovers"


def replicas(twins: Mesh, model: str, version: int) -> int:
    """Runners that have a version loaded."""
    with grpc.insecure_channel(twins.grpc) as channel:
        answer = MeshServiceStub(channel).ListRunners(ListRunnersRequest(), metadata=twins.metadata, timeout=30)
    return sum(
        (loaded.model, loaded.version, loaded.state) == (model, version, MODEL_STATE_LOADED)
        for runner in answer.runners
        for loaded in runner.models
    )


def counted(twins: Mesh, name: str) -> list[float]:
    """A metric of each gateway; 0 where it has none."""
    return [scrape(str(gateway.metrics)).get(name, 0.0) for gateway in twins.named("gateway")]


async def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def test_what_is_listed_or_belongs_to_a_warm_pool_is_loaded_before_anybody_calls_it(twins: Mesh) -> None:
    await until(lambda: replicas(twins, "magika", 1) == 2)
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        pool = {"placement": {"min_replicas": 1, "max_replicas": 1}}
        await client.models.push(onnx_models.tiny(seed=1), name="pooled", manifest=pool)
        await until(lambda: replicas(twins, "pooled", 1) == 1)
        await client.models.push(onnx_models.tiny(seed=1), name="unpooled")
        await client.infer("pooled", ROW)
    # Whichever gateway is asked, after both have heard of it.
    await until(lambda: replicas(twins, "pooled", 1) == 1)
    assert replicas(twins, "unpooled", 1) == 0


async def test_requests_move_to_a_new_version_once_it_is_where_the_old_one_is_and_none_of_them_waits(
    twins: Mesh,
) -> None:
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.tiny(seed=1), name="renewed")
        await client.infer("renewed", ROW)
        await until(lambda: replicas(twins, "renewed", 1) == 2)
        before = counted(twins, f'{CUTOVERS}_total{{outcome="done"}}')
        served: list[str] = []
        done = asyncio.Event()

        async def call() -> None:
            # A client of its own, so that both gateways have calls.
            async with AsyncClient(twins.grpc, api_key=twins.api_key) as caller:
                while not done.is_set():
                    result = await caller.infer("renewed", ROW, timeout_s=20)
                    served.append(result.version)
                    await asyncio.sleep(0.002)

        callers = [asyncio.create_task(call()) for _ in range(4)]
        await until(lambda: len(served) > 50)
        await client.models.push(onnx_models.tiny(seed=2), name="renewed")
        await until(lambda: served[-20:] == ["2"] * 20)
        # Each gateway moves over when it has heard of all replicas.
        await until(lambda: counted(twins, f'{CUTOVERS}_total{{outcome="done"}}') == [count + 1 for count in before])
        await until(lambda: replicas(twins, "renewed", 2) == 2)
        done.set()
        await asyncio.gather(*callers)
        expected = ROW["x"] @ onnx_models.tiny_weights(seed=2)
        result = await client.infer("renewed", ROW)
        assert np.allclose(result["z"], expected, atol=1e-4)
        assert (await client.infer("renewed", ROW, version="1")).version == "1"
    assert set(served) == {"1", "2"}


async def test_a_new_version_that_no_runner_can_load_gets_no_requests(twins: Mesh) -> None:
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.identity(shape=("batch", 16)), name="broken-later")
        await client.infer("broken-later", ROW)
        await client.models.push(onnx_models.identities(["BF16", "BYTES"]), name="broken-later")
        await until(lambda: counted(twins, f'{CUTOVERS}_pending{{state="failing"}}') == [1, 1])
        assert (await client.infer("broken-later", ROW)).version == "1"
        await client.models.push(onnx_models.add(shape=("batch", 16)), name="broken-later")
        await until(lambda: counted(twins, f'{CUTOVERS}_pending{{state="failing"}}') == [0, 0])
        both = {"x": ROW["x"], "y": ROW["x"]}
        for state in ("failing", "loading"):
            await until(lambda state=state: counted(twins, f'{CUTOVERS}_pending{{state="{state}"}}') == [0, 0])
        assert (await client.infer("broken-later", both)).version == "3"


async def test_a_model_whose_calls_wait_for_too_long_gets_another_replica(twins: Mesh) -> None:
    slow = {"x": np.array(0, np.int64), "y": np.array(20_000, np.int64)}
    async with AsyncClient(twins.grpc, api_key=twins.api_key) as client:
        await client.models.push(onnx_models.counting_loop(), name="busy", manifest={"execution": {"replicas": 1}})
        await client.infer("busy", slow)
        await until(lambda: replicas(twins, "busy", 1) == 1)
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                try:
                    await client.infer("busy", slow, timeout_s=60)
                except DeadlineError:
                    # After a stall the gateway expects the next calls to take as long.
                    await asyncio.sleep(0.05)

        callers = [asyncio.create_task(call()) for _ in range(60)]
        await until(lambda: replicas(twins, "busy", 1) == 2, within_s=60)
        done.set()
        await asyncio.gather(*callers)
