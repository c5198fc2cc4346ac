"""Keeps a packed stream going: opens it when calls wait, opens another when it breaks, tries unanswered calls again."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, Protocol

from headrace_client import failures
from headrace_client.contracts.headrace.gateway.v1.inference_pb2 import InferResponse, StreamAnswer
from headrace_client.deadlines import Deadlines
from headrace_client.errors import (
    CallCancelled,
    HeadraceError,
    InferenceTimeout,
    InternalError,
    UnreachableError,
    ValidationError,
)
from headrace_client.inference import decode_response
from headrace_client.packing import Call, WaitingCalls, WireStream
from headrace_client.retries import Attempts
from headrace_client.status import from_status
from headrace_client.transport import Transport
from headrace_client.wire_connection import WireConnection, open_connection

_DEADLINE_TICK_S = 0.01
_END_TIMEOUT_S = 5.0


class CallOwner(Protocol):
    """Whoever waits for a call's outcome: is given exactly one, unless the call is withdrawn before."""

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class StreamEngine:
    """Runs calls over one packed stream at a time, and over its successor when it breaks or drains.

    Calls of a broken stream may or may not have run; they are tried again within their deadline, the policy's tries
    and the client's retry budget, from which a break takes one token however many calls it hit. One event loop only.

    Args:
        transport: Of the client, whose retry budget the stream shares.
        waiting_calls_max: Calls that may wait here because the server's window is full or no stream is open.
        waiting_bytes_max: Bytes of their requests.
        decode: Makes the result that owners get of an answer; may raise a `HeadraceError`.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        waiting_calls_max: int,
        waiting_bytes_max: int,
        decode: Callable[[InferResponse], Any] = decode_response,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._decode = decode
        self._waiting: WaitingCalls[CallOwner] = WaitingCalls(calls_max=waiting_calls_max, bytes_max=waiting_bytes_max)
        self._deadlines: Deadlines[Call[CallOwner]] = Deadlines(tick_s=_DEADLINE_TICK_S)
        self._alarm: asyncio.TimerHandle | None = None
        self._connections: dict[WireConnection[CallOwner], asyncio.Task[None]] = {}
        self._due = asyncio.Event()
        self._admission = asyncio.Lock()
        self._room = asyncio.Event()
        self._maintainer: asyncio.Task[None] | None = None
        self._unreached: HeadraceError | None = None
        self._open = 0
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether new calls are refused."""
        return self._closed

    async def admit(self, call: Call[CallOwner]) -> None:
        """As `push`, once there is room.

        Raises:
            CallCancelled: The stream is closed.
            HeadraceError: The call's time was over before there was room.
        """
        if self._admission.locked() or not self._waiting.has_room(call.size):
            await self._wait_for_room(call)
        self.push(call)

    def push(self, call: Call[CallOwner]) -> None:
        """Queues a new call; it will have an outcome unless `withdraw` comes before.

        Raises:
            CallCancelled: The stream is closed.
        """
        if self._closed:
            raise CallCancelled("the stream is closed")
        self._waiting.push(call)
        self._open += 1
        self._deadlines.add(call, call.deadline)
        alarm_at = call.deadline + _DEADLINE_TICK_S
        if self._alarm is None or alarm_at < self._alarm.when():
            self._set_alarm(alarm_at)
        if self._maintainer is None or self._maintainer.done():
            self._maintainer = self._loop.create_task(self._maintain(), name="headrace-stream-maintainer")
        self._wake()

    def withdraw(self, call: Call[CallOwner]) -> None:
        """Ends a call whose owner waits no more; does nothing when it is over."""
        if call.place is not None:
            call.withdraw()
            self._over(call)
            self._room.set()
            self._wake()

    async def close(self) -> None:
        """Takes no new calls, waits for the outcomes of all that are open, then ends the stream in order."""
        self._closed = True
        self._room.set()
        try:
            while self._open:
                self._idle.clear()
                await self._idle.wait()
            for connection in self._connections:
                connection.finish()
            if self._connections:
                await asyncio.wait(self._connections.values(), timeout=_END_TIMEOUT_S)
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Takes no new calls, cancels all that are open and ends the stream at once."""
        self._closed = True
        self._room.set()
        self._fail_all(CallCancelled("the stream was closed before the answer"))
        tasks = [*self._connections.values(), *([self._maintainer] if self._maintainer is not None else [])]
        for connection in self._connections:
            connection.abandon()  # The task of one that was just opened ends without having begun.
        for task in tasks:
            task.cancel()
        self._connections.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()

    def _wake(self) -> None:
        self._due.set()
        for connection in self._connections:
            connection.wake()

    async def _wait_for_room(self, call: Call[CallOwner]) -> None:
        try:
            async with asyncio.timeout_at(call.deadline), self._admission:
                while not self._closed and not self._waiting.has_room(call.size):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise self._too_late(call) from None

    async def _maintain(self) -> None:
        """Keeps a stream open while calls wait."""
        failed_in_a_row = 0
        try:
            while True:
                while not self._waiting.ready:
                    self._due.clear()
                    await self._due.wait()
                try:
                    connection = await open_connection(
                        transport=self._transport,
                        waiting=self._waiting,
                        answered=self._answered,
                        sent=self._sent,
                    )
                except HeadraceError as error:
                    if not error.retryable or self._transport.retry_policy.attempts_max == 1:
                        self._fail(self._waiting.take_all(), error)
                        continue
                    self._unreached = error
                    failed_in_a_row += 1
                    await self._pause(failed_in_a_row, error.retry_after_s)
                    continue
                self._unreached = None
                self._connections[connection] = self._loop.create_task(
                    self._run_connection(connection), name="headrace-stream-connection"
                )
                await connection.unusable.wait()
                advised_s = connection.ended_by.retry_after_s if connection.ended_by is not None else None
                failed_in_a_row = 0 if connection.wire.has_answered else failed_in_a_row + 1
                if failed_in_a_row or advised_s:
                    await self._pause(failed_in_a_row, advised_s)
        except Exception as error:
            self._fail_all(InternalError(f"the stream failed: {error!r}"))
            raise

    async def _run_connection(self, connection: WireConnection[CallOwner]) -> None:
        try:
            await connection.run()
        except Exception as error:
            connection.ended_by = InternalError(f"the stream failed: {error!r}")
            raise
        finally:
            self._connections.pop(connection, None)
            self._lost(connection.wire.ended(), connection.ended_by)

    def _sent(self, wire: WireStream[CallOwner]) -> None:
        for call in wire.take_too_large():
            size = call.size
            message = f"the request of {size} bytes is larger than the mesh takes on a stream"
            self._fail([call], ValidationError(message, failures.MESSAGE_TOO_LARGE))
        self._room.set()

    def _answered(self, call: Call[CallOwner], answer: StreamAnswer) -> None:
        if answer.HasField("infer"):
            self._transport.retry_budget.succeeded()
            try:
                result = self._decode(answer.infer)
            except HeadraceError as error:
                self._fail([call], error)
                return
            self._over(call)
            call.owner.set_result(result)
            return
        error = from_status(answer.error) if answer.HasField("error") else InternalError("the mesh gave no answer")
        pause_s = self._attempts(call).pause_after(error, now_s=self._loop.time())
        if pause_s is None or not call.repeatable:
            self._fail([call], error)
        else:
            self._waiting.defer(call)
            self._loop.call_later(pause_s, self._resume, call)

    def _resume(self, call: Call[CallOwner]) -> None:
        self._waiting.resume(call)
        self._wake()

    def _lost(self, unanswered: list[Call[CallOwner]], reason: HeadraceError | None) -> None:
        """Decides about the calls that a stream's end left without an answer."""
        if not unanswered:
            return
        if reason is None:
            reason = UnreachableError(
                "the stream ended before the answer", context={"endpoint": self._transport.endpoint}
            )
        again: list[Call[CallOwner]] = []
        if reason.retryable:
            budget, tries_max = self._transport.retry_budget, self._transport.retry_policy.attempts_max
            budget.failed()
            if budget.allows_retry:
                again = [call for call in unanswered if call.repeatable and call.tries < tries_max]
        self._waiting.push_first(again)
        self._fail([call for call in unanswered if call.place is None], reason)
        self._wake()

    def _attempts(self, call: Call[CallOwner]) -> Attempts:
        transport = self._transport
        return Attempts(
            policy=transport.retry_policy,
            budget=transport.retry_budget,
            random=transport.random,
            deadline_s=call.deadline,
            made=call.tries - 1,
        )

    async def _pause(self, failed_in_a_row: int, advised_s: float | None) -> None:
        own_s = self._transport.retry_policy.pause_s(failed_in_a_row) if failed_in_a_row else 0.0
        await asyncio.sleep(max(own_s * self._transport.random.uniform(0.8, 1.2), advised_s or 0.0))

    def _fail(self, calls: list[Call[CallOwner]], error: HeadraceError) -> None:
        for call in calls:
            self._over(call)
            call.owner.set_exception(copy.copy(error))

    def _fail_all(self, error: HeadraceError) -> None:
        self._fail(self._waiting.take_all(), error)
        for connection in self._connections:
            self._fail(connection.wire.ended(), error)

    def _over(self, call: Call[CallOwner]) -> None:
        self._deadlines.discard(call, call.deadline)
        self._open -= 1
        if not self._open:
            self._idle.set()

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        for call in self._deadlines.expired(self._loop.time()):
            error = self._too_late(call)
            call.withdraw()
            self._over(call)
            call.owner.set_exception(error)
        self._room.set()
        self._wake()
        next_at = self._deadlines.next_at()
        if next_at is not None:
            self._set_alarm(next_at)

    def _too_late(self, call: Call[CallOwner]) -> HeadraceError:
        """Why a call has no answer in time: that the mesh was out of reach, where that is all there is to say."""
        if not call.tries and self._unreached is not None:
            return copy.copy(self._unreached)
        return InferenceTimeout("the inference did not finish within its time")
