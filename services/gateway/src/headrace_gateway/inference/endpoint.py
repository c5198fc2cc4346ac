"""An inference RPC of one request as grpc sees it: metadata in, status and access log out, nothing else per call."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import grpc.aio

from headrace_common import catalogue
from headrace_common.access_log import AccessLog
from headrace_common.call import metadata_map, request_id_of
from headrace_common.errors import DeadlineError
from headrace_common.principal import Principal
from headrace_common.request_id import REQUEST_ID_KEY, TRACEPARENT_KEY
from headrace_common.rpc_runtime import RpcRuntime
from headrace_common.rpc_status import abort, from_exception
from headrace_gateway.inference.call import Caller, accept_traceparent
from headrace_gateway.inference.tenant_streams import TenantStreams
from headrace_gateway.stream_access import StreamAccess

Context = grpc.aio.ServicerContext[Any, Any]
# Taken off a client's deadline, so that our answer beats its own clock.
_MARGIN_MAX_S = 0.1
Serve = Callable[[bytes, Caller, Context], Coroutine[Any, Any, Any]]


class OneRequestEndpoint:
    """Answers calls of one request that were admitted on their metadata. The body reaches `serve` as it came.

    Args:
        path: Full name of the method, such as `/package.Service/Method`.
        serve: Serialised request, its caller and its RPC to what grpc's handler is to return.
        access: Checks the credential again while the answer, a stream of responses, is served; None for one response.
        streams: Places of those that answer with a stream; None for one response.
        log: Where a line per call goes, if anywhere.
        runtime: Limits, metrics and log of the process.
    """

    def __init__(
        self,
        *,
        path: str,
        serve: Serve,
        access: StreamAccess | None,
        streams: TenantStreams | None,
        log: AccessLog | None,
        runtime: RpcRuntime,
    ) -> None:
        self.gate = runtime.calls if streams is None else streams.gate
        self._path = path
        self._serve = serve
        self._access = access
        self._streams = streams
        self._log = log
        self._runtime = runtime
        self._counts = runtime.counts.method(path)

    def handler(self, principal: Principal | None) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for one admitted call, bytes in and bytes out."""
        if principal is None:
            raise ValueError(f"{self._path} needs a principal")
        if self._streams is not None:
            self._streams.check(principal.tenant_id)

        async def respond(request: bytes, context: Context) -> Any:
            try:
                return await self._respond(request, context, principal)
            except grpc.aio.AbortError as aborted:
                # grpc keeps it with the call, and its frames know the call: such a circle is left to the collector,
                # whose passes are felt when calls are refused by the hundred.
                del context
                aborted.__context__ = None
                raise aborted.with_traceback(None) from None

        if self._access is not None:
            return grpc.unary_stream_rpc_method_handler(respond)  # pyright: ignore
        return grpc.unary_unary_rpc_method_handler(respond)  # pyright: ignore

    async def _respond(self, request: bytes, context: Context, principal: Principal) -> Any:
        started_s = time.monotonic()
        metadata = metadata_map(context.invocation_metadata())
        request_id = request_id_of(metadata)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        code, reason = "CANCELLED", catalogue.CALL_CANCELLED.reason
        self._counts.in_flight += 1
        try:
            caller = Caller(
                tenant_id=principal.tenant_id,
                request_id=request_id,
                traceparent=accept_traceparent(metadata.get(TRACEPARENT_KEY)),
                timeout_s=self._timeout_s(context),
                subject=principal.subject,
                policies=principal.policies,
            )
            with self._place(principal.tenant_id):
                answering = self._serve(request, caller, context)
                if self._access is not None:
                    answering = self._access.during(answering, tuple(metadata.items()), principal)
                answer = await answering
            code, reason = "OK", ""
            return answer
        except Exception as error:
            correlation_id = uuid.uuid4().hex
            failure = from_exception(error, correlation_id)
            if failure is not error:
                self._runtime.log.exception("unexpected failure", correlation_id=correlation_id)
            code, reason = failure.entry.grpc, failure.reason
            try:
                aborting = abort(context, failure, trailing=((REQUEST_ID_KEY, request_id),))
                # One response has nothing before it that its status could wait for.
                await (aborting if self._streams is None else self._streams.end(principal.tenant_id, aborting))
            finally:
                # Its traceback knows this frame: the same circle.
                del failure
        finally:
            self._counts.in_flight -= 1
            self._counts.ended(code, reason)
            duration_s = time.monotonic() - started_s
            self._counts.duration.observe(duration_s)
            if self._log is not None:
                self._log.record(
                    method=self._path,
                    grpc_code=code,
                    reason=reason,
                    duration_s=duration_s,
                    tenant_id=principal.tenant_id,
                    key_id=principal.key_id,
                    request_id=request_id,
                    request_bytes=len(request),
                )

    @contextmanager
    def _place(self, tenant_id: str) -> Generator[None, None, None]:
        if self._streams is not None:
            with self._streams.place(tenant_id):
                yield
            return
        self.gate.enter()
        try:
            yield
        finally:
            self.gate.leave()

    @staticmethod
    def _timeout_s(context: Context) -> float | None:
        remaining_s = cast("float | None", context.time_remaining())
        if remaining_s is None:
            return None
        if remaining_s <= 0:
            raise DeadlineError(
                "the call's deadline was over before any work began", entry=catalogue.DEADLINE_ALREADY_OVER
            )
        return remaining_s - min(_MARGIN_MAX_S, remaining_s / 10)


def unary_endpoint(
    *,
    path: str,
    answer: Callable[[bytes, Caller], Coroutine[Any, Any, bytes]],
    log: AccessLog | None,
    runtime: RpcRuntime,
) -> OneRequestEndpoint:
    """One response: serialised request and its caller to serialised response."""

    def serve(request: bytes, caller: Caller, _context: Context) -> Coroutine[Any, Any, bytes]:
        return answer(request, caller)

    return OneRequestEndpoint(path=path, serve=serve, access=None, streams=None, log=log, runtime=runtime)
