"""Around every request: its id, its counts, its line in the log, and an end without noise when its client has left."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_common.access_log import AccessLog
from headrace_common.request_id import REQUEST_ID_KEY, accept_request_id
from headrace_gateway.http.http_metrics import HttpMetrics

_REQUEST_ID = REQUEST_ID_KEY.encode()
_GONE = 499


class Envelope:
    """The outermost application.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        log: Where each has a line; None writes none.
    """

    def __init__(self, *, app: ASGIApp, metrics: HttpMetrics, log: AccessLog | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The hook of ASGI."""
        request_id = _request_id(scope)
        scope["headrace.request_id"] = request_id
        status = _GONE
        request_bytes = response_bytes = 0
        started = time.perf_counter()

        async def receive_on() -> Message:
            nonlocal request_bytes
            message = await receive()
            request_bytes += len(message.get("body", b""))
            return message

        async def send_on(message: Message) -> None:
            nonlocal status, response_bytes
            if message["type"] == "http.response.body":
                response_bytes += len(message.get("body", b""))
            elif message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                if not any(name == _REQUEST_ID for name, _ in headers):
                    headers.append((_REQUEST_ID, request_id.encode()))
            await send(message)

        metrics = self._metrics
        metrics.in_flight += 1
        try:
            await self._app(scope, receive_on, send_on)
        except asyncio.CancelledError:
            # The client has left: nobody is there to be told.
            status = _GONE
        except Exception:
            # Told and logged further in; it comes on only so that the server may know.
            if status == _GONE:
                raise
        finally:
            metrics.in_flight -= 1
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            metrics.ended(route=route, method=scope["method"], status=status, seconds=seconds)
            if self._log is not None:
                self._log.request(
                    method=scope["method"],
                    route=route,
                    status=status,
                    duration_s=seconds,
                    request_id=request_id,
                    request_bytes=request_bytes,
                    response_bytes=response_bytes,
                )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID:
            return accept_request_id(value.decode("latin-1"))
    return accept_request_id(None)
