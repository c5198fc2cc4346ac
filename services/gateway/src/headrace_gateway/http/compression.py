"""Compressed answers, for clients that ask for them."""

from __future__ import annotations

import asyncio
import gzip

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LEAST_BYTES = 1_024
# A larger answer is compressed in a thread, which lets go of the interpreter meanwhile.
_INLINE_BYTES_MAX = 16 << 10
_LEVEL = 4
_COMPRESSIBLE = ("application/json", "application/openapi+json", "text/plain", "text/html")


class Compression:
    """Compresses answers of text by gzip where they come in one piece; streams pass as they are.

    Args:
        app: What answers.
    """

    def __init__(self, *, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The hook of ASGI."""
        if not _accepts_gzip(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def send_on(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                begun, start = start, None
                if _is_compressible(begun, message):
                    message = await _compressed(begun, message)
                await send(begun)
            await send(message)

        await self._app(scope, receive, send_on)


def _accepts_gzip(headers: Headers) -> bool:
    for coding in headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _is_compressible(start: Message, body: Message) -> bool:
    if body.get("more_body") or len(body.get("body", b"")) < _LEAST_BYTES:
        return False
    headers = Headers(raw=start["headers"])
    return "content-encoding" not in headers and headers.get("content-type", "").startswith(_COMPRESSIBLE)


async def _compressed(start: Message, body: Message) -> Message:
    plain: bytes = body["body"]
    if len(plain) <= _INLINE_BYTES_MAX:
        packed = gzip.compress(plain, _LEVEL, mtime=0)
    else:
        packed = await asyncio.to_thread(gzip.compress, plain, _LEVEL, mtime=0)
    headers = MutableHeaders(raw=start["headers"])
    headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(packed))
    headers.add_vary_header("accept-encoding")
    return {**body, "body": packed}
