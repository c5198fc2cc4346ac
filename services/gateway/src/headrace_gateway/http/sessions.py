"""The calls of one credential to the gateway: a connection that all share, and a packed stream of their own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpc import StatusCode

from headrace_client import rpcs
from headrace_client.contracts.headrace.gateway.v1 import inference_pb2
from headrace_client.contracts.inference import open_inference_pb2
from headrace_client.errors import HeadraceError
from headrace_client.options import ClientOptions
from headrace_client.packing import Call
from headrace_client.retries import NO_RETRIES
from headrace_client.rpcs import Rpc
from headrace_client.stream import InferFuture
from headrace_client.stream_engine import CallOwner, StreamEngine
from headrace_client.timeouts import checked_timeout_s
from headrace_client.transport import Transport, serialised
from headrace_client.tried_stream import TriedStream
from headrace_common.catalogue import AUTHORITY_FORBIDDEN, FEATURE_DISABLED, TENANT_MISMATCH, TENANT_SUSPENDED

# Of who is known, but not here or not now.
_REFUSED = frozenset(
    entry.reason for entry in (AUTHORITY_FORBIDDEN, FEATURE_DISABLED, TENANT_MISMATCH, TENANT_SUSPENDED)
)
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

IDLE_S = 60.0
GENERATE_TIMEOUT_S = 600.0
"""Time of a stream of responses that states none: a long text takes minutes."""
_WAITING_CALLS_MAX = 4_096
_WAITING_BYTES_MAX = 256 << 20
# A larger request has an RPC of its own, so that the small ones of the same caller need not wait behind it.
_STREAM_BYTES_MAX = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What an HTTP request says about the call that it becomes.

    Attributes:
        request_id: From `X-Request-ID`, or a new one; in the answer's header too.
        traceparent: W3C trace context; empty where none came or it is malformed.
        timeout_s: Time that the caller gives, seconds; None for the front's default.
    """

    request_id: str
    traceparent: str = ""
    timeout_s: float | None = None


class Session:
    """Calls to the gateway with one credential. Every failure is a `HeadraceError`; cancelling a task cancels its call.

    Nothing is tried again here: the gateway does that, knowing more.

    Args:
        options: Where the gateway is, and the headers that say who calls.
        timeout_s: Time for calls that state none.
        message_bytes_max: Largest answer accepted.
    """

    def __init__(self, *, options: ClientOptions, timeout_s: float, message_bytes_max: int) -> None:
        self._timeout_s = timeout_s
        self._transport = Transport(
            options=options, timeout_s=timeout_s, retry=NO_RETRIES, message_bytes_max=message_bytes_max
        )
        self._loop = asyncio.get_running_loop()
        self._engine: StreamEngine | None = None
        self._calls = 0
        self._known_until = 0.0
        self._last_used = self._loop.time()

    async def check(self, *, call: CallContext) -> None:
        """Asks the gateway whether it knows the caller, once in a while: before much is done for who may be anybody.

        Raises:
            HeadraceError: It doesn't, or not any more.
        """
        if self._loop.time() < self._known_until:
            return
        try:
            await self.unary(rpcs.SERVER_METADATA, open_inference_pb2.ServerMetadataRequest(), call=call)
        except HeadraceError as error:
            # What else is wrong, the call itself will tell: this one needs a role of its own.
            if error.grpc_code is StatusCode.UNAUTHENTICATED or error.reason in _REFUSED:
                raise
        self._known_until = self._loop.time() + IDLE_S

    async def infer(self, request: inference_pb2.InferRequest, *, call: CallContext) -> inference_pb2.InferResponse:
        """One inference: over the packed stream, or by an RPC of its own where it is large."""
        infer = serialised(request)
        if len(infer) > _STREAM_BYTES_MAX:
            return await self.unary(rpcs.INFER, request, call=call)
        timeout_s = self._timeout_s if call.timeout_s is None else checked_timeout_s(call.timeout_s)
        extra = inference_pb2.StreamCall(request_id=call.request_id, traceparent=call.traceparent)
        with self._in_use():
            if self._engine is None:
                self._engine = StreamEngine(
                    transport=self._transport,
                    waiting_calls_max=_WAITING_CALLS_MAX,
                    waiting_bytes_max=_WAITING_BYTES_MAX,
                    decode=_as_it_came,
                )
            outcome = InferFuture(self._engine, self._loop)
            packed: Call[CallOwner] = Call(
                infer=infer, extra=extra.SerializeToString(), deadline=self._loop.time() + timeout_s, owner=outcome
            )
            await self._engine.admit(packed)
            outcome.belongs_to(packed)
            answer: Any = await outcome
            return answer

    async def unary(self, rpc: Rpc[Q, R], request: Q, *, call: CallContext) -> R:
        """One request, one response."""
        with self._in_use():
            return await self._transport.unary(
                rpc,
                request,
                timeout_s=call.timeout_s,
                request_id=call.request_id,
                traceparent=call.traceparent,
            )

    async def stream(self, rpc: Rpc[Q, R], request: Q, *, call: CallContext) -> AsyncGenerator[R, None]:
        """One request, a stream of responses; leaving the loop, or `aclose()`, cancels the call."""
        stream = TriedStream(
            transport=self._transport,
            rpc=rpc,
            request=request,
            timeout_s=GENERATE_TIMEOUT_S if call.timeout_s is None else call.timeout_s,
            request_id=call.request_id,
            traceparent=call.traceparent,
        )
        with self._in_use():
            try:
                while (response := await stream.read()) is not None:
                    yield response
            finally:
                stream.cancel()

    async def upload(
        self, rpc: Rpc[Q, R], requests: Callable[[], AsyncIterable[Q]], *, call: CallContext, timeout_s: float
    ) -> R:
        """A stream of requests, one response. An exception of the stream cancels the call and reaches the caller."""
        with self._in_use():
            return await self._transport.upload(
                rpc, requests, timeout_s=timeout_s, request_id=call.request_id, traceparent=call.traceparent
            )

    def idle_since(self) -> float | None:
        """When its last call ended, by the event loop's clock; None while one runs."""
        return None if self._calls else self._last_used

    async def close(self) -> None:
        """Ends all calls and the stream."""
        if self._engine is not None:
            await self._engine.abort()
        await self._transport.close()

    @contextmanager
    def _in_use(self) -> Generator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._last_used = self._loop.time()


