"""`ModelInfer`: from the client's bytes to the runner's bytes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from headrace_common import catalogue
from headrace_common.clock import Clock
from headrace_common.errors import HeadraceError, InferenceTimeout, ValidationError
from headrace_gateway.catalog import Catalog
from headrace_gateway.inference.dispatcher import Dispatch, Dispatcher
from headrace_gateway.inference.request_fields import read_request_fields
from headrace_gateway.metrics import GatewayMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, and until when the answer is wanted.

    Attributes:
        timeout_s: Time left of the client's deadline, or the gateway's cap where the client set none.
    """

    tenant_id: str
    request_id: str
    traceparent: str
    timeout_s: float


class InferenceHandler:
    """Answers ModelInfer without parsing a tensor.

    Args:
        message_bytes_max: Largest request; larger ones were received but are refused.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        dispatcher: Dispatcher,
        metrics: GatewayMetrics,
        clock: Clock,
        message_bytes_max: int,
    ) -> None:
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._clock = clock
        self._message_bytes_max = message_bytes_max

    async def model_infer(self, request: bytes, caller: Caller) -> bytes:
        """Serialised ModelInferRequest in, serialised ModelInferResponse out.

        Raises:
            HeadraceError: MESSAGE_TOO_LARGE (RESOURCE_EXHAUSTED), REQUEST_MALFORMED (INVALID_ARGUMENT), the
                catalogue's (NOT_FOUND …), INFERENCE_TIMEOUT (DEADLINE_EXCEEDED), the dispatcher's and the runner's.
        """
        started_at = self._clock.monotonic()
        if len(request) > self._message_bytes_max:
            raise ValidationError(
                f"the message has {len(request)} bytes, the server accepts {self._message_bytes_max}",
                entry=catalogue.MESSAGE_TOO_LARGE,
                context={"limit": self._message_bytes_max, "actual": len(request)},
            )
        fields = read_request_fields(request)
        version = self._catalog.resolve(caller.tenant_id, fields.model_name, fields.model_version)
        meters = self._metrics.version(version)
        dispatch = Dispatch(
            version=version,
            request_id=caller.request_id,
            traceparent=caller.traceparent,
            deadline=started_at + caller.timeout_s,
            payload=request,
        )
        meters.in_flight.inc()
        try:
            async with asyncio.timeout(caller.timeout_s):
                answer = await self._dispatcher.infer(dispatch)
        except TimeoutError:
            meters.failed(catalogue.INFERENCE_TIMEOUT.reason).inc()
            raise InferenceTimeout(
                f"model '{version.model}' did not answer within {caller.timeout_s:.3g} s",
                context={"model": version.model, "timeout_s": f"{caller.timeout_s:.3g}"},
            ) from None
        except HeadraceError as error:
            meters.failed(error.reason).inc()
            raise
        except asyncio.CancelledError:
            meters.failed(catalogue.CALL_CANCELLED.reason).inc()
            raise
        finally:
            meters.in_flight.dec()
        meters.ok.inc()
        meters.latency_s.observe(self._clock.monotonic() - started_at)
        return answer.payload
