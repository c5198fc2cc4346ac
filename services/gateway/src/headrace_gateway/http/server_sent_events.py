"""Server-sent events: their form, and the answer that sends them as they come.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace_client.errors import HeadraceError, InternalError
from headrace_common import catalogue
from headrace_gateway.http.failures import failed, restated

HEARTBEAT = b": heartbeat\n\n"
"""A comment, which clients pass over: it keeps proxies from taking the connection for a dead one."""
HEARTBEAT_S = 15.0


def event(data: bytes, *, name: str = "") -> bytes:
    """One event with this data; each of its lines is sent as one."""
    head = f"event: {name}\ndata: ".encode() if name else b"data: "
    return head + b"\ndata: ".join(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) + b"\n\n"


class OpenStreams:
    """The streams of one front. Event loop only.

    Args:
        streams_max: How many there may be.
        draining: When it is set, no new ones begin.
        heartbeat_s: After so long without an event a comment is sent, and the headers if there was no event yet.

    Attributes:
        ending: When it is set, those that are open end with a failure that says so.
        open: How many there are.
    """

    def __init__(self, *, streams_max: int, draining: asyncio.Event, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self.ending = asyncio.Event()
        self.open = 0
        self._draining = draining
        self._streams_max = streams_max

    @contextmanager
    def place(self) -> Generator[None]:
        """Holds a place for one stream.

        Raises:
            HeadraceError: SERVER_OVERLOADED (429), SERVER_DRAINING (503).
        """
        if self._draining.is_set():
            raise _draining()
        if self.open >= self._streams_max:
            limit = str(self._streams_max)
            message = f"the server has as many event streams open as it may, {limit}"
            raise failed(catalogue.SERVER_OVERLOADED, message, context={"limit": limit}, retry_after_s=1.0)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class EventStream(Response):
    """Sends events as they come. Cancelling it, as the server does when the client has gone, closes the generator.

    The headers wait for the first event, or heartbeat, so that a failure before it is answered with a status of its
    own.

    Args:
        events: What to send, each whole.
        streams: Those of this front.
        failure: Makes the last event of a stream that fails.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        streams: OpenStreams,
        failure: Callable[[HeadraceError], bytes],
    ) -> None:
        # Nobody between here and the client is to keep or gather events.
        super().__init__(headers={"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._streams = streams
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it all.

        Raises:
            HeadraceError: Before anything was sent.
        """
        out = _Out(self, send)
        with self._streams.place():
            error = await self._send_all(out)
        if error is not None:
            if not out.begun:
                raise error
            await out.write(self._failure(_told(error)))
        await out.end()

    async def _send_all(self, out: _Out) -> BaseException | None:
        """Returns with the end of the events; the failure where they ended by one."""
        sender = asyncio.ensure_future(_send_events(self._events, out))
        ending = asyncio.ensure_future(self._streams.ending.wait())
        heartbeat_s = self._streams.heartbeat_s
        try:
            while not (sender.done() or ending.done()):
                idle_s = out.idle_s
                if idle_s >= heartbeat_s:
                    await out.write(HEARTBEAT)
                else:
                    await asyncio.wait(
                        (sender, ending), timeout=heartbeat_s - idle_s, return_when=asyncio.FIRST_COMPLETED
                    )
        finally:
            await _ended(sender, ending)
        return _draining() if sender.cancelled() else sender.exception()


class _Out:
    """Writes events, each whole, and the headers before the first."""

    def __init__(self, response: Response, send: Send) -> None:
        self._response = response
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._last = self._loop.time()
        self.begun = False

    @property
    def idle_s(self) -> float:
        """Time since the last event; none while one waits for the client to read."""
        return 0.0 if self._turn.locked() else self._loop.time() - self._last

    async def write(self, content: bytes) -> None:
        """Sends an event."""
        async with self._turn:
            if not self.begun:
                head = {"status": self._response.status_code, "headers": self._response.raw_headers}
                await self._send({"type": "http.response.start", **head})
                self.begun = True
            await self._send({"type": "http.response.body", "body": content, "more_body": True})
            self._last = self._loop.time()

    async def end(self) -> None:
        """Ends the answer."""
        if not self.begun:
            await self.write(b"")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_events(events: AsyncGenerator[bytes, None], out: _Out) -> None:
    async with aclosing(events):
        async for content in events:
            await out.write(content)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancels what still runs, and waits until it has ended."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


def _draining() -> HeadraceError:
    return failed(catalogue.SERVER_DRAINING, "the server is shutting down", retry_after_s=1.0)


def _told(error: BaseException) -> HeadraceError:
    if isinstance(error, HeadraceError):
        return restated(error)
    structlog.stdlib.get_logger("http").error("unexpected failure in a stream", exc_info=error)
    return InternalError("something failed that the front didn't foresee")
