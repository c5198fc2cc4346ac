"""One session with one gateway process: a control lane and two data lanes that live and die together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import cast

import grpc.aio

from headrace.runner.internal.v1 import mesh_pb2
from headrace_common.clock import Clock
from headrace_common.lanes import (
    ByteBudget,
    FramePacer,
    LaneLimits,
    decode_chunks,
    encode_chunk,
    run_until_one_fails,
    write_frames,
    write_paced,
)
from headrace_common.loop_load import LoopLoad
from headrace_common.reused_message import ReusedMessage
from headrace_runner.mesh.host import Host
from headrace_runner.mesh.session_calls import SessionCalls

PROTOCOL_VERSION = 1
HEARTBEAT_S = 0.5
_WELCOME_TIMEOUT_S = 5.0
_REGISTER = "/headrace.runner.internal.v1.RunnerMesh/Register"
_EXCHANGE = "/headrace.runner.internal.v1.RunnerMesh/Exchange"
_CALL_CHUNKS = mesh_pb2.CallFrame.CHUNKS_FIELD_NUMBER
_RESULT_CHUNKS = mesh_pb2.ResultFrame.CHUNKS_FIELD_NUMBER

Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class SessionEnded(Exception):
    """The gateway ended the session, or one of its lanes broke."""


class Session:
    """Runs from hello to the loss of any lane.

    Args:
        open_channel: Opens a new connection to the gateway; called once per lane, so that no two lanes share one.
        hello: Makes the first message.
        load: How busy this process is.
        on_welcome: Decides whether the gateway is one to stay with; False ends the session before any call.
    """

    def __init__(
        self,
        *,
        open_channel: Callable[[], grpc.aio.Channel],
        join_token: str | None,
        hello: Callable[[], mesh_pb2.Hello],
        on_welcome: Callable[[mesh_pb2.Welcome], bool],
        on_drain: Callable[[], None],
        host: Host,
        limits: LaneLimits,
        budget: ByteBudget,
        clock: Clock,
        load: LoopLoad,
    ) -> None:
        self._open_channel = open_channel
        self._join_token = join_token
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_drain = on_drain
        self._host = host
        self._limits = limits
        self._budget = budget
        self._clock = clock
        self._events: asyncio.Queue[mesh_pb2.RunnerEvent] = asyncio.Queue()
        self._small_due = FramePacer(calls=self._load_of_lane, load=load, answers=True)
        self._bulk_due = asyncio.Event()
        self._calls: SessionCalls | None = None

    def drain(self) -> None:
        """Tells the gateway that this runner leaves; the gateway ends the session once its calls are answered."""
        self._events.put_nowait(mesh_pb2.RunnerEvent(draining=mesh_pb2.Draining()))

    async def run(self) -> None:
        """Returns when `on_welcome` declined the gateway.

        Raises:
            SessionEnded: The gateway ended the session, or refused it.
            grpc.aio.AioRpcError: A lane broke.
            LaneViolation: The gateway broke the protocol.
        """
        async with AsyncExitStack() as channels:

            async def lane(method: str, metadata: tuple[tuple[str, str], ...]) -> Stream:
                channel = await channels.enter_async_context(self._open_channel())
                return cast("Stream", channel.stream_stream(method)(metadata=metadata))

            token = (("authorization", f"Bearer {self._join_token}"),) if self._join_token else ()
            control = await lane(_REGISTER, token)
            self._host.add_listener(self._on_model)
            try:
                await control.write(mesh_pb2.RunnerEvent(hello=self._hello()).SerializeToString())
                welcome = await self._welcome(control)
                if not self._on_welcome(welcome):
                    return
                binding = ("x-headrace-session", welcome.session_token)
                small = await lane(_EXCHANGE, (binding, ("x-headrace-lane", "small")))
                bulk = await lane(_EXCHANGE, (binding, ("x-headrace-lane", "bulk")))
                await self._serve(welcome, control, small, bulk)
            finally:
                self._host.remove_listener(self._on_model)

    async def _welcome(self, control: Stream) -> mesh_pb2.Welcome:
        async with asyncio.timeout(_WELCOME_TIMEOUT_S):
            command = mesh_pb2.GatewayCommand.FromString(await _read(control))
        if command.WhichOneof("command") != "welcome" or command.welcome.protocol_version != PROTOCOL_VERSION:
            raise SessionEnded("the gateway speaks another protocol")
        return command.welcome

    async def _serve(self, welcome: mesh_pb2.Welcome, control: Stream, small: Stream, bulk: Stream) -> None:
        calls = SessionCalls(
            begin=self._host.begin,
            limits=replace(
                self._limits,
                message_bytes_max=welcome.message_bytes_max,
                inline_bytes_max=welcome.inline_bytes_max,
            ),
            budget=self._budget,
            clock=self._clock,
            wake=self._wake,
        )
        self._calls = calls

        def next_bulk_frame() -> bytes | None:
            chunk = calls.next_chunk()
            return None if chunk is None else encode_chunk(_RESULT_CHUNKS, chunk)

        try:
            await run_until_one_fails(
                self._read_commands(control),
                self._write_events(control),
                self._beat(),
                self._read_calls(small, calls),
                write_paced(calls.next_small_frame, small.write, self._small_due),
                self._read_chunks(bulk, calls),
                write_frames(next_bulk_frame, bulk.write, self._bulk_due),
            )
        finally:
            calls.close()

    def _load_of_lane(self) -> tuple[int, int]:
        calls = self._calls
        return (calls.queued, calls.in_flight) if calls is not None else (0, 0)

    def _wake(self) -> None:
        self._small_due.notify()
        if self._calls is not None and self._calls.sending:
            self._bulk_due.set()

    def _on_model(self, event: mesh_pb2.ModelEvent) -> None:
        self._events.put_nowait(mesh_pb2.RunnerEvent(model=event))

    async def _beat(self) -> None:
        while True:
            self._events.put_nowait(mesh_pb2.RunnerEvent(heartbeat=self._host.load()))
            await asyncio.sleep(HEARTBEAT_S)

    async def _write_events(self, control: Stream) -> None:
        while True:
            event = await self._events.get()
            await control.write(event.SerializeToString())

    async def _read_commands(self, control: Stream) -> None:
        while True:
            command = mesh_pb2.GatewayCommand.FromString(await _read(control))
            match command.WhichOneof("command"):
                case "want":
                    want = command.want
                    ttl_s = want.ttl.seconds + want.ttl.nanos / 1e9
                    self._host.want(tenant_id=want.tenant_id, version=want.version, ticket=want.ticket, ttl_s=ttl_s)
                case "release":
                    self._host.release(command.release.version_uid)
                case "drain":
                    self._on_drain()
                case _:
                    continue

    async def _read_calls(self, small: Stream, calls: SessionCalls) -> None:
        reused = ReusedMessage(mesh_pb2.CallFrame)
        while True:
            received = await _read(small)
            frame = reused.take(len(received))
            frame.MergeFromString(received)
            self._small_due.peer_gather_s = frame.gather_us / 1e6
            calls.on_call_frame(frame)

    async def _read_chunks(self, bulk: Stream, calls: SessionCalls) -> None:
        while True:
            for chunk in decode_chunks(_CALL_CHUNKS, await _read(bulk)):
                calls.on_chunk(chunk)


async def _read(stream: Stream) -> bytes:
    message = await stream.read()
    if isinstance(message, bytes):
        return message
    raise SessionEnded("the gateway ended the session")
