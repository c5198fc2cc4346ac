"""Has every administrative call leave an entry of the audit log, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from headrace.quota.internal.v1.usage_ingest_pb2 import SpoolRecord
from headrace_common.clock import Clock
from headrace_common.principal import Principal
from headrace_common.rpc_runtime import AdmissionGate
from headrace_gateway.audit_entries import AuditedMethod
from headrace_gateway.audited_methods import AUDITED_METHODS
from headrace_gateway.public_handler import Endpoint, Handler

Context = grpc.aio.ServicerContext[Any, Any]
_CODE_NAMES = {int(code.value[0]): code.name for code in grpc.StatusCode}


class EventLog(Protocol):
    """Where entries are written; see `Spool`."""

    def check_room(self) -> None:
        """Raises SPOOL_FULL (UNAVAILABLE) where there is none."""
        ...

    def tell_surely(self, record: SpoolRecord) -> None:
        """Writes an event, beyond the bound, too."""
        ...


class AuditTrail:
    """Writes an entry when an audited call has ended.

    A call is refused before it is passed on while the spool is full, so none changes what nobody could write down.
    """

    def __init__(self, *, log: EventLog, gateway_id: str, clock: Clock) -> None:
        self._log = log
        self._gateway_id = gateway_id
        self._clock = clock

    def over(self, endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
        """The endpoints, those of audited methods with what writes the entries around them.

        Raises:
            KeyError: A method isn't in the table of audited methods.
        """
        return {path: self._around(path, endpoint) for path, endpoint in endpoints.items()}

    def _around(self, path: str, endpoint: Endpoint) -> Endpoint:
        resource = AUDITED_METHODS[path]
        if resource is None:
            return endpoint
        method = AuditedMethod(path=path, resource=resource, gateway_id=self._gateway_id)
        return _Audited(endpoint=endpoint, method=method, log=self._log, clock=self._clock)


class _Audited:
    """An endpoint whose calls leave entries. One response a call."""

    def __init__(self, *, endpoint: Endpoint, method: AuditedMethod, log: EventLog, clock: Clock) -> None:
        self._endpoint = endpoint
        self._method = method
        self._log = log
        self._clock = clock

    @property
    def gate(self) -> AdmissionGate:
        return self._endpoint.gate

    def handler(self, principal: Principal | None) -> Handler:
        """As the endpoint's.

        Raises:
            StorageUnavailable: SPOOL_FULL (UNAVAILABLE).
        """
        assert principal is not None, "who changes something has shown a key"
        self._log.check_room()
        inner: Any = self._endpoint.handler(principal)

        async def respond(request: bytes, context: Context) -> Any:
            return await self._watched(inner.unary_unary(request, context), [request], context, principal)

        async def respond_stream(requests: AsyncIterator[bytes], context: Context) -> Any:
            first: list[bytes] = []

            async def passing() -> AsyncIterator[bytes]:
                async for request in requests:
                    if not first:
                        first.append(request)
                    yield request

            return await self._watched(inner.stream_unary(passing(), context), first, context, principal)

        if self._method.streams:
            return grpc.stream_unary_rpc_method_handler(respond_stream)  # pyright: ignore
        return grpc.unary_unary_rpc_method_handler(respond)  # pyright: ignore

    async def _watched(self, answering: Any, first: list[bytes], context: Context, principal: Principal) -> Any:
        outcome = "UNKNOWN"
        try:
            answer = await answering
            outcome = "OK"
            return answer
        except grpc.aio.AbortError:
            outcome = _CODE_NAMES.get(_number(context.code()), outcome)
            raise
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            entry = self._method.entry(
                request=first[0] if first else b"",
                principal=principal,
                outcome=outcome,
                # Bound by the endpoint: one that it made itself is nowhere else.
                request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
                now=self._clock.now(),
            )
            self._log.tell_surely(SpoolRecord(audit=entry))


def _number(code: Any) -> int:
    """A status code of grpc's context, which is a number or a StatusCode."""
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)
