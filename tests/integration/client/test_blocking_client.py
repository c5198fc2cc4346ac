"""The blocking client: threads share it, and what asyncio raises reaches them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest

from headrace_client import Client, RetryPolicy, rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2, mesh_pb2
from headrace_client.errors import CallCancelled, ModelError, UnreachableError, ValidationError
from headrace_common.errors import ModelError as ModelFailure
from headrace_common.errors import RunnerUnavailable as RunnerFailure
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
    with Client(address, timeout_s=30) as client, pytest.raises(UnreachableError):
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
        assert await asyncio.to_thread(begun.wait, 30)
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


async def test_closing_the_client_ends_calls_that_pause_before_another_try() -> None:
    async def fail(request: bytes) -> bytes:
        raise RunnerFailure("gone", retry_after_s=50)

    async with serving(ScriptedMesh(unary={rpcs.INFER.path: fail})) as address:
        client = Client(address, timeout_s=100)
        waiting = asyncio.ensure_future(asyncio.to_thread(client.infer, "m", {}))
        budget = client._client._transport.retry_budget
        await eventually(lambda: budget._tokens < RetryPolicy().tokens_max)
        async with asyncio.timeout(30):
            await blocking(client.close)
            with pytest.raises(CallCancelled):
                await waiting


async def test_a_blocking_call_from_the_clients_own_thread_is_refused() -> None:
    async def upload(requests: AsyncIterator[bytes]) -> bytes:
        async for _ in requests:
            pass
        return b""

    async with serving(ScriptedMesh(uploads={rpcs.UPLOAD_VERSION.path: upload})) as address:

        def use() -> None:
            with Client(address, timeout_s=30) as client:
                for call in (client.server.live, client.close, client.stream):

                    def progress(sent: int, total: int, call: Callable[[], object] = call) -> None:
                        call()

                    with pytest.raises(RuntimeError, match="callback of the same client"):
                        client.models.push(b"model", name="m", progress=progress)

        async with asyncio.timeout(60):
            await blocking(use)


FORKED = """
import os
from headrace_client import Client
from headrace_client.errors import CallCancelled

client = Client("127.0.0.1:9", timeout_s=1)
child = os.fork()
if not child:
    for call in (client.server.live, client.stream):
        try:
            call()
            os._exit(1)
        except CallCancelled as error:
            if "fork" not in str(error):
                os._exit(2)
    client.close()
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_is_told_that_it_needs_a_client_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-c", FORKED], check=False, timeout=60).returncode == 0
