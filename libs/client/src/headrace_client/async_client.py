"""The asyncio client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace_client import rpcs
from headrace_client.async_administration import AsyncKeys, AsyncTenants
from headrace_client.async_audit import AsyncAudit
from headrace_client.async_mesh import AsyncRunners, AsyncServer
from headrace_client.async_models import AsyncModels
from headrace_client.async_quotas import AsyncQuotas
from headrace_client.async_usage import AsyncUsage
from headrace_client.contracts.headrace.gateway.v1 import generation_pb2
from headrace_client.contracts.inference import model_config_pb2, model_statistics_pb2, open_inference_pb2
from headrace_client.errors import HeadraceError
from headrace_client.generation import Generation
from headrace_client.generation_request import GenerateOptions, Prompt, encode_generate
from headrace_client.inference import (
    InferRequest,
    InferResult,
    ParameterValue,
    decode_response,
    encode_request,
    version_text,
)
from headrace_client.many import CONCURRENCY, infer_many
from headrace_client.options import Tls, client_options
from headrace_client.retries import RetryPolicy
from headrace_client.stream import InferStream
from headrace_client.tensors import Tensor, text_tensor
from headrace_client.transport import Transport
from headrace_client.tried_stream import TriedStream

TIMEOUT_S = 30.0
GENERATE_TIMEOUT_S = 600.0
"""A long text takes minutes, and so may its turn."""
MESSAGE_BYTES_MAX = 64 << 20


class AsyncClient:
    """A client of one mesh, to be kept: all calls share its connection.

        async with AsyncClient("mesh.example.com:443", api_key="@key.txt", tls=True) as client:
            result = await client.infer("resnet", {"image": image})
            scores = result["scores"]

    Belongs to the event loop of its first call. Cancelling a task cancels its call. Every failure is a
    `headrace_client.errors.HeadraceError`; those that a repeat may cure are retried first.

    Args:
        endpoint: `host:port`; what is not given comes from the environment or a profile, see `client_options`.
        api_key: The key to call with, or `@FILE`.
        profile: Name of a profile of the profile file.
        tls: True for an encrypted connection, or its particulars.
        timeout_s: Time for a call that states none, in seconds, retries included. Generations have 600 s, and what
            moves or loads models has times of its own.
        retry: How often and how soon calls are tried again.
        message_bytes_max: Largest answer accepted.

    Attributes:
        endpoint: Where the mesh is.
        models: The tenant's models and their versions.
        tenants: Tenants, for operators.
        keys: API keys, for admins.
        quotas: Plans, limits, and what is used of them.
        usage: The ledger of calls, and what happened to runners.
        audit: Who changed what, for admins.
        runners: The runners behind the mesh.
        server: The mesh itself.

    Raises:
        ConfigError: an option, the profile file or a file it names can't be used.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        api_key: str | None = None,
        profile: str | None = None,
        tls: Tls | bool | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        options = client_options(endpoint, api_key=api_key, profile=profile, tls=tls)
        self.endpoint = options.endpoint
        self._transport = Transport(
            options=options,
            timeout_s=timeout_s,
            retry=retry if retry is not None else RetryPolicy(),
            message_bytes_max=message_bytes_max,
        )
        self.models = AsyncModels(self._transport)
        self.tenants = AsyncTenants(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.quotas = AsyncQuotas(self._transport)
        self.usage = AsyncUsage(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.runners = AsyncRunners(self._transport)
        self.server = AsyncServer(self._transport)
        self._streams: set[InferStream] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the calls that are under way, with `CallCancelled`, and the connection. May be repeated."""
        for stream in self._streams:
            await stream.abort()
        await self._transport.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike | Tensor],
        *,
        version: str | int = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, ParameterValue] | None = None,
        priority: int | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str = "",
    ) -> InferResult:
        """Run one inference; the arguments are the fields of `InferRequest`.

        Raises:
            TensorError: an input can't be sent or doesn't fit the model.
            HeadraceError: anything else.
        """
        request = InferRequest(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters=parameters,
            priority=priority,
            timeout_s=timeout_s,
            request_id=request_id,
            traceparent=traceparent,
        )
        message = encode_request(request)
        answer = await self._transport.unary(
            rpcs.INFER,
            message,
            timeout_s=timeout_s,
            request_id=request_id,
            traceparent=traceparent,
            repeatable=request.repeatable,
        )
        return decode_response(answer)

    def generate(self, model: str, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """What a language model makes of a prompt, token by token; see `Generation` and, for all options, its class.

        A failure before anything came is retried as those of other calls are, later ones never. Without `timeout_s` the
        whole text has 600 s, whatever the client's own is.

        Args:
            model: Name of the model.
            prompt: Text, tokens, or a conversation: messages with `role` and `content`, or tuples of the two. Roles
                are `system`, `user`, `assistant` and `tool`.
            **options: See `GenerateOptions`.

        Raises:
            ValidationError: a value can't be sent.
        """
        return Generation(self.open_generation(model, prompt, options))

    def open_generation(
        self, model: str, prompt: Prompt, options: GenerateOptions
    ) -> TriedStream[generation_pb2.GenerateResponse]:
        """The call of a `Generation` that has not begun, for a client that reads it in a way of its own."""
        timeout_s = options.get("timeout_s")
        return TriedStream(
            transport=self._transport,
            rpc=rpcs.GENERATE,
            request=encode_generate(model, prompt, options),
            timeout_s=GENERATE_TIMEOUT_S if timeout_s is None else timeout_s,
            request_id=options.get("request_id"),
            traceparent=options.get("traceparent", ""),
        )

    async def embed(
        self, model: str, texts: Sequence[str], *, version: str | int = "", timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """The embeddings of texts, shape (texts, dimensions).

        Raises:
            HeadraceError: the failure, typed.
        """
        inputs = {"text": text_tensor("texts", texts)}
        return (await self.infer(model, inputs, version=version, timeout_s=timeout_s))["embedding"]

    async def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        version: str | int = "",
        timeout_s: float | None = None,
    ) -> NDArray[np.float32]:
        """How well each document answers the query: a score for each, in their order, larger for better.

        Raises:
            HeadraceError: the failure, typed.
        """
        inputs = {"query": text_tensor("query", [query]), "documents": text_tensor("documents", documents)}
        return (await self.infer(model, inputs, version=version, timeout_s=timeout_s))["score"]

    def stream(self) -> InferStream:
        """A packed stream for many calls at once, to be used with `async with`."""
        stream = InferStream(transport=self._transport)
        self._streams = {stream, *(other for other in self._streams if not other.engine.is_closed)}
        return stream

    @overload
    async def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = ...,
        return_errors: Literal[False] = False,
        timeout_s: float | None = None,
    ) -> list[InferResult]: ...

    @overload
    async def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = ...,
        return_errors: bool,
        timeout_s: float | None = None,
    ) -> list[InferResult | HeadraceError]: ...

    async def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """The results of many requests, in their order, over one packed stream.

        Args:
            requests: What to run; taken one after the other, as there is room.
            concurrency: Requests under way at once, at most.
            return_errors: Whether a request that fails gives its error as its result; otherwise the first ends all.
            timeout_s: For requests that state none; None means that of the client.

        Raises:
            HeadraceError: a request failed, unless errors are results.
        """
        async with self.stream() as stream:
            return await infer_many(
                stream, requests, concurrency=concurrency, return_errors=return_errors, timeout_s=timeout_s
            )

    async def config(self, model: str, version: str | int = "") -> model_config_pb2.ModelConfig:
        """How a model version is served, in Triton's form."""
        request = open_inference_pb2.ModelConfigRequest(name=model, version=version_text(version))
        return (await self._transport.unary(rpcs.MODEL_CONFIG, request)).config

    async def statistics(
        self, model: str = "", version: str | int = ""
    ) -> Sequence[model_statistics_pb2.ModelStatistics]:
        """Counters of a model's versions, or of all models, as the gateway that answers has counted them."""
        request = model_statistics_pb2.ModelStatisticsRequest(name=model, version=version_text(version))
        return (await self._transport.unary(rpcs.MODEL_STATISTICS, request)).model_stats
