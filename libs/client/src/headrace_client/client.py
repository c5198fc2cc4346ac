"""The blocking client: the asyncio client in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headrace_client.administration import Keys, Tenants
from headrace_client.async_client import MESSAGE_BYTES_MAX, TIMEOUT_S, AsyncClient
from headrace_client.audit import Audit
from headrace_client.blocking_generation import BlockingGeneration
from headrace_client.blocking_many import iterate_many
from headrace_client.blocking_stream import BlockingStream
from headrace_client.contracts.inference import model_config_pb2, model_statistics_pb2
from headrace_client.errors import HeadraceError
from headrace_client.generation_request import GenerateOptions, Prompt
from headrace_client.inference import InferRequest, InferResult, ParameterValue
from headrace_client.loop_thread import LoopThread
from headrace_client.many import CONCURRENCY
from headrace_client.mesh import Runners, Server
from headrace_client.models import Models
from headrace_client.options import Tls
from headrace_client.quotas import Quotas
from headrace_client.retries import RetryPolicy
from headrace_client.stream import InferStream
from headrace_client.tensors import Tensor
from headrace_client.usage import Usage


class Client:
    """A client of one mesh, to be kept and shared: any thread may call it, all calls share its connection.

        with Client("mesh.example.com:443", api_key="@key.txt", tls=True) as client:
            result = client.infer("resnet", {"image": image})
            scores = result["scores"]

    Arguments, attributes and errors are those of `AsyncClient`, method for method; these block until the answer is
    there. Not to be called from an event loop's thread, which would stand still; nor from callbacks of the client
    itself (progress, done callbacks of futures), which get a RuntimeError. A forked child needs a client of its own.
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
        self._client = AsyncClient(
            endpoint,
            api_key=api_key,
            profile=profile,
            tls=tls,
            timeout_s=timeout_s,
            retry=retry,
            message_bytes_max=message_bytes_max,
        )
        self.endpoint = self._client.endpoint
        self._loop = LoopThread()
        self.models = Models(self._client.models, self._loop)
        self.tenants = Tenants(self._client.tenants, self._loop)
        self.keys = Keys(self._client.keys, self._loop)
        self.quotas = Quotas(self._client.quotas, self._loop)
        self.usage = Usage(self._client.usage, self._loop)
        self.audit = Audit(self._client.audit, self._loop)
        self.runners = Runners(self._client.runners, self._loop)
        self.server = Server(self._client.server, self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the calls that are under way, with `CallCancelled`, and the connection. May be repeated."""
        if self._loop.is_running:
            self._loop.run(self._client.close())
            self._loop.stop()

    def infer(
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
        return self._loop.run(
            self._client.infer(
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
        )

    def generate(self, model: str, prompt: Prompt, **options: Unpack[GenerateOptions]) -> BlockingGeneration:
        """As `AsyncClient.generate`: what a language model makes of a prompt, token by token."""
        return BlockingGeneration(stream=self._client.open_generation(model, prompt, options), loop=self._loop)

    def embed(
        self, model: str, texts: Sequence[str], *, version: str | int = "", timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """The embeddings of texts, shape (texts, dimensions)."""
        return self._loop.run(self._client.embed(model, texts, version=version, timeout_s=timeout_s))

    def rerank(
        self,
        model: str,
        query: str,
        documents: Sequence[str],
        *,
        version: str | int = "",
        timeout_s: float | None = None,
    ) -> NDArray[np.float32]:
        """How well each document answers the query: a score for each, in their order, larger for better."""
        return self._loop.run(self._client.rerank(model, query, documents, version=version, timeout_s=timeout_s))

    def stream(self) -> BlockingStream:
        """A packed stream for many calls at once, to be used with `with`."""

        async def opened() -> InferStream:
            return self._client.stream()

        return BlockingStream(stream=self._loop.run(opened()), loop=self._loop)

    @overload
    def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = ...,
        return_errors: Literal[False] = False,
        timeout_s: float | None = None,
    ) -> list[InferResult]: ...

    @overload
    def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = ...,
        return_errors: bool,
        timeout_s: float | None = None,
    ) -> list[InferResult | HeadraceError]: ...

    def infer_many(
        self,
        requests: Iterable[InferRequest],
        *,
        concurrency: int = CONCURRENCY,
        return_errors: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """As `AsyncClient.infer_many`; `requests` is read by the calling thread."""
        with self.stream() as stream:
            return list(
                iterate_many(
                    stream, requests, concurrency=concurrency, return_errors=return_errors, timeout_s=timeout_s
                )
            )

    def config(self, model: str, version: str | int = "") -> model_config_pb2.ModelConfig:
        """How a model version is served, in Triton's form."""
        return self._loop.run(self._client.config(model, version))

    def statistics(self, model: str = "", version: str | int = "") -> Sequence[model_statistics_pb2.ModelStatistics]:
        """Counters of a model's versions, or of all models, as the gateway that answers has counted them."""
        return self._loop.run(self._client.statistics(model, version))
