"""Turns servicer methods into grpc handlers: parse, deadline, errors, context, metrics, access log."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from headrace_common import catalogue
from headrace_common.call import Call, metadata_map, request_id_of, trace_of
from headrace_common.errors import DeadlineError, HeadraceError, RouteUnavailable, ValidationError
from headrace_common.logs import bind_call
from headrace_common.principal import Principal
from headrace_common.request_id import REQUEST_ID_KEY
from headrace_common.rpc_runtime import AdmissionGate, RpcRuntime
from headrace_common.rpc_status import abort, from_exception

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Body = Callable[[Any, Call], Coroutine[Any, Any, Any]]

DEFAULT_TIMEOUT = -1.0
"""As a method's `timeout_s`: the runtime's `call_timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcMethod(Generic[Q, R]):
    """One method: what answers it, its messages, who may call it, and for how long.

    Attributes:
        role: Least role that may call it, `service`, or `any` for every authenticated caller. Required where the
            service has an authenticator: a method without a policy doesn't start.
        timeout_s: Deadline where the client sends none; None for no deadline (streams that stay open).
        endless: The stream would go on for ever, like a feed: a stopping server ends it at once with SERVER_DRAINING
            instead of waiting out its grace.
    """

    serve: Callable[..., Any]
    request: type[Q]
    response: type[R]
    request_streaming: bool
    response_streaming: bool
    role: str | None
    timeout_s: float | None
    endless: bool = False


def unary(
    serve: Callable[[Q, Call], Awaitable[R]],
    request: type[Q],
    response: type[R],
    *,
    role: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT,
) -> RpcMethod[Q, R]:
    """One request, one response."""
    return RpcMethod(
        serve=serve,
        request=request,
        response=response,
        request_streaming=False,
        response_streaming=False,
        role=role,
        timeout_s=timeout_s,
    )


def server_stream(
    serve: Callable[[Q, Call], AsyncIterator[R]],
    request: type[Q],
    response: type[R],
    *,
    role: str | None = None,
    timeout_s: float | None = None,
    endless: bool = False,
) -> RpcMethod[Q, R]:
    """One request, a stream of responses; without a deadline unless one is given or the client sends one."""
    return RpcMethod(
        serve=serve,
        request=request,
        response=response,
        request_streaming=False,
        response_streaming=True,
        role=role,
        timeout_s=timeout_s,
        endless=endless,
    )


def client_stream(
    serve: Callable[[AsyncIterator[Q], Call], Awaitable[R]],
    request: type[Q],
    response: type[R],
    *,
    role: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT,
) -> RpcMethod[Q, R]:
    """A stream of requests, one response."""
    return RpcMethod(
        serve=serve,
        request=request,
        response=response,
        request_streaming=True,
        response_streaming=False,
        role=role,
        timeout_s=timeout_s,
    )


def bidi_stream(
    serve: Callable[[AsyncIterator[Q], Call], AsyncIterator[R]],
    request: type[Q],
    response: type[R],
    *,
    role: str | None = None,
    timeout_s: float | None = None,
    endless: bool = False,
) -> RpcMethod[Q, R]:
    """Streams both ways."""
    return RpcMethod(
        serve=serve,
        request=request,
        response=response,
        request_streaming=True,
        response_streaming=True,
        role=role,
        timeout_s=timeout_s,
        endless=endless,
    )


class MethodRunner:
    """Runs one method's calls."""

    def __init__(self, *, path: str, method: RpcMethod[Any, Any], runtime: RpcRuntime) -> None:
        self.path = path
        self.method = method
        self.gate: AdmissionGate = runtime.streams if method.response_streaming else runtime.calls
        self._runtime = runtime
        self._counts = runtime.counts.method(path)
        self._endless: set[asyncio.Timeout] = set()
        self._draining = False

    def end_streams(self) -> None:
        """Ends the endless streams, now and in future: the server is stopping."""
        self._draining = True
        now_s = asyncio.get_running_loop().time()
        for limit in self._endless:
            limit.reschedule(now_s)

    def handler(self, principal: Principal | None) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for one admitted call. Deserialisers are the identity: parsing happens inside, where errors map."""
        method = self.method
        if method.response_streaming:

            async def respond_stream(request: Any, context: Context) -> None:
                await self._run(request, context, principal, self._answer_stream)

            if method.request_streaming:
                return grpc.stream_stream_rpc_method_handler(respond_stream)  # pyright: ignore
            return grpc.unary_stream_rpc_method_handler(respond_stream)  # pyright: ignore

        async def respond(request: Any, context: Context) -> bytes:
            return await self._run(request, context, principal, self._answer)

        if method.request_streaming:
            return grpc.stream_unary_rpc_method_handler(respond)  # pyright: ignore
        return grpc.unary_unary_rpc_method_handler(respond)  # pyright: ignore

    async def _run(self, request: Any, context: Context, principal: Principal | None, answer: Body) -> Any:
        metadata = metadata_map(context.invocation_metadata())
        request_id = request_id_of(metadata)
        trace_id = trace_of(metadata)
        structlog.contextvars.clear_contextvars()
        bind_call(
            request_id=request_id, tenant_id=principal.tenant_id or None if principal else None, trace_id=trace_id
        )
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        started_s = time.monotonic()
        self._counts.in_flight += 1
        outcome = ("CANCELLED", catalogue.CALL_CANCELLED.reason)
        try:
            if self.method.response_streaming:
                # Not with the first response: a status can't follow headers whose sending was cancelled with that
                # write, and the client would wait for ever.
                await context.send_initial_metadata(())
            timeout_s = self._timeout_s(context)
            call = Call(
                method=self.path,
                metadata=metadata,
                request_id=request_id,
                trace_id=trace_id,
                deadline_s=None if timeout_s is None else started_s + timeout_s,
                context=context,
                caller=principal,
            )
            result = await self._bounded(request, call, timeout_s, answer)
            outcome = ("OK", "")
            return result
        except grpc.aio.AbortError:
            outcome = ("UNKNOWN", "ABORTED_BY_SERVICER")
            raise
        except Exception as error:
            correlation_id = uuid.uuid4().hex
            failure = from_exception(error, correlation_id)
            outcome = (failure.entry.grpc, failure.reason)
            if failure is not error:
                self._runtime.log.exception("unexpected failure", correlation_id=correlation_id)
            await abort(context, failure, trailing=((REQUEST_ID_KEY, request_id),))
        finally:
            self._counts.in_flight -= 1
            self._finish(outcome, time.monotonic() - started_s, principal, context)

    async def _bounded(self, request: Any, call: Call, timeout_s: float | None, answer: Body) -> Any:
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineError(
                "the call's deadline was over before any work began", entry=catalogue.DEADLINE_ALREADY_OVER
            )
        if self._draining and self.method.endless:
            raise _draining()
        self.gate.enter()
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                if self.method.endless:
                    self._endless.add(limit)
                return await answer(request, call)
        except TimeoutError:
            if not limit.expired():
                raise
            if self._draining and self.method.endless:
                raise _draining() from None
            raise DeadlineError(
                f"the call did not finish within {timeout_s:.3g} s",
                entry=catalogue.CALL_TIMEOUT,
                context={"method": self.path, "timeout_s": f"{timeout_s:.3g}"},
            ) from None
        finally:
            self._endless.discard(limit)
            self.gate.leave()

    def _timeout_s(self, context: Context) -> float | None:
        """The client's deadline where it sent one, else the method's."""
        remaining_s = cast("float | None", context.time_remaining())
        if remaining_s is not None:
            return remaining_s
        own_s = self.method.timeout_s
        return self._runtime.call_timeout_s if own_s == DEFAULT_TIMEOUT else own_s

    async def _answer(self, request: Any, call: Call) -> bytes:
        response = await self.method.serve(self._parsed(request), call)
        return response.SerializeToString()

    async def _answer_stream(self, request: Any, call: Call) -> None:
        responses: AsyncIterator[Any] = self.method.serve(self._parsed(request), call)
        try:
            async for response in responses:
                await call.context.write(response.SerializeToString())
        finally:
            close: Callable[[], Awaitable[None]] | None = getattr(responses, "aclose", None)
            if close is not None:
                await close()

    def _parsed(self, request: Any) -> Any:
        return self._each(request) if self.method.request_streaming else self._parse(request)

    async def _each(self, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for raw in requests:
            yield self._parse(raw)

    def _parse(self, raw: bytes) -> Any:
        limit = self._runtime.message_bytes_max
        if len(raw) > limit:
            raise ValidationError(
                f"the message has {len(raw)} bytes, the server accepts {limit}",
                entry=catalogue.MESSAGE_TOO_LARGE,
                context={"limit": limit, "actual": len(raw)},
            )
        try:
            return self.method.request.FromString(raw)
        except DecodeError:
            raise ValidationError(
                "the request is not a valid protobuf message", entry=catalogue.REQUEST_MALFORMED
            ) from None

    def _finish(
        self, outcome: tuple[str, str], duration_s: float, principal: Principal | None, context: Context
    ) -> None:
        code, reason = outcome
        self._counts.ended(code, reason)
        self._counts.duration.observe(duration_s)
        if self._runtime.access_log:
            self._runtime.log.info(
                "call",
                method=self.path,
                grpc_code=code,
                reason=reason or None,
                duration_ms=round(duration_s * 1_000, 3),
                key_id=principal.key_id or None if principal else None,
                peer=context.peer(),
            )


def _draining() -> RouteUnavailable:
    return RouteUnavailable("the server is shutting down", entry=catalogue.SERVER_DRAINING)


def refusal(error: HeadraceError, request_id: str) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that ends the call with `error` before its body is read: as a stream handler it never asks for it."""

    async def refuse(_requests: Any, context: Context) -> None:
        await abort(context, error, trailing=((REQUEST_ID_KEY, request_id),))

    return grpc.stream_stream_rpc_method_handler(refuse)  # pyright: ignore
