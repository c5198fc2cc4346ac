"""Models that raise, hang, take all memory or crash their runner: such a call fails alone, and never spreads."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
import pytest_asyncio

from headrace.gateway.v1 import mesh_pb2, mesh_pb2_grpc
from headrace_client.async_client import AsyncClient
from headrace_client.errors import HeadraceError
from headrace_client.retries import NO_RETRIES
from support import faulty_backend, onnx_models
from support.gateway import COMMUNITY, Backends, FrontDoor, fresh_name, open_door
from support.mesh_processes import running_runner

RUNNERS = 3
# Models that do nothing wrong end within it on a busy machine, too.
EXECUTION_S = 2

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Front:
    """A gateway, its runners, and a model on each of them that does what its input says."""

    door: FrontDoor
    client: AsyncClient
    model: str
    runners: list[subprocess.Popen[bytes]]

    async def infer(self, value: int) -> int:
        """The answer to a number."""
        result = await self.client.infer(self.model, {"x": np.array([value], np.int64)}, timeout_s=60)
        return int(result["z"][0])

    async def failure(self, value: int) -> HeadraceError:
        """How a call with a number fails."""
        with pytest.raises(HeadraceError) as caught:
            await self.infer(value)
        return caught.value

    async def until_loaded(self, runners: int) -> None:
        """Returns once so many runners have the model."""
        stub = mesh_pb2_grpc.MeshServiceStub(self.door.channel)
        async with asyncio.timeout(60):
            while True:
                listed = await stub.ListRunners(mesh_pb2.ListRunnersRequest(), metadata=COMMUNITY, timeout=30)
                loaded = [
                    model
                    for runner in listed.runners
                    for model in runner.models
                    if model.state == mesh_pb2.MODEL_STATE_LOADED
                ]
                if len(loaded) == runners:
                    return
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def front(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    folder = tmp_path_factory.mktemp("faulty")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as started:
        patch.setenv("PYTHONPATH", faulty_backend.install(folder / "package"))
        async with (
            open_door(backends) as door,
            # Without retries of its own, so that what the mesh says is what is seen.
            AsyncClient(door.gateway.public_address, api_key="community", retry=NO_RETRIES) as client,
        ):
            runners = [
                started.enter_context(running_runner(backends, door, folder, f"runner-{number}"))
                for number in range(RUNNERS)
            ]
            await door.until_joined(RUNNERS)
            model = fresh_name()
            manifest = {
                "backend": "faulty",
                "execution": {"replicas": RUNNERS, "timeout": f"{EXECUTION_S}s"},
            }
            await client.models.push(onnx_models.identity("INT64", (1,)), name=model, manifest=manifest)
            opened = Front(door, client, model, runners)
            assert await opened.infer(100) == 100
            await opened.until_loaded(RUNNERS)
            yield opened


@pytest.mark.parametrize(
    "fault",
    [faulty_backend.RAISES, faulty_backend.ALLOCATES, faulty_backend.GIVES_NOTHING],
)
async def test_a_model_that_fails_fails_alone_and_says_nothing_of_itself(front: Front, fault: int) -> None:
    others = [asyncio.create_task(front.infer(100 + number)) for number in range(20)]
    error = await front.failure(fault)
    assert error.reason in ("MODEL_EXECUTION_FAILED", "DEVICE_OUT_OF_MEMORY")
    assert "secret" not in str(error)
    assert await asyncio.gather(*others) == [100 + number for number in range(20)]
    assert all(runner.poll() is None for runner in front.runners)


@pytest.mark.fault
async def test_a_model_that_hangs_is_given_up_and_its_runner_goes_on(front: Front) -> None:
    for _ in range(RUNNERS + 1):
        # More often than there are instances: each that hangs is replaced.
        assert (await front.failure(faulty_backend.HANGS)).reason == "EXECUTION_TIMEOUT"
        assert await front.infer(100) == 100
    assert all(runner.poll() is None for runner in front.runners)


async def test_a_call_that_crashes_runners_is_given_to_two_of_them_at_most(front: Front) -> None:
    error = await front.failure(faulty_backend.CRASHES)
    assert error.retryable
    async with asyncio.timeout(30):
        while sum(runner.poll() is not None for runner in front.runners) == 0:
            await asyncio.sleep(0.02)
    assert await front.infer(100) == 100
    dead = sum(runner.poll() is not None for runner in front.runners)
    assert dead <= RUNNERS - 1, "a call that two runners died of is not given to a third"
