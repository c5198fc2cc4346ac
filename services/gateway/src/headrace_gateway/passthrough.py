"""Public RPCs of other services, passed on as the bytes they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from headrace_common.call import MetadataMap, metadata_map, request_id_of, trace_of
from headrace_common.catalogue import CALL_CANCELLED, MESSAGE_TOO_LARGE
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import RpcRuntime
from headrace_common.logs import bind_call
from headrace_common.principal import PRINCIPAL_KEY, Principal
from headrace_common.request_id import REQUEST_ID_KEY, TRACEPARENT_KEY
from headrace_common.rpc_runtime import AdmissionGate
from headrace_common.rpc_status import abort, from_exception, from_rpc_error
from headrace_gateway.deadlines import Deadlines
from headrace_gateway.model_guard import ModelGuard
from headrace_gateway.policy import MODELS
from headrace_gateway.public_handler import Handler
from headrace_gateway.upstream import Upstream, forwarded

Context = grpc.aio.ServicerContext[Any, Any]
_END_MARGIN_S = 1.0
# The upstream call ends at its deadline; this much later we end a call that waits for its client instead.


class PassedOn:
    """One method of another service.

    Messages go one at a time in each direction, so a slow reader slows the writer. Of the client's metadata only the
    request id and the trace go on; the principal is ours and signed. The service's status, details and trailing
    metadata come back as they are. A cancelled call is cancelled there too.
    """

    def __init__(
        self,
        *,
        method: MethodDescriptor,
        upstream: Upstream,
        deadlines: Deadlines,
        runtime: RpcRuntime,
        transfers: AdmissionGate,
        guard: ModelGuard | None = None,
    ) -> None:
        self._guard = guard
        self.path = f"/{method.containing_service.full_name}/{method.name}"
        self._upstream = upstream
        self._deadlines = deadlines
        self._runtime = runtime
        self._requests, self._responses = method.client_streaming, method.server_streaming
        self.gate = transfers if self._requests or self._responses else runtime.calls
        self._counts = runtime.counts.method(self.path)
        self._log = structlog.stdlib.get_logger("rpc")
        kind = f"{'stream' if self._requests else 'unary'}_{'stream' if self._responses else 'unary'}"
        self._open: Any = getattr(upstream.channel, kind)(self.path)
        self._make: Any = getattr(grpc, f"{kind}_rpc_method_handler")

    def handler(self, principal: Principal | None) -> Handler:
        """A handler for one admitted call; without deserialisers, so that bytes come and go as they are."""

        async def respond(request: Any, context: Context) -> Any:
            return await self._serve(request, context, principal)

        return self._make(respond)

    async def _serve(self, request: Any, context: Context, principal: Principal | None) -> Any:
        metadata = metadata_map(context.invocation_metadata())
        request_id = request_id_of(metadata)
        structlog.contextvars.clear_contextvars()
        bind_call(
            request_id=request_id,
            tenant_id=principal.tenant_id if principal else None,
            trace_id=trace_of(metadata),
        )
        own_trailing = ((REQUEST_ID_KEY, request_id),)
        started_s = time.monotonic()
        outcome = ("CANCELLED", CALL_CANCELLED.reason)
        self._counts.in_flight += 1
        try:
            response, trailing = await self._admitted(request, context, principal, metadata, request_id)
            context.set_trailing_metadata(trailing or own_trailing)
            outcome = ("OK", "")
            return response
        except grpc.aio.AioRpcError as error:
            failure = self._upstream.failure(error)
            if failure is None:
                outcome = (error.code().name, from_rpc_error(error).reason)
                await context.abort(error.code(), error.details() or "", forwarded(error.trailing_metadata()))
            outcome = (failure.entry.grpc, failure.reason)
            await abort(context, failure, trailing=own_trailing)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw becomes INTERNAL, with an id and no detail
            failure = from_exception(error, request_id)
            outcome = (failure.entry.grpc, failure.reason)
            if failure is not error:
                self._log.error("unexpected failure", correlation_id=request_id, exc_info=error)
            await abort(context, failure, trailing=own_trailing)
        finally:
            self._counts.in_flight -= 1
            self._finish(outcome, time.monotonic() - started_s, principal)

    async def _admitted(
        self, request: Any, context: Context, principal: Principal | None, metadata: MetadataMap, request_id: str
    ) -> tuple[Any, Any]:
        """Passes one call on.

        Returns:
            The response's bytes (None for a stream) and the service's trailing metadata.
        """
        timeout_s = self._deadlines.forwarded_s(context.time_remaining(), streaming=self._requests or self._responses)
        outbound = self._outbound(principal, metadata, request_id)
        self.gate.enter()
        limit = asyncio.timeout(timeout_s + _END_MARGIN_S)
        try:
            async with limit:
                if self._requests:
                    call = self._open(metadata=outbound, timeout=timeout_s)
                else:
                    self._check_size(request)
                    self._check_policies(request, principal)
                    call = self._open(request, metadata=outbound, timeout=timeout_s)
                try:
                    response = await self._exchange(request, context, call, principal)
                    return response, forwarded(await call.trailing_metadata())
                finally:
                    call.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._upstream.too_slow() from None
        finally:
            self.gate.leave()

    async def _exchange(self, request: Any, context: Context, call: Any, principal: Principal | None) -> Any:
        if not self._requests:
            answered = await self._answer(context, call)
            if self._guard is None or principal is None or answered is None:
                return answered
            return self._guard.shown(principal, answered)
        pump = asyncio.ensure_future(self._pump(request, call, principal))
        answer = asyncio.ensure_future(self._answer(context, call))

        # A write that fails because the service has ended the call would put grpc's INTERNAL over the call's status,
        # so no write outlives the call: this runs the moment that the status is there.
        def stop_sending(_: object) -> None:
            pump.cancel()

        call.add_done_callback(stop_sending)
        try:
            await asyncio.wait({pump, answer}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done() and not pump.cancelled() and not answer.done():
                pump.result()
            return await answer
        finally:
            pump.cancel()
            answer.cancel()
            await asyncio.gather(pump, answer, return_exceptions=True)

    async def _pump(self, requests: Any, call: Any, principal: Principal | None) -> None:
        """Client to service. A call that ended early is no failure here: its status is in the answer."""
        first = True
        async for raw in requests:
            self._check_size(raw)
            if first:
                self._check_policies(raw, principal)
                first = False
            if not await _taken(call.write(raw)):
                return
        await _taken(call.done_writing())

    async def _answer(self, context: Context, call: Any) -> Any:
        """Service to client."""
        if not self._responses:
            return await call
        async for raw in call:
            await context.write(raw)
        return None

    def _outbound(
        self, principal: Principal | None, metadata: MetadataMap, request_id: str
    ) -> tuple[tuple[str, str | bytes], ...]:
        outbound: list[tuple[str, str | bytes]] = [(REQUEST_ID_KEY, request_id)]
        if trace_of(metadata) is not None:
            outbound.append((TRACEPARENT_KEY, metadata[TRACEPARENT_KEY]))
        if principal is not None:
            outbound.append((PRINCIPAL_KEY, self._upstream.tokens.token(principal)))
        return tuple(outbound)

    def _check_policies(self, raw: bytes, principal: Principal | None) -> None:
        if self._guard is not None and principal is not None:
            self._guard.check(principal, raw)

    def _check_size(self, raw: bytes) -> None:
        limit = self._runtime.message_bytes_max
        if len(raw) > limit:
            raise ValidationError(
                f"the message has {len(raw)} bytes, the server accepts {limit}",
                entry=MESSAGE_TOO_LARGE,
                context={"limit": limit, "actual": len(raw)},
            )

    def _finish(self, outcome: tuple[str, str], duration_s: float, principal: Principal | None) -> None:
        code, reason = outcome
        self._counts.ended(code, reason)
        self._counts.duration.observe(duration_s)
        if self._runtime.access_log:
            self._log.info(
                "call passed on",
                method=self.path,
                upstream=self._upstream.name,
                grpc_code=code,
                reason=reason or None,
                duration_ms=round(duration_s * 1_000, 3),
                key_id=principal.key_id if principal else None,
            )


async def _taken(sending: Awaitable[None]) -> bool:
    """Whether the call still took what is sent; it doesn't once the service has ended it."""
    try:
        await sending
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


def passthrough(
    service: ServiceDescriptor,
    *,
    upstream: Upstream,
    deadlines: Deadlines,
    runtime: RpcRuntime,
    transfers: AdmissionGate,
) -> dict[str, PassedOn]:
    """An endpoint for each method of a service that another process owns, by full name.

    `transfers` bounds the uploads and downloads under way; unary calls count against the runtime's bound.
    """
    endpoints = [
        PassedOn(
            method=method,
            upstream=upstream,
            deadlines=deadlines,
            runtime=runtime,
            transfers=transfers,
            guard=ModelGuard(method.name) if service.full_name == MODELS else None,
        )
        for method in service.methods
    ]
    return {endpoint.path: endpoint for endpoint in endpoints}
