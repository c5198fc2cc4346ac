"""Client of Headrace, the multi-tenant inference mesh: `Client` blocks, `AsyncClient` is for asyncio."""

from __future__ import annotations

from headrace_client.async_client import AsyncClient
from headrace_client.blocking_generation import BlockingGeneration
from headrace_client.blocking_stream import BlockingStream
from headrace_client.client import Client
from headrace_client.errors import HeadraceError, RetryableError, UnreachableError
from headrace_client.generation import Completion, Delta, Generation, Timings, TokenLogprob, Usage
from headrace_client.generation_request import GenerateOptions
from headrace_client.inference import Execution, InferRequest, InferResult
from headrace_client.options import ClientOptions, Tls, client_options
from headrace_client.retries import NO_RETRIES, RetryPolicy
from headrace_client.stream import InferStream
from headrace_client.tensors import Tensor

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "BlockingGeneration",
    "BlockingStream",
    "Client",
    "ClientOptions",
    "Completion",
    "Delta",
    "Execution",
    "GenerateOptions",
    "Generation",
    "HeadraceError",
    "InferRequest",
    "InferResult",
    "InferStream",
    "RetryPolicy",
    "RetryableError",
    "Tensor",
    "Timings",
    "Tls",
    "TokenLogprob",
    "UnreachableError",
    "Usage",
    "client_options",
]
