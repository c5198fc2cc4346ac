"""What a route asks for: who calls, about which call, and what all routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from headrace_common import catalogue
from headrace_common.features import FEATURE_KEY
from headrace_common.request_id import TRACEPARENT_KEY, trace_id_of
from headrace_gateway.http.failures import failed, request_id_of
from headrace_gateway.http.front import Front
from headrace_gateway.http.sessions import CallContext, Session

_CHECKED_BYTES = 256 << 10
_CREDENTIALS = (b"x-api-key", b"authorization")
# The gateway decides by them whether a web page of somewhere else is calling.
_PASSED_ON = {
    b"x-api-key": "x-api-key",
    b"authorization": "authorization",
    b"x-tenant-id": "x-tenant-id",
    b"host": "x-forwarded-host",
    b"x-forwarded-host": "x-forwarded-host",
    b"x-original-host": "x-original-host",
    b"origin": "origin",
    b"referer": "referer",
}


async def front_of(request: Request) -> Front:
    """What all routes share."""
    return _front(request)


async def session_of(request: Request) -> Session:
    """The session of whoever calls. Without a credential it is one of nobody, whose calls the gateway refuses.

    Before a large body, or one of unknown length, the gateway is asked: reading it is work that strangers don't get.

    Raises:
        HeadraceError: REQUEST_MALFORMED, CREDENTIAL_MALFORMED: a header is not plain text; the gateway's refusal.
    """
    return await _session(request, "http")


def session_for(feature: str) -> Callable[[Request], Awaitable[Session]]:
    """Like `session_of`, of routes that belong to a feature of their own."""

    async def session(request: Request) -> Session:
        return await _session(request, f"http,{feature}")

    return session


async def call_of(request: Request) -> CallContext:
    """What the request's headers say about the call."""
    traceparent = request.headers.get(TRACEPARENT_KEY, "")
    valid = len(traceparent) <= 300 and trace_id_of(traceparent) is not None
    return CallContext(request_id=request_id_of(request), traceparent=traceparent if valid else "")


async def _session(request: Request, features: str) -> Session:
    """The session whose calls are part of these features: which of them a tenant has, the gateway knows."""
    front = _front(request)
    passed = [*front.own_headers, (FEATURE_KEY, features)]
    for name, value in request.scope["headers"]:
        known = _PASSED_ON.get(name)
        if known is None:
            continue
        text = value.decode("latin-1").strip()
        if not (text.isascii() and text.isprintable()) or len(text) > 4_096:
            entry = catalogue.CREDENTIAL_MALFORMED if name in _CREDENTIALS else catalogue.REQUEST_MALFORMED
            raise failed(entry, f"the header {name.decode()} must be printable ASCII", field=name.decode())
        if name == b"referer":
            text = _origin(text)
        passed.append((known, text))
    session = front.sessions.session(tuple(passed))
    if _may_be_large(request):
        await session.check(call=await call_of(request))
    return session


def _may_be_large(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or "content-encoding" in request.headers:
        return True
    return not (length.isascii() and length.isdigit()) or int(length[:20]) > _CHECKED_BYTES


def _front(request: Request) -> Front:
    front: Front = request.app.state.front
    return front


def _origin(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"


CurrentFront = Annotated[Front, Depends(front_of)]
CurrentSession = Annotated[Session, Depends(session_of)]
BatchSession = Annotated[Session, Depends(session_for("batch"))]
OpenAISession = Annotated[Session, Depends(session_for("openai"))]
CurrentCall = Annotated[CallContext, Depends(call_of)]
