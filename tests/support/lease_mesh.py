"""Gateways' lease clients against a real quota service, all in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from headrace.quota.v1.quotas_pb2 import Limit
from headrace_common.clock import Clock, SystemClock
from headrace_common.grpc_client import open_channel
from headrace_common.principal import PRINCIPAL_KEY
from headrace_common.tasks import TaskGuard
from headrace_gateway.quota.quota_leases import QuotaLeases
from headrace_quota.app import AUDIENCE
from support.quota import Keys


@asynccontextmanager
async def running_leases(
    address: str, keys: Keys, gateway_id: str, limits: Sequence[Limit], *, clock: Clock | None = None
) -> AsyncGenerator[QuotaLeases]:
    """One gateway's leases; every tenant has the same limits. Left without a word: `close` them for a proper end."""
    signer = keys.signer
    async with TaskGuard() as tasks, open_channel(address, own_connection=True) as channel:
        leases = QuotaLeases(
            gateway_id=gateway_id,
            limits_of=lambda _tenant: limits,
            channel=channel,
            metadata=lambda: ((PRINCIPAL_KEY, signer.sign_service(audience=AUDIENCE)),),
            clock=clock or SystemClock(),
            registry=CollectorRegistry(),
        )
        leases.start(tasks)
        yield leases
