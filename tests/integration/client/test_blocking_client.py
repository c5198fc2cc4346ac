"""The blocking client: threads share it, and what asyncio raises reaches them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest

from headrace_client import Client, rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2, mesh_pb2
from headrace_client.errors import CallCancelled, ModelError, UnreachableError, ValidationError
from headrace_common.errors import ModelError as ModelFailure
from support.eventually import eventually
from support.scripted_mesh import ScriptedMesh, serving

T = TypeVar("T")


async def echo(request: bytes) -> bytes:
    """The input as the output."""
    asked = inference_pb2.InferRequest.FromString(request).request
    message = inference_pb2.InferResponse()
    message.response.model_name = asked.model_name
    for tensor in asked.inputs:
        message.response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    message.response.raw_output_contents.extend(asked.raw_input_contents)
    return message.SerializeToString()


async def blocking(use: Callable[[], T]) -> T:
    """Runs a blocking caller beside the server, which lives on this loop."""
    return await asyncio.to_thread(use)


async def test_threads_share_a_client_and_each_gets_its_own_answer() -> None:
    async with serving(ScriptedMesh(unary={rpcs.INFER.path: echo})) as address:

        def use() -> list[int]:
            with Client(address) as client, ThreadPoolExecutor(8) as pool:
                calls = [pool.submit(client.infer, "m", {"x": np.array([number])}) for number in range(200)]
                return [int(call.result()["x"][0]) for call in calls]

        assert await blocking(use) == list(range(200))


async def test_failures_have_the_types_of_the_asyncio_client() -> None:
    async def refuse(request: bytes) -> bytes:
        raise ModelFailure("no such model")

    async with serving(ScriptedMesh(unary={rpcs.INFER.path: refuse})) as address:

        def use() -> None:
            with Client(address) as client:
                with pytest.raises(ModelError, match="no such model"):
                    client.infer("m", {})
                with pytest.raises(ValidationError):
                    client.infer("m", {}, timeout_s=float("nan"))
            with pytest.raises(CallCancelled):
                client.infer("m", {})
            client.close()

        await blocking(use)
    with Client(address, timeout_s=0.5) as client, pytest.raises(UnreachableError):
        await blocking(client.server.live)


async def test_closing_the_client_ends_the_calls_of_other_threads() -> None:
    begun = threading.Event()

    async def hang(request: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with serving(ScriptedMesh(unary={rpcs.INFER.path: hang})) as address:
        client = Client(address)
        waiting = asyncio.ensure_future(asyncio.to_thread(client.infer, "m", {}))
        assert await asyncio.to_thread(begun.wait, 10)
        await blocking(client.close)
        with pytest.raises(CallCancelled):
            await waiting


async def test_a_watch_is_a_plain_loop_and_leaving_it_ends_it_at_the_mesh() -> None:
    async def watch(request: bytes) -> AsyncIterator[bytes]:
        for name in ("a", "b", "c"):
            yield mesh_pb2.WatchRunnersResponse(runner=mesh_pb2.Runner(name=name)).SerializeToString()
        await asyncio.Event().wait()

    mesh = ScriptedMesh(responses={rpcs.WATCH_RUNNERS.path: watch})
    async with serving(mesh) as address:

        def use() -> list[str]:
            seen: list[str] = []
            changes = client.runners.watch()
            for change in changes:
                seen.append(change.runner.name)
                if len(seen) == 2:
                    break
            changes.close()
            return seen

        with Client(address) as client:
            assert await blocking(use) == ["a", "b"]
            await eventually(lambda: mesh.cancelled == 1)
