"""Every way into a mesh, tried with one key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc.aio
import httpx

from headrace.gateway.v1 import inference_pb2
from headrace.gateway.v1.inference_pb2_grpc import InferenceServiceStub
from inference.open_inference_pb2 import ModelInferRequest
from support.load import infer_stub


class PackedCalls:
    """Calls on one packed stream, one after another; how it ended is read, for a write on an ended one can't tell."""

    def __init__(self, *, stream: Any, request: ModelInferRequest) -> None:
        self._stream = stream
        self._request = request
        self._number = 0
        self._answers = asyncio.Queue[str]()
        self._opened = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def call(self) -> str:
        """How one more call ends; once the stream has ended, how it did."""
        self._number += 1
        one = inference_pb2.StreamCall(id=self._number, infer=inference_pb2.InferRequest(request=self._request))
        # The server speaks first; what is written before it refuses would hide how.
        opening = asyncio.create_task(self._opened.wait())
        await asyncio.wait((opening, self._reading), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        if not self._reading.done():
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._stream.write(inference_pb2.StreamRequest(calls=[one]))
        answering = asyncio.create_task(self._answers.get())
        await asyncio.wait((answering, self._reading), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        answering.cancel()
        return self._reading.result()

    async def _read(self) -> str:
        """Hands answers on until the stream ends; returns the name of its code."""
        try:
            async for message in self._stream:
                self._opened.set()
                for answer in message.answers:
                    self._answers.put_nowait("OK" if answer.HasField("infer") else f"status {answer.error.code}")
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return (await self._stream.code()).name


class Ways:
    """Every way in, with one key: unary and packed streams through each gateway, and HTTP over several connections.

    Args:
        doors: Gateways by name; a packed stream through each is opened now, others for each call.
        clients: Of HTTP fronts.
        key: What is shown everywhere.
        body: A serialised ModelInferRequest for `magika`, which HTTP calls, too.
    """

    def __init__(
        self, *, doors: Mapping[str, grpc.aio.Channel], clients: Sequence[httpx.AsyncClient], key: str, body: bytes
    ) -> None:
        self._metadata = (("x-api-key", key),)
        self._body = body
        self._request = ModelInferRequest.FromString(body)
        self.attempts: dict[str, Callable[[], Awaitable[str]]] = {}
        for name, door in doors.items():
            self.attempts[f"{name} unary"] = lambda door=door: self._unary(door)
            self.attempts[f"{name} stream"] = self._on_stream(door)
            self.attempts[f"{name} new stream"] = lambda door=door: self._on_stream(door)()
        for number, client in enumerate(clients):
            self.attempts[f"HTTP {number}"] = lambda client=client: self._http(client, key)

    async def outcomes(self) -> dict[str, str]:
        """How a call by each way ends now."""
        ends = await asyncio.gather(*(attempt() for attempt in self.attempts.values()))
        return dict(zip(self.attempts, ends, strict=True))

    async def until_all(self, end: str, within_s: float) -> float:
        """Seconds until calls by all ways end so; each is asked again until it does."""
        began_s = time.monotonic()
        while True:
            outcomes = await self.outcomes()
            if set(outcomes.values()) == {end}:
                return time.monotonic() - began_s
            late = {way: outcome for way, outcome in outcomes.items() if outcome != end}
            assert time.monotonic() - began_s < within_s, late
            await asyncio.sleep(0.02)

    async def _unary(self, door: grpc.aio.Channel) -> str:
        try:
            await infer_stub(door)(self._body, metadata=self._metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    def _on_stream(self, door: grpc.aio.Channel) -> Callable[[], Awaitable[str]]:
        """Calls on one stream, which stays open until it is ended from the other side."""
        return PackedCalls(
            stream=InferenceServiceStub(door).Stream(metadata=self._metadata), request=self._request
        ).call

    async def _http(self, client: httpx.AsyncClient, key: str) -> str:
        tensor = {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [65] * 2048}
        answer = await client.post("/v2/models/magika/infer", json={"inputs": [tensor]}, headers={"x-api-key": key})
        return {200: "OK", 401: "UNAUTHENTICATED", 503: "UNAVAILABLE"}.get(answer.status_code, answer.text)
