"""A front that is told to stop ends its streams with a word before it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import orjson

from headrace_client import rpcs
from headrace_common.service_main import Stop
from headrace_common.settings import load_settings
from headrace_gateway.http.app import serve
from headrace_gateway.http.config import HttpSettings
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


async def test_streams_end_with_an_event_and_then_the_front_ends(tmp_path: Path) -> None:
    gateway, ready_file, stop = ReadyGateway(), tmp_path / "ready.json", Stop()
    async with serving(gateway) as address:
        variables = {
            "HEADRACE_HTTP_GATEWAY_ADDRESS": address,
            "HEADRACE_HTTP_ADDRESS": "127.0.0.1:0",
            "HEADRACE_METRICS_ADDRESS": "127.0.0.1:0",
            "HEADRACE_READY_FILE": str(ready_file),
            "HEADRACE_SHUTDOWN_GRACE_S": "1.5",
        }
        front = asyncio.create_task(serve(load_settings(HttpSettings, environ=variables), stop))
        await eventually(lambda: ready_file.exists() or front.done())
        url = orjson.loads(ready_file.read_bytes())["http"]
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=url, headers={"x-api-key": "key"}, timeout=60) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            lines = answer.aiter_lines()
            assert '"role"' in await anext(lines)
            stop.request()
            told = [line async for line in lines if line.startswith("data: ")]
        assert orjson.loads(told[-1].removeprefix("data: "))["error"]["code"] == "server_draining"
        await asyncio.wait_for(front, 60)
        assert not stop.failed
        await eventually(lambda: gateway.cancelled == 1)
