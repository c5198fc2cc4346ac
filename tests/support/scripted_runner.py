"""A runner that a test speaks for, over real streams to a real gateway: honest until the test lies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc.aio

from headrace.gateway.v1 import mesh_pb2 as gateway_pb2
from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.grpc_client import open_channel
from headrace_common.lanes import LANE_OPTIONS
from headrace_common.tls import Tls

REGISTER = "/headrace.runner.internal.v1.RunnerMesh/Register"
EXCHANGE = "/headrace.runner.internal.v1.RunnerMesh/Exchange"
_BEAT_S = 0.5


class ScriptedRunner:
    """Says that it has loaded whatever is wanted, and leaves it to the test to answer.

    Attributes:
        calls: Calls that came whole, and offers.
        told: What the gateway said beside calls on the small lane: accepts and cancels.
        over: Set once the gateway has ended the session.
    """

    def __init__(self, *, control: Any, small: Any, bulk: Any, token: str) -> None:
        self.token = token
        self.calls: asyncio.Queue[mesh_pb2.Call] = asyncio.Queue()
        self.told: asyncio.Queue[mesh_pb2.CallFrame] = asyncio.Queue()
        self.over = asyncio.Event()
        self._control = control
        self._small = small
        self._bulk = bulk

    async def next_call(self) -> mesh_pb2.Call:
        """The next call or offer."""
        async with asyncio.timeout(30):
            return await self.calls.get()

    async def send(self, frame: mesh_pb2.ResultFrame | bytes, *, lane: str = "small") -> None:
        """Sends a frame, or bytes that need be none."""
        stream = self._small if lane == "small" else self._bulk
        await stream.write(frame if isinstance(frame, bytes) else frame.SerializeToString())

    async def answer(self, call: mesh_pb2.Call, payload: bytes) -> None:
        """Answers a call as it should."""
        await self.send(mesh_pb2.ResultFrame(results=[result_for(call, payload)]))

    async def part(self, call: mesh_pb2.Call, *payloads: bytes) -> None:
        """Sends parts of an answer, in one frame."""
        parts = [mesh_pb2.Result(id=call.id, attempt=call.attempt, payload=payload) for payload in payloads]
        await self.send(mesh_pb2.ResultFrame(results=parts))

    async def cancelled(self, call: mesh_pb2.Call) -> None:
        """Returns once the gateway has cancelled a call; its terminal answer is still due."""
        async with asyncio.timeout(30):
            while call.id not in (await self.told.get()).cancels:
                continue

    async def accepted(self, call: mesh_pb2.Call) -> None:
        """Returns once the gateway takes the chunks of an offered result."""
        async with asyncio.timeout(30):
            while call.id not in (await self.told.get()).accepts:
                continue

    async def run(self) -> None:
        """Keeps the session alive until the gateway ends it."""
        tasks = [asyncio.create_task(part) for part in (self._beat(), self._obey(), self._read(self._small))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.over.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await self._control.write(mesh_pb2.RunnerEvent(heartbeat=mesh_pb2.Heartbeat()).SerializeToString())
            await asyncio.sleep(_BEAT_S)

    async def _obey(self) -> None:
        while (message := await self._control.read()) is not grpc.aio.EOF:
            command = mesh_pb2.GatewayCommand.FromString(message)
            if command.WhichOneof("command") == "want":
                loaded = mesh_pb2.ModelEvent(
                    version_uid=command.want.version.uid,
                    state=gateway_pb2.MODEL_STATE_LOADED,
                    execution_slots=4,
                    backend="onnxruntime",
                )
                await self._control.write(mesh_pb2.RunnerEvent(model=loaded).SerializeToString())

    async def _read(self, lane: Any) -> None:
        while (message := await lane.read()) is not grpc.aio.EOF:
            frame = mesh_pb2.CallFrame.FromString(message)
            for call in (*frame.calls, *frame.offers):
                self.calls.put_nowait(call)
            if frame.accepts or frame.cancels:
                self.told.put_nowait(frame)


def result_for(call: mesh_pb2.Call, payload: bytes = b"") -> mesh_pb2.Result:
    """The one terminal answer to a call."""
    return mesh_pb2.Result(
        id=call.id, attempt=call.attempt, terminal=True, payload=payload, payload_bytes=len(payload), batch_rows=1
    )


@asynccontextmanager
async def scripted_runner(
    address: str,
    *,
    name: str,
    boot_uuid: str | None = None,
    labels: Mapping[str, str] | None = None,
    join_token: str | None = None,
    tls: Tls | None = None,
) -> AsyncGenerator[ScriptedRunner]:
    """A runner that has joined the gateway at `address`.

    Raises:
        grpc.aio.AioRpcError: It was refused.
    """
    hello = mesh_pb2.Hello(
        protocol_version=1,
        runner_name=name,
        boot_uuid=boot_uuid or str(uuid.uuid4()),
        labels=labels,
        device=mesh_pb2.Device(type="cpu", memory_bytes=8 << 30),
        backends=["onnxruntime"],
        execution_slots=4,
        backend_info=[gateway_pb2.BackendInfo(name="onnxruntime", healthy=True)],
    )
    async with AsyncExitStack() as channels:

        async def lane(method: str, *metadata: tuple[str, str]) -> Any:
            channel = open_channel(address, tls=tls, own_connection=True, options=LANE_OPTIONS)
            opened: Any = await channels.enter_async_context(channel)
            return opened.stream_stream(method)(metadata=metadata)

        control = await lane(REGISTER, *((("authorization", f"Bearer {join_token}"),) if join_token else ()))
        # One that gets no connection learns it from the answer.
        with suppress(asyncio.InvalidStateError):
            await control.write(mesh_pb2.RunnerEvent(hello=hello).SerializeToString())
        token = mesh_pb2.GatewayCommand.FromString(await control.read()).welcome.session_token
        session = ("x-headrace-session", token)
        small, bulk = [await lane(EXCHANGE, session, ("x-headrace-lane", name)) for name in ("small", "bulk")]
        runner = ScriptedRunner(control=control, small=small, bulk=bulk, token=token)
        credit = mesh_pb2.Credit(messages=1 << 20, payload_bytes=1 << 40)
        await runner.send(mesh_pb2.ResultFrame(credit=credit))
        running = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