class Sessions:
    """One session for each set of headers that says who calls. Event loop only.

    Sessions that nobody uses for a minute are closed, and the longest unused ones when there are too many; those with
    calls under way stay.

    Args:
        make: Makes the session for such headers.
        sessions_max: How many are kept.
        certificate: What new connections are made with; when it is another one, new calls get new sessions.
    """

    def __init__(
        self,
        *,
        make: Callable[[tuple[tuple[str, str], ...]], Session],
        sessions_max: int,
        certificate: Callable[[], object] = lambda: None,
    ) -> None:
        self._make = make
        self._certificate = certificate
        self._made_with = certificate()
        self._former: set[Session] = set()
        self._sessions_max = sessions_max
        self._sessions: OrderedDict[tuple[tuple[str, str], ...], Session] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def session(self, headers: tuple[tuple[str, str], ...]) -> Session:
        """The session of these headers. To be used at once: one without calls may be closed for others."""
        if (certificate := self._certificate()) is not self._made_with:
            self._made_with = certificate
            self._former.update(self._sessions.values())
            self._sessions.clear()
        session = self._sessions.get(headers)
        if session is None:
            if len(self._sessions) >= self._sessions_max:
                self._close_oldest()
            session = self._sessions[headers] = self._make(headers)
        self._sessions.move_to_end(headers)
        return session

    def close_idle(self) -> None:
        """Closes those that nobody has used for a minute, and former ones whose last call has ended."""
        now = asyncio.get_running_loop().time()
        for session in list(self._former):
            since = session.idle_since()
            if since is not None and since < now:
                self._former.discard(session)
                self._close(session)
        for headers, session in list(self._sessions.items()):
            since = session.idle_since()
            if since is not None and now - since > IDLE_S:
                self._drop(headers)

    async def run(self) -> None:
        """Closes idle sessions until cancelled."""
        while True:
            await asyncio.sleep(IDLE_S / 4)
            self.close_idle()

    async def close(self) -> None:
        """Closes all, with the calls that are under way."""
        for headers in list(self._sessions):
            self._drop(headers)
        while self._former:
            self._close(self._former.pop())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_oldest(self) -> None:
        now = asyncio.get_running_loop().time()
        for headers, session in self._sessions.items():
            since = session.idle_since()
            # One that was handed out in this turn of the loop may be about to begin its call.
            if since is not None and since < now:
                self._drop(headers)
                return

    def _drop(self, headers: tuple[tuple[str, str], ...]) -> None:
        self._close(self._sessions.pop(headers))

    def _close(self, session: Session) -> None:
        task = asyncio.get_running_loop().create_task(session.close(), name="close session")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _as_it_came(response: inference_pb2.InferResponse) -> inference_pb2.InferResponse:
    return response
