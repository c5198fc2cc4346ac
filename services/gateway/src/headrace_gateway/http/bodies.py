"""Bodies of requests: read whole, and bounded by size, by the room for all of them, and by time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from headrace_client.errors import CallCancelled, HeadraceError
from headrace_common import catalogue
from headrace_gateway.http.content_encodings import Inflater
from headrace_gateway.http.failures import failed


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How large and how slow a body may be.

    Attributes:
        bytes_max: Of one body.
        total_bytes_max: Of all bodies that are held at once.
        timeout_s: Time in which it must arrive, in seconds,
        rate_min: and one more for so many bytes that have arrived.
    """

    bytes_max: int
    total_bytes_max: int
    timeout_s: float
    rate_min: int


class Bodies:
    """The bodies of all requests. Event loop only."""

    def __init__(self, *, limits: BodyLimits) -> None:
        self.limits = limits
        self.held_bytes = 0
        self.received_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request, *, bytes_max: int | None = None) -> AsyncGenerator[bytes]:
        """The body, whose bytes count as held until the block is left.

        Args:
            request: Whose.
            bytes_max: In place of the general limit.

        Raises:
            HeadraceError: MESSAGE_TOO_LARGE, CONTENT_TYPE_UNSUPPORTED (it is compressed otherwise than by gzip or
                deflate), SERVER_OVERLOADED (no room),
                REQUEST_TOO_SLOW, CALL_CANCELLED (the client left).
        """
        held = 0
        parts: list[bytes] = []
        try:
            async for part in self.chunks(request, bytes_max=bytes_max or self.limits.bytes_max):
                if self.held_bytes + len(part) > self.limits.total_bytes_max:
                    raise failed(
                        catalogue.SERVER_OVERLOADED,
                        "the front holds as many bytes of requests as it may",
                        retry_after_s=1.0,
                    )
                held += len(part)
                self.held_bytes += len(part)
                parts.append(part)
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self.held_bytes -= held

    async def chunks(self, request: Request, *, bytes_max: int) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive, which the caller counts if it keeps them; the errors of `read`."""
        inflater = _inflater(request)
        if inflater is None:
            _check_announced(request, bytes_max)
        inflated = 0
        async for part in self._arriving(request, bytes_max=bytes_max):
            for piece in inflater.pieces(part) if inflater is not None else (part,):
                inflated += len(piece)
                if inflated > bytes_max:
                    raise _too_large(bytes_max)
                yield piece
        for piece in inflater.finish() if inflater is not None else ():
            if inflated + len(piece) > bytes_max:
                raise _too_large(bytes_max)
            yield piece

    async def _arriving(self, request: Request, *, bytes_max: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        started, received = loop.time(), 0
        stream = request.stream()
        while True:
            until = started + self.limits.timeout_s + received / self.limits.rate_min
            try:
                async with asyncio.timeout_at(until):
                    part = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise failed(
                    catalogue.REQUEST_TOO_SLOW,
                    f"the request's body did not arrive within {until - started:.0f} s",
                    context={"timeout_s": f"{until - started:.0f}"},
                ) from None
            except ClientDisconnect:
                raise CallCancelled("the client left before its request was complete") from None
            received += len(part)
            self.received_bytes += len(part)
            if received > bytes_max:
                raise _too_large(bytes_max)
            if part:
                yield part


def content_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; empty where none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _inflater(request: Request) -> Inflater | None:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if not Inflater.takes(encoding):
        raise failed(
            catalogue.CONTENT_TYPE_UNSUPPORTED,
            f"bodies may be compressed by gzip or deflate, but this one is {encoding[:40]!r}",
            context={"contentType": encoding[:40]},
        )
    return Inflater(encoding)


def _check_announced(request: Request, bytes_max: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > bytes_max:
        raise _too_large(bytes_max)


def _too_large(bytes_max: int) -> HeadraceError:
    return failed(
        catalogue.MESSAGE_TOO_LARGE,
        f"the request's body is larger than {bytes_max} bytes",
        context={"limit": str(bytes_max)},
    )
