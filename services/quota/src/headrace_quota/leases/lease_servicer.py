"""`headrace.quota.internal.v1.LeaseService`: one stream a gateway, a report and its answer at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from headrace.quota.internal.v1 import leases_pb2 as pb
from headrace_common.errors import ValidationError
from headrace_common.grpc_server import Call, RpcMethod
from headrace_common.principal import SERVICE_ROLE
from headrace_common.rpc_method import bidi_stream
from headrace_quota.leases.lease_desk import LeaseDesk
from headrace_quota.leases.lease_metrics import LeaseMetrics

LEASE_SERVICE = "headrace.quota.internal.v1.LeaseService"


class LeaseServicer:
    """Translates between streams and the desk."""

    def __init__(self, *, desk: LeaseDesk, metrics: LeaseMetrics) -> None:
        self._desk = desk
        self._metrics = metrics

    async def lease(self, requests: AsyncIterator[pb.LeaseRequest], call: Call) -> AsyncIterator[pb.LeaseResponse]:
        """Answers each report before it reads the next one.

        Raises:
            ValidationError: FIELD_INVALID (INVALID_ARGUMENT): a report is out of order or makes no sense.
        """
        gateway_id = ""
        with self._metrics.streams.track_inprogress():
            async for request in requests:
                if gateway_id and request.gateway_id != gateway_id:
                    raise ValidationError("a stream is of one gateway", field="gateway_id")
                gateway_id = request.gateway_id
                began_s = time.monotonic()
                response = await self._desk.answer(request)
                self._metrics.exchange.observe(time.monotonic() - began_s)
                yield response

    def methods(self) -> dict[str, RpcMethod[Any, Any]]:
        """The method by name, for the service's handler."""
        return {"Lease": bidi_stream(self.lease, pb.LeaseRequest, pb.LeaseResponse, role=SERVICE_ROLE, endless=True)}
