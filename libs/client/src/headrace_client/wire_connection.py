"""Moves the messages of one packed stream between its bookkeeping and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import StreamAnswer, StreamLimits, StreamResponse
from headrace_client.endings import Ending
from headrace_client.errors import CallCancelled, HeadraceError, InternalError, UnreachableError
from headrace_client.packing import Call, PackingLimits, WaitingCalls, WireStream
from headrace_client.rpcs import STREAM
from headrace_client.transport import Transport

Owner = TypeVar("Owner")
_OPEN_TIMEOUT_S = 10.0


class WireConnection(Generic[Owner]):
    """One RPC of `InferenceService.Stream`, from the server's limits to its end.

    There is no timer: a message leaves as soon as the RPC takes one, and what gathers meanwhile leaves together.

    Attributes:
        wire: The calls on it.
        unusable: Set when new calls must go elsewhere, because it drains or has ended.
        ended_by: Why it ended; None before, for the status OK, and when nobody knows.
    """

    def __init__(
        self,
        *,
        rpc: Any,
        ending: Ending,
        messages: AsyncIterator[bytes],
        wire: WireStream[Owner],
        transport: Transport,
        answered: Callable[[Call[Owner], StreamAnswer], None],
        sent: Callable[[WireStream[Owner]], None],
    ) -> None:
        self.wire = wire
        self.unusable = asyncio.Event()
        self.ended_by: HeadraceError | None = None
        if wire.draining:
            self.unusable.set()
        self._rpc = rpc
        self._ending = ending
        self._messages = messages
        self._transport = transport
        self._answered = answered
        self._sent = sent
        self._due = asyncio.Event()
        self._finishing = False

    def wake(self) -> None:
        """To be called when a call waits or was withdrawn."""
        self._due.set()

    def finish(self) -> None:
        """Sends no new calls any more and lets the server end the RPC when it has answered those it has."""
        self._finishing = True
        self.wire.draining = True
        self._due.set()

    def abandon(self) -> None:
        """Ends the RPC at once, also where `run` has not begun."""
        self._rpc.cancel()

    async def run(self) -> None:
        """Carries messages until the RPC ends."""
        writer = asyncio.create_task(self._write(), name="headrace-stream-writer")
        try:
            async for message in self._messages:
                self._take(StreamResponse.FromString(message))
        except grpc.RpcError as error:
            self.ended_by = self._transport.restored(await self._ending.real(error))
        except DecodeError:
            self.ended_by = InternalError("the mesh sent a stream message that can't be read")
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            if writer.done():
                writer.result()
            self.ended_by = CallCancelled("the client was closed before the answer came")
        finally:
            self.unusable.set()
            writer.cancel()
            await asyncio.wait((writer,))
            self.abandon()

    def _take(self, response: StreamResponse) -> None:
        for call, answer in self.wire.received(response):
            self._answered(call, answer)
        if self.wire.draining:
            self.unusable.set()
        self._due.set()

    async def _write(self) -> None:
        wire = self.wire
        now = asyncio.get_running_loop().time
        try:
            while True:
                message = wire.pack(now())
                # Also after a message that did not come about: calls may have been found too large for any.
                self._sent(wire)
                if message is not None:
                    if not await self._is_taken(self._rpc.write(message)):
                        return
                    continue
                if self._finishing or (wire.draining and not wire.in_flight):
                    await self._is_taken(self._rpc.done_writing())
                    return
                self._due.clear()
                await self._due.wait()
                if wire.in_flight:
                    # One more turn of the loop: what the answers that are here already set off leaves together.
                    await asyncio.sleep(0)
        except Exception:
            self._rpc.cancel()
            raise

    @staticmethod
    async def _is_taken(writing: Awaitable[None]) -> bool:
        """Whether the RPC took what is written; when it is over its reader tells why."""
        try:
            await writing
        except (asyncio.InvalidStateError, grpc.RpcError, grpc.aio.InternalError):
            return False
        return True


async def open_connection(
    *,
    transport: Transport,
    waiting: WaitingCalls[Owner],
    answered: Callable[[Call[Owner], StreamAnswer], None],
    sent: Callable[[WireStream[Owner]], None],
) -> WireConnection[Owner]:
    """Starts an RPC and waits for the server's limits.

    Args:
        transport: Makes the RPC.
        waiting: Where the connection takes calls from.
        answered: Takes each call with its answer.
        sent: Called when calls may have been taken, to be sent or because they fit into no message.

    Raises:
        HeadraceError: The server refused the stream, or nobody answers.
    """
    rpc = transport.open_stream(STREAM)
    ending = Ending(rpc)
    messages: AsyncIterator[bytes] = aiter(rpc)
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            first = StreamResponse.FromString(await anext(messages))
    except (StopAsyncIteration, TimeoutError):
        rpc.cancel()
        endpoint = transport.endpoint
        raise UnreachableError(f"no stream opens at {endpoint}", context={"endpoint": endpoint}) from None
    except grpc.RpcError as error:
        raise transport.restored(await ending.real(error)) from None
    except DecodeError:
        rpc.cancel()
        raise InternalError("the mesh sent a stream message that can't be read") from None
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise CallCancelled("the client is closed") from None
    wire = WireStream(waiting=waiting, limits=_packing_limits(first.limits))
    wire.received(first)
    return WireConnection(
        rpc=rpc, ending=ending, messages=messages, wire=wire, transport=transport, answered=answered, sent=sent
    )


def _is_cancelled() -> bool:
    """Whether somebody cancels the current task; when not, a CancelledError tells that the channel was closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _packing_limits(told: StreamLimits) -> PackingLimits:
    """The limits as told, at least one call at a time however odd they are."""
    return PackingLimits(
        calls_max=max(1, told.calls_max),
        bytes_max=told.bytes_max,
        calls_per_message_max=max(1, told.calls_per_message_max),
        message_bytes_max=told.message_bytes_max,
    )
