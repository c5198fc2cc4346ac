"""Clients of a packed stream for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import numpy as np

from headrace_client.inference import InferRequest, InferResult
from headrace_client.options import ClientOptions
from headrace_client.retries import RetryPolicy
from headrace_client.stream import InferStream
from headrace_client.transport import Transport

QUICK = RetryPolicy(initial_s=0.01, max_s=0.05)
"""Retries at once."""


@asynccontextmanager
async def transport_to(
    address: str, *, retry: RetryPolicy = QUICK, timeout_s: float = 30.0
) -> AsyncGenerator[Transport]:
    """A connection as a client makes it."""
    transport = Transport(
        options=ClientOptions(endpoint=address, api_key="the-key", tls=None),
        timeout_s=timeout_s,
        retry=retry,
        message_bytes_max=64 << 20,
    )
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def stream_to(
    address: str, *, retry: RetryPolicy = QUICK, timeout_s: float = 30.0
) -> AsyncGenerator[InferStream]:
    """An open stream; aborted when the block fails."""
    async with (
        transport_to(address, retry=retry, timeout_s=timeout_s) as transport,
        InferStream(transport=transport) as stream,
    ):
        yield stream


def numbered(number: int, *, model: str = "echo", timeout_s: float | None = None) -> InferRequest:
    """A request that can be told from all others by its input."""
    return InferRequest(model, {"x": np.array([number], np.int64)}, timeout_s=timeout_s)


def number_of(result: InferResult) -> int:
    """The number in the answer of a model that echoes."""
    return int(result["x"][0])
