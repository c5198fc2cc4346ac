"""A stream of responses that is tried again as long as nothing has come of it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf.message import Message

from headrace_client.errors import CallCancelled, HeadraceError
from headrace_client.retries import Attempts
from headrace_client.rpcs import Rpc
from headrace_client.timeouts import checked_timeout_s
from headrace_client.transport import Transport, parsed, serialised

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class TriedStream(Generic[R]):
    """One request, a stream of responses. Failures before the first response are retried as those of single calls are.

    The call and its time begin with the first `read`. To be made anywhere, used in one event loop; dropping the last
    reference cancels the call.

    Args:
        transport: Of the client.
        rpc: The method.
        request: Its request.
        timeout_s: Time for the whole stream, retries included.
        request_id: For the logs of the mesh.
        traceparent: W3C trace context.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        rpc: Rpc[Q, R],
        request: Q,
        timeout_s: float,
        request_id: str | None,
        traceparent: str,
    ) -> None:
        self._call: Any = None
        self._transport = transport
        self._path = rpc.path
        self._response = rpc.response
        self._content = serialised(request)
        self._metadata = transport.metadata(request_id, traceparent)
        self._timeout_s = checked_timeout_s(timeout_s)
        self._deadline_s = 0.0
        self._attempts: Attempts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pause: asyncio.Future[None] | None = None
        self._has_begun = False
        self._is_over = False
        self._is_cancelled = False

    def __del__(self) -> None:
        # grpc.aio's own calls wait for the garbage collector, and are not to be touched by other threads.
        if self._call is not None and self._loop is not None:
            with suppress(RuntimeError):  # The loop is closed, and all of its calls are over.
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def read(self) -> R | None:
        """The next response; None at the end of the stream, or after a failure. One reader at a time.

        Raises:
            CallCancelled: `cancel` was called before the end, or meanwhile.
            HeadraceError: what the mesh answered, or that it didn't.
        """
        if self._is_cancelled and not self._is_over:
            raise CallCancelled("the call was closed before its end")
        if self._is_over:
            return None
        try:
            return await self._read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_cancelled and task is not None and not task.cancelling():
                raise CallCancelled("the call was closed before its end") from None
            self.cancel()
            raise
        except BaseException:
            self._is_over = True
            self._drop()
            raise

    def cancel(self) -> None:
        """Ends the call, also where it runs; does nothing when it is over. In the event loop's thread."""
        self._is_cancelled = True
        self._drop()

    async def _read(self) -> R | None:
        if self._attempts is None:
            self._loop = asyncio.get_running_loop()
            self._deadline_s = time.monotonic() + self._timeout_s
            self._attempts = self._transport.attempts(self._deadline_s)
        while True:
            if self._call is None:
                method: Any = self._transport.channel().unary_stream(self._path)  # pyright: ignore[reportUnknownVariableType]
                left_s = self._deadline_s - time.monotonic()
                self._call = method(self._content, timeout=left_s, metadata=self._metadata)
            try:
                raw = await self._transport.typed(self._call.read())
            except HeadraceError as failure:
                pause_s = self._attempts.pause_after(failure, now_s=time.monotonic())
                if self._has_begun or pause_s is None:
                    raise
                self._drop()
                self._pause = asyncio.ensure_future(self._transport.pause(pause_s))
                await self._pause
                continue
            if not self._has_begun:
                self._has_begun = True
                self._attempts.succeeded()
            if raw is grpc.aio.EOF:
                self._is_over = True
                return None
            return parsed(raw, self._response)

    def _drop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        if self._pause is not None:
            self._pause.cancel()
