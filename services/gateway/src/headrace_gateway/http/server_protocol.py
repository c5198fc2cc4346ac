"""One HTTP connection: limits on its head and on idling, told in our own words; a client that left ends its call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from headrace_client.errors import HeadraceError
from headrace_common import catalogue
from headrace_common.request_id import new_request_id
from headrace_gateway.http.failures import document, failed, http_status

# How long the rest of a body is read and dropped after an early answer: closing at once would lose the answer.
_LINGER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may do.

    Attributes:
        head_bytes_max: Path and headers of a request together.
        headers_max: Headers of a request.
        head_timeout_s: Time for a request's head, from the connection's beginning or the head's first byte.
        write_timeout_s: How long the client may take nothing of an answer.
        connections_max: Connections of the process.
    """

    head_bytes_max: int
    headers_max: int
    head_timeout_s: float
    write_timeout_s: float
    connections_max: int


class ServerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the limits that it doesn't have.

    Args:
        config: Of uvicorn.
        server_state: What its connections share.
        limits: Ours.
        refused: Told the reason of each refusal.
    """

    def __init__(
        self,
        *,
        config: Config,
        server_state: ServerState,
        limits: ConnectionLimits,
        refused: Callable[[str], None],
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self._limits = limits
        self._refused = refused
        self._refusal: HeadraceError | None = None
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._task: asyncio.Task[None] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The connection begins: its first head has to come in time, where there is room for it at all."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self._refuse(
                failed(catalogue.SERVER_OVERLOADED, "the front has as many connections as it may", retry_after_s=1.0)
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over, and with it the call whose answer nobody takes."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self._task is not None and not self._task.done() and not self.cycle.response_complete:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """More bytes; those of a head that has not ended are counted also where the parser keeps them to itself."""
        if self.transport.is_closing() or self.parser is None:
            return
        super().data_received(data)
        if self.transport.is_closing() or not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > 2 * self._limits.head_bytes_max:
            self._refuse(self._head_too_large())
        elif self._head_timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._in_body = True, False
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) >= self._limits.headers_max:
            self._fail(
                failed(
                    catalogue.HEADERS_TOO_LARGE,
                    f"a request may have {self._limits.headers_max} headers",
                    context={"limit": str(self._limits.headers_max)},
                )
            )
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if sum(name == b"host" for name, _ in self.headers) > 1:
            self._fail(failed(catalogue.REQUEST_MALFORMED, "a request has one header Host"))
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is whole; a body that nobody wanted is read for a moment and then cut off."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.loop.call_later(_LINGER_S, self._end_unless_new, self.cycle)

    def pause_writing(self) -> None:
        """The client takes less than we have for it."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client takes again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answers what can't be parsed, or was refused meanwhile, and ends the connection."""
        self._refuse(self._refusal or failed(catalogue.REQUEST_MALFORMED, "this is not an HTTP request"))

    def _unsupported_upgrade_warning(self) -> None:
        """A request for another protocol is answered as if it had not asked."""

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or not self._in_head:
            return
        if self._is_answering():
            self._await_head()
            return
        self._refuse(
            failed(
                catalogue.REQUEST_TOO_SLOW,
                f"the request's head did not arrive within {self._limits.head_timeout_s:g} s",
                context={"timeout_s": f"{self._limits.head_timeout_s:g}"},
            )
        )

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self._limits.head_bytes_max:
            self._fail(self._head_too_large())

    def _head_too_large(self) -> HeadraceError:
        limit = self._limits.head_bytes_max
        return failed(
            catalogue.HEADERS_TOO_LARGE,
            f"path and headers of a request may have {limit} bytes",
            context={"limit": str(limit)},
        )

    def _fail(self, failure: HeadraceError) -> None:
        """Leaves the parser, which then asks for an answer to what it takes for a malformed request."""
        self._refusal = failure
        raise failure

    def _refuse(self, failure: HeadraceError) -> None:
        self._refused(failure.reason)
        if not self._is_answering():
            body = orjson.dumps(document(failure, path="", request_id=new_request_id()))
            head = (
                b"content-type: application/json\r\nconnection: close\r\n"
                b"content-length: " + str(len(body)).encode() + b"\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[http_status(failure)] + head + body)
        # Otherwise the answer to the request before is under way, and nothing may be written into it.
        self.transport.close()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        return cycle is not None and not cycle.response_complete

    def _end_unless_new(self, cycle: Any) -> None:
        if self.cycle is cycle and self._in_body and not self.transport.is_closing():
            self.transport.close()
