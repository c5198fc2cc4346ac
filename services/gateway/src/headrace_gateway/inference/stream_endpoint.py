"""A stream of inferences as grpc sees it: reads, writes, and ends the stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, cast

import grpc
import grpc.aio

from headrace_common import catalogue
from headrace_common.call import MetadataMap, metadata_map, request_id_of
from headrace_common.lanes import FramePacer, run_until_one_fails
from headrace_common.loop_load import LoopLoad
from headrace_common.principal import Principal
from headrace_common.request_id import REQUEST_ID_KEY
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.rpc_status import abort, from_exception
from headrace_gateway.inference import tenant_streams
from headrace_gateway.inference.message_bounds import read_too_late
from headrace_gateway.inference.outlook import shutting_down
from headrace_gateway.inference.tenant_streams import TenantStreams
from headrace_gateway.stream_access import StreamAccess

DRAIN_NOTICE_S = 0.4

Context = grpc.aio.ServicerContext[Any, Any]


class StreamOver(Exception):
    """The client has had all its answers."""


class StreamCalls(Protocol):
    """The calls of one stream, without its I/O. `calls` counts those that came, `failures` those that failed."""

    calls: int
    failures: int

    @property
    def in_flight(self) -> int:
        """Calls whose answer has not been taken for sending."""
        ...

    @property
    def waiting(self) -> int:
        """Answers for the next message."""
        ...

    @property
    def full(self) -> bool:
        """Whether nothing more should be read for now."""
        ...

    def on_message(self, received: bytes) -> Iterator[None]:
        """Takes a message of the client, yields when others should have a turn; what it raises ends the stream."""
        ...

    def next_message(self) -> bytes | None:
        """The next message for the client, or None when there is nothing to say; what it raises ends the stream."""
        ...

    def drain(self) -> None:
        """The server is stopping: tells the client, where the protocol has a word for it."""
        ...

    def refuse_calls(self) -> None:
        """The client has had time to notice `drain`: calls that still come are answered with SERVER_DRAINING."""
        ...

    def close(self) -> None:
        """The stream has ended: cancels what is in flight."""
        ...


class Opening(NamedTuple):
    """What the calls of a stream are made from.

    Attributes:
        principal: Who opens it.
        request_id: The stream's own.
        wake: To be called whenever `next_message` may have something.
        remaining_s: Tells the time left of the stream's deadline, None where it has none.
    """

    principal: Principal
    request_id: str
    metadata: MetadataMap
    wake: Callable[[], None]
    remaining_s: Callable[[], float | None]


class StreamEndpoint:
    """Answers streams that were admitted on their metadata.

    Args:
        path: Full name of the method, such as `/package.Service/Method`.
        open_calls: Makes the calls of one stream.
        access: Checks the credential again while the stream lives.
        streams: Places of streams.
        load: How busy this process is.
        runtime: Limits, metrics and log of the process.
    """

    def __init__(
        self,
        *,
        path: str,
        open_calls: Callable[[Opening], StreamCalls],
        access: StreamAccess,
        streams: TenantStreams,
        load: LoopLoad,
        runtime: RpcRuntime,
    ) -> None:
        self.gate = streams.gate
        self._path = path
        self._open_calls = open_calls
        self._access = access
        self._streams = streams
        self._load = load
        self._runtime = runtime
        self._counts = runtime.counts.method(path)
        self._open: set[_Stream] = set()
        self._draining = False

    def handler(self, principal: Principal | None) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for one admitted stream, bytes in and bytes out."""
        if principal is None:
            raise ValueError(f"{self._path} needs a principal")
        self._streams.check(principal.tenant_id)

        async def respond(_requests: Any, context: Context) -> None:
            await self._respond(context, principal)

        return grpc.stream_stream_rpc_method_handler(respond)  # pyright: ignore

    def end_streams(self) -> None:
        """The server is stopping: streams are told so, answer what is in flight and end."""
        self._draining = True
        for stream in self._open:
            stream.drain()

    async def _respond(self, context: Context, principal: Principal) -> None:
        started_s = time.monotonic()
        metadata = metadata_map(context.invocation_metadata())
        request_id = request_id_of(metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        code, reason = "CANCELLED", catalogue.CALL_CANCELLED.reason
        self._counts.in_flight += 1
        stream = _Stream(context, self._load)
        remaining_s = cast("Callable[[], float | None]", context.time_remaining)
        opening = Opening(principal, request_id, metadata, stream.wake, remaining_s)
        calls = self._open_calls(opening)
        stream.calls = calls
        try:
            if self._draining:
                raise shutting_down()
            with self._streams.place(principal.tenant_id):
                self._open.add(stream)
                try:
                    # Not with the first message: a status can't follow headers whose sending was cancelled with that
                    # write, and the client would wait for ever.
                    await context.send_initial_metadata(())
                    watching = self._access.watch(tuple(metadata.items()), principal)
                    await run_until_one_fails(stream.read(), stream.write(), watching)
                finally:
                    self._open.discard(stream)
        except StreamOver:
            code, reason = "OK", ""
        except Exception as error:
            correlation_id = uuid.uuid4().hex
            failure = from_exception(error, correlation_id)
            if failure is not error:
                self._runtime.log.exception("unexpected failure", correlation_id=correlation_id)
            code, reason = failure.entry.grpc, failure.reason
            calls.close()
            aborting = abort(context, failure, trailing=((REQUEST_ID_KEY, request_id),))
            await self._streams.end(principal.tenant_id, aborting)
        finally:
            calls.close()
            self._counts.in_flight -= 1
            duration_s = time.monotonic() - started_s
            self._counts.duration.observe(duration_s)
            self._counts.ended(code, reason)
            if self._runtime.access_log:
                self._runtime.log.info(
                    "stream",
                    method=self._path,
                    grpc_code=code,
                    reason=reason or None,
                    duration_ms=round(duration_s * 1000, 3),
                    tenant_id=principal.tenant_id,
                    key_id=principal.key_id,
                    request_id=request_id,
                    calls=calls.calls,
                    failures=calls.failures,
                )


class _Stream:
    """One stream's reading and writing side."""

    calls: StreamCalls

    def __init__(self, context: Context, load: LoopLoad) -> None:
        self._context = context
        self._pacer = FramePacer(calls=lambda: (self.calls.waiting, self.calls.in_flight), load=load, answers=True)
        self._room = asyncio.Event()
        self._half_closed = False
        self._refusing = False

    def wake(self) -> None:
        """There may be something to write."""
        self._pacer.notify()

    def drain(self) -> None:
        """Tells the client, and a moment later takes no new calls."""
        self.calls.drain()
        asyncio.get_running_loop().call_later(DRAIN_NOTICE_S, self._refuse)

    def _refuse(self) -> None:
        self._refusing = True
        self.calls.refuse_calls()

    async def read(self) -> None:
        """Takes messages while there is room; returns when the client has closed its side."""
        while True:
            while self.calls.full:
                self._room.clear()
                await self._room.wait()
            received = await self._context.read()
            if not isinstance(received, bytes):
                break
            for _ in self.calls.on_message(received):
                await asyncio.sleep(0)
        self._half_closed = True
        self._pacer.notify()

    async def write(self) -> None:
        """Writes what is due, until the stream is over.

        Raises:
            StreamOver: The client has closed its side and has all its answers.
            RouteUnavailable: SERVER_DRAINING (UNAVAILABLE): likewise, but the client would go on.
            RunnerError: READER_TOO_SLOW (RESOURCE_EXHAUSTED): the client leaves a message unread for too long.
        """
        self._pacer.notify()
        while True:
            await self._pacer.wait()
            message = self.calls.next_message()
            if message is not None:
                self._room.set()
                await self._write(message)
                self._pacer.sent()
            if not self.calls.in_flight and self._half_closed:
                raise StreamOver
            if not self.calls.in_flight and self._refusing:
                raise shutting_down()

    async def _write(self, message: bytes) -> None:
        waiting = asyncio.timeout(tenant_streams.UNREAD_S)
        try:
            async with waiting:
                await self._context.write(message)
        except TimeoutError:
            if not waiting.expired():
                raise
            raise read_too_late("a message", tenant_streams.UNREAD_S) from None
