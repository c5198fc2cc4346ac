"""A front that is told to stop ends its streams with a word, and itself with 0."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import orjson

from headrace_client import rpcs
from inference.open_inference_pb2 import ServerReadyResponse
from support.eventually import eventually
from support.generation_gateway import GenerationGateway, delta
from support.scripted_mesh import serving


class ReadyGateway(GenerationGateway):
    """Is ready, says one word and then nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _: [delta("The"), None])
        self._unary = {rpcs.SERVER_READY.path: self._ready}

    async def _ready(self, _: bytes) -> bytes:
        return ServerReadyResponse(ready=True).SerializeToString()


async def test_streams_end_with_an_event_and_the_process_with_0(tmp_path: Path) -> None:
    gateway, ready_file = ReadyGateway(), tmp_path / "ready.json"
    async with serving(gateway) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace_gateway.http"),
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
                "HEADRACE_HTTP_GATEWAY_ADDRESS": address,
                "HEADRACE_HTTP_ADDRESS": "127.0.0.1:0",
                "HEADRACE_METRICS_ADDRESS": "127.0.0.1:0",
                "HEADRACE_READY_FILE": str(ready_file),
                "HEADRACE_SHUTDOWN_GRACE_S": "2",
            },
        )
        try:
            await eventually(ready_file.exists, within_s=60)
            url = orjson.loads(ready_file.read_bytes())["http"]
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
            async with (
                httpx.AsyncClient(base_url=url, headers={"x-api-key": "key"}, timeout=60) as client,
                client.stream("POST", "/v1/chat/completions", json=body) as answer,
            ):
                lines = answer.aiter_lines()
                assert '"role"' in await anext(lines)
                process.send_signal(signal.SIGTERM)
                told = [line async for line in lines if line.startswith("data: ")]
            assert orjson.loads(told[-1].removeprefix("data: "))["error"]["code"] == "server_draining"
            assert await asyncio.wait_for(process.wait(), 60) == 0
            await eventually(lambda: gateway.cancelled == 1)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
